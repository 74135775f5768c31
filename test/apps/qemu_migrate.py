#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A virtual machine moves: qemu-system-x86_64 with TCG, which no part of it need know.

QEMU runs a Linux guest that computes and checks its memory, disk and clock (qemu_guest.c). The
process goes from one host to the other and back while it works. Asked afterwards, the guest has
found nothing wrong, monitor, serial and network answer, and the disk's image is still locked. The
variants differ in memory (private, or a memfd shared=on), CPUs, network and disk. The exit code is
0 only if all of them passed; the last line says how many did.
"""

import argparse
import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
sys.path.insert(0, HERE)
import hosts  # noqa: E402
import qemu_guest  # noqa: E402
import tool  # noqa: E402

PORT = 9400
ECHO = 5007

# memory and work in MiB; rate in MiB/s by each CPU
VARIANTS = {
  "private": dict(memory=512, cpus=1, disk=True, net="user", work=(16, 20)),
  "shared": dict(memory=512, cpus=2, share=True, disk=True, net="user", work=(16, 20)),
  "big": dict(memory=1024, cpus=2, disk=True, net="user", work=(64, 40)),
  "big-shared": dict(memory=1024, cpus=2, share=True, disk=True, net="stream", work=(64, 40)),
  "single": dict(memory=512, cpus=1, share=True, net="dgram", work=(32, 20)),
  "io-thread": dict(memory=512, cpus=2, disk=True, net="user", work=(16, 20), iothread=True),
  "locked": dict(memory=512, cpus=1, work=(16, 20), extra=["-overcommit", "mem-lock=on"]),
}
FAST = ("private", "shared")

# What is refused before anything is disturbed, and the words that must be in the message.
REFUSED = {
  "kvm": (dict(memory=64, accel="kvm", extra=["-S"]), ["kvm", "-accel tcg"]),
  "sandbox": (dict(memory=64, extra=["-S", "-sandbox", "on"]), ["seccomp"]),
  "client": (dict(memory=64, extra=["-S"]), ["unix socket", "without this connection"]),
}


CLIENT = ("import socket, sys, time; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
          "s.recv(1); print('here', flush=True); time.sleep(1000)")


class Failed(Exception):
  pass


class Refused(Failed):
  pass


def say(text):
  print(text, flush=True)


class Machine:
  """A QEMU; `where` is the host it is on. Its sockets are in /own, which is each host's own."""

  def __init__(self, name, net, directory, made, args, memory=512, cpus=1, share=False, disk=False,
               net_kind=None, work=(16, 20), iothread=False, extra=(),
               accel="tcg,thread=multi", tick=100):
    self.name, self.dir, self.args = name, directory, args
    self.a, self.b = net[0], net[1]
    self.where = self.a
    self.memory, self.cpus, self.work = memory, cpus, work
    self.own = os.path.join(directory, "own")
    self.out = os.path.join(directory, "ttyS0")
    self.log = os.path.join(directory, "qemu.log")
    self.disk = os.path.join(directory, "disk.qcow2") if disk else None
    self.net_kind = net_kind
    os.mkdir(self.own)
    for host in (self.a, self.b):
      host.run(["mount", "-t", "tmpfs", "none", self.own], check=True)
    if disk:
      subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", self.disk, "64M"], check=True)
    more = ["-serial", "file:" + self.out,
            "-serial", "unix:%s/serial,server=on,wait=off" % self.own,
            "-qmp", "unix:%s/qmp,server=on,wait=off" % self.own]
    self.cmd = qemu_guest.command(made, memory, cpus, share, self.disk, self.network(),
                                  iothread=iothread, work=work, accel=accel, tick=tick,
                                  extra=more + list(extra))
    self.proc = self.pid = None
    self.moves = []

  def network(self):
    if not self.net_kind:
      return []
    back = {
      "user": "user,id=n,hostfwd=tcp::%d-:7" % ECHO,
      "stream": "stream,id=n,server=on,addr.type=unix,addr.path=%s/net" % self.own,
      "dgram": "dgram,id=n,local.type=inet,local.host=0.0.0.0,local.port=7000,"
               "remote.type=inet,remote.host=127.0.0.1,remote.port=7001",
    }[self.net_kind]
    return ["-netdev", back, "-device", "virtio-net-pci,netdev=n,romfile="]

  def launch(self):
    """Without a look at the guest."""
    self.proc = self.a.popen(self.cmd, cwd=self.dir, stdout=self.log, stderr=subprocess.STDOUT)
    there = self.a.path(os.path.join(self.own, "qmp"))
    hosts.wait_for(lambda: os.path.exists(there) or self.proc.poll() is not None, 20, 0.05)
    if self.proc.poll() is not None:
      raise Failed("qemu: " + open(self.log).read()[-1000:])
    self.pid = self.proc.pid_inside

  def start(self):
    self.proc = self.a.popen(self.cmd, cwd=self.dir, stdout=self.log, stderr=subprocess.STDOUT)
    try:
      hosts.wait_for(lambda: "tick 5 " in self.output() or self.proc.poll() is not None, 90, 0.1)
    except TimeoutError:
      raise Failed("the guest did not come up: " + self.output()[-1000:])
    self.pid = self.proc.pid_inside
    if self.proc.poll() is not None:
      raise Failed("qemu: " + open(self.log).read()[-1000:])

  def output(self):
    try:
      with open(self.out, errors="replace") as f:
        return f.read()
    except OSError:
      return ""

  def connect(self, name):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(30)
    here = os.open(self.where.path(self.own), os.O_PATH)  # sun_path is short
    try:
      s.connect("/proc/self/fd/%d/%s" % (here, name))
    finally:
      os.close(here)
    return s

  def qmp(self, *commands):
    """Runs commands on a connection of its own; returns the last answer."""
    with self.connect("qmp") as s, s.makefile("rw") as f:
      f.readline()
      for command in ("qmp_capabilities",) + commands:
        f.write(json.dumps(command if isinstance(command, dict) else {"execute": command}) + "\n")
        f.flush()
        while True:
          got = json.loads(f.readline())
          if "error" in got:
            raise Failed("qmp %s: %s" % (command, got["error"]["desc"]))
          if "return" in got:
            break
    return got["return"]

  def ask(self, word):
    with self.connect("serial") as s, s.makefile("rw") as f:
      f.write(word + "\n")
      f.flush()
      got = f.readline().split()
      if not got or got[0] != "tick":
        raise Failed("the guest answers %r" % got)
      verdict = f.readline().strip() if word == "end" else None
    return parse(got), verdict

  def healthy(self):
    text = self.output()
    for bad in ("fail ", "Call Trace", "stall", "lockup", "unstable", "Oops", "panic"):
      if bad in text:
        at = text.index(bad)
        raise Failed("the guest says: " + text[max(0, at - 200):at + 600])

  def locked(self):
    """A second user of the image is refused on the host where the machine is."""
    if not self.disk:
      return
    for cmd in (["qemu-img", "info", self.disk],
                ["qemu-io", "-f", "qcow2", "-c", "write 0 4k", self.disk]):
      done = self.where.run(cmd, timeout=30)
      if done.returncode == 0 or "lock" not in done.stderr:
        raise Failed("%s: the image of %s is not locked: %s%s"
                     % (cmd[0], self.name, done.stdout, done.stderr))
    done = self.where.run(["qemu-img", "info", "-U", self.disk], timeout=30)
    if done.returncode:
      raise Failed("qemu-img info -U: " + done.stderr)

  def reachable(self):
    if self.net_kind != "user":
      return
    code = ("import socket; s = socket.create_connection(('127.0.0.1', %d), 20); "
            "print(s.makefile().read())" % ECHO)
    done = self.where.run([sys.executable, "-c", code], timeout=40)
    if not done.stdout.startswith("tick "):
      raise Failed("the guest's port: %r %s" % (done.stdout, done.stderr[-300:]))

  def migrate(self, dst, opts=()):
    src = self.where
    rlog = os.path.join(self.dir, "receive.log")
    receive = dst.popen([self.args.tool, "receive", "--listen", "%s:%d" % (dst.ip, PORT), "--once"]
                        + self.args.receive_opt, stdout=rlog, stderr=subprocess.STDOUT)
    hosts.wait_listening(dst, PORT)
    done = src.run([self.args.tool, "migrate", "-t", str(self.pid), "--json", "--file-locks"] +
                   self.args.migrate_opt + list(opts) + ["tcp://%s:%d" % (dst.ip, PORT)],
                   timeout=300)
    if done.returncode:
      raise Refused("migrate exited %d:\n%s%s\n%s" % (done.returncode, done.stdout, done.stderr,
                                                     open(rlog).read()[-3000:]))
    if receive.wait(20):
      raise Failed("receive exited %d:\n%s" % (receive.returncode, open(rlog).read()[-3000:]))
    self.where = dst
    if src.alive(self.pid) or not dst.alive(self.pid):
      raise Failed("pid %d is not on %s alone" % (self.pid, dst.name))
    got = tool.summary(done.stdout)
    got["text"] = done.stdout
    return got

  def move(self, dst):
    before = self.ask("ask")[0]
    got = self.migrate(dst)
    after = self.ask("ask")[0]
    if after["pages"] <= before["pages"]:
      raise Failed("the guest stands still: %s, then %s" % (before, after))
    self.settled(after)
    self.moves.append(got)
    say("  %s: %d rounds, %.2f s, %.0f MiB sent, downtime %.1f ms; the guest's longest pause so "
        "far %.1f ms" % (dst.name, got["rounds"], got["total"], got["bytes"] / (1 << 20),
                         got["downtime"] * 1e3, after["longest_us"] / 1e3))

  def settled(self, since):
    """The guest goes on working, and everything about it answers."""
    hosts.wait_for(lambda: self.ask("ask")[0]["pages"] > since["pages"] + 2000, 60, 0.1)
    self.healthy()
    if self.qmp("query-status")["status"] != "running":
      raise Failed("qmp: not running")
    cpus = self.qmp("query-cpus-fast")
    if len(cpus) != self.cpus:
      raise Failed("qmp: %d cpus" % len(cpus))
    self.locked()
    self.reachable()

  def end(self):
    last, verdict = self.ask("end")
    self.healthy()
    if verdict != "ok":
      raise Failed("the guest says %r" % verdict)
    hosts.wait_for(lambda: not self.where.alive(self.pid), 60, 0.05)
    if self.disk:
      done = subprocess.run(["qemu-img", "check", self.disk], capture_output=True, text=True)
      if done.returncode:
        raise Failed("the disk's image: " + done.stdout + done.stderr)
      if not last["blocks"]:
        raise Failed("the guest did not use its disk")
    return last


def run_refused(name, made, args):
  what, words = REFUSED[name]
  directory = tempfile.mkdtemp(prefix="criu-lite-qemu-")
  client = None
  try:
    with hosts.Hosts(2) as net:
      m = Machine(name, net, directory, made, args, **what)
      m.launch()
      if name == "client":  # of another program, on the same host
        client = m.a.popen([sys.executable, "-c", CLIENT, os.path.join(m.own, "qmp")],
                           stdout=subprocess.PIPE)
        client.stdout.readline()
      try:
        m.migrate(m.b)
      except Refused as e:
        missing = [w for w in words if w not in str(e)]
        if missing:
          raise Failed("no word of %s in: %s" % (missing, e))
      else:
        raise Failed("it was moved")
      if client:
        client.kill_session()
        client.wait()
      if m.qmp("query-status")["status"] != "prelaunch":
        raise Failed("the machine is not as it was")
    say("%s: refused, as it should be" % name)
  finally:
    shutil.rmtree(directory, ignore_errors=True)


def kvm_works():
  try:
    with open("/dev/kvm", "r+b", buffering=0) as f:
      os.close(fcntl.ioctl(f, 0xae01, 0))  # KVM_CREATE_VM
    return True
  except OSError:
    return False


def parse(words):
  return {k: int(v) for k, v in zip(words[::2], words[1::2])}


def run_variant(name, made, args):
  what = dict(VARIANTS[name])
  what["net_kind"] = what.pop("net", None)
  directory = tempfile.mkdtemp(prefix="criu-lite-qemu-")
  begin = time.monotonic()
  ok = False
  try:
    with hosts.Hosts(2) as net:
      m = Machine(name, net, directory, made, args, **what)
      m.start()
      say("%s: %d MiB, %d CPUs: up after %.1f s" % (name, m.memory, m.cpus,
                                                   time.monotonic() - begin))
      m.settled(m.ask("ask")[0])
      for _ in range(args.rounds):
        m.move(m.b)
        m.move(m.a)
      last = m.end()
    say("  ok: %d pages and %d blocks checked (%.0f s)"
        % (last["pages"], last["blocks"], time.monotonic() - begin))
    ok = True
  finally:
    if ok or not args.keep:
      shutil.rmtree(directory, ignore_errors=True)
    else:
      say("logs are in " + directory)


def run(args):
  names = args.variants or list(VARIANTS if args.full else FAST) + list(REFUSED)
  passed = failed = skipped = 0
  work = tempfile.mkdtemp(prefix="criu-lite-qemu-guest-")
  try:
    made = qemu_guest.make(work)
    for name in names:
      if name == "kvm" and not kvm_works():
        say("kvm: skipped, there is none here")
        skipped += 1
        continue
      try:
        (run_refused if name in REFUSED else run_variant)(name, made, args)
        passed += 1
      except (Failed, TimeoutError, OSError, subprocess.SubprocessError) as e:
        say("FAIL %s: %s" % (name, e))
        failed += 1
  finally:
    shutil.rmtree(work, ignore_errors=True)
  say("%d passed, %d failed, %d skipped" % (passed, failed, skipped))
  return 1 if failed or not passed else 0


def main():
  p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  p.add_argument("variants", nargs="*", metavar="VARIANT",
                 help="of %s; default: %s, and the second half"
                 % (" ".join(VARIANTS) + " | " + " ".join(REFUSED), " ".join(FAST)))
  p.add_argument("--full", action="store_true", help="all variants")
  p.add_argument("--rounds", type=int, default=1, metavar="N", help="there and back N times")
  p.add_argument("--tool", metavar="PATH", help="the criu-lite to use")
  p.add_argument("--keep", action="store_true", help="keep the logs of a failure")
  p.add_argument("--migrate-opt", action="append", default=[], metavar="OPT")
  p.add_argument("--receive-opt", action="append", default=[], metavar="OPT")
  args = p.parse_args()
  for name in args.variants:
    if name not in VARIANTS and name not in REFUSED:
      p.error("no variant " + name)
  args.tool = tool.find_tool(args.tool)
  if os.geteuid():
    p.exit(1, "root is needed\n")
  try:
    return run(args)
  except qemu_guest.Failed as e:
    sys.stderr.write("failed: %s\n" % e)
    return 1


if __name__ == "__main__":
  sys.exit(main())
