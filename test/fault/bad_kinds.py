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
  "sysv": [["sysv", "shm"]],
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


def tests(opts):
  return ([("kind: " + k, refuse(k, say, True)) for k, say in KINDS.items()] +
          [("kind: " + k, refuse(k, say, False)) for k, say in OTHERS.items()])
