#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""TCP connections of guests that move, seen from their peers on a third host.

    connections.py [--full] [--times N] [--only A,B,...] [--tool PATH]

Streams in both directions in which each byte tells its place; each state of a connection; idle
ones; what the wire carries meanwhile; and moves that fail when the lock is closed already. --full
takes more connections, and longer; --times N adds N moves in a row under load.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import peers as p  # noqa: E402
from peers import ADDRESS, Capture, Failed, Guest, Peers, check, hosts, tool  # noqa: E402
from frame import Skipped, run_tests  # noqa: E402

HUGE = 4 << 20


class Streams:
  """`count` connections between a tcp_pump that moves and one on host c."""

  def __init__(self, b, count, family=4, peer_family=None, buffer=0, pace=0):
    self.b = b
    peer_family = peer_family or family
    self.server = Guest(b, b.a, "tcp_pump", "0", str(family), str(buffer))
    self.peer = Guest(b, b.c, "tcp_pump", str(count), str(peer_family), str(buffer),
                      ADDRESS[peer_family], str(pace))
    self.count = count

  def move(self, *args):
    for g in (self.server, self.peer):
      check(not g.read("result"), "before the move: %s", g.read("result").strip())
    got = self.b.move(self.server, *args)
    time.sleep(0.3)
    got["pause"] = self.pause(got)
    return got

  def pause(self, move):
    """The longest time for which a stream brought nothing, of those that touch the move."""
    longest = 0
    for line in self.peer.read("gaps").splitlines():
      _, begin, end = (int(w) / 1e9 for w in line.split())
      if end >= move["begin"] and begin <= move["end"]:
        longest = max(longest, end - begin)
    return longest

  def end(self, timeout=60):
    """All bytes have arrived, and were right."""
    for g in (self.peer, self.server):
      open(os.path.join(g.state, "stop"), "w").close()
    for g, name in ((self.peer, "the peer"), (self.server, "the guest")):
      try:
        hosts.wait_for(lambda: g.read("result"), timeout)
      except TimeoutError:
        raise Failed("%s does not come to an end" % name)
      check(g.read("result").strip() == "ok", "%s: %s", name, g.read("result").strip())
    at_peer, at_guest = self.totals(self.peer), self.totals(self.server)
    check(len(at_guest) == self.count == len(at_peer), "%d of %d streams", len(at_guest),
          self.count)
    for n, (sent, got) in at_peer.items():
      check(at_guest[n] == (got, sent) and sent and got,
            "stream %d: the peer has sent %d and got %d, the guest got %d and sent %d",
            n, sent, got, at_guest[n][1], at_guest[n][0])
    return sum(sent + got for sent, got in at_peer.values())

  @staticmethod
  def totals(guest):
    rows = [tuple(map(int, line.split())) for line in guest.read("totals").splitlines()]
    return {n: (sent, got) for n, sent, got in rows}


def figures(moves):
  down, pause = (max(m[k] for m in moves) * 1e3 for k in ("downtime", "pause"))
  return "downtime %.1f ms, pause %.1f ms" % (down, pause)


def streams(count, moves=2, **kw):
  def test(b):
    s = Streams(b, count, **kw)
    done = [s.move() for _ in range(moves)]
    total = s.end()
    b.check_open(s.server.host, b.other(s.server.host))
    return "%s, %d MiB" % (figures(done), total >> 20)
  what = ["%d streams" % count]
  what += ["%s %s" % (k.replace("_", " "), v) for k, v in kw.items()]
  test.__name__ = " ".join(what)
  return test


def many_moves(times):
  def test(b):
    s = Streams(b, 10, buffer=0, pace=1)
    done = [s.move() for _ in range(times)]
    s.end()
    late = sum(m["pause"] > 2 * m["downtime"] + 0.05 for m in done)
    return "%s; %d of %d pauses over 2 x downtime + 50 ms" % (figures(done), late, times)
  test.__name__ = "%d moves in a row" % times
  return test


def pauses(times):
  """One connection that always has something to say: what its peer sees of the switch."""
  def test(b):
    s = Streams(b, 1, buffer=65536, pace=1)
    rows = [s.move() for _ in range(times)]
    s.end()
    late = sum(m["pause"] > 2 * m["downtime"] + 0.05 for m in rows)
    return "%s; %d of %d over 2 x downtime + 50 ms" % (
        ", ".join("%.0f/%.0f" % (m["downtime"] * 1e3, m["pause"] * 1e3) for m in rows), late, times)
  test.__name__ = "downtime and pause of one connection"
  return test


def on_the_wire(family):
  def test(b):
    capture = Capture(b.c)
    s = Streams(b, 3, family=family, buffer=65536, pace=2)
    done = [s.move() for _ in range(2)]
    s.end()
    capture.stop()
    bad = capture.faults(ADDRESS[family])
    check(not bad, "%d faults: %s", len(bad), "; ".join(bad[:5]))
    check(capture.segments > 100, "only %d segments were captured", capture.segments)
    return "%s; %d segments, no RST, %d bytes sent again, none different" % (
        figures(done), capture.segments, capture.again)
  test.__name__ = "on the wire v%d" % family
  return test


# ---- states ----

def state_test(f):
  """f(bench, commander) brings connections into a state and returns what is to be checked after
  the move there, and once more after the move back."""
  def test(b):
    capture = Capture(b.c)
    g = p.Commander(b)
    then = f(b, g)
    for n in range(2):
      b.move(g.guest)
      then(n)
      b.check_open(g.guest.host, b.other(g.guest.host))
    g.end("at the end")
    capture.stop()
    bad = capture.faults(ADDRESS[4]) + capture.faults(ADDRESS[6])
    check(not bad, "%d faults on the wire: %s", len(bad), "; ".join(bad[:5]))
  test.__name__ = f.__name__
  return test


def pair(b, g, family=4, port=7100):
  """An open connection: (descriptor of the guest, socket of the peer)."""
  listener = g.listen(6, port, 5)
  sock = b.connect(port, family)
  fd = g.accept(listener)
  g.close(listener)
  return fd, sock


def talk(g, fd, sock, at):
  """1000 bytes from `at` on, in both directions."""
  sock.sendall(p.pattern(at, 1000))
  check(g.recv(fd, at, 1000) == 1000, "bytes of the peer are missing")
  check(g.send(fd, at, 1000) == 1000, "bytes do not leave")
  p.receive_all(sock, at, 1000)


def open_ones(b, g):
  made = [pair(b, g, family) for family in (4, 6)]
  for fd, sock in made:
    talk(g, fd, sock, 0)

  def then(n):
    for fd, sock in made:
      check(g.state(fd)[0] == p.ESTABLISHED, "state %d", g.state(fd)[0])
      talk(g, fd, sock, 1000 * (n + 1))
  return then


def peer_has_shut(b, g):
  fd, sock = pair(b, g)
  sock.sendall(p.pattern(0, 700))
  sock.shutdown(socket.SHUT_WR)
  hosts.wait_for(lambda: g.state(fd)[0] == p.CLOSE_WAIT)

  def then(n):
    check(g.state(fd)[0] == p.CLOSE_WAIT, "state %d, not close-wait", g.state(fd)[0])
    check(g.send(fd, n * 5000, 5000) == 5000, "no sending")
    p.receive_all(sock, n * 5000, 5000)
    if n:
      check(g.recv(fd, 0, 701) == 700, "the bytes before the FIN")
      check(g.recv(fd, 0, 1) == 0, "the end is gone")
      g.close(fd)
      check(sock.recv(1) == b"", "the peer sees no end")
  return then


def guest_has_shut(b, g):
  fd, sock = pair(b, g)
  g.send(fd, 0, 700)
  g.shutdown(fd, socket.SHUT_WR)
  hosts.wait_for(lambda: g.state(fd)[0] == p.FIN_WAIT2)

  def then(n):
    check(g.state(fd)[0] == p.FIN_WAIT2, "state %d, not fin-wait-2", g.state(fd)[0])
    sock.sendall(p.pattern(n * 5000, 5000))
    check(g.recv(fd, n * 5000, 5000) == 5000, "bytes of the peer are missing")
    if n:
      p.receive_all(sock, 0, 700)
      check(sock.recv(1) == b"", "the peer sees no end")
      sock.close()
      check(g.recv(fd, 0, 1) == 0, "the guest sees no end")
  return then


def bytes_unread(b, g):
  fd, sock = pair(b, g)
  sent = p.fill(sock)
  inside = g.state(fd)[1]

  def then(n):
    check(g.state(fd)[1] >= inside, "%d bytes unread, were %d", g.state(fd)[1], inside)
    if n:
      check(g.recv(fd, 0, sent) == sent, "not all of %d bytes", sent)
      talk(g, fd, sock, sent) if sent % 8 == 0 else None
  return then


def bytes_unsent(b, g):
  fd, sock = pair(b, g)
  sent = g.send(fd, 0, 8 << 20)
  time.sleep(0.3)
  sent += max(g.call("send", fd, sent, 8 << 20), 0)
  check(g.state(fd)[2] > 0, "nothing is left to be sent")

  def then(n):
    check(g.state(fd)[2] > 0, "nothing is left to be sent")
    if n:
      p.receive_all(sock, 0, sent)
      talk(g, fd, sock, sent)
  return then


def deaf(b, on):
  """Host c hears nothing from the guest's port 7100 (but can talk), or hears again."""
  if on:
    b.c.run(["nft", "table inet deaf { chain in { type filter hook input priority 0; "
             "tcp sport 7100 drop; tcp dport 7200 drop; }; }"], check=True)
  else:
    b.c.run(["nft", "delete", "table", "inet", "deaf"], check=True)


def hears_again(b, g, fd, sock, ends=()):
  """The retransmissions bring it to its end."""
  deaf(b, False)
  try:
    hosts.wait_for(lambda: g.state(fd)[0] in ends, 20, 0.1)
  except TimeoutError:
    raise Failed("the FIN never arrived, state %d" % g.state(fd)[0])
  check(sock.recv(1) == b"", "the peer sees no end")


def fin_wait_1(b, g):
  fd, sock = pair(b, g)
  deaf(b, True)
  g.shutdown(fd, socket.SHUT_WR)

  def then(n):
    if not n:
      check(g.state(fd)[0] == p.FIN_WAIT1, "state %d, not fin-wait-1", g.state(fd)[0])
      return
    hears_again(b, g, fd, sock, (p.FIN_WAIT2,))
    sock.sendall(p.pattern(0, 100))
    check(g.recv(fd, 0, 100) == 100, "bytes of the peer are missing")
  return then


def last_ack(b, g):
  fd, sock = pair(b, g)
  sock.shutdown(socket.SHUT_WR)
  hosts.wait_for(lambda: g.state(fd)[0] == p.CLOSE_WAIT)
  deaf(b, True)
  g.shutdown(fd, socket.SHUT_WR)

  def then(n):
    if not n:
      check(g.state(fd)[0] == p.LAST_ACK, "state %d, not last-ack", g.state(fd)[0])
      return
    hears_again(b, g, fd, sock, (p.CLOSE,))
  return then


def closing(b, g):
  fd, sock = pair(b, g)
  deaf(b, True)
  g.shutdown(fd, socket.SHUT_WR)
  sock.shutdown(socket.SHUT_WR)
  hosts.wait_for(lambda: g.state(fd)[0] == p.CLOSING)

  def then(n):
    if not n:
      check(g.state(fd)[0] == p.CLOSING, "state %d, not closing", g.state(fd)[0])
      return
    hears_again(b, g, fd, sock, (p.CLOSE, p.TIME_WAIT))
  return then


def time_wait(b, g):
  """Its descriptor is that of a closed socket, as before."""
  fd, sock = pair(b, g)
  g.shutdown(fd, socket.SHUT_WR)
  check(sock.recv(1) == b"", "no end")
  sock.close()
  hosts.wait_for(lambda: g.state(fd)[0] in (p.CLOSE, p.TIME_WAIT))

  def then(n):
    check(g.state(fd)[0] in (p.CLOSE, p.TIME_WAIT), "state %d", g.state(fd)[0])
    check(g.recv(fd, 0, 1) == 0, "the guest sees no end")
  return then


def syn_sent(b, g):
  listener = p.socket_in(b.c, socket.AF_INET, socket.SOCK_STREAM)
  listener.bind(("", 7200))
  listener.listen(5)
  deaf(b, True)
  fd = g.connect(4, ADDRESS[4], b.c.ip, 7200)

  def then(n):
    check(g.state(fd)[0] == p.SYN_SENT, "state %d, not syn-sent", g.state(fd)[0])
    if not n:
      return
    deaf(b, False)
    listener.settimeout(20)
    sock, _ = listener.accept()
    sock.settimeout(10)
    hosts.wait_for(lambda: g.state(fd)[0] == p.ESTABLISHED)
    talk(g, fd, sock, 0)
    sock.close()
    listener.close()
  return then


def idle(seconds):
  def f(b, g):
    made = [pair(b, g, family) for family in (4, 6)]
    for fd, sock in made:
      for s_opt, value in ((socket.TCP_KEEPIDLE, 1), (socket.TCP_KEEPINTVL, 1),
                           (socket.TCP_KEEPCNT, 3)):
        g.set(fd, socket.IPPROTO_TCP, s_opt, value)
        sock.setsockopt(socket.IPPROTO_TCP, s_opt, value)
      g.set(fd, socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
      sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def then(n):
      time.sleep(seconds)
      for fd, sock in made:
        check(g.state(fd)[0] == p.ESTABLISHED, "state %d", g.state(fd)[0])
        check(g.get(fd, socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1 and
              g.get(fd, socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 1, "keepalive is off")
        talk(g, fd, sock, 1000 * n)
    return then
  f.__name__ = "idle for %d s with keepalive" % seconds
  return f


# What clients have said before anybody has accepted them.
SAID = [500, 0, 1, 30000, 7]


class Queue:
  """Clients whom the guest has not accepted; the last one has already ended its side."""

  def __init__(self, b, g, count, family=4, peer_family=None, backlog=None, port=7100):
    self.g = g
    self.listener = g.listen(family, port, count if backlog is None else backlog)
    self.socks = [b.connect(port, peer_family or family) for _ in range(count)]
    self.said = [SAID[n % len(SAID)] for n in range(count)]
    for n, sock in enumerate(self.socks):
      sock.sendall(p.pattern(self.place(n), self.said[n]))
    self.socks[-1].shutdown(socket.SHUT_WR)
    self.port = port
    hosts.wait_for(lambda: self.length() == count)

  @staticmethod
  def place(n):
    return n * 100000

  def length(self):
    row = self.g.guest.host.run(["ss", "-Hltn", "sport = :%d" % self.port], check=True).stdout
    return int(row.split()[1])

  def end(self):
    """All are there, in their order, and can be talked to."""
    for n, sock in enumerate(self.socks):
      fd, at, said = self.g.accept(self.listener), self.place(n), self.said[n]
      check(self.g.recv(fd, at, said) == said, "what client %d has said is gone", n)
      check(self.g.send(fd, at, 1000) == 1000, "nothing can be said to client %d", n)
      p.receive_all(sock, at, 1000)
      last = n == len(self.socks) - 1
      check(self.g.state(fd)[0] == (p.CLOSE_WAIT if last else p.ESTABLISHED),
            "client %d: state %d", n, self.g.state(fd)[0])
      if not last:
        sock.sendall(p.pattern(at + said, 1000))
        check(self.g.recv(fd, at + said, 1000) == 1000, "what client %d says does not come", n)
      self.g.close(fd)


def need_take_over(b):
  if "taken over:\n  yes" not in b.a.run([b.tool, "check"]).stdout:
    raise Skipped("Linux 6.9 is needed")


def not_accepted(count, family=4, peer_family=None, backlog=None):
  """A guest that does not accept moves there and back with those who wait."""
  def test(b):
    need_take_over(b)
    capture = Capture(b.c)
    g = p.Commander(b)
    q = Queue(b, g, count, family, peer_family, backlog)
    moves = [b.move(g.guest) for _ in range(2)]
    check(q.length() == count, "%d of %d clients wait", q.length(), count)
    q.end()
    g.end("at the end")
    b.check_open(g.guest.host, b.other(g.guest.host))
    capture.stop()
    bad = capture.faults(ADDRESS[4]) + capture.faults(ADDRESS[6])
    check(not bad, "%d faults on the wire: %s", len(bad), "; ".join(bad[:5]))
    return "downtime %s ms" % ", ".join("%.1f" % (m["downtime"] * 1e3) for m in moves)
  test.__name__ = "%d not accepted, v%d" % (count, family)
  if peer_family:
    test.__name__ += ", peers v%d" % peer_family
  if backlog is not None:
    test.__name__ += ", backlog %d" % backlog
  return test


def queue_left(action, how):
  """A migration fails with the door closed: those who wait on the source still do."""
  def test(b):
    need_take_over(b)
    capture = Capture(b.c)
    g = p.Commander(b)
    q = Queue(b, g, 5)
    m = Interrupted(b, action, how == "script", guest=g.guest)
    if how == "receiver":
      kill_receiver(b, m, True)
    elif how == "sender":
      m.migrate.send_signal(signal.SIGKILL)
    m.go()
    m.migrate.wait(40)
    hosts.wait_for(lambda: not g.guest.tracer() and g.guest.state_of() in "RSD")
    check(q.length() == 5, "%d of 5 clients wait", q.length())
    q.end()
    g.end("at the end")
    hosts.wait_for(lambda: "criu-lite" not in
                   b.a.run(["nft", "list", "ruleset"], check=True).stdout)
    capture.stop()
    bad = capture.faults(ADDRESS[4])
    check(not bad, "%d faults on the wire: %s", len(bad), "; ".join(bad[:5]))
  test.__name__ = "not accepted, %s %s at %s" % (
    how, "fails" if how == "script" else "killed", action)
  return test


def queue_dumped(where):
  """Through a directory of images; `where`: "here": the dumped guest goes on."""
  def test(b):
    need_take_over(b)
    capture = Capture(b.c)
    g = p.Commander(b)
    q = Queue(b, g, 5, 6, 4)
    images = b.mkdir("images")
    b.works(b.a, "dump", "-t", g.guest.pid, "-D", images, "--tcp-established",
            *(["-R"] if where == "here" else []))
    if where == "another":
      b.take_addresses(b.a)
      b.put_addresses(b.b)
      g.guest.host = b.b
    if where != "here":
      time.sleep(0.3)
      b.works(g.guest.host, "restore", "-D", images, "-d", "--tcp-established")
    b.check_open(g.guest.host)
    check(q.length() == 5, "%d of 5 clients wait", q.length())
    q.end()
    g.end("at the end")
    capture.stop()
    bad = capture.faults(ADDRESS[4])
    check(not bad, "%d faults on the wire: %s", len(bad), "; ".join(bad[:5]))
  test.__name__ = "not accepted, dump, restore on %s host" % where if where != "here" else \
      "not accepted, dump -R"
  return test


def queue_dropped(b):
  """A restore may leave out those who wait in the images."""
  need_take_over(b)
  g = p.Commander(b)
  q = Queue(b, g, 2)
  images = b.mkdir("images")
  b.works(b.a, "dump", "-t", g.guest.pid, "-D", images, "--tcp-established")
  b.works(b.a, "restore", "-D", images, "-d", "--tcp-established", "--skip-in-flight")
  b.check_open(b.a)
  check(q.length() == 0, "%d clients wait", q.length())
  new = b.connect(q.port)
  talk(g, g.accept(q.listener), new, 0)
  g.end("at the end")


def not_accepted_refused(b, g, q, words):
  receiver = b.receive(b.b, "--once")
  done = b.a.run(b.migrate_command(g.guest, b.b), timeout=60)
  check(done.returncode > 0, "it was moved")
  for word in words:
    check(word in done.stderr, "%s is not named: %s", word, done.stderr[-600:])
  check(not g.guest.tracer(), "the guest is traced")
  receiver.wait(20)
  check(q.length() == len(q.socks), "%d clients wait", q.length())
  q.end()
  g.end("at the end")
  b.check_open(b.a)


def queue_of_fast_open(b):
  """Those who cannot be taken over make the migration fail, and stay where they are."""
  g = p.Commander(b)
  q = Queue(b, g, 2)
  g.set(q.listener, socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 5)
  not_accepted_refused(b, g, q, ("--skip-in-flight", "wait for accept()"))


def queue_without_cookies(host):
  def test(b):
    need_take_over(b)
    g = p.Commander(b)
    q = Queue(b, g, 2)
    getattr(b, host).run(["sh", "-c", "echo 0 >/proc/sys/net/ipv4/tcp_syncookies"], check=True)
    not_accepted_refused(b, g, q, ("SYN cookies are off",))
  test.__name__ = "not accepted, no SYN cookies on host " + host
  return test


def queue_too_long(b):
  need_take_over(b)
  g = p.Commander(b)
  q = Queue(b, g, 8)
  b.b.run(["sh", "-c", "echo 4 >/proc/sys/net/core/somaxconn"], check=True)
  not_accepted_refused(b, g, q, ("5 connections", "net.core.somaxconn"))


def knocking(b):
  """Clients come all the time while the guest, which accepts none, moves: each is served at
  last."""
  need_take_over(b)
  capture = Capture(b.c)
  g = p.Commander(b)
  listener = g.listen(4, 7100, 1000)
  todo = [p.socket_in(b.c, socket.AF_INET, socket.SOCK_STREAM) for _ in range(200)]
  there, wrong, stop = [], [], threading.Event()

  def come():
    while todo and not stop.is_set():
      sock = todo.pop()
      sock.settimeout(30)
      try:
        sock.connect((ADDRESS[4], 7100))
        sock.sendall(p.pattern(0, 500))
        there.append(sock)
      except OSError as e:
        wrong.append(str(e))
      time.sleep(0.005)

  clients = threading.Thread(target=come)
  clients.start()
  try:
    for _ in range(3):
      b.move(g.guest)
  finally:
    stop.set()
    clients.join()
  check(not wrong, "of %d clients these were not let in: %s", len(there), wrong)
  for _ in there:
    fd = g.accept(listener)
    check(g.recv(fd, 0, 500) == 500, "what a client has said is gone")
    check(g.send(fd, 0, 1000) == 1000, "nothing can be said to a client")
    g.close(fd)
  for sock in there:
    p.receive_all(sock, 0, 1000)
  g.end("at the end")
  capture.stop()
  bad = capture.faults(ADDRESS[4])
  check(not bad, "%d faults on the wire: %s", len(bad), "; ".join(bad[:5]))
  return "%d clients" % len(there)


def full_windows(b):
  """Clients who have said so much that there is no room for more."""
  need_take_over(b)
  capture = Capture(b.c)
  g = p.Commander(b)
  listener = g.listen(6, 7100, 5)
  socks = [b.connect(7100, family) for family in (4, 6)]
  said = [p.fill(sock) for sock in socks]
  for _ in range(2):
    b.move(g.guest)
  for sock, n in zip(socks, said):
    fd = g.accept(listener)
    check(g.recv(fd, 0, n) == n, "of %d bytes some are missing", n)
    talk(g, fd, sock, n)
  g.end("at the end")
  capture.stop()
  bad = capture.faults(ADDRESS[4]) + capture.faults(ADDRESS[6])
  check(not bad, "%d faults on the wire: %s", len(bad), "; ".join(bad[:5]))
  return "%s bytes" % ", ".join(map(str, said))


def left_in_flight(b):
  """--skip-in-flight: those that nobody has accepted are left out, the others live."""
  g = p.Commander(b)
  fd, sock = pair(b, g)
  listener = g.listen(4, 7101, 5)
  late = b.connect(7101)
  b.move(g.guest, "--skip-in-flight")
  talk(g, fd, sock, 0)
  late.close()
  new = b.connect(7101)
  talk(g, g.accept(listener), new, 0)
  g.end("at the end")


# ---- failures ----

LOCKED = """#!/bin/sh
[ "$CRTOOLS_SCRIPT_ACTION" = "%s" ] || exit 0
touch %s
while [ ! -e %s ]; do sleep 0.02; done
exit %d
"""


class Interrupted:
  """A migration that waits in its action script until it is told to go on."""

  def __init__(self, b, action="network-lock", code=0, side="source", guest=None):
    self.b = b
    self.s = None if guest else Streams(b, 3, buffer=65536, pace=1)
    self.at, self.on = b.path("locked"), b.path("go")
    script = b.path("script")
    with open(script, "w") as f:
      f.write(LOCKED % (action, self.at, self.on, code))
    os.chmod(script, 0o755)
    extra = ["--action-script", script]
    self.receiver = b.receive(b.b, "--once", *(extra if side == "target" else []))
    self.log = b.path("migrate.log")
    cmd = b.migrate_command(guest or self.s.server, b.b, *(extra if side == "source" else []))
    self.migrate = b.a.popen(cmd, stdout=self.log, stderr=subprocess.STDOUT)
    try:
      hosts.wait_for(lambda: os.path.exists(self.at), 20)
    except TimeoutError:
      raise Failed("the script was not run: " + self.text())

  def text(self):
    with open(self.log, errors="replace") as f:
      return f.read()

  def go(self):
    open(self.on, "w").close()

  def source_resumes(self, say=()):
    """The guest is where it was, with its connections and address, and can still be moved."""
    try:
      rc = self.migrate.wait(40)
    except subprocess.TimeoutExpired:
      raise Failed("migrate does not end: " + self.text())
    check(0 < rc < 126, "migrate: exit %d: %s", rc, self.text())
    for word in say:
      check(word in self.text(), "migrate does not say %s: %s", word, self.text())
    return self.lives()

  def lives(self):
    b, s = self.b, self.s
    # the guard is another process
    try:
      hosts.wait_for(lambda: not s.server.tracer() and s.server.state_of() in "RSD", 10)
    except TimeoutError:
      raise Failed("the guest is not let go: " + self.text())
    time.sleep(1)
    s.server.check_runs("after the failure")
    b.check_open(b.a)
    moved = s.move()  # receive on b sweeps what the killed one has left there
    s.end()
    b.check_open(b.b, b.a)
    return "then " + figures([moved])


def children(pid):
  with open("/proc/%d/task/%d/children" % (pid, pid)) as f:
    return [int(w) for w in f.read().split()]


def kill_receiver(b, m, wholly):
  pids = children(m.receiver.outer_pid)
  if wholly:
    pids.append(m.receiver.outer_pid)
  for pid in pids:
    os.kill(pid, signal.SIGKILL)
  m.receiver.wait(10)
  hosts.wait_for(lambda: not any(os.path.exists("/proc/%d" % pid) for pid in pids))
  m.go()
  m.migrate.wait(40)
  if wholly:
    # The next start there takes back what was done.
    again = b.receive(b.b)
    again.send_signal(signal.SIGTERM)
    again.wait(10)


def receiver_dies(action, wholly):
  def test(b):
    m = Interrupted(b, action)
    kill_receiver(b, m, wholly)
    return m.source_resumes()
  test.__name__ = "%s killed at %s" % ("receiver" if wholly else "receiver's process", action)
  return test


def script_fails(action, side):
  def test(b):
    m = Interrupted(b, action, 1, side)
    m.go()
    return m.source_resumes((action,))
  test.__name__ = "script of the %s fails at %s" % (side, action)
  return test


def sender_dies(action):
  def test(b):
    m = Interrupted(b, action)
    m.migrate.send_signal(signal.SIGKILL)
    m.migrate.wait(10)
    m.go()
    return m.lives()
  test.__name__ = "sender killed at " + action
  return test


# ---- dump and restore ----

def dumped(where):
  def test(b):
    capture = Capture(b.c)
    g = p.Commander(b)
    made = [pair(b, g, family) for family in (4, 6)]
    for fd, sock in made:
      talk(g, fd, sock, 0)
      sock.sendall(p.pattern(1000, 300))
    images = b.mkdir("images")
    b.works(b.a, "dump", "-t", g.guest.pid, "-D", images, "--tcp-established")
    check(g.guest.state_of() is None, "the guest is still there")
    made[0][1].sendall(p.pattern(1300, 300))  # while it is nowhere
    if where == "another":
      b.take_addresses(b.a)
      b.put_addresses(b.b)
      g.guest.host = b.b
    time.sleep(0.5)
    b.works(g.guest.host, "restore", "-D", images, "-d", "--tcp-established")
    b.check_open(g.guest.host)
    check(g.recv(made[0][0], 1000, 600) == 600, "bytes are missing")
    check(g.recv(made[1][0], 1000, 300) == 300, "bytes are missing")
    for fd, sock in made:
      check(g.send(fd, 1000, 1000) == 1000, "no sending")
      p.receive_all(sock, 1000, 1000)
    g.end("after restore")
    capture.stop()
    bad = capture.faults(ADDRESS[4]) + capture.faults(ADDRESS[6])
    check(not bad, "%d faults on the wire: %s", len(bad), "; ".join(bad[:5]))
  test.__name__ = "dump, restore on %s host" % where
  return test


def left_running(b):
  g = p.Commander(b)
  fd, sock = pair(b, g)
  b.works(b.a, "dump", "-t", g.guest.pid, "-D", b.mkdir("images"), "--tcp-established", "-R")
  b.check_open(b.a)
  talk(g, fd, sock, 0)
  g.end("after dump -R")


def tests(opts):
  full = opts.full
  made = [streams(n, family=f, buffer=size) for n, f, size in
          ([(1, 4, 0), (20, 6, 0), (200, 4, 0)] if not full else
           [(1, 4, 0), (20, 6, 0), (200, 4, 0), (500, 4, 0), (100, 6, 4096), (50, 4, HUGE)])]
  made += [streams(5, family=4, buffer=4096), streams(2, family=4, buffer=HUGE),
           streams(5, family=6, peer_family=4), pauses(20 if full else 4)]
  made += [on_the_wire(4), on_the_wire(6)]
  made += [state_test(f) for f in
           (open_ones, peer_has_shut, guest_has_shut, bytes_unread, bytes_unsent, fin_wait_1,
            last_ack, closing, time_wait, syn_sent, idle(60 if full else 3))]
  made += [not_accepted(1), not_accepted(5, 6), not_accepted(5, 6, 4), not_accepted(6, backlog=5),
           not_accepted(129, backlog=128), knocking, full_windows,
           left_in_flight]
  made += [queue_of_fast_open, queue_without_cookies("a"), queue_without_cookies("b"),
           queue_too_long]
  made += [queue_left("network-lock", "receiver"), queue_left("post-dump", "receiver"),
           queue_left("post-dump", "sender"), queue_left("post-dump", "script")]
  made += [queue_dumped("the same"), queue_dumped("another"), queue_dumped("here"),
           queue_dropped]
  made += [receiver_dies("network-lock", True), receiver_dies("post-dump", True),
           receiver_dies("network-lock", False), receiver_dies("post-dump", False),
           sender_dies("network-lock"), sender_dies("post-dump"),
           script_fails("network-lock", "source"),
           script_fails("post-dump", "source"), script_fails("post-restore", "target"),
           script_fails("pre-resume", "target")]
  made += [dumped("the same"), dumped("another"), left_running]
  if opts.times:
    made.append(many_moves(opts.times))
  return [("tcp: " + f.__name__.replace("_", " "), f) for f in made]


def main():
  a = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  a.add_argument("--full", action="store_true", help="more connections, longer")
  a.add_argument("--times", type=int, default=0, metavar="N", help="then N moves in a row")
  a.add_argument("--tool", help="criu-lite (default: $CRIU_LITE or the built one)")
  a.add_argument("--victims-dir", help="where the victims are (default: BUILDDIR/test/live)")
  a.add_argument("--only", metavar="A,B,...", help="only tests with one of these in their name")
  opts = a.parse_args()
  opts.tool = tool.find_tool(opts.tool)
  opts.victims_dir = os.path.abspath(opts.victims_dir or
                                     os.path.join(tool.build_dir(), "test/live"))
  return run_tests(tests(opts), opts, Peers)


if __name__ == "__main__":
  sys.exit(main())
