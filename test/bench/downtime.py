#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Downtime of a migration against the guest's size, and stop to run of an idle guest.

Guests of 256 MiB, 1 GiB and 4 GiB that change 50 MiB/s move between two hosts; the figures
are medians. The bounds: the downtime at 4 GiB is at most 1.5 times that at 256 MiB, and an
idle guest stands still for at most 10 ms.
"""

import argparse
import sys
import tempfile

from bench import Guest, Verdicts, compile_guest, hosts, median, memory_for, migrate, table, tool


def there_and_back(args, net, program, mib, rate, moves, directory):
  """Median (downtime by the tool, standstill by the guest), rounds, bytes; bad pages."""
  guest = Guest(net[0], program, mib, rate, directory)
  down, gaps, rounds, sent, bad = [], [], [], [], 0
  for i in range(moves + 1):
    guest.ask()
    got = migrate(args.tool, guest, net[(i + 1) % 2], args.migrate_opt)
    seen = guest.ask()
    bad += seen["bad"]
    if i == 0:
      continue  # the first one warms the machine's memory up
    down.append(got["downtime"])
    gaps.append(seen["gap_us"] / 1e6)
    rounds.append(got["rounds"])
    sent.append(got["bytes"])
  guest.kill()
  return median(down), median(gaps), median(rounds), median(sent), bad


def main():
  p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  p.add_argument("--tool", metavar="PATH")
  p.add_argument("--sizes", default="256,1024,4096", help="MiB, with commas")
  p.add_argument("--rate", type=int, default=50, help="MiB/s that the guest changes")
  p.add_argument("--moves", type=int, default=5, help="moves for each size")
  p.add_argument("--idle-moves", type=int, default=11)
  p.add_argument("--migrate-opt", action="append", default=[], metavar="OPT")
  args = p.parse_args()
  args.tool = tool.find_tool(args.tool)
  sizes = [int(s) for s in args.sizes.split(",")]
  memory_for(max(sizes) * 5 // 2 + 512)
  verdicts = Verdicts()
  rows = [("guest", "changes", "rounds", "sent", "downtime", "standstill it saw")]
  figures, wrong = {}, 0
  with tempfile.TemporaryDirectory(prefix="criu-lite-bench-") as directory, \
          hosts.Hosts(2) as net:
    program = compile_guest(directory)
    runs = [(64, 0, args.idle_moves)] + [(mib, args.rate, args.moves) for mib in sizes]
    for mib, rate, moves in runs:
      down, gap, rounds, sent, bad = there_and_back(args, net, program, mib, rate, moves,
                                                    directory)
      figures[mib, rate] = down
      wrong += bad
      rows.append(("%d MiB" % mib, "%d MiB/s" % rate if rate else "idle", "%g" % rounds,
                   "%.0f MiB" % (sent / (1 << 20)), "%.2f ms" % (down * 1e3),
                   "%.2f ms" % (gap * 1e3)))
  table(rows)
  idle = figures[64, 0]
  verdicts.check(idle <= 0.010, "idle: %.2f ms, at most 10" % (idle * 1e3))
  ratio = figures[sizes[-1], args.rate] / figures[sizes[0], args.rate]
  verdicts.check(ratio <= 1.5, "%d MiB takes %.2f times as long as %d MiB, at most 1.5"
                 % (sizes[-1], ratio, sizes[0]))
  verdicts.check(wrong == 0, "%d wrong pages" % wrong)
  return 1 if verdicts.bad else 0


if __name__ == "__main__":
  sys.exit(main())
