# SPDX-License-Identifier: Apache-2.0
"""A small Linux guest for QEMU: Debian's kernel and one program (qemu_guest.c) in an initramfs.

    made = qemu_guest.make(directory)       # made.kernel, made.initrd
    words = qemu_guest.command(made, ...)   # the words of a qemu-system-x86_64
"""

import glob
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "vm"))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
import image  # noqa: E402
import tool  # noqa: E402

PACKAGE = "linux-image-cloud-amd64"
MODULES = ("virtio_pci", "virtio_blk", "virtio_net")


class Failed(Exception):
  pass


class Made:
  def __init__(self, kernel, initrd):
    self.kernel, self.initrd = kernel, initrd


def _modules(top):
  """The contents of MODULES and of what they depend on, in the order to load them."""
  done = {}

  def add(name):
    path = glob.glob("%s/**/%s.ko" % (top, name), recursive=True)
    if not path:
      raise Failed("%s has no module %s" % (top, name))
    with open(path[0], "rb") as f:
      data = f.read()
    for needed in re.search(rb"\0depends=([^\0]*)\0", data).group(1).decode().split(","):
      if needed and needed not in done:
        add(needed)
    done[name] = data
  for name in MODULES:
    add(name)
  return list(done.values())


def make(directory):
  """Builds the guest into `directory`; the unpacked kernel stays in the build directory."""
  cache = os.path.join(tool.build_dir(), "vm")
  os.makedirs(cache, exist_ok=True)
  init, initrd = os.path.join(directory, "init"), os.path.join(directory, "initrd")
  done = subprocess.run(["gcc", "-O2", "-static", "-pthread", "-o", init,
                         os.path.join(HERE, "qemu_guest.c")],
                        stdin=subprocess.DEVNULL, capture_output=True, text=True)
  if done.returncode:
    raise Failed("qemu_guest.c: " + done.stderr[-1000:])
  try:
    kernel = image.kernel(PACKAGE, cache)
  except image.Missing as e:
    raise Failed("the guest's kernel: %s" % e)
  archive = image.Archive()
  archive.copy(init, "init")
  archive.mkdir("proc")
  archive.mkdir("dev")
  for i, data in enumerate(_modules(kernel.modules)):
    archive.put("m/%02d.ko" % i, data)
  archive.write(initrd)
  os.unlink(init)
  return Made(kernel.vmlinuz, initrd)


def command(made, memory, cpus=1, share=False, disk=None, net=(), work=(16, 20),
            iothread=False, accel="tcg,thread=multi", tick=100, extra=()):
  """`memory` and work[0] in MiB, work[1] in MiB/s by each CPU; tick in ms. Serials, monitor
  and network cards are the caller's (`extra`, `net`)."""
  line = ("console=ttyS0 quiet panic=-1 tsc=nowatchdog work.mib=%d work.rate=%d work.tick=%d"
          % (*work, tick))
  words = ["qemu-system-x86_64", "-accel", accel, "-cpu", "qemu64",
           "-smp", str(cpus), "-m", str(memory), "-nodefaults", "-no-user-config",
           "-display", "none", "-no-reboot", "-kernel", made.kernel, "-initrd", made.initrd,
           "-append", line]
  if share:
    words += ["-object", "memory-backend-memfd,id=m,share=on,size=%dM" % memory,
              "-machine", "memory-backend=m"]
  if disk:
    words += ["-drive", "file=%s,if=none,id=d,format=qcow2" % disk,
              "-device", "virtio-blk-pci,drive=d" + (",iothread=io" if iothread else "")]
  if iothread:
    words += ["-object", "iothread,id=io"]
  return words + list(net) + list(extra)
