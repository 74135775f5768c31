# SPDX-License-Identifier: Apache-2.0
"""What a virtual machine boots: a kernel and an initramfs, both made from Debian packages.

The kernel package is downloaded by apt and unpacked, never installed. The initramfs holds
busybox, Python, the few tools that the tests' hosts need (all copied from this machine, where
they are installed as packages), the kernel's modules, and from the build directory criu-lite
with all its test programs, under the paths that they have in a source tree:

    /criu-lite/build/...    the programs, stripped
    /criu-lite/test/...     the scripts

It is one cpio archive, not compressed: an emulated CPU would take longer to unpack it than
QEMU needs to hand it over.
"""

import glob
import hashlib
import os
import shutil
import stat
import subprocess

TREE = "/criu-lite"
HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))

# name: also those that it needs by modules.dep. Those that a kernel has built in, or has not at
# all, are left out: the test that needs one says so.
MODULES = ("virtio_pci virtio_net virtio_console virtio_blk virtio_balloon tun veth bridge sch_tbf "
           "sch_netem inet_diag tcp_diag udp_diag raw_diag unix_diag netlink_diag af_packet_diag "
           "lzo_rle zram nf_tables nft_ct nft_limit nf_conntrack nft_chain_nat nft_reject_inet "
           "nft_counter nf_log_syslog nft_log nfnetlink_log nfnetlink_queue dummy macvlan").split()

# Debian's own, not what else is in the PATH of who runs this.
PROGRAMS = ("/usr/bin/unshare /usr/bin/nsenter /bin/ip /sbin/tc /usr/bin/prlimit "
            "/usr/bin/setpriv /bin/true /bin/cat /bin/sleep /bin/bash").split()
# Copied if installed: who needs them installs their packages first.
OPTIONAL = "/usr/bin/redis-server /usr/bin/redis-cli /usr/sbin/criu /usr/sbin/nft".split()

# Of Python's library: without what tests cannot use, and what needs large libraries.
PYTHON = "/usr/bin/python3.11"
NO_PYTHON = ("test idlelib lib2to3 distutils ensurepip tkinter turtledemo pydoc_data unittest venv "
             "email html http xmlrpc wsgiref sqlite3 dbm curses asyncio xml multiprocessing "
             "site-packages dist-packages config-3.11-x86_64-linux-gnu").split()
NO_DYNLOAD = ("_ssl", "_hashlib", "_sqlite3", "_curses", "_tkinter", "_dbm", "_codecs_", "_decimal",
              "readline", "nis", "_test", "_uuid", "_lzma", "_bz2", "audioop", "xx")


class Missing(Exception):
  """Something cannot be had; the text says what and why."""


def _run(cmd, **kw):
  done = subprocess.run(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                        stderr=subprocess.STDOUT, text=True, **kw)
  if done.returncode:
    raise Missing("%s: %s" % (" ".join(cmd), done.stdout.strip()[-400:]))
  return done.stdout


# ---- kernel ----

class Kernel:
  """vmlinuz, release and modules of one unpacked package."""

  def __init__(self, package, directory):
    self.package, self.dir = package, directory
    found = glob.glob(os.path.join(directory, "boot/vmlinuz-*"))
    if len(found) != 1:
      raise Missing("%s has no kernel" % package)
    self.vmlinuz = found[0]
    self.release = os.path.basename(self.vmlinuz)[len("vmlinuz-"):]
    self.modules = os.path.join(directory, "lib/modules", self.release)
    if not os.path.isdir(self.modules):
      self.modules = os.path.join(directory, "usr/lib/modules", self.release)

  def config(self, name):
    """"y", "m", or None."""
    with open(os.path.join(self.dir, "boot/config-" + self.release)) as f:
      for line in f:
        if line.startswith("CONFIG_%s=" % name):
          return line.strip().split("=", 1)[1]
    return None


def _real_package(package):
  """linux-image-amd64 depends on the package that has the kernel of the day."""
  text = _run(["apt-cache", "depends", package])
  for line in text.splitlines():
    word = line.strip()
    if word.startswith("Depends: linux-image-"):
      return word.split()[1]
  return package


def kernel(package, cache):
  """The unpacked kernel; downloads it, unless that was done before."""
  try:
    real = _real_package(package)
  except Missing:
    # apt-cache knows nothing before its first update.
    _run(["apt-get", "update", "-qq"])
    real = _real_package(package)
  final = os.path.join(cache, real)
  if os.path.isdir(final):
    return Kernel(real, final)
  work = final + ".new"
  shutil.rmtree(work, ignore_errors=True)
  os.makedirs(work)
  try:
    try:
      _run(["apt-get", "download", "-qq", real], cwd=work)
    except Missing:
      _run(["apt-get", "update", "-qq"])
      _run(["apt-get", "download", "-qq", real], cwd=work)
    debs = glob.glob(work + "/*.deb")
    _run(["dpkg-deb", "-x", debs[0], work])
    os.unlink(debs[0])
    got = Kernel(real, work)
    # The lists that a package gets when it is installed.
    _run(["busybox", "depmod", "-b", os.path.dirname(os.path.dirname(os.path.dirname(got.modules))),
          got.release])
    os.rename(work, final)
  finally:
    shutil.rmtree(work, ignore_errors=True)
  return Kernel(real, final)


def _module_files(k):
  """Paths under lib/modules/RELEASE of the modules wanted, those needed by others first."""
  needs = {}
  with open(os.path.join(k.modules, "modules.dep")) as f:
    for line in f:
      path, _, rest = line.partition(":")
      needs[path] = rest.split()
  by_name = {os.path.basename(p).split(".ko")[0].replace("-", "_"): p for p in needs}
  order = []

  def add(path):
    if path in order:
      return
    for other in needs[path]:
      add(other)
    order.append(path)
  for name in MODULES:
    if name in by_name:
      add(by_name[name])
  return order


# ---- cpio ----

class Archive:
  """Files of the initramfs, by their path in it."""

  def __init__(self):
    self.entries = {}

  def _parents(self, path):
    at = os.path.dirname(path)
    while at and at not in self.entries:
      self.entries[at] = (stat.S_IFDIR | 0o755, 0, b"")
      at = os.path.dirname(at)

  def _where(self, path):
    """All of /bin, /sbin, /lib and /lib64 is in /usr, as in Debian."""
    path = path.strip("/")
    if path.split("/")[0] in ("bin", "sbin", "lib", "lib64"):
      path = "usr/" + path
    return path

  def put(self, path, data, mode=0o644, mtime=0):
    path = self._where(path)
    self._parents(path)
    self.entries[path] = (stat.S_IFREG | mode, mtime, data)

  def link(self, path, to):
    path = path.strip("/")
    self._parents(path)
    self.entries[path] = (stat.S_IFLNK | 0o777, 0, to.encode())

  def mkdir(self, path, mode=0o755):
    path = path.strip("/")
    self._parents(path)
    self.entries[path] = (stat.S_IFDIR | mode, 0, b"")

  def copy(self, source, path=None):
    """A file of this machine, or what a link leads to."""
    st = os.stat(source)
    with open(source, "rb") as f:
      self.put(path or source, f.read(), stat.S_IMODE(st.st_mode), int(st.st_mtime))

  def program(self, source, path=None):
    """A file and the shared libraries it asks for."""
    self.copy(source, path)
    for lib in libraries(source):
      if self._where(lib) not in self.entries:
        self.copy(lib)

  def write(self, out):
    number = 0
    with open(out, "wb") as f:
      for path, (mode, mtime, data) in sorted(self.entries.items()):
        number += 1
        self._entry(f, path, number, mode, mtime, data)
      self._entry(f, "TRAILER!!!", 0, 0, 0, b"")

  @staticmethod
  def _entry(f, path, number, mode, mtime, data):
    """"newc": thirteen numbers of eight hex digits, the name, the data, each padded to 4."""
    name = path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(mode) else 1
    head = b"070701" + b"".join(b"%08x" % n for n in (
        number, mode, 0, 0, links, mtime, len(data), 0, 0, 0, 0, len(name), 0))
    f.write(head + name + b"\0" * (-(len(head) + len(name)) % 4))
    f.write(data)
    f.write(b"\0" * (-len(data) % 4))


_libraries = {}


def libraries(path):
  """Paths of the shared libraries of an ELF file, and of its loader."""
  if path not in _libraries:
    got = subprocess.run(["ldd", path], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                         stderr=subprocess.DEVNULL, text=True).stdout
    words = [line.split() for line in got.splitlines()]
    found = [w[2] for w in words if len(w) > 2 and w[1] == "=>" and w[2].startswith("/")]
    found += [w[0] for w in words if w and w[0].startswith("/")]
    _libraries[path] = found
  return _libraries[path]


def _add_python(a):
  if not os.path.exists(PYTHON):
    raise Missing("%s is missing: install Debian's package python3" % PYTHON)
  a.program(PYTHON)
  a.link("usr/bin/python3", os.path.basename(PYTHON))
  top = "/usr/lib/" + os.path.basename(PYTHON)
  for where, dirs, files in os.walk(top):
    if where == top:
      dirs[:] = [d for d in dirs if d not in NO_PYTHON]
    for name in files:
      path = os.path.join(where, name)
      if where.endswith("lib-dynload"):
        if not name.startswith(NO_DYNLOAD):
          a.program(path)
      elif ".opt-" not in name:
        # With the compiled ones, which are taken only if the time of the source is the same.
        a.copy(path)


def _stripped(path, work):
  out = os.path.join(work, "stripped")
  done = subprocess.run(["strip", "-o", out, path], stdin=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL)
  with open(out if not done.returncode else path, "rb") as f:
    return f.read()


def _is_program(path):
  if not os.access(path, os.X_OK) or not os.path.isfile(path) or os.path.islink(path):
    return False
  with open(path, "rb") as f:
    return f.read(4) == b"\x7fELF"


def _add_build(a, build, work):
  """Every program of the build, where it is in the build directory."""
  places = ["criu-lite/cmd", "criu-lite/guard", "criu-lite", "test/unit", "test/kind", "test/live",
            "test/vm"]
  for place in places:
    for path in sorted(glob.glob(os.path.join(build, place, "*"))):
      if not _is_program(path):
        continue
      a.put(os.path.join(TREE, "build", place, os.path.basename(path)), _stripped(path, work),
            0o755)
      for lib in libraries(path):
        if a._where(lib) not in a.entries:
          a.copy(lib)


def _add_scripts(a):
  for place in ("lib", "live", "apps", "vm", "fault"):
    for path in glob.glob(os.path.join(TOP, "test", place, "*.py")):
      a.copy(path, os.path.join(TREE, "test", place, os.path.basename(path)))
  a.put("/init.rc", open(os.path.join(HERE, "init.rc"), "rb").read(), 0o755)


def initramfs(k, build, out):
  """Writes the initramfs for kernel @k with the programs of @build to @out."""
  a = Archive()
  for name in ("bin", "sbin", "lib", "lib64"):
    a.mkdir("usr/" + name)
    a.link(name, "usr/" + name)
  for name in ("proc", "sys", "dev", "run", "root", "etc", "var/tmp"):
    a.mkdir(name)
  a.mkdir("tmp", 0o1777)
  a.put("/etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
  a.put("/etc/shadow", b"", 0o600)
  a.put("/etc/group", b"root:x:0:\n")
  a.put("/etc/hosts", b"127.0.0.1 localhost\n::1 localhost\n")
  a.put("/etc/inittab", b"::sysinit:/init.rc\n::respawn:/init.agent\n")
  for path in PROGRAMS + [p for p in OPTIONAL if os.path.exists(p)]:
    a.program(path)
  _add_python(a)
  # Busybox's own shell would take its own ip for iproute2's.
  a.program("/bin/dash")
  a.link("usr/bin/sh", "dash")
  a.copy("/bin/busybox")
  a.link("init", "bin/busybox")
  for name in _run(["busybox", "--list"]).split():
    if all("usr/%s/%s" % (d, name) not in a.entries for d in ("bin", "sbin")):
      a.link("usr/bin/" + name, "busybox")
  order = _module_files(k)
  for path in order:
    a.copy(os.path.join(k.modules, path), os.path.join("lib/modules", k.release, path))
  for path in glob.glob(k.modules + "/modules.*"):
    a.copy(path, os.path.join("lib/modules", k.release, os.path.basename(path)))
  a.put("/modules.load", "".join("/lib/modules/%s/%s\n" % (k.release, p)
                                 for p in order).encode())
  _add_build(a, build, os.path.dirname(out))
  _add_scripts(a)
  a.put("/init.agent", ("#!/bin/sh\nexec /usr/bin/python3 -I -S %s/test/vm/agent.py "
                        ">/dev/console 2>&1\n" % TREE).encode(), 0o755)
  a.write(out)
  return out


def fingerprint(path):
  with open(path, "rb") as f:
    return hashlib.sha256(f.read()).hexdigest()
