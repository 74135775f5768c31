# SPDX-License-Identifier: Apache-2.0
"""Guests that dirty memory at a rate, links with a limit, and migrations with their samples."""

import json
import os
import re
import subprocess

from bench import HERE, PORT, hosts, tool

MIB = 1 << 20


def compile_dirtier(directory):
  out = os.path.join(directory, "dirtier")
  subprocess.run(["cc", "-O2", "-o", out, os.path.join(HERE, "dirtier.c")], check=True)
  return out


class Dirtier:
  """dirtier.c on a host."""

  count = 0

  def __init__(self, host, program, mib, rate, directory):
    Dirtier.count += 1
    self.host, self.mib, self.rate = host, mib, rate
    self.status = os.path.join(directory, "dirtier-%d" % Dirtier.count)
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
    """{"us", "pages", "gap_us", "bad"}; asking costs it some work."""
    n = len(self.lines())
    self.host.run(["kill", "-USR1", self.pid], check=True)
    line = hosts.wait_for(lambda: self.lines()[n:], 60)[0]
    return {key: int(value) for key, value in re.findall(r"(\w+) (\d+)", line)}

  def close(self):
    if self.host.alive(self.pid):
      self.host.run(["kill", "-KILL", self.pid])
      hosts.wait_for(lambda: not self.host.alive(self.pid))


class Outcome:
  """Of one migration. `result` is the last of the JSON lines (empty if there was none), `samples`
  and `rounds` are those before it."""

  def __init__(self, code, out, err):
    self.code, self.out, self.err = code, out, err
    self.result, self.samples, self.rounds = {}, [], []
    for line in out.splitlines():
      got = json.loads(line) if line.startswith("{") else {}
      kind = got.get("type")
      if kind == "result":
        self.result = got
      elif kind in ("sample", "round"):
        (self.samples if kind == "sample" else self.rounds).append(got)

  @property
  def completed(self):
    return self.code == 0 and self.result.get("status") == "completed"

  @property
  def throttle(self):
    return max([s["throttle"] for s in self.samples], default=0)


def limit(host, mib_per_s):
  """What the host sends; 0 or None: unlimited."""
  host.limit(mib_per_s * MIB * 8 / 1e6 if mib_per_s else None)


def move(program, guest, dst, options=(), timeout=600):
  """Migrates `guest` to `dst`. A failure is an Outcome, too: the guest is where it was then."""
  target = "%s:%d" % (dst.ip, PORT)
  receive = dst.popen([program, "receive", "--listen", target, "--once"],
                      stdout=guest.status + ".receive", stderr=subprocess.STDOUT)
  try:
    hosts.wait_listening(dst, PORT)
    done = guest.host.run([program, "migrate", "-t", guest.pid, "--progress", "json", *options,
                           "tcp://" + target], timeout=timeout)
    outcome = Outcome(done.returncode, done.stdout, done.stderr)
    if outcome.completed:
      if receive.wait(30):
        raise SystemExit("receive exited %d" % receive.returncode)
      guest.host = dst
  finally:
    if receive.poll() is None:
      receive.kill_session()
      receive.wait()
  return outcome


def report(program, outcome, path):
  """The story of it as path.html, and its samples as path.json."""
  with open(path + ".json", "w") as f:
    f.write(outcome.out)
  subprocess.run([program, "report", path + ".json"], check=True, stdout=subprocess.DEVNULL)


__all__ = ["MIB", "Dirtier", "Outcome", "compile_dirtier", "limit", "move", "report", "tool"]
