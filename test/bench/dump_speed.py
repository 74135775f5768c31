#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""dump and restore to tmpfs against a plain write() and read() of the same bytes.

The bound for each: at least 1 GiB/s of warm memory, or 70 % of the plain write() or read(),
whichever is lower. The figures are medians of runs that take turns.
"""

import argparse
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
import time

from bench import Guest, Verdicts, compile_guest, hosts, median, memory_for, table, tool

PIECE = 1 << 20


def plain_write(memory, path):
  """Seconds to write `memory` into a new file."""
  view = memoryview(memory)
  begin = time.monotonic()
  fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
  for at in range(0, len(memory), PIECE):
    os.write(fd, view[at:at + PIECE])
  os.close(fd)
  took = time.monotonic() - begin
  view.release()
  return took


def plain_read(path, size):
  """Seconds to read the file into memory that was never touched."""
  begin = time.monotonic()
  memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
  view = memoryview(memory)
  fd = os.open(path, os.O_RDONLY)
  for at in range(0, size, PIECE):
    os.readv(fd, [view[at:at + PIECE]])
  os.close(fd)
  took = time.monotonic() - begin
  view.release()
  memory.close()
  return took


def timed(host, cmd):
  begin = time.monotonic()
  done = host.run(cmd, timeout=300, stderr=subprocess.STDOUT)
  took = time.monotonic() - begin
  if done.returncode:
    raise SystemExit("%s exited %d:\n%s" % (cmd[1], done.returncode, done.stdout))
  return took


def measure(args, host, directory):
  """{what: [seconds]} of `args.runs` rounds after one that warms up."""
  guest = Guest(host, compile_guest(directory), args.mib, 0, directory)
  size = args.mib << 20
  memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
  for at in range(0, size, PIECE):
    memory[at:at + PIECE] = os.urandom(PIECE)
  plain = os.path.join(directory, "plain")
  images = os.path.join(directory, "images")
  took = {"dump": [], "restore": [], "write": [], "read": [], "start": []}
  for _ in range(args.runs + 1):
    os.mkdir(images)
    took["write"].append(plain_write(memory, plain))
    took["read"].append(plain_read(plain, size))
    os.unlink(plain)
    # What it takes to enter the host is not the tool's.
    took["start"].append(timed(host, ["true"]))
    took["dump"].append(timed(host, [args.tool, "dump", "-t", guest.pid, "-D", images]))
    took["restore"].append(timed(host, [args.tool, "restore", "-D", images, "-d"]))
    shutil.rmtree(images)
  bad = guest.ask()["bad"]
  guest.kill()
  memory.close()
  return {what: median(t[1:]) for what, t in took.items()}, bad


def main():
  p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  p.add_argument("--tool", metavar="PATH")
  p.add_argument("--mib", type=int, default=1024)
  p.add_argument("--runs", type=int, default=5)
  args = p.parse_args()
  args.tool = tool.find_tool(args.tool)
  memory_for(args.mib * 4)
  with tempfile.TemporaryDirectory(prefix="criu-lite-bench-", dir="/dev/shm") as directory, \
          hosts.Hosts(1) as net:
    took, bad = measure(args, net[0], directory)
  gib = args.mib / 1024
  rows = [("", "seconds", "GiB/s")]
  speed = {}
  for what in ("dump", "write", "restore", "read"):
    seconds = took[what] - (took["start"] if what in ("dump", "restore") else 0)
    speed[what] = gib / seconds
    rows.append((what, "%.3f" % seconds, "%.2f" % speed[what]))
  table(rows)
  verdicts = Verdicts()
  for what, peer in (("dump", "write"), ("restore", "read")):
    bound = min(1.0, 0.7 * speed[peer])
    verdicts.check(speed[what] >= bound, "%s: %.2f GiB/s, at least %.2f (%.0f %% of %s())"
                   % (what, speed[what], bound, 100 * speed[what] / speed[peer], peer))
  verdicts.check(bad == 0, "%d wrong pages" % bad)
  return 1 if verdicts.bad else 0


if __name__ == "__main__":
  sys.exit(main())
