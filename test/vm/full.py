# SPDX-License-Identifier: Apache-2.0
"""The nightly set: everything that takes longer than CI may."""

import os
import re
import subprocess
import time

import cases
import image
import peer
import vm

NEWER = "linux-image-cloud-amd64"  # of bookworm-backports
LIVE_MODES = ("dump-restore,dump-leave-running,dump-leave-stopped,predump-restore,migrate,"
              "migrate-back")


# ---- one machine ----

def all_victims(net, report):
  machine = net.boot("live", mem=1536)
  machine.ready()
  try:
    cases.victims(machine, report, None, LIVE_MODES, timeout=3 * 3600)
  finally:
    machine.power_off()


def redis(net):
  """The demo's server and its checking client, on soft-dirty."""
  machine = net.boot("redis", mem=2048)
  machine.ready()
  try:
    if machine.run("which redis-server").returncode:
      raise cases.Skipped("redis-server is not installed here")
    cmd = ["python3", vm.TREE + "/test/apps/redis_migrate.py", "--tool", vm.TOOL, "--size", "0.05"]
    done = machine.run(cmd, 1200)
    if done.returncode:
      raise vm.Failed("exit %d: %s" % (done.returncode, done.stdout[-3000:]))
    return done.stdout.strip().splitlines()[-1]
  finally:
    machine.power_off()


def newer_kernel(img, directory, report):
  """Both trackers on one kernel: Linux 6.7 or later, with soft-dirty."""
  policy = subprocess.run(["apt-cache", "policy", NEWER], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, text=True).stdout
  if "bookworm-backports" not in policy:
    report("skip", "both trackers", "apt has no bookworm-backports here, so no newer kernel")
    return
  shown = subprocess.run(["apt-cache", "show", NEWER + "/bookworm-backports"],
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True).stdout
  real = next(word.strip(",") for line in shown.splitlines() if line.startswith("Depends:")
              for word in line.split() if word.startswith("linux-image-"))
  other = type(img)(real, img.build, directory, "initramfs-newer")
  with vm.Net(other, directory) as net:
    machine = net.boot("newer", mem=1536)
    machine.ready()
    for tracker in ("soft-dirty", "uffd-wp"):
      if not re.search(r"^ *%s +yes" % tracker, machine.out([vm.TOOL, "check"]), re.M):
        report("skip", "both trackers", "%s does not have %s" % (machine.kernel, tracker))
        continue
      cases.victims(machine, report, cases.SHORT_VICTIMS, cases.SHORT_MODES, tracker=tracker)


# ---- two machines ----

def soak(guest, a, b, moves):
  """Says now and then how far it is."""
  worst, begin = 0.0, time.monotonic()
  for i in range(moves):
    target = b if guest.where is a else a
    try:
      got = guest.move(target)
      guest.check("after move %d" % (i + 1))
    except vm.Failed as e:
      raise vm.Failed("move %d of %d: %s" % (i + 1, moves, e))
    worst = max(worst, got["downtime_ms"])
    if (i + 1) % 20 == 0 or i + 1 == moves:
      text = "%d moves in %.0f s, longest downtime %.0f ms" % (
          i + 1, time.monotonic() - begin, worst)
      print("     " + text, flush=True)
  return text


def bad_link(guest, a, b):
  """20 ms there, 20 ms back, 1 % of the packets lost, 20 Mbit/s, on both machines: less than the
  guest changes. It ends all the same, as it is told to."""
  for m in (a, b):
    m.run(["tc", "qdisc", "replace", "dev", "eth0", "root", "netem", "delay", "20ms", "loss", "1%",
           "rate", "20mbit"], check=True)
  try:
    target = b if guest.where is a else a
    got = guest.move(target, "--timeout", 60, "--timeout-action", "suspend", timeout=300)
    return cases.say_move(got, guest.check("over a bad link")[1])
  finally:
    for m in (a, b):
      m.run(["tc", "qdisc", "del", "dev", "eth0", "root"])


def clock_jump(guest, a, b):
  """The target's clock is a day ahead, then a day behind; what counts is how the guest's own
  clocks agree with each other."""
  text = []
  try:
    for jump in (86400, -86400):
      target = b if guest.where is a else a
      now = int(target.out("date +%s"))
      target.run(["date", "-s", "@%d" % (now + jump)], check=True)
      got = guest.move(target)
      guest.check("clock %+d s" % jump)
      text.append("%+d s: down %.0f ms" % (jump, got["downtime_ms"]))
  finally:
    for m in (a, b):
      m.run(["date", "-s", "@%d" % time.time()])
  return ", ".join(text)


# process_madvise(MADV_PAGEOUT) of all private anonymous memory of a pid.
PAGE_OUT = r"""
import ctypes, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
fd = libc.syscall(434, int(sys.argv[1]), 0)
for line in open("/proc/%s/maps" % sys.argv[1]):
  where, rights, _, _, ino = line.split()[:5]
  if rights == "rw-p" and ino == "0":
    start, end = (int(x, 16) for x in where.split("-"))
    libc.syscall(440, fd, struct.pack("QQ", start, end - start), ctypes.c_size_t(1), 21, 0)
"""


def swapped_out(guest, a, b):
  """Much of the guest is in swap when it moves."""
  source = guest.where
  if source.run(["modprobe", "zram"]).returncode or not source.read("/sys/block/zram0/disksize"):
    raise cases.Skipped("this kernel has no zram to swap to")
  source.out("echo 256M > /sys/block/zram0/disksize && mkswap /dev/zram0 && swapon /dev/zram0")
  try:
    source.run(["python3", "-c", PAGE_OUT, guest.pid], check=True)
    status = source.read("/proc/%d/status" % guest.pid).splitlines()
    swap = next(int(line.split()[1]) for line in status if line.startswith("VmSwap"))
    if swap < 16 << 10:
      raise vm.Failed("only %d kB went to swap" % swap)
    got = guest.move(b if source is a else a, timeout=300)
    return "%d kB of it in swap; %s" % (swap, cases.say_move(got, guest.check("from swap")[1]))
  finally:
    source.run("swapoff /dev/zram0; echo 1 > /sys/block/zram0/reset", 120)


def too_small(guest, a, b):
  """The target cannot hold the guest: refused or failed, and the guest goes on here."""
  source = guest.where
  target = b if source is a else a
  before = guest.traces()
  speed = guest.questions.speed(guest.ip, 4)
  target.power_off()
  try:
    # The initramfs alone takes 80 MiB, twice while it is unpacked.
    target.power_on(mem=384)
    target.ready()
    free = int(target.out("awk '/MemAvailable/ { print $2 }' /proc/meminfo")) >> 10
    target.run("mkdir -p /tmp/hog && mount -t tmpfs -o size=90%% hog /tmp/hog && "
               "dd if=/dev/zero of=/tmp/hog/x bs=1M count=%d" % max(0, free - 30), 120)
    guest.move(target)
  except vm.Failed as e:
    if isinstance(e, vm.Lost) or "exit" not in str(e):
      raise
    cases.unharmed(guest, before, speed, "after a target that was too small")
    return str(e).splitlines()[0][-200:]
  else:
    raise vm.Failed("a guest of 48 MiB fitted into 30 MiB")
  finally:
    target.power_off()
    target.power_on(mem=1024)
    target.ready()


def pairs(net, report, opts):
  a, b = net.boot("a"), net.boot("b")
  a.ready()
  b.ready()
  guest = cases.Guest(net, a)
  try:
    for name, what in (("clock jump", clock_jump), ("swapped out", swapped_out),
                       ("target too small", too_small)):
      if not report.case(name, what, guest, a, b):
        # What it left is not what the next one is about.
        guest.close()
        for m in (a, b):
          m.power_off()
          m.power_on(mem=1024)
          m.ready()
        guest = cases.Guest(net, a)
  finally:
    guest.close()
  small = cases.Guest(net, a, mib=16, rate=2)
  try:
    report.case("soak", soak, small, a, b, opts.soak)
    report.case("slow and lossy link", bad_link, small, a, b)
  finally:
    small.close()


# ---- processors ----

# What "max" is without what came with AVX, and what Intel's never had.
PLAIN = "max," + ",".join("-" + flag for flag in (
    "avx avx2 fma f16c bmi1 bmi2 movbe abm vaes vpclmulqdq 3dnow 3dnowext sse4a").split())


def cpu_models(net):
  """A guest of a machine with AVX2 is refused by one without; one of the plain machine goes both
  ways."""
  a, b = net.boot("rich"), net.boot("plain", cpu=PLAIN)
  a.ready()
  b.ready()
  guest = None
  try:
    guest = cases.Guest(net, b, mib=16, rate=2)
    for target in (a, b):
      guest.move(target)
      guest.check("on " + target.name)
    guest.close()
    guest = cases.Guest(net, a, mib=16, rate=2)
    if "--cpu-cap" not in guest.help:
      return "both ways from the plain one; criu-lite has no --cpu-cap: not refused to go there"
    before, speed = guest.traces(), guest.questions.speed(guest.ip, 4)
    try:
      guest.move(b)
    except vm.Failed as e:
      if "avx" not in str(e).lower():
        raise vm.Failed("refused, but not for its CPU: %s" % e)
      cases.unharmed(guest, before, speed, "after it was refused")
      return "both ways from the plain one; refused: " + str(e).splitlines()[0][-160:]
    raise vm.Failed("a guest that uses AVX2 went to a CPU without it")
  finally:
    if guest:
      guest.close()
    for m in (a, b):
      m.power_off()


def no_xsave(net):
  """A CPU that is older than XSAVE: criu-lite says so."""
  machine = net.boot("old", cpu="Nehalem")
  machine.ready()
  try:
    done = machine.run([vm.TOOL, "check"])
    if done.returncode == 0:
      return "works"
    if "NO " not in done.stdout or "XSAVE" not in done.stdout:
      raise vm.Failed("exit %d: %s" % (done.returncode, done.stdout))
    return "says no: " + next(x for x in done.stdout.splitlines() if " NO " in x).strip()[:120]
  finally:
    machine.power_off()


# ---- kernels ----

def held_here():
  """The command that takes from a guest what capabilities the host here could not give it."""
  with open("/proc/self/status") as f:
    held = next(int(line.split()[1], 16) for line in f if line.startswith("CapPrm:"))
  missing = ["-cap_%d" % n for n in range(held.bit_length()) if not held >> n & 1]
  return ["setpriv", "--bounding-set", ",".join(missing)] if missing else []


def host_and_vm(net, img, directory):
  """From a machine (soft-dirty, its own vDSO) to a host on this kernel and back."""
  machine = net.boot("kernel", cpu=PLAIN)
  machine.ready()
  host = net.third
  program = os.path.join(directory, "guest")
  machine.run(["mkdir", "-p", directory], check=True)
  machine.run(["cp", cases.BUILD + "/test/vm/vm_guest_static", program], check=True)
  with open(program, "wb") as f:
    f.write(machine.fetch(program))
  os.chmod(program, 0o755)
  mtime = int(machine.out(["stat", "-c", "%Y", program]))
  os.utime(program, (mtime, mtime))
  tool = os.path.join(img.build, "criu-lite/cmd/criu-lite")
  pid = machine.spawn(held_here() + [program, 16, 2, peer.PORT], log="/dev/null")
  ask = peer.Questions(net)
  ask.ask(machine.ip)
  try:
    log = os.path.join(directory, "receive-host.log")
    host.popen([tool, "receive", "--listen", "%s:%d" % (host.ip, cases.PORT), "--once"], stdout=log,
               stderr=subprocess.STDOUT)
    vm.hosts.wait_listening(host, cases.PORT)
    done = machine.run([vm.TOOL, "migrate", "-t", pid, "--tcp-close", "--json",
                        "tcp://%s:%d" % (host.ip, cases.PORT)], 120)
    if done.returncode:
      raise vm.Failed("to the host: %s\n%s" % (done.stdout[-1500:], open(log).read()[-1500:]))
    if not host.alive(pid):
      raise vm.Failed("it does not run on the host")
    ask.healthy(host.ip, "on the host", False)
    log = "/tmp/receive-back.log"
    machine.spawn([vm.TOOL, "receive", "--listen", "%s:%d" % (machine.ip, cases.PORT), "--once"],
                  log=log)
    vm.hosts.wait_for(lambda: machine.listening(cases.PORT), 30)
    done = host.run([tool, "migrate", "-t", str(pid), "--tcp-close", "--json",
                     "tcp://%s:%d" % (machine.ip, cases.PORT)], timeout=120,
                    stderr=subprocess.STDOUT)
    if done.returncode:
      raise vm.Failed("back: %s\n%s" % (done.stdout[-1500:], machine.read(log)[-1500:]))
    ask.healthy(machine.ip, "back", False)
    return "%s > %s > %s" % (machine.kernel, os.uname().release, machine.kernel)
  finally:
    machine.power_off()


def run(img, directory, report, opts):
  with vm.Net(img, directory, not opts.no_connection) as net:
    report.group("live", all_victims, net, report)
    report.case("redis", redis, net)
    report.case("CPU models", cpu_models, net)
    report.case("CPU without xsave", no_xsave, net)
    report.case("another kernel and back", host_and_vm, net, img, directory)
  with vm.Net(img, directory, not opts.no_connection) as net:
    report.group("pairs", pairs, net, report, opts)
  try:
    report.group("both trackers", newer_kernel, img, directory, report)
  except image.Missing as e:
    report("skip", "both trackers", str(e))
