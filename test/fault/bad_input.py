#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Bad input: each a clear message and a non-zero exit, with nothing changed.

    bad_input.py [--tool PATH] [--victims-dir DIR] [--only PART,...] [--kills N] [--seed N]

The guest of each test goes on as if nothing had happened, and ends with its own checks; no
process is left that was not there before.
"""

import sys

import bad_command
import bad_images
import bad_kinds
import bad_migrate
import frame


def more_options(p):
  p.add_argument("--kills", type=int, default=50, help="how often migrate is killed")
  p.add_argument("--seed", type=int, default=1, help="of all that is random")


def main():
  opts = frame.options(__doc__, more_options)
  tests = []
  for part in (bad_command, bad_kinds, bad_images, bad_migrate):
    tests += part.tests(opts)
  return frame.run_tests(tests, opts)


if __name__ == "__main__":
  sys.exit(main())
