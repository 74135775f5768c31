# SPDX-License-Identifier: Apache-2.0
"""Where the built criu-lite is, and what its summary says."""

import os
import re
import subprocess

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


def options_of(tool, command):
    """The long options that `criu-lite COMMAND --help` names."""
    done = subprocess.run([tool, command, "--help"], text=True, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return set(re.findall(r"--[a-z][a-z0-9-]*", done.stdout))


_SIZES = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_TIMES = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0}


def _seconds(text, name):
    m = re.search(name + r"\D{0,20}?([0-9.]+) *(us|µs|ms|s)\b", text)
    return float(m.group(1)) * _TIMES[m.group(2)] if m else None


def summary(text):
    """What migrate printed: rounds, bytes, total and downtime (both in seconds)."""
    got = {"rounds": None, "bytes": None}
    m = re.search(r"rounds?\D{0,4}?(\d+)", text) or re.search(r"(\d+) rounds?", text)
    if m:
        got["rounds"] = int(m.group(1))
    m = re.search(r"(\d+(?:\.\d+)?) *(bytes|[KMG]iB|B)\b", text)
    if m:
        got["bytes"] = int(float(m.group(1)) * _SIZES.get(m.group(2), 1))
    got["downtime"] = _seconds(text, "downtime") or _seconds(text, "stood still")
    got["total"] = _seconds(text, "total")
    return got
