# SPDX-License-Identifier: Apache-2.0
"""The short set: what CI shows with Debian's kernel. See README.md for how to add a case."""

import concurrent.futures
import json
import re
import time

import peer
import vm

PORT = 9400
BUILD = vm.TREE + "/build"
# The address that moves with the guest, if criu-lite can move addresses.
SERVICE = "10.9.0.50"

# What a tracker can miss, and guests that change their memory faster than a round lasts.
SHORT_VICTIMS = "memory dontneed memfd_write shm_remove churn-fast forker".split()
SHORT_MODES = "predump-restore,migrate"
SHORT_ROUNDS = ("dontneed tables places memfd_write shm_remove shared_anon "
                "churn-fast churn-1").split()


# Formats only, no kernel, and minutes of work for an emulated CPU.
NOT_HERE = ("unit_images",)


class Skipped(Exception):
  pass


def last_counts(text):
  """(passed, failed, skipped) of the last such line."""
  found = re.findall(r"^(\d+) passed, (\d+) failed(?:, (\d+) skipped)?$", text, re.M)
  if not found:
    raise vm.Failed("no counts: " + text[-800:])
  return tuple(int(n or 0) for n in found[-1])


# ---- in one machine ----

def programs(machine, place, report, jobs, timeout=240):
  """Runs the programs of test/unit or test/kind, each as a case of its own. Connections that are
  watched by the millisecond get no time beside another program: those of kind go one by one."""
  names = machine.out("cd %s/test/%s && ls" % (BUILD, place)).split()
  names = [name for name in names if name not in NOT_HERE]
  if not names:
    raise vm.Failed("no programs in test/" + place)

  def run(name):
    begin = time.monotonic()
    try:
      done = machine.run(["%s/test/%s/%s" % (BUILD, place, name)], timeout, dir="/tmp",
                         env={"CRIU_LITE_SLOW": "1", "SEEDS": "1"})
    except vm.Failed as e:
      return "FAIL", str(e)
    verdict = {0: "ok", 77: "skip"}.get(done.returncode, "FAIL")
    return verdict, ("%.0f s" % (time.monotonic() - begin) if verdict == "ok" else
                     "exit %d: %s" % (done.returncode, done.stdout[-3000:]))
  pool = concurrent.futures.ThreadPoolExecutor(jobs)
  try:
    running = {pool.submit(run, name): name for name in names}
    for future in concurrent.futures.as_completed(running):
      verdict, text = future.result()
      report(verdict, "%s %s" % (place, running[future]), text)
  finally:
    # Without waiting, for who is told to end: what still runs ends with its machine.
    pool.shutdown(wait=False, cancel_futures=True)


def victims(machine, report, names, modes, times=1, jobs=2, timeout=900, tracker=None):
  """test/live/run.py inside the machine."""
  tool = vm.TOOL
  if tracker:
    tool = "/tmp/criu-lite-" + tracker
    machine.put(tool, "#!/bin/sh\ncmd=$1\nshift\ncase $cmd in\n"
                "dump | pre-dump | migrate) set -- --tracker %s \"$@\" ;;\nesac\n"
                "exec %s \"$cmd\" \"$@\"\n" % (tracker, vm.TOOL))
    machine.run(["chmod", "755", tool], check=True)
  cmd = ["python3", vm.TREE + "/test/live/run.py", "--tool", tool, "--times", times, "--jobs", jobs,
         "--victims-dir", BUILD + "/test/live", "--mode", modes]
  if names:
    cmd += ["--victims", ",".join(names)]
  log = "/tmp/live-%d.log" % time.monotonic_ns()
  pid = machine.spawn(cmd, log=log, env={"CRIU_LITE_SLOW": "1"})
  told, end, goes_on = 0, time.monotonic() + timeout, True
  while goes_on:
    time.sleep(1)
    goes_on = machine.alive(pid)
    said = machine.read(log)
    entries = re.split(r"^(?=(?:ok|FAIL|skip) )", said, flags=re.M)[1:]
    # To the last one lines may still be added. What follows it in the end is only the counts.
    for entry in entries[told:-1 if goes_on else None]:
      verdict, name, mode, rest = (entry.split(None, 3) + [""])[:4]
      report(verdict, "live %s %s%s" % (name, mode, tracker and " " + tracker or ""),
             rest[:1500] if verdict == "FAIL" else rest.splitlines()[0])
      told += 1
    if goes_on and time.monotonic() > end:
      machine.run(["kill", "-9", "--", -pid])
      raise vm.Failed("no end after %d s: %s" % (timeout, said[-600:]))
  last_counts(said)


# ---- from machine to machine ----

class Guest:
  """vm_guest on one of the machines, with a third party that talks to it all the time."""

  def __init__(self, net, machine, mib=48, rate=2):
    self.net, self.where = net, machine
    self.help = machine.out([vm.TOOL, "migrate", "--help"])
    self.moves_address = (net.connection and "--move-address" in self.help and
                          "--tcp-established" in self.help)
    # In a time namespace: its monotonic clock does not become that of the other machine.
    self.timens = False
    if self.moves_address:
      machine.run(["ip", "addr", "add", SERVICE + "/24", "dev", "eth0"], check=True)
      # An earlier guest may have had it on another machine.
      machine.run(["arping", "-U", "-c", "1", "-I", "eth0", SERVICE])
    self.pid = machine.spawn([BUILD + "/test/vm/vm_guest", mib, rate, peer.PORT],
                             dir="/")
    self.questions = peer.Questions(net)
    self.questions.ask(self.ip)
    self.stream = peer.Stream(net, self.ip) if self.moves_address else None

  @property
  def ip(self):
    return SERVICE if self.moves_address else self.where.ip

  def options(self):
    # Machines without KVM are too slow for the default.
    options = ["--max-downtime", "3000"]
    if self.moves_address:
      return options + ["--tcp-established", "--move-address", SERVICE + "/24@eth0"]
    return options + ["--tcp-close"]

  def traces(self):
    """What a migration that failed must have taken back: state, tracer, code, descriptors."""
    m, p = self.where, self.pid
    status = {k: v.strip() for k, _, v in
              (line.partition(":") for line in m.read("/proc/%d/status" % p).splitlines())}
    maps = [re.sub(r"^(\S+ \S+).*?(\S*)$", r"\1 \2", line)
            for line in m.read("/proc/%d/maps" % p).splitlines() if "x" in line.split()[1]]
    fds = m.out("ls /proc/%d/fd | wc -l" % p).strip()
    return {"tracer": status.get("TracerPid"), "blocked": status.get("SigBlk"), "maps": maps,
            "fds": fds, "threads": status.get("Threads"), "cap": status.get("CapEff"),
            "stopped": status.get("State", "gone")[0] in "tT"}

  def check(self, when):
    """Right in all its memory, its clocks and its connection; what it said, and the pause."""
    got = self.questions.healthy(self.ip, when, self.timens)
    return got, self.stream.check(when) if self.stream else None

  def receive(self, target):
    log = "/tmp/receive-%d.log" % time.monotonic_ns()
    target.spawn([vm.TOOL, "receive", "--listen", "%s:%d" % (target.ip, PORT), "--once"], log=log)
    end = time.monotonic() + 30
    while not target.listening(PORT):
      if time.monotonic() > end:
        raise vm.Failed("receive does not listen: " + target.read(log))
      time.sleep(0.1)
    return log

  def migrate_command(self, target, *more):
    return [vm.TOOL, "migrate", "-t", self.pid, "--json", *self.options(), *more,
            "tcp://%s:%d" % (target.ip, PORT)]

  def move(self, target, *more, timeout=120):
    """One migration; the guest is on the target then, and there only. Returns the summary."""
    log = self.receive(target)
    source = self.where
    done = source.run(self.migrate_command(target, *more), timeout)
    if done.returncode:
      raise vm.Failed("migrate %s to %s: exit %d: %s\nreceive: %s" % (
          source.name, target.name, done.returncode, done.stdout[-2000:], target.read(log)[-2000:]))
    if source.alive(self.pid):
      raise vm.Failed("pid %d still runs on %s" % (self.pid, source.name))
    if not target.alive(self.pid):
      raise vm.Failed("pid %d does not run on %s: %s" % (self.pid, target.name, target.read(log)))
    # Busybox's init looks for zombies once a second. Until then the pid cannot come back.
    vm.hosts.wait_for(lambda: not source.read("/proc/%d/stat" % self.pid), 20)
    self.where = target
    return json.loads(next(x for x in done.stdout.splitlines() if x.startswith("{")))

  def close(self):
    if self.stream:
      self.stream.close()
    try:
      self.where.run(["kill", "-9", self.pid])
      if self.moves_address:
        self.where.run(["ip", "addr", "del", SERVICE + "/24", "dev", "eth0"])
    except vm.Lost:
      pass


def say_move(got, pause):
  text = "%d rounds, %.1f MiB, %.2f s, down %.0f ms" % (
      got["rounds"], got["wire_bytes"] / (1 << 20), got["total_seconds"], got["downtime_ms"])
  return text + ("" if pause is None else ", pause at the peer %.0f ms" % (pause * 1e3))


def unharmed(guest, before, speed, when):
  """After a migration that failed: runs at its own speed, nobody holds or tracks it, nothing of
  the tool is left on the machine."""
  machine = guest.where
  now = guest.traces()
  if now != before:
    raise vm.Failed("%s: was %s, is %s" % (when, before, now))
  guest.check(when)
  after = guest.questions.speed(guest.ip, 4)
  # Twice as slow would be a throttle or a tracker; what the machine does besides is not.
  if after < speed / 2:
    raise vm.Failed("%s: changes %.0f pages a second, before it were %.0f" % (when, after, speed))
  # What is kept of the CPU that a guest came from goes when the next one comes.
  left = machine.out("pidof criu-lite; find /run/criu-lite ! -type d ! -path '*/cpu/*' "
                     "2>/dev/null; true").split()
  if left:
    raise vm.Failed("%s: left over: %s" % (when, left))
  if machine.run("which nft >/dev/null").returncode == 0:
    rules = machine.out(["nft", "list", "ruleset"]).strip()
    if rules:
      raise vm.Failed("%s: nft rules are left: %s" % (when, rules))


def wait_for_predump(source, pid, log, timeout=60):
  """Until memory is on its way: the migration has sent some MiB, and goes on."""
  def sent():
    return int(source.read("/sys/class/net/eth0/statistics/tx_bytes"))
  first, end = sent(), time.monotonic() + timeout
  while sent() < first + (4 << 20):
    if not source.alive(pid):
      raise vm.Failed("migrate has ended too early: " + source.read(log))
    if time.monotonic() > end:
      raise vm.Failed("migrate sends nothing: " + source.read(log))
    time.sleep(0.05)


def power_off_target(guest, target):
  """The target loses its power in the middle of pre-dump; the source's guest must not care."""
  source = guest.where
  guest.check("at first")
  before, speed = guest.traces(), guest.questions.speed(guest.ip, 4)
  there = guest.receive(target)
  log = "/tmp/migrate.log"
  # Slow enough to be in the middle of it, and never done.
  pid = source.spawn(guest.migrate_command(target, "--bandwidth", 4), log=log)
  try:
    wait_for_predump(source, pid, log)
  except vm.Lost:
    raise
  except vm.Failed as e:
    raise vm.Failed("%s\nreceive: %s" % (e, target.read(there)))
  target.power_off()
  begin = time.monotonic()
  while source.alive(pid):
    if time.monotonic() > begin + 90:
      raise vm.Failed("migrate does not give up: " + source.read(log))
    # The guest must not wait for that.
    guest.questions.ask(guest.ip)
    time.sleep(0.5)
  took = time.monotonic() - begin
  said = source.read(log)
  if "criu-lite:" not in said:
    raise vm.Failed("migrate says nothing of why it failed: %r" % said)
  unharmed(guest, before, speed, "after the power-off")
  return "gave up after %.0f s: %s" % (took, said.strip().splitlines()[-1][:160])


def move_and_back(guest, a, b):
  """There and back; the second time shows that a guest of a migration is one like any other."""
  text = []
  for target in (b, a):
    got = guest.move(target)
    if got["rounds"] < 2:
      raise vm.Failed("no pre-dump: %s" % got)
    pause = guest.check("on " + target.name)[1]
    text.append(say_move(got, pause))
  return " | ".join(text)


def time_namespace(guest, a, b):
  """With --timens, to a machine that has booted later: the guest's monotonic clock goes on."""
  if "--timens" not in guest.help:
    raise Skipped("criu-lite has no --timens")
  target = b if guest.where is a else a
  before = guest.check("before")[0]
  got = guest.move(target, "--timens")
  after, pause = guest.check("in a time namespace")
  if after["back"] > before["back"] or after["now_us"] < before["now_us"]:
    raise vm.Failed("the monotonic clock went back: was %s, is %s" % (before, after))
  guest.timens = True
  return say_move(got, pause)
