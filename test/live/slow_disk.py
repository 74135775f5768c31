#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A disk that takes its time: reads past the page cache are under way while the guest moves.

    slow_disk.py [OPTION of run.py]...

The victim `direct` is moved by run.py, with the disk of the temporary directory slowed down for
them by a cgroup.
"""

import contextlib
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
READS = 400                   # per second
ROOT = "/sys/fs/cgroup"
CASES = ["--victims", "direct", "--mode", "migrate,migrate-rounds", "--times", "2", "--jobs", "1"]


class Skipped(Exception):
  pass


def disk():
  """MAJOR:MINOR of the whole disk that the temporary directory is on."""
  dev = os.stat(tempfile.gettempdir()).st_dev
  at = "/sys/dev/block/%d:%d" % (os.major(dev), os.minor(dev))
  if not os.path.isdir(at):
    raise Skipped("the temporary directory is on no disk")
  if os.path.exists(os.path.join(at, "partition")):
    at = os.path.join(os.path.realpath(at), "..")
  with open(os.path.join(at, "dev")) as f:
    return f.read().strip()


def write(path, text):
  with open(path, "w") as f:
    f.write(text)


def slow_group(of):
  """Makes the cgroup; returns its directory."""
  name = "criu-lite-test-%d" % os.getpid()
  if os.path.isdir(os.path.join(ROOT, "blkio")):
    group = os.path.join(ROOT, "blkio", name)
    os.mkdir(group)
    knob, value = "blkio.throttle.read_iops_device", "%s %d" % (of, READS)
  elif os.path.exists(os.path.join(ROOT, "cgroup.subtree_control")):
    group = os.path.join(ROOT, name)
    write(os.path.join(ROOT, "cgroup.subtree_control"), "+io")
    os.mkdir(group)
    knob, value = "io.max", "%s riops=%d" % (of, READS)
  else:
    raise Skipped("no cgroup can slow down a disk here")
  try:
    write(os.path.join(group, knob), value)
  except OSError as e:
    os.rmdir(group)
    raise Skipped("%s: %s" % (knob, e.strerror))
  return group


def main():
  if "-h" in sys.argv or "--help" in sys.argv:
    print(__doc__.strip())
    return 0
  try:
    group = slow_group(disk())
  except (OSError, Skipped) as e:
    print("skip slow disk: %s\n0 passed, 0 failed, 1 skipped" % e)
    return 0
  try:
    return subprocess.call([sys.executable, os.path.join(HERE, "run.py")] + CASES + sys.argv[1:],
                           preexec_fn=lambda: write(os.path.join(group, "cgroup.procs"), "0"))
  finally:
    with contextlib.suppress(OSError):
      os.rmdir(group)


if __name__ == "__main__":
  sys.exit(main())
