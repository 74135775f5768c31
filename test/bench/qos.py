#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Are the limits of a migration kept?

downtime: guests of different size, dirty rate, link and max-downtime move back and forth; the
downtime must be within max-downtime in 95 of 100 of the runs. bandwidth: a guest of noise moves
under --bandwidth; what its host's veth sent is read every 20 ms. In no second may it be more than
the limit by over 5 %, and while pages are sent the mean may not be less than it by over 5 %.
"""

import argparse
import sys
import tempfile
import threading
import time

from bench import Verdicts, hosts, median, memory_for, table, tool
from loads import MIB, Dirtier, compile_dirtier, limit, move

# MiB of the guest, MiB/s that it dirties, MiB/s of the link (0: no limit), max-downtime in ms.
LOADS = [
  (64, 0, 100, 30),
  (64, 5, 100, 100),
  (128, 40, 0, 50),
  (256, 100, 0, 300),
  (96, 60, 80, 300),
  (64, 80, 40, 300),
]
FAR = 0.05                   # what a limit may be missed by
WINDOW_S = 1.0


def downtime(args, program, dirtier, directory, v):
  rows = [["MiB", "dirty MiB/s", "link MiB/s", "max ms", "runs", "within", "median ms", "worst ms",
           "predicted off by ms", "total s", "throttle %"]]
  within = runs = 0
  with hosts.Hosts(2) as net:
    for i, (mib, rate, link, most) in enumerate(LOADS):
      n = args.runs // len(LOADS) + (i < args.runs % len(LOADS))
      if not n:
        continue
      got = several(program, net, (dirtier, mib, rate, directory), link, most, n)
      down = [g.result["downtime_ms"] for g in got]
      good = sum(d <= most for d in down)
      within, runs = within + good, runs + n
      rows.append([str(mib), str(rate), str(link or "-"), str(most), str(n), str(good),
                   "%.1f" % median(down), "%.1f" % max(down),
                   "%.1f" % median(abs(g.result["predicted_ms"] - g.result["downtime_ms"])
                                   for g in got),
                   "%.1f" % median(g.result["total_seconds"] for g in got),
                   "%.0f" % max(g.throttle for g in got)])
      print("load %d of %d is done" % (i + 1, len(LOADS)), file=sys.stderr, flush=True)
  table(rows)
  v.check(within >= 0.95 * runs, "downtime within max-downtime in %d of %d runs" % (within, runs))


def several(program, net, guest_args, link, most, n):
  """Outcomes of `n` moves of one guest, there and back."""
  guest, outcomes = Dirtier(net[0], *guest_args), []
  try:
    for i in range(n):
      source, target = net[i % 2], net[(i + 1) % 2]
      limit(source, link)
      try:
        got = move(program, guest, target, ["--max-downtime", most, "--auto-converge-mode", "model",
                                            "--comp-method", "none", "--timeout", 120])
      finally:
        limit(source, None)
      if not got.completed:
        raise SystemExit("migrate failed: " + got.err)
      outcomes.append(got)
    if guest.ask()["bad"]:
      raise SystemExit("the guest's memory is not right any more")
  finally:
    guest.close()
  return outcomes


class Meter(threading.Thread):
  """(s, bytes sent) of a host's veth, every 20 ms."""

  def __init__(self, host):
    super().__init__()
    self.host, self.ended, self.seen = host, threading.Event(), []

  def run(self):
    while not self.ended.is_set():
      self.seen.append((time.monotonic(), self.host.bytes()[1]))
      time.sleep(0.02)

  def end(self):
    self.ended.set()
    self.join()

  def rates(self, window):
    """MiB/s of each stretch of `window` seconds at least."""
    rates, a = [], 0
    for now, sent in self.seen:
      while a + 1 < len(self.seen) and now - self.seen[a + 1][0] >= window:
        a += 1
      took = now - self.seen[a][0]
      if took >= window:
        rates.append((sent - self.seen[a][1]) / took / MIB)
    return rates


def bandwidth(args, program, dirtier, directory, v):
  rows = [["limit MiB/s", "guest MiB", "total s", "highest of a second", "mean while sending"]]
  for mib_per_s in args.bandwidths:
    mib = int(mib_per_s * args.seconds)
    memory_for(2 * mib + 256)
    with hosts.Hosts(2) as net:
      guest = Dirtier(net[0], dirtier, mib, 0, directory)
      meter = Meter(net[0])
      meter.start()
      try:
        got = move(program, guest, net[1], ["--bandwidth", mib_per_s, "--comp-method", "none"])
      finally:
        meter.end()
      bad = guest.ask()["bad"]
      guest.close()
    if not got.completed or bad:
      raise SystemExit("migrate failed: %s (%d bad pages)" % (got.err, bad))
    rates = meter.rates(WINDOW_S)
    # From the second tenth of the bytes to the last: neither the beginning nor the switch.
    most = meter.seen[-1][1] - meter.seen[0][1]
    busy = [s for s in meter.seen if 0.1 * most <= s[1] - meter.seen[0][1] <= 0.95 * most]
    mean = (busy[-1][1] - busy[0][1]) / (busy[-1][0] - busy[0][0]) / MIB
    rows.append(["%g" % mib_per_s, str(mib), "%.2f" % got.result["total_seconds"],
                 "%.1f" % max(rates), "%.1f" % mean])
    v.check(max(rates) <= mib_per_s * (1 + FAR), "%g MiB/s: the highest second has %.1f MiB"
            % (mib_per_s, max(rates)))
    v.check(mean >= mib_per_s * (1 - FAR), "%g MiB/s: the mean is %.1f MiB/s" % (mib_per_s, mean))
  table(rows)


def main():
  p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  p.add_argument("what", nargs="*", help="downtime, bandwidth (default: both)")
  p.add_argument("--runs", type=int, default=100, help="moves of the downtime part")
  p.add_argument("--bandwidths", type=lambda s: [float(x) for x in s.split(",")],
                 default=[50.0, 400.0], help="MiB/s")
  p.add_argument("--seconds", type=float, default=4, help="that a guest's memory takes at the limit")
  args = p.parse_args()
  program, v = tool.find_tool(), Verdicts()
  parts = {"downtime": downtime, "bandwidth": bandwidth}
  with tempfile.TemporaryDirectory(prefix="qos.") as directory:
    dirtier = compile_dirtier(directory)
    for what in args.what or parts:
      if what not in parts:
        p.error("no such part: " + what)
      parts[what](args, program, dirtier, directory, v)
  return 1 if v.bad else 0


if __name__ == "__main__":
  sys.exit(main())
