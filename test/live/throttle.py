#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Guests that write faster than they are sent: slowed down, given up, killed under.

A tree whose parent waits with WUNTRACED and one of whose children is stopped is the guest.
"""

import glob
import os
import signal
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
from ctl import SLOW, Migration, check, hosts, options, run_tests  # noqa: E402

# Not so sharp that the guest would come over before it is killed.
SHARP = ["--auto-converge-initial", 60, "--auto-converge-max", 60]
WAYS = ("sigstop", "freezer")


class Tree(Migration):
  """As Migration, with victim waiter instead of dirtier."""
  PROGRAM = ("waiter", "12", "60")


def throttled(b, *args):
  m = Tree(b, *SLOW, *args)
  m.wait(lambda: m.status()["throttle"] > 0, 60)
  return m


def cgroups():
  return glob.glob("/sys/fs/cgroup/**/criu-lite-*", recursive=True)


def clean(b, m):
  """Unthrottled, and nothing of the throttle stays."""
  try:
    hosts.wait_for(lambda: not cgroups(), 10)
  except TimeoutError:
    check(False, "cgroups stay: %s", cgroups())
  m.stayed()


def converges(way, mode):
  def test(b):
    b.receiver("--once")
    m = Tree(b, "--comp-method", "none", "--bandwidth", 25, "--throttle", way,
             "--auto-converge-mode", mode)
    m.came_over()
    check(not cgroups(), "cgroups stay: %s", cgroups())
  test.__name__ = "%s by %s converges" % (mode, way)
  return test


def interrupted(way):
  def test(b):
    receiver = b.receiver()
    m = throttled(b, *SHARP, "--throttle", way)
    m.proc.send_signal(signal.SIGINT)
    m.ended(False, 20)
    check("aborted by a signal" in m.text(), "migrate said: %s", m.text()[-600:])
    clean(b, m)
    b.migration_works(receiver)
  test.__name__ = "interrupted, by " + way
  return test


def killed(way):
  def test(b):
    b.receiver()
    m = throttled(b, *SHARP, "--throttle", way)
    m.proc.send_signal(signal.SIGKILL)
    m.proc.wait(20)
    hosts.wait_for(lambda: not m.guest.tracer(), 10)
    clean(b, m)
  test.__name__ = "killed, by " + way
  return test


def timed_out(b):
  receiver = b.receiver()
  m = Tree(b, *SLOW, "--no-auto-converge", "--timeout", 3)
  m.ended(False, 30)
  check("not complete within its time" in m.text() and "--timeout" in m.text(),
        "migrate said: %s", m.text()[-600:])
  clean(b, m)
  b.migration_works(receiver)


def suspended(b):
  b.receiver("--once")
  m = Tree(b, *SLOW, "--no-auto-converge", "--timeout", 3, "--timeout-action", "suspend")
  m.came_over()


def goes_on_rather(b):
  """What the stopped guest has left does not fit: it is not kept standing still for it."""
  b.receiver("--once")
  m = Tree(b, "--comp-method", "none", "--bandwidth", 25, "--max-downtime", 150,
           "--switchover-bandwidth", 25, "--auto-converge-mode", "model")
  m.came_over()
  down = float(m.text().split("downtime:")[1].split()[0])
  check(down < 1000, "it stood still for %.0f ms", down)


def tests(opts):
  made = [converges(w, mode) for w in WAYS for mode in ("ramp", "model")]
  made += [f(w) for f in (interrupted, killed) for w in WAYS]
  made += [timed_out, suspended, goes_on_rather]
  return [("throttle: " + f.__name__.replace("_", " "), f) for f in made]


if __name__ == "__main__":
  opts = options(__doc__)
  sys.exit(run_tests(tests(opts), opts))
