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


def compile_guest(directory, name="guest"):
  out = os.path.join(directory, name)
  subprocess.run(["cc", "-O2", "-o", out, os.path.join(HERE, name + ".c")], check=True)
  return out


class Guest:
  """guest.c or dirtier.c on a host."""

  count = 0

  def __init__(self, host, program, mib, rate, directory):
    Guest.count += 1
    self.host = host
    self.status = os.path.join(directory, "guest-%d" % Guest.count)
    self.proc = host.popen([program, mib, rate, self.status], cwd=directory,
                           stdout=self.status + ".log", stderr=subprocess.STDOUT)
    self.pid = self.proc.pid_inside
    hosts.wait_for(self.lines, 120)

  def lines(self):
    try:
      with open(self.status) as f:
        return [line for line in f if line.endswith("\n")]
    except FileNotFoundError:
      return []

  def ask(self):
    """What it says of the time since the last question: {"gap_us", "bad", ...}."""
    n = len(self.lines())
    self.host.run(["kill", "-USR1", self.pid], check=True)
    line = hosts.wait_for(lambda: self.lines()[n:], 60)[0]
    return {key: int(value) for key, value in re.findall(r"(\w+) (\d+)", line)}

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
  done = guest.host.run([program, "migrate", "-t", guest.pid, "--json", *options,
                         "tcp://" + target], timeout=600, stderr=subprocess.STDOUT)
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
