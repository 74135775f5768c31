#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the victims: each is started, checkpointed or moved, and asked what it thinks of it.

    run.py [--tool PATH] [--victims LIST] [--mode LIST] [--times N] [--jobs N] [--crit] [--keep]

A victim is a program of victims/ (victim.h has the protocol). Everything runs inside hosts
made of namespaces, so that pids are free and nothing outlives a case. The ways:

    dump-restore        dump, see that it is gone, restore -d
    dump-leave-running  dump -R: it must not notice
    dump-leave-stopped  dump -s: it is stopped; SIGCONT, and it must not notice
    predump-restore     two pre-dumps with --track-mem, a dump on top of them, restore
    migrate             from one host to the other
    migrate-back        there and back
    migrate-rounds      over a slow line, in many rounds
    migrate-clock       to a host whose monotonic clock is another
    migrate-clock-back  there and back
    migrate-timens      the same with --timens
    migrate-timens-back there and back: it has a time namespace of its own by then

A case passes if the tool says so, the victim's own checks pass, the process has its old pid
and is at one place only, and nothing else is left behind on either host. The directory of a
case that fails is kept.
"""

import argparse
import concurrent.futures
import glob
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
import hosts  # noqa: E402
import tool  # noqa: E402

PORT = 9400
# Virtual machines without KVM take longer.
SLOW = 4 if os.environ.get("CRIU_LITE_SLOW") else 1
TOOL_TIMEOUT = 60 * SLOW
# There, the switch alone may take longer than the default allows for.
PATIENT = ["--max-downtime", "3000"] if SLOW > 1 else []
# A victim ends within that time after it was asked to.
END_TIMEOUT = 30 * SLOW

# name: (program, arguments). "{n}" is the number of the run, for seeds.
VICTIMS = {}
for _name in ("registers xstate memory dontneed tables places direct memfd_write shm_remove "
              "shared_anon sysv signals timers restart threads creds limits files ghost devices "
              "pipes eventfd epoll timerfd memfd tcp_listen tcp_streams udp unix tree "
              "clone_share vdso stress forker vforker exec registers_static memory_static "
              "vdso_static threads_static").split():
  VICTIMS[_name] = (_name, [])
VICTIMS.update({
  "churn-1": ("churn", ["1{n}"]),
  "churn-2": ("churn", ["2{n}"]),
  "churn-fast": ("churn", ["3{n}", "1000"]),
  "idle": ("idle", ["48"]),
  "idle-huge": ("idle", ["48", "1", "30"]),
  "dirtier": ("dirtier", ["64", "50"]),
  "tty": ("tty", []),
  "vdso_altered": ("vdso", ["1"]),
  "vdso_kept": ("vdso", ["2"]),
  "vdso_kept_altered": ("vdso", ["3"]),
  "vdso_static_altered": ("vdso_static", ["1"]),
  "clocks": ("clocks", []),
  "clocks_go_on": ("clocks", ["1"]),
})
# The ways that a victim is not for. The terminal of a shell stays on the shell's host; SIGSTOP and
# SIGCONT are seen by one that waits for signals, and by system calls that EINTR ends.
NOT_FOR = {
  "tty": ("migrate", "migrate-back"),
  "signals": ("dump-leave-stopped",),
  "restart": ("dump-leave-stopped",),
}
# Ways that are for some victims only.
_timens = ("clocks_go_on", "vdso", "vdso_static", "vdso_altered", "vdso_kept")
ONLY_FOR = {
  "migrate-rounds": ("memory", "dontneed", "tables", "places", "direct", "memfd_write",
                     "shm_remove", "shared_anon", "sysv", "forker", "exec", "churn-1", "churn-2",
                     "churn-fast"),
  "migrate-clock": ("clocks",),
  "migrate-clock-back": ("clocks",),
  "migrate-timens": _timens,
  "migrate-timens-back": _timens,
}
# How far the clock of the second host is ahead in some of them.
AHEAD = {m: 5000 for m in ONLY_FOR if m != "migrate-rounds"}
# With pages on their way most of the time.
ROUNDS = ["--bandwidth", "8", "--max-downtime", "1", "--no-auto-converge", "--timeout", "3",
          "--timeout-action", "suspend"]
# Have open connections, which are to be kept.
CONNECTED = ("tcp_streams",)
# Use DIR/own.
PRIVATE = ("pipes", "unix")
# These look at how long they stood still: it must not be a time that hides what they look for. A
# relative timeout that one criu-lite has interrupted is not known to the next: between two of
# them, its calls of 3 s come to their end (README, Limits).
SETTLE = {"restart": 1.6}
SETTLE_AGAIN = {"restart": 3.6}


class Failed(Exception):
  pass


class Skipped(Exception):
  pass


class Case:
  def __init__(self, opts, pair, name, mode, n):
    self.opts, self.name, self.mode, self.n = opts, name, mode, n
    self.a, self.b = pair
    program, args = VICTIMS[name]
    self.dir = os.path.join(opts.top, "%s-%s-%d" % (name, mode, n))
    self.state = os.path.join(self.dir, "state")
    os.makedirs(self.state)
    os.chmod(self.dir, 0o755)
    # Some victims give up root before they write their result.
    os.chmod(self.state, 0o777)
    # Sockets and FIFOs are objects of the kernel, and the two hosts have the same: each gets
    # a file system of its own for their names.
    os.mkdir(os.path.join(self.state, "own"), 0o755)
    if name in PRIVATE:
      for host in pair:
        host.run(["mount", "-t", "tmpfs", "none", os.path.join(self.state, "own")], check=True)
      self.b.run(["mkfifo", "-m", "600", os.path.join(self.state, "own/fifo")], check=True)
    self.cmd = [os.path.join(opts.victims_dir, "victim_" + program), self.state]
    self.cmd += [a.format(n=n) for a in args]
    # The hosts serve many cases: their pids must not meet.
    for host, last in ((self.a, 1000), (self.b, 20000)):
      host.run(["sh", "-c", "echo %d > /proc/sys/kernel/ns_last_pid" % last], check=True)
    self.links = ["--tcp-established"] if name in CONNECTED else []
    self.extra, self.note, self.master = list(self.links), "", None
    self.receive = []
    self.limits = PATIENT
    self.where = self.a

  def read(self, name):
    try:
      with open(os.path.join(self.state, name), errors="replace") as f:
        return f.read()
    except OSError:
      return ""

  def start(self):
    log = os.path.join(self.state, "log")
    if self.name == "tty":
      self.master, slave = os.openpty()
      self.extra = ["--shell-job"]
      self.slave = slave
      self.proc = self.a.popen(self.cmd, setsid=False, stdin=slave, stdout=slave, stderr=log)
    else:
      self.proc = self.a.popen(self.cmd, stdout=log, stderr=subprocess.STDOUT)
    try:
      hosts.wait_for(lambda: self.read("status") or self.read("result"), 20 * SLOW)
    except TimeoutError:
      raise Failed("the victim did not come up: " + self.read("log"))
    if self.read("result"):
      self.early()
    self.pid = int(self.read("status").split()[1])
    if self.pid != self.proc.pid_inside:
      raise Failed("the victim says pid %d, it is %s" % (self.pid, self.proc.pid_inside))

  def early(self):
    result = self.read("result")
    if result.startswith("SKIP"):
      raise Skipped(result.strip())
    raise Failed(result.strip() or "no result")

  def unharmed(self, when):
    if self.read("result"):
      raise Failed("%s: %s" % (when, self.read("result").strip()))

  def run_tool(self, host, *args, want=0):
    """Runs the tool; its output goes to DIR/tool.log and, on failure, into the report."""
    cmd = [self.opts.tool] + [str(x) for x in args]
    kw = {}
    if self.master is not None:
      kw = {"stdin": self.slave, "setsid": False}
    try:
      done = host.run(cmd, timeout=TOOL_TIMEOUT, stderr=subprocess.STDOUT, **kw)
    except subprocess.TimeoutExpired:
      raise Failed("%s: no end after %d s" % (args[0], TOOL_TIMEOUT))
    with open(os.path.join(self.dir, "tool.log"), "a") as f:
      f.write("$ %s\n%s" % (" ".join(cmd), done.stdout))
    if done.returncode != want:
      raise Failed("%s: exit %d: %s" % (args[0], done.returncode, done.stdout.strip()[-600:]))
    return done.stdout

  def images(self, name="images"):
    path = os.path.join(self.dir, name)
    os.makedirs(path, exist_ok=True)
    return path

  def gone(self):
    """The guest was killed, with its whole tree, when the tool came back."""
    try:
      hosts.wait_for(lambda: self.a.pids() == [1], 2)
    except TimeoutError:
      raise Failed("left on the source: " + self.describe(self.a))

  def describe(self, host):
    lines = []
    for pid in host.pids():
      try:
        with open(host.path("/proc/%d/stat" % pid)) as f:
          stat = f.read().split()
        lines.append(" ".join(stat[:4]) + (" exit %#x" % int(stat[51]) if stat[2] == "Z" else ""))
      except OSError:
        pass
    return "; ".join(lines)

  def restore(self, images):
    self.run_tool(self.a, "restore", "-D", images, "-d", *self.extra)
    if not self.a.alive(self.pid):
      raise Failed("restore said success, but pid %d does not run: %s; %s"
                   % (self.pid, self.describe(self.a), self.read("result")))

  def dump_restore(self):
    images = self.images()
    self.run_tool(self.a, "dump", "-t", self.pid, "-D", images, *self.extra)
    self.gone()
    self.unharmed("at dump")
    if self.opts.crit:
      self.crit(images)
    self.restore(images)

  def crit(self, images):
    for path in sorted(glob.glob(images + "/*.img")):
      if os.path.basename(path).startswith("pages-"):
        continue
      done = subprocess.run(["crit", "decode", "-i", path], stdin=subprocess.DEVNULL,
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
      if done.returncode:
        raise Failed("crit: %s: %s" % (path, done.stderr[-300:]))

  def dump_leave_running(self):
    self.run_tool(self.a, "dump", "-t", self.pid, "-D", self.images(), "-R", *self.extra)

  def stopped_pids(self):
    stopped = set()
    for pid in self.a.pids():
      try:
        with open(self.a.path("/proc/%d/stat" % pid)) as f:
          if f.read().rsplit(")", 1)[1].split()[0] == "T":
            stopped.add(pid)
      except OSError:
        pass
    return stopped

  def dump_leave_stopped(self):
    """The whole tree is woken after it; a child that was stopped before stays as it was."""
    before = self.stopped_pids()
    self.run_tool(self.a, "dump", "-t", self.pid, "-D", self.images(), "-s", *self.extra)
    stopped = self.stopped_pids()
    if self.pid not in stopped:
      raise Failed("dump -s did not leave it stopped: " + self.describe(self.a))
    self.a.run(["kill", "-CONT"] + [str(p) for p in stopped - before])

  def predump_restore(self):
    one, two, three = self.images("1"), self.images("2"), self.images("3")
    self.run_tool(self.a, "pre-dump", "-t", self.pid, "-D", one, "--track-mem", *self.extra)
    self.unharmed("at pre-dump")
    time.sleep(SETTLE_AGAIN.get(self.name, 0.15))
    self.run_tool(self.a, "pre-dump", "-t", self.pid, "-D", two, "--track-mem",
                  "--prev-images-dir", "../1", *self.extra)
    self.unharmed("at second pre-dump")
    time.sleep(SETTLE_AGAIN.get(self.name, 0.15))
    self.run_tool(self.a, "dump", "-t", self.pid, "-D", three, "--track-mem",
                  "--prev-images-dir", "../2", *self.extra)
    self.gone()
    self.unharmed("at dump")
    self.restore(three)

  def migrate(self, source=None, target=None):
    source, target = source or self.a, target or self.b
    log = os.path.join(self.dir, "receive.log")
    before = target.pids()
    receiver = target.popen([self.opts.tool, "receive", "--listen", "%s:%d" % (target.ip, PORT),
                             "--once"] + self.receive, stdout=log, stderr=subprocess.STDOUT)
    try:
      try:
        hosts.wait_listening(target, PORT)
      except TimeoutError:
        raise Failed("receive does not listen: " + open(log).read()[-500:])
      out = self.run_tool(source, "migrate", "--json", "-t", self.pid, *self.links,
                          *self.limits, "tcp://%s:%d" % (target.ip, PORT))
      try:
        if receiver.wait(10):
          raise Failed("receive: exit %d: %s" % (receiver.returncode, open(log).read()[-500:]))
      except subprocess.TimeoutExpired:
        raise Failed("receive --once goes on after the migration")
    finally:
      if receiver.poll() is None:
        receiver.kill_session()
        receiver.wait()
    got = tool.summary(out)
    if got["downtime"] is None or not got["rounds"] or not got["bytes"]:
      raise Failed("migrate does not say rounds, bytes and downtime: " + out)
    self.note += " %.1f ms" % (got["downtime"] * 1e3)
    if source.alive(self.pid):
      raise Failed("pid %d still runs on the source" % self.pid)
    if not target.alive(self.pid):
      raise Failed("pid %d does not run on the target: %s; %s"
                   % (self.pid, self.describe(target), self.read("result")))
    if self.pid in before:
      raise Failed("the pid was on the target before")
    self.where = target
    if source is self.a:
      self.gone()

  def migrate_back(self):
    self.migrate()
    time.sleep(SETTLE_AGAIN.get(self.name, 0.2))
    self.unharmed("on the other host")
    self.migrate(self.b, self.a)

  def migrate_rounds(self):
    self.limits = ROUNDS
    self.migrate()

  def migrate_clock(self):
    self.migrate()

  def migrate_clock_back(self):
    self.migrate_back()

  def migrate_timens(self):
    self.receive = ["--timens"]
    self.migrate()

  def migrate_timens_back(self):
    self.migrate_timens()
    time.sleep(SETTLE_AGAIN.get(self.name, 0.2))
    self.unharmed("on the other host")
    self.receive = []
    self.migrate(self.b, self.a)

  def finish(self):
    self.unharmed("after")
    time.sleep(SETTLE.get(self.name, 0.25))
    open(os.path.join(self.state, "stop"), "w").close()
    try:
      hosts.wait_for(lambda: self.read("result"), END_TIMEOUT)
    except TimeoutError:
      raise Failed("no result %d s after the request: %s %s"
                   % (END_TIMEOUT, self.describe(self.where), self.read("log")[-300:]))
    if self.read("result").strip() != "ok":
      self.early()
    try:
      hosts.wait_for(lambda: self.a.pids() == [1] and self.b.pids() == [1], 3)
    except TimeoutError:
      raise Failed("left over: %s | %s" % (self.describe(self.a), self.describe(self.b)))
    for name in os.listdir(self.state):
      if name.startswith("link_remap") or ".cr." in name:
        raise Failed("left over: " + name)

  def run(self):
    try:
      self.start()
      time.sleep(SETTLE.get(self.name, 0.25))
      getattr(self, self.mode.replace("-", "_"))()
      self.finish()
    finally:
      if self.master is not None:
        os.close(self.master)
        os.close(self.slave)
      if self.name in PRIVATE:
        for host in (self.a, self.b):
          host.run(["umount", "-l", os.path.join(self.state, "own")])


class Worker(threading.local):
  """Pairs of hosts for each thread, by the clock of the second; one in which a case failed is made
  anew."""

  def __init__(self):
    self.pairs = {}


MODES = ["dump-restore", "dump-leave-running", "dump-leave-stopped", "predump-restore", "migrate",
         "migrate-back"] + list(ONLY_FOR)


def run_case(opts, worker, case):
  name, mode, n = case
  ahead = AHEAD.get(mode, 0)
  if ahead not in worker.pairs:
    worker.pairs[ahead] = hosts.Hosts(2, clocks=[0, ahead])
    opts.pairs.put(worker.pairs[ahead])
  start = time.monotonic()
  running = Case(opts, worker.pairs[ahead], name, mode, n)
  verdict, text = "ok", ""
  try:
    try:
      running.run()
    except Failed as e:
      raise Failed("%s [%s | %s]" % (e, running.describe(running.a), running.describe(running.b)))
  except Skipped as e:
    verdict, text = "skip", str(e)
  except Exception as e:
    verdict, text = "FAIL", "%s%s" % ("" if isinstance(e, Failed) else type(e).__name__ + ": ", e)
  if verdict == "FAIL":
    worker.pairs.pop(ahead).close()
    text += "\n     kept: " + running.dir
  elif not opts.keep:
    shutil.rmtree(running.dir, ignore_errors=True)
  # In one piece: other threads write, too.
  sys.stdout.write("%-4s %-18s %-18s %3d %6.2f s%s%s\n"
                   % (verdict, name, mode, n, time.monotonic() - start, running.note,
                      text and "  " + text))
  sys.stdout.flush()
  return verdict


def parse():
  p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  p.add_argument("--tool", help="the program (default: $CRIU_LITE, or the one in $BUILDDIR)")
  p.add_argument("--victims-dir", help="where the victims are built (default: beside the tool)")
  p.add_argument("--victims", help="some of them, by comma; a name ending in * is a prefix")
  p.add_argument("--mode", default="all", help="all, or some of: " + " ".join(MODES))
  p.add_argument("--times", type=int, default=1)
  p.add_argument("--jobs", type=int, default=2, help="cases at a time")
  p.add_argument("--crit", action="store_true", help="decode every image of dump-restore by crit")
  p.add_argument("--keep", action="store_true", help="keep the directories of cases that pass")
  opts = p.parse_args()
  opts.tool = tool.find_tool(opts.tool)
  if not opts.victims_dir:
    at = os.path.dirname(opts.tool)
    while at != "/" and not os.path.isdir(os.path.join(at, "test/live")):
      at = os.path.dirname(at)
    opts.victims_dir = os.path.join(tool.build_dir() if at == "/" else at, "test/live")
  if not os.path.exists(os.path.join(opts.victims_dir, "victim_registers")):
    p.error("no victims in %s (--victims-dir)" % opts.victims_dir)
  opts.names = list(VICTIMS)
  if opts.victims:
    wanted = opts.victims.split(",")
    opts.names = [v for v in VICTIMS if any(v == w or w.endswith("*") and v.startswith(w[:-1])
                                            for w in wanted)]
    missing = [w for w in wanted if not w.endswith("*") and w not in VICTIMS]
    if missing or not opts.names:
      p.error("no such victim: " + ", ".join(missing or wanted))
  opts.modes = MODES if opts.mode == "all" else opts.mode.split(",")
  for mode in opts.modes:
    if mode not in MODES:
      p.error("no such mode: " + mode)
  return opts


def main():
  opts = parse()
  if os.geteuid():
    sys.exit("run.py: must run as root")
  signal.signal(signal.SIGTERM, lambda *a: sys.exit(143))
  opts.top = tempfile.mkdtemp(prefix="criu-lite-live.")
  os.chmod(opts.top, 0o755)
  opts.pairs = queue.Queue()
  worker, count = Worker(), {"ok": 0, "FAIL": 0, "skip": 0}
  cases = [(name, mode, n) for n in range(opts.times) for name in opts.names for mode in opts.modes
           if mode not in NOT_FOR.get(name, ()) and name in ONLY_FOR.get(mode, (name,))]
  try:
    with concurrent.futures.ThreadPoolExecutor(opts.jobs) as pool:
      futures = [pool.submit(run_case, opts, worker, c) for c in cases]
      try:
        for f in concurrent.futures.as_completed(futures):
          count[f.result()] += 1
      except BaseException:
        pool.shutdown(cancel_futures=True)
        raise
  finally:
    while not opts.pairs.empty():
      opts.pairs.get().close()
    if not count["FAIL"]:
      shutil.rmtree(opts.top, ignore_errors=True)
  print("%d passed, %d failed, %d skipped" % (count["ok"], count["FAIL"], count["skip"]))
  return 1 if count["FAIL"] or not count["ok"] else 0


if __name__ == "__main__":
  sys.exit(main())
