# SPDX-License-Identifier: Apache-2.0
"""A small Linux guest for QEMU: Debian's kernel and one program (qemu_guest.c) in an initramfs.

    made = qemu_guest.make(directory)       # made.kernel, made.initrd
    words = qemu_guest.command(made, ...)   # the words of a qemu-system-x86_64
"""

import glob
import os
import re
import subprocess

HERE = os.path.dirname(os.path.abspath(__file__))
PACKAGE = "linux-image-cloud-amd64"
MODULES = ("virtio_pci", "virtio_blk", "virtio_net")


class Failed(Exception):
  pass


class Made:
  def __init__(self, kernel, initrd):
    self.kernel, self.initrd = kernel, initrd


def _sh(*words, cwd=None):
  done = subprocess.run(words, cwd=cwd, text=True, stdin=subprocess.DEVNULL,
                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
  if done.returncode:
    raise Failed("%s: %s" % (" ".join(words), done.stdout[-2000:]))
  return done.stdout


def _unpacked(cache):
  """The directory of the unpacked kernel package, fetched if it is not there yet."""
  depends = _sh("apt-cache", "depends", "--important", PACKAGE)
  name = next((w[1] for w in map(str.split, depends.splitlines()) if w[0] == "Depends:"), None)
  if not name:
    raise Failed("apt knows no %s" % PACKAGE)
  top = os.path.join(cache, name)
  if not os.path.isdir(top):
    part = "%s.%d" % (top, os.getpid())
    os.makedirs(part)
    _sh("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", name, cwd=part)
    _sh("dpkg-deb", "-x", glob.glob(part + "/*.deb")[0], part)
    for deb in glob.glob(part + "/*.deb"):
      os.unlink(deb)
    try:
      os.rename(part, top)
    except OSError:  # somebody else was faster
      _sh("rm", "-rf", part)
  return top


def _entry(name, data, mode, number):
  """One entry of a cpio archive, "newc"."""
  def padded(b):
    return b + b"\0" * (-len(b) % 4)
  fields = [number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0]
  head = b"070701" + b"".join(b"%08X" % f for f in fields)
  return padded(head + name.encode() + b"\0") + padded(data)


def _modules(top):
  """The contents of MODULES and of what they depend on, in the order to load them."""
  done = {}

  def add(name):
    path = glob.glob("%s/lib/modules/*/kernel/**/%s.ko" % (top, name), recursive=True)
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


def make(directory, cache=None):
  """Builds the guest into `directory`. The kernel stays unpacked in `cache`."""
  cache = cache or os.environ.get("XDG_CACHE_HOME") or "/var/cache"
  top = _unpacked(os.path.join(cache, "criu-lite-test"))
  init = os.path.join(directory, "init")
  _sh("gcc", "-O2", "-static", "-pthread", "-o", init, os.path.join(HERE, "qemu_guest.c"))
  with open(init, "rb") as f:
    files = [("init", f.read(), 0o100755)]
  for name in ("proc", "dev", "m"):
    files.append((name, b"", 0o40755))
  for i, data in enumerate(_modules(top)):
    files.append(("m/%02d.ko" % i, data, 0o100644))
  files.append(("TRAILER!!!", b"", 0))
  initrd = os.path.join(directory, "initrd")
  with open(initrd, "wb") as out:
    for number, (name, data, mode) in enumerate(files):
      out.write(_entry(name, data, mode, number))
  os.unlink(init)
  return Made(glob.glob(top + "/boot/vmlinuz-*")[0], initrd)


def command(made, memory, cpus=1, share=False, disk=None, net=(), work=(16, 20),
            iothread=False, accel="tcg,thread=multi", extra=()):
  """`memory` and work[0] in MiB, work[1] in MiB/s by each CPU. Serials, monitor and network
  cards are the caller's (`extra`, `net`)."""
  line = "console=ttyS0 quiet panic=-1 tsc=nowatchdog work.mib=%d work.rate=%d" % tuple(work)
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
