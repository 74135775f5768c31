# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share: the guest, its moves, the verdicts."""

import os
import re
import signal
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
import hosts  # noqa: E402
import tool  # noqa: E402

PORT = 9400
median = statistics.median


class Verdicts:
  """Prints PASS or FAIL for each bound; `bad` counts the failures."""

  def __init__(self):
    self.bad = 0

  def check(self, good, text):
    self.bad += not good
    print("%s  %s" % ("PASS" if good else "FAIL", text), flush=True)


def table(rows):
  widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
  for r in rows:
    print("  ".join(w.rjust(n) for w, n in zip(r, widths)), flush=True)


def compile_guest(directory):
  out = os.path.join(directory, "guest")
  subprocess.run(["cc", "-O2", "-o", out, os.path.join(HERE, "guest.c")], check=True)
  return out


class Guest:
  """guest.c on a host."""

  def __init__(self, host, program, mib, rate, directory):
    self.status = os.path.join(directory, "status-%d-%d" % (mib, rate))
    if os.path.exists(self.status):
      os.unlink(self.status)
    self.host = host
    self.proc = host.popen([program, mib, rate, self.status], cwd=directory,
                           stdout=os.path.join(directory, "guest.log"),
                           stderr=subprocess.STDOUT)
    self.pid = self.proc.pid_inside
    hosts.wait_for(lambda: self.lines(), 120)

  def lines(self):
    try:
      with open(self.status) as f:
        return f.read().splitlines()
    except FileNotFoundError:
      return []

  def ask(self):
    """(longest standstill in s, bad pages) since the last question."""
    n = len(self.lines())
    self.host.run(["kill", "-USR1", self.pid], check=True)
    line = hosts.wait_for(lambda: self.lines()[n:], 60)[0]
    gap, bad = re.match(r"gap_us (\d+) bad (\d+)", line).groups()
    return int(gap) / 1e6, int(bad)

  def kill(self):
    if self.host.alive(self.pid):
      self.host.run(["kill", "-KILL", self.pid])
      hosts.wait_for(lambda: not self.host.alive(self.pid))


def migrate(program, guest, dst, options=()):
  """Moves `guest` to `dst`; returns the tool's summary."""
  target = "%s:%d" % (dst.ip, PORT)
  receive = dst.popen([program, "receive", "--listen", target, "--once"],
                      stdout=os.path.dirname(guest.status) + "/receive.log",
                      stderr=subprocess.STDOUT)
  hosts.wait_listening(dst, PORT)
  done = guest.host.run([program, "migrate", "-t", guest.pid, "--json", *options, "tcp://" + target],
                        timeout=600, stderr=subprocess.STDOUT)
  if done.returncode:
    raise SystemExit("migrate exited %d:\n%s" % (done.returncode, done.stdout))
  if receive.wait(30):
    raise SystemExit("receive exited %d" % receive.returncode)
  guest.host = dst
  return tool.summary(done.stdout)


def memory_for(mib):
  """Ends the program if the machine cannot hold `mib` MiB more."""
  with open("/proc/meminfo") as f:
    free = next(int(line.split()[1]) >> 10 for line in f if line.startswith("MemAvailable"))
  if free < mib:
    raise SystemExit("%d MiB of memory are available, %d are needed" % (free, mib))
