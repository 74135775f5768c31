#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Debian's crit decodes every image that a dump writes, and criu-lite show prints it.

crit_guest.py is dumped; then each image is one test for crit and one for show. Files of
pages have no header and are not for crit. After that the images are restored once.
"""

import glob
import json
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
import hosts  # noqa: E402
import tool  # noqa: E402

# What a dump of this guest must hold. crit's names, without the numbers.
EXPECTED = ["core", "fdinfo", "files", "fs", "ids", "inventory", "mm", "pagemap",
            "pages", "pstree"]


class Tally:
  def __init__(self):
    self.passed = self.failed = 0

  def check(self, good, text):
    self.passed += bool(good)
    self.failed += not good
    if not good:
      print(text)

  def close(self):
    print("%d passed, %d failed, 0 skipped" % (self.passed, self.failed))
    return 1 if self.failed or not self.passed else 0


def dump(program, host, directory, tally):
  """Dumps the guest; returns the image directory, or None."""
  work, images = os.path.join(directory, "work"), os.path.join(directory, "images")
  os.mkdir(work)
  os.mkdir(images)
  guest = host.popen([sys.executable or "python3", os.path.join(HERE, "crit_guest.py"), work],
                     stdout=os.path.join(directory, "guest.log"), stderr=subprocess.STDOUT)
  try:
    hosts.wait_for(lambda: os.path.exists(os.path.join(work, "ready")), 20)
  except TimeoutError:
    raise SystemExit("the guest failed: " + open(os.path.join(directory, "guest.log")).read())
  done = host.run([program, "dump", "-t", guest.pid_inside, "-D", images], timeout=60,
                  stderr=subprocess.STDOUT)
  tally.check(done.returncode == 0, "dump exited %d:\n%s" % (done.returncode, done.stdout))
  return None if done.returncode else images


def kind_of(path):
  """core-12.img: core"""
  return os.path.basename(path)[:-len(".img")].split("-")[0]


def decode(path):
  """What crit says: (True, its entries) or (False, its error)."""
  done = subprocess.run(["/usr/bin/crit", "decode", "-i", path], text=True,
                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                        stderr=subprocess.PIPE)
  if done.returncode:
    return False, done.stderr[-1000:]
  try:
    entries = json.loads(done.stdout)["entries"]
  except (ValueError, KeyError) as e:
    return False, repr(e)
  return True, entries


def check_images(program, images, tally):
  for name in EXPECTED:
    tally.check(glob.glob("%s/%s*.img" % (images, name)), "no %s image" % name)
  for path in sorted(glob.glob(images + "/*.img")):
    name = os.path.basename(path)
    if kind_of(path) == "pages":
      continue
    good, said = decode(path)
    tally.check(good, "crit decode %s: %s" % (name, said))
    done = subprocess.run([program, "show", path], text=True, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    tally.check(done.returncode == 0 and (done.stdout.strip() or not said),
                "criu-lite show %s exited %d: %s" % (name, done.returncode, done.stderr))


def main():
  program = tool.find_tool()
  tally = Tally()
  with tempfile.TemporaryDirectory(prefix="criu-lite-crit-") as directory, \
          hosts.Hosts(1) as (host,):
    images = dump(program, host, directory, tally)
    if images:
      check_images(program, images, tally)
      done = host.run([program, "restore", "-D", images, "-d"], timeout=60,
                      stderr=subprocess.STDOUT)
      tally.check(done.returncode == 0,
                  "restore exited %d:\n%s" % (done.returncode, done.stdout))
  return tally.close()


if __name__ == "__main__":
  sys.exit(main())
