# SPDX-License-Identifier: Apache-2.0
"""Migrations that cannot be, or that are broken off: the guest runs at one place, always."""

import contextlib
import ctypes
import ctypes.util
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time

from bad_images import BUILD_ID, SIZE, append, other_program, take_pid
from frame import Failed, Guest, PORT, check, hosts

HELLO = 48
MTIME = [["mtime", "modified", "time of change"]]


@contextlib.contextmanager
def inside(host):
  """This thread's network is the host's, so that sockets made here are there."""
  libc = ctypes.CDLL(None, use_errno=True)
  own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
  there = os.open("/proc/%d/ns/net" % host.init, os.O_RDONLY)
  try:
    check(libc.setns(there, 0x40000000) == 0, "setns")
    yield
  finally:
    libc.setns(own, 0x40000000)
    os.close(own)
    os.close(there)


def listener(host):
  with inside(host):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((host.ip, PORT))
  s.listen(16)
  return s


def connect(b):
  with inside(b.a):
    s = socket.socket()
    s.settimeout(20)
    s.connect((b.b.ip, PORT))
  return s


def not_listening(b):
  guest = Guest(b, b.a, "eventfd")
  b.refused(b.a, "migrate", "-t", guest.pid, b.target, say=[b.b.ip, "9400", "refused"])
  guest.end()


def unreachable(b):
  guest = Guest(b, b.a, "eventfd")
  b.refused(b.a, "migrate", "-t", guest.pid, "tcp://10.9.0.77:9400", say=["10.9.0.77"])
  b.refused(b.a, "migrate", "-t", guest.pid, "tcp://192.0.2.1:9400", say=["192.0.2.1"])
  guest.end()


def false_server(answer):
  """Something else listens on the target's port."""
  def test(b):
    guest = Guest(b, b.a, "eventfd")
    server = listener(b.b)
    held = []

    def serve():
      while True:
        try:
          c, _ = server.accept()
        except OSError:
          return
        held.append(c)
        try:
          answer(c)
        except OSError:
          pass
    threading.Thread(target=serve, daemon=True).start()
    try:
      b.refused(b.a, "migrate", "-t", guest.pid, b.target, say=[b.b.ip], timeout=60)
      guest.end()
      b.clean(b.a)
    finally:
      server.close()
      for c in held:
        c.close()
  return test


def close_at_once(c):
  c.close()


def say_garbage(c):
  c.sendall(random.Random(1).randbytes(100000))
  c.close()


def say_http(c):
  c.recv(10)
  c.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


def say_nothing(c):
  pass


def say_other_version(c):
  """The client's own hello, as the answer of a later version."""
  c.sendall(with_version(recv_all(c, HELLO), 2))


def recv_all(c, n):
  got = b""
  while len(got) < n:
    more = c.recv(n - len(got))
    if not more:
      break
    got += more
  return got


def with_version(hello, version):
  """A hello (wire_sock.h) that says another version and is whole."""
  name = ctypes.util.find_library("xxhash") or "libxxhash.so.0"
  xxh = ctypes.CDLL(name)
  xxh.XXH3_64bits.restype = ctypes.c_uint64
  xxh.XXH3_64bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
  head = hello[:4] + struct.pack("<I", version) + hello[8:HELLO - 8]
  return head + struct.pack("<Q", xxh.XXH3_64bits(head, len(head)))


def true_hello(b):
  """What migrate says first."""
  guest = Guest(b, b.a, "eventfd")
  server, got = listener(b.b), []

  def serve():
    with contextlib.suppress(OSError):
      c, _ = server.accept()
      got.append(recv_all(c, HELLO))
      c.close()
  t = threading.Thread(target=serve, daemon=True)
  t.start()
  b.run(b.a, "migrate", "-t", guest.pid, b.target)
  t.join(10)
  server.close()
  guest.end("after a broken connection")
  check(got and len(got[0]) == HELLO, "no hello")
  return got[0]


def wrong_version(b):
  hello = true_hello(b)
  receiver = b.receiver()
  for version in (0, 2, 0xffffffff):
    c = connect(b)
    c.sendall(with_version(hello, version))
    c.settimeout(20)
    answer = recv_all(c, 4096)
    check(b"version" in answer, "version %d was answered by %r", version, answer)
    c.close()
    check("version" in b.receive_log(), "the receiver says nothing of it: %s", b.receive_log())
  b.clean(b.b, b.receiver_pid)
  b.migration_works(receiver)


def garbage_on_port(b):
  hello = true_hello(b)
  receiver = b.receiver()
  rng = random.Random(2)
  held = []
  for data in (b"", b"\0", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03",
               b"\0" * 100000, b"\xff" * 100000, rng.randbytes(1000), rng.randbytes(300000),
               hello[:20], hello[:HELLO - 1], hello, hello + rng.randbytes(100000),
               hello + b"\xff" * 64, hello + struct.pack("<IIQ", 1, 0xffffffff, 0),
               hello[:20] + b"\xff" * 28):
    for close in (True, False):
      c = connect(b)
      try:
        c.sendall(data)
      except OSError:
        pass
      if close:
        c.close()
      else:
        held.append(c)
  for at in range(HELLO):
    c = connect(b)
    c.sendall(hello[:at] + bytes([hello[at] ^ 1 << at % 8]) + hello[at + 1:])
    c.close()
  check(receiver.poll() is None, "the receiver ended: %s", b.receive_log())
  # Half-said hellos and silent connections are still there, and hold up nobody for long.
  start = time.monotonic()
  guest = Guest(b, b.a, "eventfd")
  rc, out = b.run(b.a, "migrate", "-t", guest.pid, b.target)
  if rc and "busy" in out.lower():
    # One of them was a good hello and nothing more: it counts as a migration for a while.
    for c in held:
      c.close()
    held = []
    time.sleep(1)
    guest.check_runs("told to be busy")
    b.works(b.a, "migrate", "-t", guest.pid, b.target)
  else:
    check(rc == 0, "migrate: exit %d: %s", rc, out)
  took = time.monotonic() - start
  guest.end("after garbage", b.b)
  for c in held:
    c.close()
  b.clean(b.b, b.receiver_pid)
  b.migration_works(receiver)
  check(took < 30, "silent connections held up the migration for %.1f s", took)


def spoil_stream(at):
  """A proxy between the two flips a bit of the stream: a clear error, the guest runs on."""
  def test(b):
    guest = Guest(b, b.a, "idle", "16")
    receiver = b.receiver()
    left, lock = [at], threading.Lock()
    with inside(b.a):
      proxy = socket.socket()
      proxy.bind((b.a.ip, PORT))
    proxy.listen(16)

    def pump(src, dst, spoil):
      try:
        while True:
          data = src.recv(65536)
          if not data:
            break
          with lock:
            if spoil and 0 <= left[0] < len(data):
              data = bytearray(data)
              data[left[0]] ^= 0x10
              left[0] = -1
            elif spoil and left[0] >= 0:
              left[0] -= len(data)
          dst.sendall(data)
      except OSError:
        pass
      for s in (src, dst):
        with contextlib.suppress(OSError):
          s.shutdown(socket.SHUT_RDWR)

    def serve():
      while True:
        try:
          c, _ = proxy.accept()
        except OSError:
          return
        s = connect(b)
        s.settimeout(None)
        threading.Thread(target=pump, args=(c, s, True), daemon=True).start()
        threading.Thread(target=pump, args=(s, c, False), daemon=True).start()
    threading.Thread(target=serve, daemon=True).start()
    try:
      rc, out = b.run(b.a, "migrate", "-t", guest.pid, "tcp://%s:%d" % (b.a.ip, PORT))
      if left[0] >= 0:
        return "the stream was shorter"
      b.check_refusal("migrate through a bad line", rc, out)
      guest.check_runs("after a bad line")
      b.clean(b.b, b.receiver_pid)
      guest.end()
      b.migration_works(receiver)
    finally:
      proxy.close()
    return ""
  return test


def bind_over(host, source, target):
  done = host.run(["mount", "--bind", source, target])
  check(done.returncode == 0, "mount --bind: %s", done.stderr)


def on_target(program, change, say, name="rw"):
  """The file is another one on the target: `change` makes it, a bind mount puts it there."""
  def test(b):
    binary = None
    if name == "program":
      binary = b.path("program")
      shutil.copy2(b.victim(program), binary)
    guest = Guest(b, b.a, program, binary=binary)
    path = binary or os.path.join(guest.state, name)
    receiver = b.receiver()
    copy = b.path("copy")
    shutil.copy2(path, copy)
    change(b, copy)
    bind_over(b.b, copy, path)
    b.refused(b.a, "migrate", "-t", guest.pid, b.target, say=[path] + say)
    guest.check_runs("after the refusal")
    b.clean(b.b, b.receiver_pid)
    b.b.run(["umount", path])
    if name != "program":
      guest.end()
    else:
      # Now it is the same file again: it can go.
      b.works(b.a, "migrate", "-t", guest.pid, b.target)
      guest.end("after the second try", b.b)
    check(receiver.poll() is None, "the receiver ended: %s", b.receive_log())
  return test


def hidden_on_target(program, name):
  """A file system on the target hides the whole directory."""
  def test(b):
    binary = None
    if name == "program":
      os.mkdir(b.path("bin"))
      binary = b.path("bin/program")
      shutil.copy2(b.victim(program), binary)
    guest = Guest(b, b.a, program, binary=binary)
    path = binary or os.path.join(guest.state, name)
    b.receiver()
    b.b.run(["mount", "-t", "tmpfs", "none", os.path.dirname(path)], check=True)
    b.refused(b.a, "migrate", "-t", guest.pid, b.target,
              say=[[path, os.path.dirname(path)]])
    guest.check_runs("after the refusal")
    b.clean(b.b, b.receiver_pid)
    guest.end()
  return test


def pid_taken(b):
  guest = Guest(b, b.a, "eventfd")
  sleeper = take_pid(b.b, guest.pid)
  b.receiver()
  b.refused(b.a, "migrate", "-t", guest.pid, b.target, say=[str(guest.pid)])
  check(sleeper.poll() is None, "the process that had the pid is dead")
  b.clean(b.b, b.receiver_pid, guest.pid)
  sleeper.kill_session()
  sleeper.wait()
  guest.end()


def no_memory(b):
  """The target's /proc/meminfo says that little is left."""
  guest = Guest(b, b.a, "idle", "64")
  fake = b.path("meminfo")
  with open("/proc/meminfo") as f, open(fake, "w") as out:
    for line in f:
      if line.startswith(("MemAvailable", "MemFree", "SwapFree")):
        line = line.split(":")[0] + ":      20000 kB\n"
      out.write(line)
  bind_over(b.b, fake, "/proc/meminfo")
  receiver = b.receiver()
  b.refused(b.a, "migrate", "-t", guest.pid, b.target, say=["memory"])
  b.clean(b.b, b.receiver_pid)
  guest.check_runs("after the refusal")
  b.b.run(["umount", "/proc/meminfo"])
  b.works(b.a, "migrate", "-t", guest.pid, b.target)
  guest.end("after the second try", b.b)
  check(receiver.poll() is None, "the receiver ended")


def start_migration(b, guest):
  return b.a.popen([b.tool, "migrate", "-t", str(guest.pid), b.target],
                   stdout=b.path("migrate.log"), stderr=subprocess.STDOUT)


def migrate_log(b):
  try:
    with open(b.path("migrate.log"), errors="replace") as f:
      return f.read()
  except OSError:
    return ""


def forget_log(b):
  with contextlib.suppress(OSError):
    os.unlink(b.path("migrate.log"))


def guest_exits(how):
  """The guest ends while its memory is being sent."""
  def test(b):
    guest = Guest(b, b.a, "dirtier", "128", "50")
    receiver = b.receiver()
    b.a.limit(200)
    migration = start_migration(b, guest)
    time.sleep(1.5)
    check(migration.poll() is None, "the migration ended early: %s", migrate_log(b))
    how(guest)
    try:
      rc = migration.wait(30)
    except subprocess.TimeoutExpired:
      raise Failed("migrate waits for a guest that is gone")
    b.check_refusal("migrate", rc, migrate_log(b), [["exit", "ended", "gone", "no such", "died"]])
    b.clean(b.b, b.receiver_pid)
    b.clean(b.a)
    b.a.limit(None)
    b.migration_works(receiver)
  return test


def exit_by_itself(guest):
  open(os.path.join(guest.state, "stop"), "w").close()


def exit_by_kill(guest):
  os.kill(guest.proc.outer_pid, signal.SIGKILL)


def receiver_killed(b):
  """The target's side dies at several moments: the guest runs on at the source."""
  guest = Guest(b, b.a, "dirtier", "64", "50")
  b.a.limit(400)
  for delay in (0.05, 0.3, 0.8, 1.5):
    receiver = b.receiver()
    migration = start_migration(b, guest)
    time.sleep(delay)
    check(migration.poll() is None, "the migration ended early: %s", migrate_log(b))
    receiver.kill_session()
    receiver.wait()
    try:
      rc = migration.wait(30)
    except subprocess.TimeoutExpired:
      raise Failed("migrate does not notice that the receiver is dead")
    b.check_refusal("migrate", rc, migrate_log(b))
    guest.check_runs("after the receiver's death")
    b.clean(b.b)
    forget_log(b)
  guest.end()


def link_down(b):
  """The link goes and does not come back."""
  guest = Guest(b, b.a, "dirtier", "64", "50")
  b.a.limit(400)
  b.receiver()
  migration = start_migration(b, guest)
  time.sleep(0.5)
  b.b.link(False)
  seen = guest.count()
  hosts.wait_for(lambda: guest.count() > seen + 100)
  try:
    rc = migration.wait(60)
  except subprocess.TimeoutExpired:
    raise Failed("migrate does not notice within 60 s that the link is down")
  b.check_refusal("migrate", rc, migrate_log(b))
  guest.check_runs("after the link went down")
  b.clean(b.b, b.receiver_pid)
  guest.end()


def places(b, guest):
  return [h for h in (b.a, b.b) if guest.state_of(h) not in (None, "Z", "X")]


def settled(b, guest):
  """One place, and running there."""
  return len(places(b, guest)) == 1 and guest.state_of(places(b, guest)[0]) in ("R", "S", "D")


def decide(b, guest):
  """Killed between its last word and the answer, migrate leaves the source stopped: the operator
  looks at the target and does what the manual says."""
  if guest.state_of(b.a) != "T":
    return
  there = guest.state_of(b.b) in ("R", "S", "D")
  pids = [str(p) for p in b.a.pids() if p != 1]
  b.a.run(["kill", "-KILL" if there else "-CONT", *pids])


def kills(n, seed, program, args):
  """migrate is killed by SIGKILL at a random moment; n times."""
  def test(b):
    rng = random.Random(seed)
    moved = stayed = finished = 0
    # How long one takes that is not killed.
    receiver = b.receiver()
    guest = Guest(b, b.a, program, *args)
    start = time.monotonic()
    b.works(b.a, "migrate", "-t", guest.pid, b.target)
    whole = time.monotonic() - start
    guest.end("not killed", b.b)
    for i in range(n):
      if receiver.poll() is not None:
        raise Failed("kill %d: the receiver ended: %s" % (i, b.receive_log()[-500:]))
      guest = Guest(b, b.a, program, *args)
      migration = start_migration(b, guest)
      delay = rng.uniform(0, whole * 1.1)
      time.sleep(delay)
      outer = migration.outer_pid
      if migration.poll() is None and outer:
        with contextlib.suppress(ProcessLookupError):
          os.kill(outer, signal.SIGKILL)
      else:
        finished += 1
      migration.wait()
      at = "kill %d after %.3f s" % (i, delay)
      try:
        try:
          hosts.wait_for(lambda: settled(b, guest), 2)
        except TimeoutError:
          decide(b, guest)
          hosts.wait_for(lambda: settled(b, guest), 15)
      except TimeoutError:
        raise Failed("%s: the guest is on %s, in states %s | receiver: %s"
                     % (at, [h.name for h in places(b, guest)],
                        [guest.state_of(h) for h in places(b, guest)], b.receive_log()[-300:]))
      where = places(b, guest)[0]
      time.sleep(0.1)
      check(places(b, guest) == [where], "%s: it changed its mind", at)
      moved += where is b.b
      stayed += where is b.a
      guest.end(at, where)
      b.clean(b.a)
      b.clean(b.b, b.receiver_pid)
      forget_log(b)
    return "%d stayed, %d moved, of these %d had ended" % (stayed, moved, finished)
  return test


def touch(b, path):
  os.utime(path, (1, 1))


def cut(b, path):
  os.truncate(path, 100)


def tests(opts):
  got = [("migrate: " + f.__name__.replace("_", " "), f) for f in
         (not_listening, unreachable, wrong_version, garbage_on_port, pid_taken, no_memory,
          receiver_killed, link_down)]
  got += [("migrate: false server, " + f.__name__.replace("_", " "), false_server(f)) for f in
          (close_at_once, say_garbage, say_http, say_nothing, say_other_version)]
  got += [("migrate: stream spoiled at %d" % at, spoil_stream(at)) for at in
          (60, 100, 500, 3000, 100000, 3000000)]
  got += [
    ("migrate: open file hidden on the target", hidden_on_target("files", "rw")),
    ("migrate: open file shorter on the target", on_target("files", cut, SIZE)),
    ("migrate: open file longer on the target",
     on_target("files", lambda b, p: append(p), SIZE)),
    ("migrate: program hidden on the target", hidden_on_target("eventfd", "program")),
    ("migrate: program longer on the target",
     on_target("eventfd", lambda b, p: append(p), SIZE, "program")),
    ("migrate: program with another build-id",
     on_target("eventfd", other_program, BUILD_ID, "program")),
    ("migrate: mapped file shorter on the target", on_target("memory", cut, SIZE, "private")),
    ("migrate: mapped file with another mtime", on_target("memory", touch, MTIME, "private")),
    ("migrate: guest exits", guest_exits(exit_by_itself)),
    ("migrate: guest is killed", guest_exits(exit_by_kill)),
    ("migrate: killed, stress", kills(opts.kills // 2, opts.seed, "stress", [])),
    ("migrate: killed, tree", kills(opts.kills - opts.kills // 2, opts.seed + 1, "tree", [])),
  ]
  return got
