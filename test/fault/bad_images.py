# SPDX-License-Identifier: Apache-2.0
"""Damaged image directories, and a host that is not as the images say."""

import os
import random
import shutil

from frame import Guest, check

# Not read by restore.
UNUSED = ("stats-dump", "stats-restore", "dump.log")
# Without the seal there is nothing to compare with: then the images are taken as they are.
SEAL = "criu-lite.sum"
SIZE = [["size", "bytes", "longer", "shorter"]]
BUILD_ID = [["build-id", "build id"]]
GUESTS = ["tree", "unix", "memfd"]


def dumped(b, program, *args, binary=None):
  """A guest in an image directory."""
  guest = Guest(b, b.a, program, *args, binary=binary)
  images = b.mkdir("images")
  b.works(b.a, "dump", "-t", guest.pid, "-D", images)
  b.clean(b.a)
  return guest, images


def names(images):
  return sorted(f for f in os.listdir(images) if f not in UNUSED)


class Spoiled:
  """A copy of an image directory in which one file is another."""

  def __init__(self, b, images):
    self.dir = b.path("spoiled")
    shutil.rmtree(self.dir, ignore_errors=True)
    shutil.copytree(images, self.dir, symlinks=True)


def spoil(b, images, name, what, change):
  s = Spoiled(b, images)
  path = os.path.join(s.dir, name)
  change(path)
  rc, out = b.run(b.a, "restore", "-D", s.dir, "-d")
  b.check_refusal("%s %s" % (name, what), rc, out, [name])
  b.clean(b.a)


def truncate(size):
  return lambda path: os.truncate(path, size)


def flip(offset, bit):
  def change(path):
    with open(path, "r+b") as f:
      f.seek(offset)
      byte = f.read(1)[0]
      f.seek(offset)
      f.write(bytes([byte ^ (1 << bit)]))
  return change


def to_directory(path):
  os.unlink(path)
  os.mkdir(path)


def few(images):
  """Whether there are so many files that each gets only a few tries."""
  return len(names(images)) > 30


def offsets(rng, images, size, n):
  """Some of the head, the end, and others."""
  fixed = {rng.choice((0, 4, 8))} if few(images) else {0, 4, 8, size // 2, size - 1}
  return sorted((fixed | {rng.randrange(size) for _ in range(2 if few(images) else n)}) &
                set(range(size)))


def end_well(b, guest, images):
  """The images themselves are good still."""
  b.works(b.a, "restore", "-D", images, "-d")
  guest.end("restored from the good images")


def missing(program):
  def test(b):
    guest, images = dumped(b, program)
    for name in names(images):
      if name != SEAL:
        spoil(b, images, name, "missing", os.unlink)
        spoil(b, images, name, "a directory", to_directory)
    end_well(b, guest, images)
    return "%d files" % len(names(images))
  return test


def truncated(program):
  def test(b):
    guest, images = dumped(b, program)
    n = 0
    for name in names(images):
      size = os.path.getsize(os.path.join(images, name))
      cuts = {0, size // 2, size - 1} if few(images) else {0, 3, 4, 8, 12, size // 2, size - 1}
      for cut in sorted(cuts & set(range(size))):
        spoil(b, images, name, "cut to %d of %d" % (cut, size), truncate(cut))
        n += 1
    end_well(b, guest, images)
    return "%d cuts" % n
  return test


def flipped(program, seed):
  def test(b):
    rng = random.Random(seed)
    guest, images = dumped(b, program)
    n = 0
    for name in names(images):
      size = os.path.getsize(os.path.join(images, name))
      for at in offsets(rng, images, size, 6):
        bit = rng.randrange(8)
        spoil(b, images, name, "bit %d of byte %d flipped" % (bit, at), flip(at, bit))
        n += 1
    end_well(b, guest, images)
    return "%d flips" % n
  return test


def unsealed(program, seed):
  """Images of criu(8) have no seal: what is wrong is found, or does no harm. Never a crash,
  never a process that is left and does not know itself."""
  def test(b):
    rng = random.Random(seed)
    guest, images = dumped(b, program)
    if SEAL in os.listdir(images):
      os.unlink(os.path.join(images, SEAL))
    refused = taken = 0
    for name in names(images):
      if name.startswith("pages-"):
        continue
      size = os.path.getsize(os.path.join(images, name))
      for at in offsets(rng, images, size, 8):
        s = Spoiled(b, images)
        bit = rng.randrange(8)
        flip(at, bit)(os.path.join(s.dir, name))
        rc, out = b.run(b.a, "restore", "-D", s.dir, "-d", timeout=30)
        if rc:
          b.check_refusal("%s, bit %d of byte %d" % (name, bit, at), rc, out)
          b.clean(b.a)
          refused += 1
          continue
        taken += 1
        for pid in b.a.pids():
          if pid != 1:
            b.a.run(["kill", "-KILL", str(pid)])
        b.clean(b.a)
        result = os.path.join(guest.state, "result")
        if os.path.exists(result):
          os.unlink(result)
    end_well(b, guest, images)
    return "%d refused, %d taken" % (refused, taken)
  return test


def empty_directory(b):
  b.refused(b.a, "restore", "-D", b.mkdir("empty"), "-d", say=["inventory"])
  b.clean(b.a)


def only_pre_dump(b):
  """Memory alone is no checkpoint."""
  guest = Guest(b, b.a, "eventfd")
  d = b.mkdir("d")
  b.works(b.a, "pre-dump", "-t", guest.pid, "-D", d, "--track-mem")
  guest.end()
  b.refused(b.a, "restore", "-D", d, "-d")
  b.clean(b.a)


def parent_missing(b):
  """The directory of a pre-dump that the dump builds on is gone, or another."""
  guest = Guest(b, b.a, "idle", "8")
  one, two = b.mkdir("1"), b.mkdir("2")
  b.works(b.a, "pre-dump", "-t", guest.pid, "-D", one, "--track-mem")
  b.works(b.a, "dump", "-t", guest.pid, "-D", two, "--track-mem", "--prev-images-dir", "../1")
  os.rename(one, b.path("away"))
  b.refused(b.a, "restore", "-D", two, "-d")
  b.clean(b.a)
  os.mkdir(one)
  b.refused(b.a, "restore", "-D", two, "-d")
  b.clean(b.a)
  os.rmdir(one)
  shutil.copytree(b.path("away"), one)
  pages = [f for f in os.listdir(one) if f.startswith("pages-")][0]
  flip(5000, 3)(os.path.join(one, pages))
  b.refused(b.a, "restore", "-D", two, "-d")
  b.clean(b.a)
  shutil.rmtree(one)
  os.rename(b.path("away"), one)
  end_well(b, guest, two)


def set_last_pid(host, pid):
  host.run(["sh", "-c", "echo %d > /proc/sys/kernel/ns_last_pid" % pid], check=True)


def take_pid(host, pid):
  """A process that has this pid there."""
  set_last_pid(host, pid - 1)
  p = host.popen(["sleep", "1000"])
  check(p.pid_inside == pid, "wanted pid %d, got %s", pid, p.pid_inside)
  set_last_pid(host, pid + 500)
  return p


def pid_taken(b):
  guest, images = dumped(b, "eventfd")
  sleeper = take_pid(b.a, guest.pid)
  b.refused(b.a, "restore", "-D", images, "-d", say=[str(guest.pid)])
  check(sleeper.poll() is None and b.a.alive(guest.pid), "the process that had the pid is gone")
  b.clean(b.a, guest.pid)
  sleeper.kill_session()
  sleeper.wait()
  end_well(b, guest, images)


def restored_twice(b):
  guest, images = dumped(b, "files")
  b.works(b.a, "restore", "-D", images, "-d")
  b.refused(b.a, "restore", "-D", images, "-d", say=[str(guest.pid)])
  guest.end("after a second restore")


def file_changed(change, say):
  """An open file is not what it was when the guest was dumped."""
  def test(b):
    guest, images = dumped(b, "files")
    path = os.path.join(guest.state, "rw")
    shutil.copy2(path, b.path("saved"))
    change(path)
    b.refused(b.a, "restore", "-D", images, "-d", say=[path] + say)
    b.clean(b.a)
    if os.path.isdir(path):
      os.rmdir(path)
    shutil.copy2(b.path("saved"), path)
  return test


def append(path):
  with open(path, "ab") as f:
    f.write(b"more")


def binary_changed(change, say):
  """The program itself, which is mapped, is missing or another."""
  def test(b):
    binary = b.path("program")
    shutil.copy2(b.victim("eventfd"), binary)
    guest, images = dumped(b, "eventfd", binary=binary)
    shutil.copy2(binary, b.path("saved"))
    change(b, binary)
    b.refused(b.a, "restore", "-D", images, "-d", say=[binary] + say)
    b.clean(b.a)
    shutil.copy2(b.path("saved"), binary)
    end_well(b, guest, images)
  return test


def other_program(b, path):
  """Another program of the same size and times: only its build-id tells."""
  st = os.stat(path)
  with open(path, "rb") as f:
    data = bytearray(f.read())
  at = data.find(b"GNU\0", data.find(b"\x04\0\0\0\x14\0\0\0\x03\0\0\0")) + 4
  data[at] ^= 0xff
  os.unlink(path)
  with open(path, "wb") as f:
    f.write(data)
  os.chmod(path, 0o755)
  os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns))


def tests(opts):
  s = opts.seed
  got = []
  for g in GUESTS[:2]:
    got.append(("images: missing or no file, " + g, missing(g)))
    got.append(("images: truncated, " + g, truncated(g)))
  for g in GUESTS:
    got.append(("images: flipped, " + g, flipped(g, s)))
    got.append(("images: flipped without a seal, " + g, unsealed(g, s)))
  got += [("images: " + f.__name__.replace("_", " "), f) for f in
          (empty_directory, only_pre_dump, parent_missing, pid_taken, restored_twice)]
  got += [
    ("images: open file missing", file_changed(os.unlink, [])),
    ("images: open file longer", file_changed(append, SIZE)),
    ("images: open file is a directory", file_changed(lambda p: (os.unlink(p), os.mkdir(p)), [])),
    ("images: program missing", binary_changed(lambda b, p: os.unlink(p), [])),
    ("images: program longer", binary_changed(lambda b, p: append(p), SIZE)),
    ("images: program with another build-id", binary_changed(other_program, BUILD_ID)),
  ]
  return got
