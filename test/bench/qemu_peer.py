#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The same virtual machine moved by criu-lite and by QEMU itself.

QEMU with TCG and a guest that computes, dirties memory and checks it (test/apps/qemu_guest.c) goes
from one host of namespaces to another: by criu-lite as the process that it is, and by QEMU's own
migration (auto-converge; with and without multifd and zstd). TCG has one thread: with more of them,
and mostly with multifd, QEMU 7.2 itself loses pages of a guest that writes. For all are measured,
from outside: the time of it all, the longest time in which the guest printed nothing, the bytes on
the link, and the work that the guest did not do meanwhile, in seconds of what it did before. QEMU
needs a second QEMU started by somebody on the target; that time is not counted.
"""

import argparse
import copy
import math
import os
import shutil
import sys
import tempfile
import threading
import time

import bench
from bench import hosts, median, table, tool

sys.path.insert(0, os.path.join(bench.HERE, "..", "apps"))
import qemu_guest  # noqa: E402
import qemu_migrate  # noqa: E402

CASES = {
  "idle": dict(work=(1, 1)),
  "20 MiB/s": dict(work=(64, 20)),
  "hard": dict(work=(256, 100000)),
}
DOWNTIME_MS = 100
# QEMU's capabilities and parameters, by the way it is done.
BY_QEMU = {
  "QEMU": (["auto-converge"], {}),
  "QEMU, multifd": (["auto-converge", "multifd"],
                    {"multifd-channels": 2, "multifd-compression": "zstd"}),
}
WAYS = (*BY_QEMU, "criu-lite", "criu-lite, memfd")


class Watch:
  """The longest time in which none of the files grew."""

  def __init__(self, *files):
    self.files, self.longest, self.over = files, 0.0, False
    self.thread = threading.Thread(target=self._run)
    self.thread.start()

  def _size(self):
    return sum(os.path.getsize(f) for f in self.files if os.path.exists(f))

  def _run(self):
    last, since = self._size(), time.monotonic()
    while not self.over:
      time.sleep(0.001)
      size, now = self._size(), time.monotonic()
      self.longest = max(self.longest, now - since)
      if size != last:
        last, since = size, now

  def end(self):
    self.over = True
    self.thread.join()
    return self.longest


def by_criu_lite(m):
  got = m.migrate(m.b, ["--max-downtime=%d" % DOWNTIME_MS])
  return m, got["downtime"]


def set_up(machine, how):
  capabilities, parameters = BY_QEMU[how]
  machine.qmp(
      {"execute": "migrate-set-capabilities", "arguments": {"capabilities": [
          {"capability": c, "state": True} for c in capabilities]}},
      {"execute": "migrate-set-parameters", "arguments": {
          "max-bandwidth": 1 << 40, "downtime-limit": DOWNTIME_MS, **parameters}})


def by_qemu(m, target):
  m.qmp({"execute": "migrate", "arguments": {"uri": "tcp:%s:4444" % m.b.ip}})
  end = time.monotonic() + 600
  while True:
    got = m.qmp("query-migrate")
    if got.get("status") == "completed":
      return target, got["downtime"] / 1e3
    if got.get("status") in ("failed", "cancelled") or time.monotonic() > end:
      raise SystemExit("QEMU: %s" % got)
    time.sleep(0.005)


def waiting(m, how):
  """The QEMU on the other host into which this one's guest will come."""
  t = copy.copy(m)
  t.where, t.out = m.b, m.out + ".target"
  t.cmd = [w.replace(m.out, t.out) for w in m.cmd] + ["-incoming", "defer"]
  t.proc = t.where.popen(t.cmd, cwd=t.dir, stdout=t.log, stderr=t.log)
  there = t.where.path(os.path.join(t.own, "qmp"))
  hosts.wait_for(lambda: os.path.exists(there) or t.proc.poll() is not None, 20)
  t.pid = t.proc.pid_inside
  set_up(t, how)
  t.qmp({"execute": "migrate-incoming", "arguments": {"uri": "tcp:%s:4444" % m.b.ip}})
  set_up(m, how)
  return t


def sample(m):
  pages = m.ask("ask")[0]["pages"]
  return pages, time.monotonic()


def one(how, what, made, args):
  """(total, pause, MiB, lost work, downtime as reported, is the guest well) of one move."""
  directory = tempfile.mkdtemp(prefix="criu-lite-qemu-")
  try:
    with hosts.Hosts(2) as net:
      m = qemu_migrate.Machine("bench", net, directory, made, args, memory=args.memory,
                               cpus=args.cpus, share=how == "criu-lite, memfd", tick=5,
                               accel="tcg,thread=single", **what)
      m.start()
      target = waiting(m, how) if how in BY_QEMU else None
      p, t = sample(m)
      time.sleep(args.warm)
      p0, t0 = sample(m)
      rate = (p0 - p) / (t0 - t)
      watch, sent = Watch(m.out, m.out + ".target"), sum(m.a.bytes())
      begin = time.monotonic()
      m, said = by_qemu(m, target) if target else by_criu_lite(m)
      total = time.monotonic() - begin
      sent = sum(net[0].bytes()) - sent
      well = True
      try:
        p1, t1 = sample(m)
        time.sleep(0.5)
        m.settled(m.ask("ask")[0])
        m.end()
      except (qemu_migrate.Failed, OSError) as e:
        print("%s: the guest is broken: %s" % (how, str(e)[:300]), flush=True)
        p1, t1, well = math.nan, math.nan, False
      pause = watch.end()
    return total, pause, sent / (1 << 20), (t1 - t0) - (p1 - p0) / rate, said, well
  finally:
    shutil.rmtree(directory, ignore_errors=True)


def main():
  p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  p.add_argument("--memory", type=int, default=1024, metavar="MIB")
  p.add_argument("--cpus", type=int, default=1, metavar="N")
  p.add_argument("--runs", type=int, default=3, metavar="N")
  p.add_argument("--warm", type=float, default=3.0, metavar="S", help="work before each move")
  p.add_argument("--cases", default=",".join(CASES), metavar="LIST")
  p.add_argument("--tool", metavar="PATH")
  args = p.parse_args()
  args.tool = tool.find_tool(args.tool)
  args.migrate_opt = args.receive_opt = []
  verdicts = bench.Verdicts()
  work = tempfile.mkdtemp(prefix="criu-lite-qemu-guest-")
  rows = [("guest", "moved by", "total", "pause", "said", "MiB", "lost work", "guest well")]
  bad = {}
  try:
    made = qemu_guest.make(work)
    for case in args.cases.split(","):
      got = {}
      for how in WAYS:
        runs = [one(how, CASES[case], made, args) for _ in range(args.runs)]
        well = [r[-1] for r in runs]
        # The pause and the work are those of guests that went on.
        going = [r for r in runs if r[-1]] or [[math.nan] * len(runs[0])]
        got[how] = [median(column) for column in zip(*[r[:-1] for r in runs])]
        got[how][1], got[how][3] = (median(r[i] for r in going) for i in (1, 3))
        total, pause, mib, lost, said = got[how]
        bad[how] = bad.get(how, 0) + well.count(False)
        rows.append((case, how, "%.2f s" % total, "%.0f ms" % (pause * 1e3),
                     "%.0f ms" % (said * 1e3), "%.0f" % mib, "%.2f s" % lost,
                     "%d of %d" % (sum(well), len(well))))
        print("  ".join(rows[-1]), flush=True)
      for how in ("criu-lite", "criu-lite, memfd"):
        ratio = [a / b if b > 0 else float("nan") for a, b in zip(got[how], got["QEMU"])]
        rows.append((case, how + " : QEMU", "%.2f" % ratio[0], "%.2f" % ratio[1],
                     "%.2f" % ratio[4], "%.2f" % ratio[2], "%.2f" % ratio[3], ""))
    print()
    table(rows)
    verdicts.check(not sum(n for how, n in bad.items() if how not in BY_QEMU),
                   "every guest that criu-lite moved found its memory and sums right")
  finally:
    shutil.rmtree(work, ignore_errors=True)
  return 1 if verdicts.bad else 0


if __name__ == "__main__":
  sys.exit(main())
