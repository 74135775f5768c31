#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Does a migration end, how soon, and what does that cost the guest?

A guest sweeps over its memory and dirties W MiB/s of it, over a link of L MiB/s (tbf on the veth),
for W/L of 0.5, 1, 2, 5 and 10: without auto-converge, with QEMU's ramp, and with the model. "lost"
is work of the guest by its own loop counter, in seconds of an undisturbed run. "QEMU" is how long
QEMU's rules would take by arithmetic alone: rounds, threshold and steps without any overhead.
"""

import argparse
import os
import sys
import tempfile
import time

from bench import Guest, Verdicts, compile_guest, hosts, memory_for, table, tool
from loads import limit, move, report

MODES = {"off": ["--no-auto-converge"], "ramp": ["--auto-converge-mode", "ramp"],
         "model": ["--auto-converge-mode", "model"]}


def qemu_seconds(mib, rate, link, max_downtime, mode, give_up):
  """QEMU's arithmetic: a round is over when all that was dirty is sent; if more than half of that
  was dirtied meanwhile, for the second time, the throttle rises. None: not within `give_up`."""
  now, pending, high, throttle = 0.0, float(mib), 0, 0
  while pending > link * max_downtime / 1e3:
    took = pending / link
    now += took
    if now > give_up:
      return None
    dirty = min(mib, rate * (100 - throttle) / 100 * took)
    if mode == "ramp" and dirty * 100 > pending * 50:
      high += 1
      if high == 2:
        high, throttle = 0, min(99, throttle + 10 if throttle else 20)
    pending = dirty
  return now + pending / link


def undisturbed(guest, seconds):
  """Pages per second that it writes when nobody disturbs it."""
  a = guest.ask()
  time.sleep(seconds)
  b = guest.ask()
  return (b["pages"] - a["pages"]) / (b["us"] - a["us"]) * 1e6


def run(args, program, dirtier, net, ratio, mode, directory):
  """One migration: a dict of what came of it."""
  rate = int(ratio * args.link)
  guest = Guest(net[0], dirtier, args.mib, rate, directory)
  give_up = args.give_up if mode == "off" else args.limit
  try:
    speed = undisturbed(guest, args.baseline)
    before = guest.ask()
    limit(net[0], args.link)
    try:
      outcome = move(program, guest, net[1],
                     ["--max-downtime", args.max_downtime, "--comp-method", "none",
                      "--timeout", give_up, "--timeout-action", "abort", *MODES[mode]],
                     timeout=give_up + 60)
    finally:
      limit(net[0], None)
    after = guest.ask()
    if args.keep:
      report(program, outcome, os.path.join(args.keep, "%g-%s" % (ratio, mode)))
    if outcome.code and outcome.result.get("status") != "aborted":
      raise SystemExit("migrate failed: " + outcome.err)
    took = (after["us"] - before["us"]) / 1e6
    bad = after["bad"] + guest.ask()["bad"]
    return {"outcome": outcome, "bad": bad, "rate": rate, "speed": speed * 4096 / (1 << 20),
            "lost": took - (after["pages"] - before["pages"]) / speed}
  finally:
    guest.kill()


def row(args, ratio, mode, got):
  r = got["outcome"].result
  done = got["outcome"].completed
  model = None if mode == "model" else qemu_seconds(args.mib, got["rate"], args.link,
                                                    args.max_downtime, mode, args.limit)
  return ["%g" % ratio, "%.0f" % got["speed"], mode, "yes" if done else "no",
          "%.1f" % r["total_seconds"],
          "-" if mode == "model" else "%.1f" % model if model else "never",
          "%d" % r["rounds"], "%.0f" % (r["wire_bytes"] / (1 << 20)),
          "%.0f" % r["downtime_ms"] if done else "-", "%.0f" % r["predicted_ms"] if done else "-",
          "%.0f" % got["outcome"].throttle, "%.1f" % got["lost"], "%d" % got["bad"]]


HEAD = ["W/L", "W MiB/s", "mode", "converged", "total s", "QEMU s", "rounds", "sent MiB",
        "downtime ms", "predicted", "throttle %", "lost s", "bad pages"]


def judge(args, results):
  v = Verdicts()
  for (ratio, mode), got in results.items():
    r, done = got["outcome"].result, got["outcome"].completed
    v.check(got["bad"] == 0, "W/L %g %s: memory is right" % (ratio, mode))
    if mode != "off":
      v.check(done, "W/L %g %s: converges" % (ratio, mode))
      if done:
        v.check(r["downtime_ms"] <= args.max_downtime, "W/L %g %s: downtime %.0f ms of %d"
                % (ratio, mode, r["downtime_ms"], args.max_downtime))
  ramp, model = results.get((5, "ramp")), results.get((5, "model"))
  if ramp and model:
    a, b = (x["outcome"].result["total_seconds"] for x in (model, ramp))
    v.check(a <= 0.5 * b, "W/L 5: model takes %.1f s, at most half of ramp's %.1f s" % (a, b))
    v.check(model["lost"] <= ramp["lost"], "W/L 5: model costs the guest %.1f s of work, ramp "
            "%.1f s" % (model["lost"], ramp["lost"]))
  return v.bad


def main():
  p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  p.add_argument("--mib", type=int, default=64, help="guest's memory")
  p.add_argument("--link", type=int, default=40, help="MiB/s")
  p.add_argument("--max-downtime", type=int, default=300, help="ms")
  p.add_argument("--ratios", default="0.5,1,2,5,10", help="W/L")
  p.add_argument("--modes", default="off,ramp,model")
  p.add_argument("--give-up", type=int, default=15, help="s, without auto-converge")
  p.add_argument("--limit", type=int, default=120, help="s, with it")
  p.add_argument("--baseline", type=float, default=1.5, help="s of the undisturbed run")
  p.add_argument("--keep", metavar="DIR", help="put a report of each migration there")
  args = p.parse_args()
  program = tool.find_tool()
  memory_for(4 * args.mib + 256)
  if args.keep:
    os.makedirs(args.keep, exist_ok=True)
  results, rows = {}, [HEAD]
  with tempfile.TemporaryDirectory(prefix="converge.") as directory, hosts.Hosts(2) as net:
    dirtier = compile_guest(directory, "dirtier")
    for ratio in map(float, args.ratios.split(",")):
      for mode in args.modes.split(","):
        got = results[ratio, mode] = run(args, program, dirtier, net, ratio, mode, directory)
        rows.append(row(args, ratio, mode, got))
        print("W/L %g %s: %s" % (ratio, mode, " ".join("%s %s," % pair for pair in
                                                      zip(HEAD[3:], rows[-1][3:]))), flush=True)
  print()
  table(rows)
  return 1 if judge(args, results) else 0


if __name__ == "__main__":
  sys.exit(main())
