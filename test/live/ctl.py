#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""criu-lite ctl on migrations that run: seen, steered, ended early, and talked to by nobody nice.

The guests write faster than they are sent, so their migrations last until ctl says something.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "fault"))
from frame import Failed, Guest, check, hosts, options, run_tests  # noqa: E402

MIB, RATE = 32, 50                     # of the guest, and what it writes a second
SOCKETS = "/run/criu-lite/migrations"
SLOW = ["--comp-method", "none", "--bandwidth", 10]
STEADY = ["--no-auto-converge", *SLOW]


class Migration:
  """A guest on host a, and a migrate of it that runs."""
  PROGRAM = ("dirtier", str(MIB), str(RATE))

  def __init__(self, b, *args):
    self.b = b
    self.guest = Guest(b, b.a, *self.PROGRAM)
    self.log = b.path("migrate.%d.log" % self.guest.pid)
    self.proc = b.a.popen([b.tool, "migrate", "-t", self.guest.pid, *map(str, args), b.target],
                          stdout=self.log, stderr=subprocess.STDOUT)
    self.wait(lambda: self.found())

  def text(self):
    try:
      with open(self.log, errors="replace") as f:
        return f.read()
    except FileNotFoundError:
      return ""

  def wait(self, what, timeout=30):
    def look():
      check(self.proc.poll() is None, "migrate ended (%s): %s", self.proc.poll(), self.text())
      return what()
    try:
      return hosts.wait_for(look, timeout, 0.1)
    except TimeoutError:
      raise Failed("waited %d s in vain; migrate said: %s" % (timeout, self.text()[-600:]))

  def found(self):
    rc, out = self.b.run(self.b.a, "ctl", "list", "--json")
    check(rc == 0, "ctl list: exit %d: %s", rc, out)
    return [m for m in json.loads(out) if m["pid"] == self.guest.pid]

  def ctl(self, *args):
    return self.b.works(self.b.a, "ctl", self.guest.pid, *args, timeout=30)

  def status(self):
    return json.loads(self.ctl("status", "--json"))

  def ended(self, good, timeout=60):
    try:
      rc = self.proc.wait(timeout)
    except subprocess.TimeoutExpired:
      raise Failed("migrate does not end: " + self.text()[-600:])
    check((rc == 0) == good and rc >= 0, "migrate: exit %d: %s", rc, self.text()[-600:])

  def came_over(self):
    """It has moved and nothing is lost."""
    self.ended(True)
    check(self.guest.state_of(self.b.a) is None, "the guest is still on the source")
    self.guest.end("after the migration", self.b.b)

  def stayed(self):
    """It runs here as if nothing had been: at its full rate, not at what a throttle leaves."""
    b, g = self.b, self.guest
    g.check_runs("after the migration was ended")
    try:
      hosts.wait_for(lambda: g.state_of(b.b) is None, 10)
    except TimeoutError:
      raise Failed("the guest is on the target")

    def fast():
      # In any second of ten: the machine has other work, too.
      before = g.count()
      try:
        hosts.wait_for(lambda: g.count() - before > RATE * 256 * 0.6, 1)
      except TimeoutError:
        return False
      return True
    try:
      hosts.wait_for(fast, 10)
    except TimeoutError:
      raise Failed("the guest is slow")
    g.end("on the source")


def left(b):
  return os.listdir(b.a.path(SOCKETS))


def policy_of(b, bandwidth):
  """A directory with a policy that the victim matches."""
  d = b.mkdir("policy/guests.d")
  with open(os.path.join(d, "writer.conf"), "w") as f:
    f.write("# by path\nexecutable = %s\nbandwidth = %d\nauto-converge = no\n"
            % (b.victim("dirtier"), bandwidth))
  return os.path.dirname(d)


def seen_and_steered(b):
  b.receiver("--once")
  m = Migration(b, "--comp-method", "none", "--policy-dir", policy_of(b, 10))
  s = m.wait(lambda: m.status() if m.status()["round"] >= 2 else None)
  check(s["ok"] and s["pid"] == m.guest.pid and s["phase"] in ("round", "switch"), "status: %s", s)
  check(s["total_bytes"] >= MIB << 20 and s["wire_bytes"] > 0, "status: %s", s)
  check(s["policy"]["bandwidth"] == 10 and s["policy"]["auto-converge"] is False,
        "the policy is not in force: %s", s["policy"])
  text = m.ctl("status")
  for word in ("pid %d" % m.guest.pid, "remaining", "bandwidth", "downtime", b.target):
    check(word in text, "status does not say %s: %s", word, text)
  text = b.works(b.a, "ctl", "list")
  check(str(m.guest.pid) in text and b.target in text, "list: %s", text)

  said = m.ctl("set", "bandwidth=1")
  check("bandwidth: 1, was 10" in said, "set says: %s", said)
  m.wait(lambda: m.status()["policy"]["bandwidth"] == 1)
  # What was in the sockets may still go; then the limit holds.
  m.wait(lambda: m.status()["elapsed"] > s["elapsed"] + 2)
  first = m.status()
  m.wait(lambda: m.status()["elapsed"] > first["elapsed"] + 3)
  then = m.status()
  rate = (then["wire_bytes"] - first["wire_bytes"]) / (then["elapsed"] - first["elapsed"])
  check(rate < 1.5 * (1 << 20), "%.2f MiB/s are sent, 1 is allowed", rate / (1 << 20))
  m.ctl("set", "bandwidth=0", "max-downtime=5000", "parallel-connections=4")
  m.came_over()
  check(not left(b), "left: %s", left(b))


def aborted(b):
  """While it is throttled."""
  receiver = b.receiver()
  m = Migration(b, *SLOW, "--auto-converge-initial", 80, "--auto-converge-max", 80)
  m.wait(lambda: m.status()["throttle"] > 0, 60)
  said = m.ctl("abort")
  check("runs on here" in said, "abort says: %s", said)
  m.ended(False)
  check("aborted by criu-lite ctl" in m.text(), "migrate said: %s", m.text()[-600:])
  m.stayed()
  check(not left(b), "left: %s", left(b))
  b.migration_works(receiver)


def forced(b):
  b.receiver("--once")
  m = Migration(b, *STEADY, "--max-downtime", 1)
  m.wait(lambda: m.status()["round"] >= 2)
  said = m.ctl("force-complete")
  check("predicted downtime" in said, "force-complete says: %s", said)
  m.came_over()


class Fast(Migration):
  PROGRAM = ("dirtier", "8", "400")


def forced_between_rounds(b):
  """The last copy, which is slow, is under way when the wish is looked at: it is not cut short."""
  b.receiver("--once")
  m = Fast(b, "--comp-method", "none", "--no-auto-converge", "--max-downtime", 1,
           "--bandwidth", 100, "--switchover-bandwidth", 8)
  m.wait(lambda: m.status()["round"] >= 2)
  m.ctl("force-complete")
  m.came_over()


def refused(b):
  b.refused(b.a, "ctl", "status", say=["no migration runs"])
  b.receiver("--once")
  m = Migration(b, *STEADY)
  for args, say in ((["set", "throttle=freezer"], ["throttle", "max-downtime, "]),
                    (["set", "max-rounds=1"], ["max-rounds", "fixed"]),
                    (["set", "bandwidth=-1"], ["-1", "0 to 1048576"]),
                    (["set", "bandwidth=20", "auto-converge-max=100"], ["100", "1 to 99"]),
                    (["set", "bandwith=20"], ["unknown key bandwith", "bandwidth"]),
                    (["set", "auto-converge-max=1"], ["auto-converge-initial"]),
                    (["set", "bandwidth"], ["KEY=VALUE"]),
                    (["set"], ["set what"]),
                    (["1", "status"], ["no migration 1", str(m.guest.pid)]),
                    (["x-y", "abort"], ["no migration x-y"]),
                    (["stop"], ["force-complete"]),
                    (["status", "now"], ["superfluous"])):
    b.refused(b.a, "ctl", *args, say=say, timeout=20)
  done = b.a.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", b.tool, "ctl",
                  "abort"], timeout=20, stderr=subprocess.STDOUT)
  b.check_refusal("ctl as nobody", done.returncode, done.stdout, ["root"])
  check(m.status()["policy"]["bandwidth"] == 10, "a refused value is in force: %s", m.status())
  m.ctl("abort")
  m.ended(False)
  m.stayed()


def wrong_policies(b):
  """Before the guest is touched, with what is allowed; what is right is printed with its origin."""
  guest = Guest(b, b.a, "dirtier", "1", "1")
  d = policy_of(b, 10)
  nowhere = b.path("nowhere")
  for args, say in ((["--bandwidth", "-1"], ["--bandwidth", "-1", "0 to 1048576"]),
                    (["--auto-converge-max", "100"], ["100", "1 to 99"]),
                    (["--auto-converge-max", "10"], ["auto-converge-initial 20"]),
                    (["--auto-converge=maybe"], ["maybe", "yes or no"]),
                    (["--comp-method", "lz4"], ["lz4", "none, zstd, auto"]),
                    (["--throttle", "none"], ["none", "sigstop, freezer"]),
                    (["--timeout", "1h"], ["1h", "a number"]),
                    (["--progress", "fancy"], ["fancy", "json, plain"]),
                    (["--policy-dir", nowhere], [nowhere]),
                    (["--policy-dir", d, "--guest", "reader"], ["reader", "known are: writer"]),
                    (["--policy-dir", d, "--guest", "../default"], ["../default"])):
    b.refused(b.a, "migrate", "-t", guest.pid, b.target, *args, say=say, timeout=20)
  out = b.works(b.a, "migrate", "-t", guest.pid, "--print-policy", "--policy-dir", d,
                "--timeout", 7)
  for pattern in (r"# guest: writer",
                  r"bandwidth += 10 +# %s/guests.d/writer.conf:3" % re.escape(d),
                  r"timeout += 7 +# command line", r"max-downtime += 300 +# built-in"):
    check(re.search(pattern, out), "--print-policy does not show %s: %s", pattern, out)
  for text, say in (("bandwith = 5", ["bad.conf:1", "bandwith", "bandwidth"]),
                    ("\n\nbandwidth = -5", ["bad.conf:3", "0 to 1048576"]),
                    ("bandwidth = 5\nnonsense", ["bad.conf:2"])):
    with open(os.path.join(d, "guests.d/bad.conf"), "w") as f:
      f.write(text)
    b.refused(b.a, "migrate", "-t", guest.pid, "--policy-dir", d, b.target, say=say, timeout=20)
  os.mkdir(os.path.join(d, "default.conf"))
  b.refused(b.a, "migrate", "-t", guest.pid, "--policy-dir", d, b.target, say=["default.conf"])
  check(not guest.disturbed(), "the guest was disturbed")
  guest.end()


def rude_clients(b):
  b.receiver("--once")
  m = Migration(b, *STEADY)
  path = os.path.join(b.a.path(SOCKETS), left(b)[0])
  held = []

  def connect():
    s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    s.settimeout(5)
    s.connect(path)
    held.append(s)
    return s
  answers = connect()
  answers.sendall(b"\0\xff garbage\n[]\n{}\n{\"cmd\":\"status\",\"cmd\":\"abort\"}\n")
  text = answers.makefile().readline
  for _ in range(4):
    said = json.loads(text())
    check(said["ok"] is False and said["error"], "garbage is answered by: %s", said)
  try:
    connect().sendall(b"x" * (1 << 20))
  except OSError:
    pass
  deaf = connect()
  deaf.setblocking(False)
  try:
    while True:
      deaf.send(b"{\"cmd\":\"status\"}\n")
  except OSError:
    pass
  connect()
  m.ctl("status")
  m.ctl("force-complete")
  m.came_over()
  for s in held:
    s.close()


def killed(b):
  receiver = b.receiver()
  m = Migration(b, *STEADY)
  m.proc.send_signal(signal.SIGKILL)
  m.proc.wait(20)
  check(left(b), "a killed migrate took its socket with it")
  check(json.loads(b.works(b.a, "ctl", "list", "--json")) == [], "the dead is listed")
  check(not left(b), "left: %s", left(b))
  hosts.wait_for(lambda: not m.guest.tracer(), 10)
  m.stayed()
  check(receiver.poll() is None, "the receiver ended: %s", b.receive_log())


def nobody_reads(b):
  """What it prints is not read, as after ^S or with a pager: it moves all the same."""
  b.receiver("--once")
  guest = Guest(b, b.a, *Migration.PROGRAM)
  ours, its = os.pipe()
  os.set_blocking(its, False)
  full = 0
  try:
    while True:
      full += os.write(its, b"x" * 4096)
  except BlockingIOError:
    os.set_blocking(its, True)
  proc = b.a.popen([b.tool, "migrate", "-t", guest.pid, "--progress", "json", b.target],
                   stdout=its, stderr=its)
  os.close(its)
  try:
    hosts.wait_for(lambda: guest.state_of(b.a) is None, 60)
  except TimeoutError:
    raise Failed("it waits for its reader")
  with os.fdopen(ours) as f:
    lines = f.read()[full:].splitlines()
  check(proc.wait(10) == 0 and "result" in lines[-1], "the last it said: %s", lines[-1:])
  guest.end("after the migration", b.b)


def tests(opts):
  return [("ctl: " + f.__name__.replace("_", " "), f) for f in
          (seen_and_steered, aborted, forced, forced_between_rounds, refused, wrong_policies,
           rude_clients, killed, nobody_reads)]


if __name__ == "__main__":
  opts = options(__doc__)
  sys.exit(run_tests(tests(opts), opts))
