#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The driver of test/vm/run: see README.md."""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
import cases  # noqa: E402
import full  # noqa: E402
import image  # noqa: E402
import tool  # noqa: E402
import vm  # noqa: E402


class Image:
  def __init__(self, package, build, directory, name="initramfs"):
    self.build = build
    cache = os.path.join(build, "vm")
    os.makedirs(cache, exist_ok=True)
    self.kernel = image.kernel(package, cache)
    self.vmlinuz = self.kernel.vmlinuz
    self.initramfs = image.initramfs(self.kernel, build, os.path.join(directory, name))


class Report:
  """Prints one line a case and counts. A FAIL comes with what was said."""

  def __init__(self, only):
    self.count = {"ok": 0, "FAIL": 0, "skip": 0}
    self.only, self.begin = only, time.monotonic()

  def __call__(self, verdict, name, text):
    self.count[verdict] += 1
    print("%-4s %6.1f s  %-44s %s" % (verdict, time.monotonic() - self.begin, name, text.rstrip()),
          flush=True)

  def case(self, name, what, *args):
    """Runs what(*args), which returns a text; true if it passed."""
    if self.only and not any(o in name for o in self.only):
      return True
    try:
      self("ok", name, what(*args) or "")
      return True
    except cases.Skipped as e:
      self("skip", name, str(e))
      return True
    except Exception as e:
      known = isinstance(e, vm.Failed)
      self("FAIL", name, str(e) if known else traceback.format_exc())
    return False

  def group(self, name, what, *args):
    """Like case(), of something that reports its cases itself."""
    if self.only and not any(o in name for o in self.only):
      return
    try:
      what(*args)
    except Exception as e:
      self("FAIL", name, str(e) if isinstance(e, vm.Failed) else traceback.format_exc())

  def end(self):
    print("%d passed, %d failed, %d skipped"
          % (self.count["ok"], self.count["FAIL"], self.count["skip"]), flush=True)
    return 1 if self.count["FAIL"] or not self.count["ok"] else 0


def up(report, name, machine):
  """Waits until it has booted, also if only other cases are wanted."""
  try:
    text = "%.1f s, Linux %s" % (machine.ready(), machine.kernel)
  except vm.Failed as e:
    report("FAIL", name, str(e))
    return False
  return report.case(name, lambda: text)


def short_set(net, report):
  # Two at a time would only share the CPU; b boots while a works.
  a, b = net.boot("a"), net.boot("b")
  if not up(report, "boot a", a):
    return
  report.group("unit", cases.programs, a, "unit", report, 2)
  report.group("kind", cases.programs, a, "kind", report, 1)
  report.group("live", cases.victims, a, report, cases.SHORT_VICTIMS, cases.SHORT_MODES)
  report.group("live", cases.victims, a, report, cases.SHORT_ROUNDS, "migrate-rounds")
  if not up(report, "boot b", b):
    return
  guest = cases.Guest(net, a)
  try:
    if report.case("power-off of the target", cases.power_off_target, guest, b):
      if b.qemu is None:
        b.power_on()
      if not up(report, "boot b again", b):
        return
      report.case("migrate there and back", cases.move_and_back, guest, a, b)
      report.case("migrate into a time namespace", cases.time_namespace, guest, a, b)
  finally:
    guest.close()


def parse():
  p = argparse.ArgumentParser(prog="test/vm/run", description=__doc__.split("\n")[0])
  p.add_argument("--full", action="store_true", help="the nightly set, too")
  p.add_argument("--kernel", default="linux-image-cloud-amd64", metavar="PACKAGE")
  p.add_argument("--only", action="append", default=[], metavar="WORD",
                 help="cases with this in their name (may be repeated)")
  p.add_argument("--soak", type=int, default=200, metavar="N", help="moves of the soak")
  p.add_argument("--no-connection", action="store_true",
                 help="without the TCP connection that moves with the guest")
  p.add_argument("--keep", action="store_true", help="keep the logs of a run that passed, too")
  opts = p.parse_args()
  if os.geteuid():
    p.exit(1, "test/vm/run: must run as root: it makes namespaces and a bridge\n")
  return opts


ENDINGS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def told_to_end(number, frame):
  """The machines are taken down on the way out, which nothing may interrupt."""
  for s in ENDINGS:
    signal.signal(s, signal.SIG_IGN)
  sys.exit(128 + number)


def main():
  opts = parse()
  for s in ENDINGS:
    if signal.getsignal(s) != signal.SIG_IGN:  # nohup
      signal.signal(s, told_to_end)
  build = tool.build_dir()
  directory = tempfile.mkdtemp(prefix="criu-lite-vm.")
  report, rc = Report(opts.only), 1
  try:
    try:
      img = Image(opts.kernel, build, directory)
    except image.Missing as e:
      report("skip", "image", str(e))
      print("0 passed, 0 failed, 1 skipped")
      return 0
    with vm.Net(img, directory, not opts.no_connection) as net:
      short_set(net, report)
    if opts.full:
      full.run(img, directory, report, opts)
    rc = report.end()
  finally:
    if rc and not opts.keep:
      # The images are large and can be made again.
      for name in ("initramfs", "initramfs-newer", "stripped"):
        if os.path.exists(os.path.join(directory, name)):
          os.unlink(os.path.join(directory, name))
    if rc or opts.keep:
      print("logs are in " + directory, file=sys.stderr)
    else:
      shutil.rmtree(directory, ignore_errors=True)
  return rc


if __name__ == "__main__":
  sys.exit(main())
