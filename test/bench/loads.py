# SPDX-License-Identifier: Apache-2.0
"""Links with a limit, and migrations with their samples."""

import json
import subprocess

from bench import PORT, hosts

MIB = 1 << 20


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
