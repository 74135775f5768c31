#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Does the sender find the fastest compression by itself, and do connections in parallel pay?

Memory like a heap's lands through 1 and 4 connections, with no compression, levels 1, 3 and 9 of
zstd and `auto`, over a veth without limit and one of 100 MiB/s; and the bandwidth limit is
measured by the veth's counters. Both ends run on this machine and share its CPUs.
"""

import argparse
import os
import re
import subprocess
import sys

from bench import Verdicts, table

METHODS = ("none", "1", "3", "9", "auto")


def landing(program, *options):
  done = subprocess.run([program, "-p", *map(str, options)], text=True, stdout=subprocess.PIPE)
  if done.returncode:
    raise SystemExit("%s exited %d" % (program, done.returncode))
  return done.stdout


def land(program, link, conns, method, args):
  """(seconds, bytes on the wire by bytes of memory, levels at the end)"""
  out = landing(program, "-m", args.mib, "-r", args.rounds, "-c", conns, "-z", method,
                *(["-t", link] if link else []))
  seconds = float(re.search(r"pages ([0-9.]+) s \(median\)", out).group(1))
  wire, levels = re.findall(r"wire ([0-9.]+) of memory; levels: (.*)", out)[-1]
  return seconds, float(wire), levels


def compare(program, link, args, verdicts):
  name = "%d MiB/s" % link if link else "unlimited"
  rows = [("link " + name, "connections", "seconds", "to best fixed", "wire", "levels at the end")]
  best, figures = {}, {}
  for conns in (1, 4):
    got = {m: land(program, link, conns, m, args) for m in METHODS}
    best[conns] = min(got[m][0] for m in METHODS if m != "auto")
    for m in METHODS:
      seconds, wire, levels = got[m]
      rows.append((m, str(conns), "%.2f" % seconds, "%.2f" % (seconds / best[conns]),
                   "%.2f" % wire, levels))
      figures[m, conns] = seconds
  table(rows)
  for conns in (1, 4):
    ratio = figures["auto", conns] / best[conns]
    verdicts.check(ratio <= args.auto, "%s, %d connections: auto takes %.2f x the best fixed "
                   "method (at most %.2f)" % (name, conns, ratio, args.auto))
  for m in ("1", "3"):
    ratio = figures[m, 4] / figures[m, 1]
    verdicts.check(ratio <= 1.05, "%s, zstd %s: 4 connections take %.2f x the time of 1 "
                   "(at most 1.05)" % (name, m, ratio))


def bandwidth(program, mibs, verdicts):
  out = landing(program, "-m", max(256, mibs * 5 // 2), "-r", 1, "-c", 2, "-z", "none", "-b", mibs)
  mean, least, most = map(float, re.findall(
      r"link: ([0-9.]+) MiB/s, slowest second ([0-9.]+), fastest ([0-9.]+)", out)[-1])
  verdicts.check(least >= 0.95 * mibs and most <= 1.05 * mibs,
                 "limit of %d MiB/s: %.1f on the link, any second between %.1f and %.1f (5 %%)"
                 % (mibs, mean, least, most))


def main():
  p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  p.add_argument("program", nargs="?", default="build/test/bench/landing")
  p.add_argument("--mib", type=int, default=512, help="memory (default 512)")
  p.add_argument("--rounds", type=int, default=3, metavar="N", help="median of N (default 3)")
  p.add_argument("--auto", type=float, default=1.2, metavar="RATIO",
                 help="bound of auto to the best fixed method (default 1.2)")
  args = p.parse_args()
  if os.geteuid():
    p.exit(1, "root is needed\n")
  verdicts = Verdicts()
  for link in (0, 100):
    compare(args.program, link, args, verdicts)
  for mibs in (50, 400):
    bandwidth(args.program, mibs, verdicts)
  return 1 if verdicts.bad else 0


if __name__ == "__main__":
  sys.exit(main())
