#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Layers: a file may include what stands above its layer, and nothing else.

For every layer and every header of every layer, a file with that one include is compiled
with exactly the flags that the build gives the layer. It must compile if the layer may
include the header, and must not if it may not.
"""

import glob
import json
import os
import re
import subprocess
import sys

import tool

# layer: (its directory, the layers it may include besides itself)
LAYERS = {
    "base": ("criu-lite/base", ""),
    "proto": ("proto", ""),
    "images": ("images", "base proto"),
    "proc": ("criu-lite/proc", "base"),
    "wire": ("criu-lite/wire", "base"),
    "net": ("criu-lite/net", "base proc"),
    "remote": ("criu-lite/remote", "base"),
    "kinds": ("criu-lite/kinds", "base proto images proc net remote"),
    "task": ("criu-lite/task", "base proto images proc net remote kinds"),
    "pages": ("criu-lite/pages", "base proto images proc wire net remote kinds task"),
    "flow": ("criu-lite/flow", "base proto images proc wire net remote kinds task pages"),
}


def flags_of_layers(build):
  """layer: the compiler command of its library."""
  out = subprocess.run(["meson", "introspect", "--targets", build], check=True,
                       stdout=subprocess.PIPE, text=True).stdout
  flags = {}
  for target in json.loads(out):
    if target["type"] != "static library" or target["name"] not in LAYERS:
      continue
    for src in target["target_sources"]:
      if src.get("language") == "c":
        flags[target["name"]] = src["compiler"] + src["parameters"]
  return flags


def headers(build, where):
  found = glob.glob(os.path.join(tool.TOP, where, "*.h"))
  found += glob.glob(os.path.join(build, where, "*.pb-c.h"))
  return sorted({os.path.basename(h) for h in found})


def compiles(build, flags, header, where):
  """(does the include compile, does it find the header in `where`, what was said)."""
  # -Wno-unused: a header may hold static helpers that this file does not call.
  done = subprocess.run(flags + ["-Wno-unused", "-fdiagnostics-color=never", "-H",
                                 "-fsyntax-only", "-x", "c", "-"], cwd=build,
                        input='#include "%s"\n' % header, text=True,
                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
  # -H prints ". path" for what the file itself includes. A header of the C library may
  # have the same name (err.h).
  first = [line[2:] for line in done.stdout.splitlines() if line.startswith(". ")]
  dirs = {os.path.join(tool.TOP, where), os.path.join(build, where)}
  found = any(os.path.dirname(os.path.abspath(os.path.join(build, path))) in dirs
              for path in first)
  said = [line for line in done.stdout.splitlines() if not re.match(r"[.!]+ ", line)]
  return done.returncode == 0, found, "\n".join(said)


def main():
  build = tool.build_dir()
  flags = flags_of_layers(build)
  passed = failed = skipped = 0
  for name, (_, above) in LAYERS.items():
    if name not in flags:
      if name != "proto":  # it holds no C of its own
        print("layer %s: no such library in the build" % name)
        failed += 1
      continue
    for other, (where, _) in LAYERS.items():
      may = other == name or other in above.split()
      for header in headers(build, where):
        ok, found, text = compiles(build, flags[name], header, where)
        # What a layer keeps for itself need not compile elsewhere.
        if found == may and (ok or other != name):
          passed += 1
          continue
        failed += 1
        print("%s including %s of %s: %s\n%s" % (
            name, header, other,
            "should compile" if may else "should not be found", text))
  print("%d passed, %d failed, %d skipped" % (passed, failed, skipped))
  return 1 if failed or not passed else 0


if __name__ == "__main__":
  sys.exit(main())
