# SPDX-License-Identifier: Apache-2.0
"""What cannot be moved yet: refused with pid, fd, kind and remedy, before the guest notices."""

import os
import signal

from frame import Guest, check, hosts

# The kind of victims/refused.c: what the message must say, one of each group.
KINDS = {
  "io_uring": ["io_uring"],
  "inotify": ["inotify"],
  "fanotify": ["fanotify"],
  "userfaultfd": ["userfaultfd"],
  "netlink": ["netlink"],
  "packet": ["packet"],
  "raw": ["raw"],
  "alg": ["alg"],
  "kvm": ["kvm", "migrate command", "-accel tcg"],
  "tun": ["tun"],
  "pidfd": ["pidfd"],
  "namespace": ["namespace"],
  "secret": ["secret"],
  "perf": ["perf"],
  "bpf": ["bpf"],
  "connection": ["tcp"],
  "outer_unix": ["unix"],
}
# Not fds.
OTHERS = {
  "outer_sysv": ["System V", "outside"],
  "part_of_sysv": ["System V", "shmat"],
  "traced": ["traced"],
}


def refuse(kind, say, is_fd):
  def test(b):
    guest = Guest(b, b.a, "refused", kind)
    say_all = [str(guest.pid)] + say + ([["fd 77", "fd 78"]] if is_fd else []) + [";"]
    d = b.mkdir("d")
    b.receiver()
    message = b.refused(b.a, "migrate", "-t", guest.pid, b.target, say=say_all)
    check(not guest.disturbed(), "migrate stopped the guest before it refused: %s", message)
    b.clean(b.b, b.receiver_pid)
    for command in (["dump"], ["dump", "-R"], ["pre-dump", "--track-mem"]):
      b.refused(b.a, *command, "-t", guest.pid, "-D", d, say=say_all)
      check(not guest.disturbed(), "%s stopped the guest before it refused: %s",
            " ".join(command), message)
      check(not [f for f in os.listdir(d) if f.endswith(".img")], "%s left images: %s",
            command[0], os.listdir(d))
    seen = guest.count()
    hosts.wait_for(lambda: guest.count() > seen + 5)
    if kind == "traced":
      os.kill(guest.tracer(), signal.SIGKILL)
      hosts.wait_for(lambda: not guest.tracer())
    guest.end()
  return test


def deleted_soon_closed(b):
  """A big deleted file is refused, but not if the program is about to close it."""
  big, ready = b.path("big"), b.path("ready")
  guest = b.a.popen(["python3", "-c", "import os, time\n"
                     "f = open(%r, 'wb+'); f.write(b'x' * 3000000); f.flush(); os.unlink(f.name)\n"
                     "open(%r, 'w').close(); time.sleep(0.4); f.close(); time.sleep(300)"
                     % (big, ready)],
                    stdout="/dev/null", stderr="/dev/null")
  b.receiver()
  hosts.wait_for(lambda: os.path.exists(ready), 10)
  pid = guest.pid_inside
  b.works(b.a, "migrate", "-t", pid, b.target)
  check(b.b.alive(pid), "it does not run on the target")
  b.b.run(["kill", "-9", pid], check=True)


def segments(host):
  """Numbers of the System V segments of a host."""
  lines = host.run(["cat", "/proc/sysvipc/shm"], check=True).stdout.splitlines()[1:]
  return [int(line.split()[1]) for line in lines]


def sysv_taken(b):
  """Another segment has the number of the guest's on the target, or its key."""
  receiver = b.receiver()
  guest = Guest(b, b.a, "sysv")
  ours = segments(b.a)
  make = "import ctypes; exit(ctypes.CDLL(None).shmget(%d, 4096, 0o1600) < 0)"
  key = 0x43520000 | guest.pid
  for what, its_key, number in ("number", 0, min(ours)), ("key", key, 99):
    b.b.run(["sh", "-c", "echo %d > /proc/sys/kernel/shm_next_id" % number], check=True)
    b.b.run(["python3", "-c", make % its_key], check=True)
    theirs = segments(b.b)
    check(theirs == [number], "the target has %s, not %d", theirs, number)
    b.refused(b.a, "migrate", "-t", guest.pid, b.target, say=["System V", what, "ipcrm -m"])
    guest.check_runs("after it was refused")
    hosts.wait_for(lambda: segments(b.b) == theirs, 5)
    b.b.run(["ipcrm", "-m", number], check=True)
  b.works(b.a, "migrate", "-t", guest.pid, b.target)
  check(not segments(b.a), "segments stay on the source: %s", segments(b.a))
  check(sorted(segments(b.b)) == sorted(ours), "the target has %s, not %s", segments(b.b), ours)
  guest.end("after the migration", b.b)
  check(receiver.poll() is None, "the receiver ended")


def tests(opts):
  return ([("kind: " + k, refuse(k, say, True)) for k, say in KINDS.items()] +
          [("kind: " + k, refuse(k, say, False)) for k, say in OTHERS.items()] +
          [("kind: deleted file, soon closed", deleted_soon_closed),
           ("kind: sysv, number or key taken", sysv_taken)])
