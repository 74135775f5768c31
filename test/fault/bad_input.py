#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Bad input: each a clear message and a non-zero exit, with nothing changed.

    bad_input.py [--tool PATH] [--victims-dir DIR] [--only PART,...] [--kills N] [--seed N]

The guest of each test goes on as if nothing had happened, and ends with its own checks; no
process is left that was not there before.
"""

import argparse
import os
import sys

import bad_command
import bad_images
import bad_kinds
import bad_migrate
import frame
from frame import tool


def main():
  p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  p.add_argument("--tool", help="the program (default: $CRIU_LITE, or the one in $BUILDDIR)")
  p.add_argument("--victims-dir", help="where the victims are built (default: beside the tool)")
  p.add_argument("--only", help="tests whose names contain one of these, by comma")
  p.add_argument("--kills", type=int, default=50, help="how often migrate is killed")
  p.add_argument("--seed", type=int, default=1, help="of all that is random")
  opts = p.parse_args()
  opts.tool = tool.find_tool(opts.tool)
  if not opts.victims_dir:
    at = os.path.dirname(opts.tool)
    while at != "/" and not os.path.isdir(os.path.join(at, "test/live")):
      at = os.path.dirname(at)
    opts.victims_dir = os.path.join(tool.build_dir() if at == "/" else at, "test/live")
  if os.geteuid():
    sys.exit("bad_input.py: must run as root")
  tests = []
  for part in (bad_command, bad_kinds, bad_images, bad_migrate):
    tests += part.tests(opts)
  return frame.run_tests(tests, opts)


if __name__ == "__main__":
  sys.exit(main())
