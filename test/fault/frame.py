# SPDX-License-Identifier: Apache-2.0
"""What the fault tests stand on: guests, the tool, and the questions that are always asked."""

import argparse
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
import hosts  # noqa: E402
import tool  # noqa: E402

PORT = 9400


class Failed(Exception):
  pass


class Skipped(Exception):
  pass


def check(good, text, *args):
  if not good:
    raise Failed(text % args if args else text)


class Guest:
  """A victim of test/live on a host, in a state directory of its own."""

  def __init__(self, bench, host, program, *args, binary=None, **kw):
    self.host = host
    self.state = tempfile.mkdtemp(prefix="state.", dir=bench.dir)
    os.chmod(self.state, 0o777)
    os.mkdir(os.path.join(self.state, "own"))
    self.program = binary or bench.victim(program)
    log = os.path.join(self.state, "log")
    self.proc = host.popen([self.program, self.state, *args], stdout=log,
                           stderr=subprocess.STDOUT, **kw)
    try:
      hosts.wait_for(lambda: self.read("status") or self.read("result"), 20)
    except TimeoutError:
      raise Failed("%s does not come up: %s" % (program, self.read("log")))
    if self.read("result").startswith("SKIP"):
      raise Skipped(self.read("result").strip())
    check(not self.read("result"), "%s: %s", program, self.read("result"))
    self.pid = int(self.read("status").split()[1])

  def read(self, name):
    try:
      with open(os.path.join(self.state, name), errors="replace") as f:
        return f.read()
    except OSError:
      return ""

  def count(self):
    with open(os.path.join(self.state, "count"), "rb") as f:
      return struct.unpack("<Q", f.read(8))[0]

  def disturbed(self):
    return os.path.exists(os.path.join(self.state, "disturbed"))

  def state_of(self, host=None):
    """R, S, T, t ... of the process on a host; None: it is not there."""
    try:
      with open((host or self.host).path("/proc/%d/stat" % self.pid)) as f:
        return f.read().rsplit(")", 1)[1].split()[0]
    except OSError:
      return None

  def check_runs(self, when, host=None):
    """It is there, not stopped, not traced, goes on, and has found nothing wrong."""
    host = host or self.host
    check(not self.read("result"), "%s: the guest ended: %s", when, self.read("result").strip())
    check(self.state_of(host) in ("R", "S", "D"), "%s: the guest is in state %s", when,
          self.state_of(host))
    check(not self.tracer(host), "%s: the guest is traced", when)

  def tracer(self, host=None):
    """Who traces it, as a pid of ours; 0: no one."""
    init = (host or self.host).init
    with open("/proc/%d/root/proc/%d/status" % (init, self.pid)) as f:
      inside = int(re.search(r"TracerPid:\s*(\d+)", f.read()).group(1))
    if not inside:
      return 0
    for outer in os.listdir("/proc"):
      try:
        with open("/proc/%s/status" % outer) as f:
          nspid = re.search(r"NSpid:(.*)", f.read()).group(1).split()
      except (OSError, AttributeError):
        continue
      if nspid[1:] == [str(inside)] and os.path.samefile("/proc/%s/ns/pid" % outer,
                                                        "/proc/%d/ns/pid" % init):
        return int(outer)
    return -1

  def end(self, when="at the end", host=None, timeout=20):
    """Asks it for its result, which must be ok; nothing of it may remain."""
    self.check_runs(when, host)
    open(os.path.join(self.state, "stop"), "w").close()
    try:
      hosts.wait_for(lambda: self.read("result"), timeout)
    except TimeoutError:
      raise Failed("%s: the guest gives no result (state %s)" % (when, self.state_of(host)))
    check(self.read("result").strip() == "ok", "%s: %s", when, self.read("result").strip())
    hosts.wait_for(lambda: self.state_of(host) is None, 10)


class Bench:
  """Two hosts, a directory, and the tool; everything goes with it."""

  def __init__(self, opts):
    self.tool, self.victims_dir = opts.tool, opts.victims_dir
    self.dir = tempfile.mkdtemp(prefix="criu-lite-fault.")
    os.chmod(self.dir, 0o755)
    self.hosts = hosts.Hosts(2)
    self.a, self.b = self.hosts

  def close(self):
    self.hosts.close()
    shutil.rmtree(self.dir, ignore_errors=True)

  def __enter__(self):
    return self

  def __exit__(self, *exc):
    self.close()

  def victim(self, name):
    return os.path.join(self.victims_dir, "victim_" + name)

  def path(self, name):
    return os.path.join(self.dir, name)

  def mkdir(self, name):
    os.makedirs(self.path(name), exist_ok=True)
    return self.path(name)

  def run(self, host, *args, timeout=60, **kw):
    """Runs the tool; returns (exit code, output)."""
    try:
      done = host.run([self.tool] + [str(a) for a in args], timeout=timeout,
                      stderr=subprocess.STDOUT, **kw)
    except subprocess.TimeoutExpired:
      raise Failed("criu-lite %s: no end after %d s" % (" ".join(map(str, args)), timeout))
    return done.returncode, done.stdout

  def refused(self, host, *args, say=(), **kw):
    """Runs the tool, which must fail with one clear line. `say`: what the line must name."""
    rc, out = self.run(host, *args, **kw)
    return self.check_refusal("criu-lite " + " ".join(map(str, args)), rc, out, say)

  def check_refusal(self, what, rc, out, say=()):
    check(rc != 0, "%s: exit 0: %s", what, out)
    check(0 < rc < 126, "%s: died (%d): %s", what, rc, out[-600:])
    last = [line for line in out.strip().split("\n") if line.startswith("criu-lite: ")]
    check(last, "%s: no message: %r", what, out[-600:])
    for word in say:
      alternatives = [word] if isinstance(word, str) else word
      check(any(w.lower() in out.lower() for w in alternatives), "%s: does not say %s: %s", what,
            "/".join(alternatives), out.strip()[-600:])
    return last[-1]

  def works(self, host, *args, **kw):
    rc, out = self.run(host, *args, **kw)
    check(rc == 0, "criu-lite %s: exit %d: %s", " ".join(map(str, args)), rc, out.strip()[-600:])
    return out

  def receiver(self, *args):
    """Starts receive on the second host."""
    log = self.path("receive.log")
    proc = self.b.popen([self.tool, "receive", "--listen", "%s:%d" % (self.b.ip, PORT), *args],
                        stdout=log, stderr=subprocess.STDOUT)
    try:
      hosts.wait_listening(self.b, PORT, 5)
    except TimeoutError:
      raise Failed("receive does not listen: " + open(log).read())
    self.receiver_pid = proc.pid_inside
    return proc

  def receive_log(self):
    with open(self.path("receive.log"), errors="replace") as f:
      return f.read()

  @property
  def target(self):
    return "tcp://%s:%d" % (self.b.ip, PORT)

  def clean(self, host, *pids):
    """Only these pids, and its init, are left on a host; waits a moment for the dying."""
    want = sorted({1, *pids})
    try:
      hosts.wait_for(lambda: host.pids() == want, 10)
    except TimeoutError:
      left = []
      for p in host.pids():
        try:
          with open(host.path("/proc/%d/stat" % p)) as f:
            left.append(" ".join(f.read().split()[:4]))
        except OSError:
          pass
      raise Failed("left on %s: %s" % (host.name, "; ".join(left)))

  def migration_works(self, receiver, program="eventfd"):
    """The next migration to this receiver succeeds."""
    check(receiver.poll() is None, "the receiver ended: %s", self.receive_log())
    guest = Guest(self, self.a, program)
    self.works(self.a, "migrate", "-t", guest.pid, self.target)
    guest.end("after the next migration", self.b)


def options(doc, more=None):
  """The options that all such tests have, read from the command line; `more` adds its own."""
  p = argparse.ArgumentParser(description=doc.split("\n")[0])
  p.add_argument("--tool", help="the program (default: $CRIU_LITE, or the one in $BUILDDIR)")
  p.add_argument("--victims-dir", help="where the victims are built (default: beside the tool)")
  p.add_argument("--only", metavar="A,B,...", help="only tests with one of these in their name")
  if more:
    more(p)
  opts = p.parse_args()
  if os.geteuid():
    sys.exit("%s: must run as root" % p.prog)
  opts.tool = tool.find_tool(opts.tool)
  if not opts.victims_dir:
    at = os.path.dirname(opts.tool)
    while at != "/" and not os.path.isdir(os.path.join(at, "test/live")):
      at = os.path.dirname(at)
    opts.victims_dir = os.path.join(tool.build_dir() if at == "/" else at, "test/live")
  opts.victims_dir = os.path.abspath(opts.victims_dir)
  return opts


def run_tests(tests, opts, bench_class=Bench):
  """tests: (name, function(bench)). Prints a line for each; returns the exit code."""
  count = {"ok": 0, "FAIL": 0, "skip": 0}
  for name, function in tests:
    if opts.only and not any(o in name for o in opts.only.split(",")):
      continue
    start, verdict, text = time.monotonic(), "ok", ""
    try:
      with bench_class(opts) as bench:
        text = function(bench) or ""
    except Skipped as e:
      verdict, text = "skip", str(e)
    except subprocess.TimeoutExpired as e:
      cmd = " ".join(map(str, e.cmd))
      verdict, text = "FAIL", "no end after %d s: %s" % (e.timeout, cmd[-300:])
    except Exception as e:
      verdict = "FAIL"
      text = ("" if isinstance(e, Failed) else type(e).__name__ + ": ") + str(e)
    count[verdict] += 1
    print("%-4s %-44s %6.2f s%s" % (verdict, name, time.monotonic() - start,
                                    text and "  " + text), flush=True)
  print("%d passed, %d failed, %d skipped" % (count["ok"], count["FAIL"], count["skip"]))
  return 1 if count["FAIL"] or not count["ok"] else 0


def on_term(*args):
  sys.exit(143)


signal.signal(signal.SIGTERM, on_term)
