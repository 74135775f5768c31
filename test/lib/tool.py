# SPDX-License-Identifier: Apache-2.0
"""Where the built criu-lite is, and what its summary says."""

import json
import os
import re

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def build_dir():
  """$BUILDDIR, or build/ in the tree."""
  return os.path.abspath(os.environ.get("BUILDDIR", os.path.join(TOP, "build")))


def find_tool(given=None):
  """The program: `given`, $CRIU_LITE, or the one in the build directory."""
  given = given or os.environ.get("CRIU_LITE")
  if given:
    return os.path.abspath(given)
  for sub in ("criu-lite/cmd", "criu-lite", "."):
    path = os.path.join(build_dir(), sub, "criu-lite")
    if os.path.isfile(path) and os.access(path, os.X_OK):
      return path
  raise SystemExit("no criu-lite in %s: build it (meson setup build && ninja -C build)"
                   % build_dir())


def summary(text):
  """What migrate printed, with --json or without: rounds, bytes sent, and total and downtime in
  seconds. What is not there is None."""
  for line in text.splitlines():
    if line.startswith("{"):
      got = json.loads(line)
      return {"rounds": got["rounds"], "bytes": got["wire_bytes"],
              "total": got["total_seconds"], "downtime": got["downtime_ms"] / 1e3}

  def number(pattern, unit):
    m = re.search(pattern, text)
    return float(m.group(1)) * unit if m else None
  return {"rounds": number(r"migrated in (\d+) rounds", 1),
          "total": number(r"migrated in \d+ rounds, ([0-9.]+) s", 1),
          "downtime": number(r"downtime: +([0-9.]+) ms", 1e-3),
          "bytes": number(r"([0-9.]+) MiB on the wire", 1 << 20)}
