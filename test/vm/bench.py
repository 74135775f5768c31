#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""CRIU against criu-lite, each moving the same guest between the same two machines.

Two virtual machines with Debian's kernel; the guest (guest.c) changes memory all the time. Debian's
criu does it as its manual says: three pre-dumps to a page server on the target, a dump, a copy of
the small images, a restore. criu-lite does it by `migrate`. The figures: total time, the longest
time without an answer of the guest to who asks it all the time, bytes on the wire. Medians of
--moves each.
"""

import argparse
import os
import select
import shutil
import socket
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
import cases  # noqa: E402
import main as driver  # noqa: E402
import peer  # noqa: E402
import tool  # noqa: E402
import vm  # noqa: E402

PAGE_PORT = 9500
IMAGES = "/tmp/images"


def wire_bytes(machine):
  return int(machine.read("/sys/class/net/eth0/statistics/tx_bytes"))


def page_server(target, directory, log):
  target.run(["mkdir", "-p", directory], check=True)
  pid = target.spawn(["criu", "page-server", "-D", directory, "--port", PAGE_PORT] +
                     (["--prev-images-dir", "../%d" % (int(directory[-1]) - 1)]
                      if directory[-1] != "1" else []), log=log)
  end = time.monotonic() + 30
  while not target.listening(PAGE_PORT):
    if time.monotonic() > end:
      raise vm.Failed("no page server: " + target.read(log))
    time.sleep(0.05)
  return pid


def criu(source, target, pid, predumps):
  """One move by CRIU. What its page server keeps is on the target, the rest is copied there."""
  for m in (source, target):
    m.run(["rm", "-rf", IMAGES], check=True)
    m.run(["mkdir", "-p", IMAGES], check=True)
  sending = ["--page-server", "--address", target.ip, "--port", PAGE_PORT, "--track-mem"]
  for n in range(1, predumps + 2):
    here = "%s/%d" % (IMAGES, n)
    source.run(["mkdir", "-p", here], check=True)
    page_server(target, here, "%s/server.log" % IMAGES)
    prev = ["--prev-images-dir", "../%d" % (n - 1)] if n > 1 else []
    what = "pre-dump" if n <= predumps else "dump"
    done = source.run(["criu", what, "-t", pid, "-D", here, "-v1"] + sending + prev, 300)
    if done.returncode:
      raise vm.Failed("criu %s: %s" % (what, done.stdout[-2000:]))
  # The small images: a stream of files over one connection, as rsync or scp would. busybox's nc
  # hangs up when the other one's standard input ends, so that must not: a FIFO opened for both.
  port = PAGE_PORT + 1
  taking = target.spawn(["sh", "-c", "mkfifo %s/in; nc -l -p %d 0<>%s/in | tar x -C %s"
                         % (IMAGES, port, IMAGES, here)])
  vm.hosts.wait_for(lambda: target.listening(port), 30)
  source.run("tar c -C %s . | nc %s %d" % (here, target.ip, port), 60, check=True)
  vm.hosts.wait_for(lambda: not target.alive(taking), 30)
  # On pipes that it leaves to the guest, its end would not be seen.
  done = target.run("criu restore -d -D %s -v1 -o restore.log >/dev/null 2>&1" % here, 300)
  if done.returncode:
    raise vm.Failed("criu restore: exit %d: %s" % (done.returncode,
                                                   target.read(here + "/restore.log")[-2000:]))


def criu_lite(source, target, pid, predumps):
  log = "/tmp/receive-%d" % time.monotonic_ns()
  target.spawn([vm.TOOL, "receive", "--listen", "%s:%d" % (target.ip, cases.PORT), "--once"],
               log=log)
  vm.hosts.wait_for(lambda: target.listening(cases.PORT), 30)
  done = source.run([vm.TOOL, "migrate", "-t", pid, "--quiet", "--max-downtime", 1000,
                     "tcp://%s:%d" % (target.ip, cases.PORT)], 300)
  if done.returncode:
    raise vm.Failed("migrate: %s %s" % (done.stdout[-2000:], target.read(log)[-2000:]))


class Probe:
  """Asks the guest at both addresses a hundred times a second; `still` is the longest time
  without an answer. Its own clock is no help: the machines' clocks differ."""

  def __init__(self, net, ips):
    self.sock = net.socket(socket.AF_INET, socket.SOCK_DGRAM)
    self.sock.setblocking(False)
    self.ips, self.still, self.ended = ips, 0.0, False
    self.thread = threading.Thread(target=self._run, daemon=True)
    self.thread.start()

  def _run(self):
    last = time.monotonic()
    while not self.ended:
      for ip in self.ips:
        try:
          self.sock.sendto(b"probe", (ip, peer.PORT))
        except OSError:  # nobody there
          pass
      select.select([self.sock], [], [], 0.01)
      try:
        while self.sock.recv(2048):
          now = time.monotonic()
          self.still, last = max(self.still, now - last), now
      except OSError:
        pass
      time.sleep(0.005)

  def end(self):
    self.ended = True
    self.thread.join()
    self.sock.close()
    return self.still


def measure(net, how, machines, mib, rate, moves):
  """Lists of seconds in all, seconds without an answer, MiB on the wire."""
  source, target = machines
  ask = peer.Questions(net)
  pid = source.spawn([cases.BUILD + "/test/vm/vm_guest", mib, rate, peer.PORT])
  total, gaps, sent = [], [], []
  for i in range(moves + 1):
    ask.healthy(source.ip, "before", False)
    time.sleep(2)
    probe = Probe(net, (source.ip, target.ip))
    bytes_before, begin = wire_bytes(source), time.monotonic()
    how(source, target, pid, 3)
    took = time.monotonic() - begin
    ask.ask(target.ip)
    gap = probe.end()
    ask.healthy(target.ip, "after", False)
    if i:  # the first one warms the machines up
      total.append(took)
      gaps.append(gap)
      sent.append((wire_bytes(source) - bytes_before) / (1 << 20))
    source, target = target, source
  source.run(["kill", "-9", pid])
  return total, gaps, sent


def median(values):
  return sorted(values)[len(values) // 2]


def table(rows):
  widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
  for r in rows:
    print("  ".join(w.ljust(n) if i == 0 else w.rjust(n)
                    for i, (w, n) in enumerate(zip(r, widths))), flush=True)


def run(args, directory):
  image = driver.Image(args.kernel, tool.build_dir(), directory)
  rows = [("", "guest", "changes", "total", "stood still", "on the wire")]
  with vm.Net(image, directory) as net:
    a, b = net.boot("a", mem=args.mem), net.boot("b", mem=args.mem)
    a.ready()
    b.ready()
    if a.run("which criu").returncode:
      raise vm.Failed("criu is not installed here: apt-get install criu")
    print("Linux %s, criu: %s" % (a.kernel, a.out(["criu", "--version"]).splitlines()[0]))
    for mib in args.sizes:
      for name, how in (("criu", criu), ("criu-lite", criu_lite)):
        total, gaps, sent = measure(net, how, (a, b), mib, args.rate, args.moves)
        rows.append((name, "%d MiB" % mib, "%d MiB/s" % args.rate, "%.2f s" % median(total),
                     "%.2f s" % median(gaps), "%.0f MiB" % median(sent)))
        print("%s, %d MiB: total %s, still %s" % (
            name, mib, " ".join("%.2f" % x for x in total), " ".join("%.2f" % x for x in gaps)))
  print()
  table(rows)


def main():
  p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  p.add_argument("--sizes", default="64,256", type=lambda s: [int(x) for x in s.split(",")],
                 metavar="MIB,...")
  p.add_argument("--rate", type=int, default=2, help="MiB/s that the guest changes")
  p.add_argument("--moves", type=int, default=4)
  p.add_argument("--mem", type=int, default=1536, help="MiB of each machine")
  p.add_argument("--kernel", default="linux-image-cloud-amd64", metavar="PACKAGE")
  args = p.parse_args()
  directory = tempfile.mkdtemp(prefix="criu-lite-vm.")
  try:
    run(args, directory)
  except vm.Failed as e:
    print("failed: %s" % e, file=sys.stderr)
    return 1
  finally:
    shutil.rmtree(directory, ignore_errors=True)
  return 0


if __name__ == "__main__":
  sys.exit(main())
