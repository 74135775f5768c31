# SPDX-License-Identifier: Apache-2.0
"""Two hosts between which guests move with an address, and a third with their peers."""

import os
import socket
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "fault"))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
from capture import Capture, socket_in  # noqa: E402,F401
from frame import PORT, Bench, Failed, Guest, check, hosts, tempfile, tool  # noqa: E402

ADDRESS = {4: "10.9.0.50", 6: "fd00:9::50"}
LENGTH = {4: 24, 6: 64}
ESTABLISHED, SYN_SENT, FIN_WAIT1, FIN_WAIT2, TIME_WAIT, CLOSE, CLOSE_WAIT, LAST_ACK, LISTEN, \
    CLOSING = 1, 2, 4, 5, 6, 7, 8, 9, 10, 11


class Peers(Bench):
  """As Bench, with a host c for the peers and an address of either family that moves."""

  def __init__(self, opts):
    self.tool, self.victims_dir, self.opts = opts.tool, opts.victims_dir, opts
    self.dir = tempfile.mkdtemp(prefix="criu-lite-peers.")
    os.chmod(self.dir, 0o755)
    self.hosts = hosts.Hosts(3)
    self.a, self.b, self.c = self.hosts
    for n, host in enumerate(self.hosts):
      self.ip(host, "-6", "addr", "add", "fd00:9::%d/64" % (n + 1), "dev", "eth0", "nodad")
    self.put_addresses(self.a)

  def ip(self, host, *args):
    host.run(["ip", *args], check=True)

  def put_addresses(self, host):
    for n in (4, 6):
      nodad = ["nodad"] if n == 6 else []
      self.ip(host, "-%d" % n, "addr", "add", "%s/%d" % (ADDRESS[n], LENGTH[n]), "dev", "eth0",
              *nodad)

  def take_addresses(self, host):
    for n in (4, 6):
      self.ip(host, "-%d" % n, "addr", "del", "%s/%d" % (ADDRESS[n], LENGTH[n]), "dev", "eth0")

  def other(self, host):
    return self.b if host is self.a else self.a

  def receive(self, host, *args):
    log = self.path("receive.log")
    proc = host.popen([self.tool, "receive", "--listen", "%s:%d" % (host.ip, PORT), *args],
                      stdout=log, stderr=subprocess.STDOUT)
    try:
      hosts.wait_listening(host, PORT, 10)
    except TimeoutError:
      raise Failed("receive does not listen: " + self.receive_log())
    return proc

  def migrate_command(self, guest, dst, *args):
    cmd = [self.tool, "migrate", "-t", str(guest.pid), "--json", "--tcp-established"]
    for n in (4, 6):
      cmd += ["--move-address", "%s/%d" % (ADDRESS[n], LENGTH[n])]
    return cmd + list(args) + ["tcp://%s:%d" % (dst.ip, PORT)]

  def move(self, guest, *args, timeout=120):
    """To the other host; its summary with "begin" and "end" (CLOCK_MONOTONIC)."""
    src, dst = guest.host, self.other(guest.host)
    receiver = self.receive(dst, "--once")
    begin = time.monotonic()
    try:
      done = src.run(self.migrate_command(guest, dst, *args), timeout=timeout)
    except subprocess.TimeoutExpired:
      raise Failed("migrate: no end after %d s" % timeout)
    end = time.monotonic()
    check(done.returncode == 0, "migrate: exit %d: %s; receive: %s", done.returncode,
          done.stderr.strip()[-800:], self.receive_log()[-800:])
    check(receiver.wait(20) == 0, "receive: exit %s: %s", receiver.returncode,
          self.receive_log()[-600:])
    guest.host = dst
    got = tool.summary(done.stdout)
    got.update(begin=begin, end=end)
    return got

  def check_open(self, *where):
    """No lock is left on these hosts, and the address is on the first of them only."""
    for host in where:
      rules = host.run(["nft", "list", "ruleset"], check=True).stdout
      check("criu-lite" not in rules, "the lock is still closed on %s: %s", host.name, rules[:400])
    for host in (self.a, self.b):
      have = host.run(["ip", "addr", "show", "dev", "eth0"], check=True).stdout
      for n in (4, 6):
        there = ADDRESS[n] + "/" in have
        check(there == (host is where[0]), "%s is %son %s", ADDRESS[n], "" if there else "not ",
              host.name)

  def connect(self, port, family=4, timeout=10):
    """A connection from host c to the address that moves."""
    sock = socket_in(self.c, socket.AF_INET if family == 4 else socket.AF_INET6,
                     socket.SOCK_STREAM)
    sock.settimeout(timeout)
    sock.connect((ADDRESS[family], port))
    return sock


class Commander:
  """The guest tcp_states, from its peer's place: each method is one of its commands."""

  def __init__(self, bench):
    self.guest = Guest(bench, bench.a, "tcp_states")
    self.sock = bench.connect(7001)
    self.file = self.sock.makefile("rwb")

  def call(self, *words):
    try:
      self.file.write((" ".join(map(str, words)) + "\n").encode())
      self.file.flush()
      line = self.file.readline()
    except OSError as e:
      raise Failed("the commanding connection: %s" % e)
    check(line.endswith(b"\n"), "the commanding connection has ended: %s",
          self.guest.read("result"))
    got = [int(w) for w in line.split()]
    return got if len(got) > 1 else got[0]

  def __getattr__(self, name):
    def command(*words):
      got = self.call(name, *words)
      check(isinstance(got, list) or got >= 0, "%s %s: %s", name, words,
            os.strerror(-got) if not isinstance(got, list) and got < 0 else got)
      return got
    return command

  def end(self, when):
    self.guest.end(when, self.guest.host)
    self.sock.close()


def mix(x):
  mask = (1 << 64) - 1
  x = ((x ^ (x >> 30)) * 0xbf58476d1ce4e5b9) & mask
  x = ((x ^ (x >> 27)) * 0x94d049bb133111eb) & mask
  return x ^ (x >> 31)


def pattern(first, count):
  """Bytes first .. first + count of what tcp_states sends and expects."""
  words = b"".join(mix(i + 77).to_bytes(8, "little")
                   for i in range(first // 8, (first + count + 7) // 8 + 1))
  return words[first % 8:first % 8 + count]


def fill(sock, first=0):
  """Sends until there is no room any more, twice in a row; how many bytes that are."""
  done, data = 0, pattern(first, 8 << 20)
  sock.setblocking(False)
  for _ in range(2):
    try:
      while done < len(data):
        done += sock.send(data[done:done + 65536])
    except BlockingIOError:
      time.sleep(0.3)
  sock.settimeout(10)
  return done


def receive_all(sock, first, count):
  """The next `count` bytes, which must be those of the pattern."""
  got = b""
  try:
    while len(got) < count:
      piece = sock.recv(min(65536, count - len(got)))
      if not piece:
        break
      got += piece
  except OSError as e:
    raise Failed("the peer's recv after %d of %d bytes: %s" % (len(got), count, e))
  check(got == pattern(first, len(got)), "the peer got wrong bytes")
  check(len(got) == count, "the peer got %d bytes of %d", len(got), count)
