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

from bench import Guest, Verdicts, compile_guest, hosts, median, memory_for, table, tool
from loads import MIB, limit, move

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
GIVE_UP_S = 30               # a move that takes longer is aborted, and counts as a miss


def downtime(args, program, dirtier, directory, v):
  rows = [["MiB", "dirty MiB/s", "link MiB/s", "max ms", "runs", "not ended", "within", "median ms",
           "worst ms", "predicted off by ms", "total s", "throttle %"]]
  within = runs = 0
  with hosts.Hosts(2) as net:
    for i, (mib, rate, link, most) in enumerate(LOADS):
      n = args.runs // len(LOADS) + (i < args.runs % len(LOADS))
      if not n:
        continue
      got = several(program, net, (dirtier, mib, rate, directory), link, most, n)
      ended = [g for g in got if g.completed]
      down = [g.result["downtime_ms"] for g in ended] or [float("inf")]
      good = sum(d <= most for d in down)
      within, runs = within + good, runs + n
      rows.append([str(mib), str(rate), str(link or "-"), str(most), str(n), str(n - len(ended)),
                   str(good), "%.1f" % median(down), "%.1f" % max(down),
                   "%.1f" % median([abs(g.result["predicted_ms"] - g.result["downtime_ms"])
                                    for g in ended] or [float("inf")]),
                   "%.1f" % median(g.result["total_seconds"] for g in got),
                   "%.0f" % max(g.throttle for g in got)])
      print("load %d of %d is done" % (i + 1, len(LOADS)), file=sys.stderr, flush=True)
  table(rows)
  v.check(within >= 0.95 * runs, "downtime within max-downtime in %d of %d runs" % (within, runs))


def several(program, net, guest_args, link, most, n):
  """Outcomes of `n` moves of one guest, there and back. One that does not end stays where it is."""
  guest, outcomes = Guest(net[0], *guest_args), []
  try:
    for _ in range(n):
      source = guest.host
      target = net[1] if source is net[0] else net[0]
      limit(source, link)
      try:
        got = move(program, guest, target, ["--max-downtime", most, "--auto-converge-mode", "model",
                                            "--comp-method", "none", "--timeout", GIVE_UP_S])
      finally:
        limit(source, None)
      if not got.completed and got.result.get("status") != "aborted":
        raise SystemExit("migrate failed: " + got.err)
      outcomes.append(got)
    if guest.ask()["bad"]:
      raise SystemExit("the guest's memory is not right any more")
  finally:
    guest.kill()
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


def metered(program, guest, target, options):
  """Outcome of a move, the highest second and the mean while pages are sent, both in MiB/s."""
  meter = Meter(guest.host)
  meter.start()
  try:
    got = move(program, guest, target, ["--comp-method", "none", *options])
  finally:
    meter.end()
  bad = guest.ask()["bad"]
  if not got.completed or bad:
    raise SystemExit("migrate failed: %s (%d bad pages)" % (got.err, bad))
  # Neither the beginning nor the switch.
  first, most = meter.seen[0][1], meter.seen[-1][1] - meter.seen[0][1]
  busy = [s for s in meter.seen if 0.1 * most <= s[1] - first <= 0.95 * most]
  mean = (busy[-1][1] - busy[0][1]) / (busy[-1][0] - busy[0][0]) / MIB
  return got, max(meter.rates(WINDOW_S), default=mean), mean


def bandwidth(args, program, dirtier, directory, v):
  rows = [["limit MiB/s", "guest MiB", "total s", "highest second", "mean", "mean without a limit"]]
  for mib_per_s in args.bandwidths:
    mib = int(mib_per_s * args.seconds)
    memory_for(2 * mib + 256)
    with hosts.Hosts(2) as net:
      guest = Guest(net[0], dirtier, mib, 0, directory)
      got, most, mean = metered(program, guest, net[1], ["--bandwidth", mib_per_s])
      _, _, free = metered(program, guest, net[0], [])
      guest.kill()
    rows.append(["%d" % mib_per_s, str(mib), "%.2f" % got.result["total_seconds"], "%.1f" % most,
                 "%.1f" % mean, "%.0f" % free])
    v.check(most <= mib_per_s * (1 + FAR), "%d MiB/s: the highest second has %.1f MiB"
            % (mib_per_s, most))
    # A machine that cannot send so much does not tell whether the limit is reached.
    least = min(mib_per_s, free * 0.8) * (1 - FAR)
    v.check(mean >= least, "%d MiB/s: the mean is %.1f MiB/s, at least %.1f"
            % (mib_per_s, mean, least))
  table(rows)


def main():
  p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  p.add_argument("what", nargs="*", help="downtime, bandwidth (default: both)")
  p.add_argument("--runs", type=int, default=100, help="moves of the downtime part")
  p.add_argument("--bandwidths", type=lambda s: [int(x) for x in s.split(",")],
                 default=[50, 400], help="MiB/s")
  p.add_argument("--seconds", type=float, default=4,
                 help="that a guest's memory takes at the limit")
  args = p.parse_args()
  program, v = tool.find_tool(), Verdicts()
  parts = {"downtime": downtime, "bandwidth": bandwidth}
  with tempfile.TemporaryDirectory(prefix="qos.") as directory:
    dirtier = compile_guest(directory, "dirtier")
    for what in args.what or parts:
      if what not in parts:
        p.error("no such part: " + what)
      parts[what](args, program, dirtier, directory, v)
  return 1 if v.bad else 0


if __name__ == "__main__":
  sys.exit(main())
