#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""CPUs that differ: cpuinfo.img of a dump is rewritten as if it came from another one.

    cpu.py [--tool PATH] [--victims-dir DIR]

A guest that knows instructions which this CPU lacks is refused with their names, unless --cpu-cap
says otherwise. One that knows fewer than this CPU has is taken, and still knows fewer when it is
dumped here again; what it has started by then knows all.
"""

import argparse
import os
import shutil
import struct
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
import hosts  # noqa: E402
import tool  # noqa: E402

THREEDNOW = (1, 1 << 31)  # word and bit, as in Linux; no CPU of today has it
SSE4_2 = (4, 1 << 20)


def varint(data, at):
  n = shift = 0
  while True:
    n |= (data[at] & 127) << shift
    shift += 7
    at += 1
    if not data[at - 1] & 128:
      return n, at


def put_varint(n):
  out = b""
  while n > 127:
    out += bytes([n & 127 | 128])
    n >>= 7
  return out + bytes([n])


def fields(data):
  """(number, value) of a protobuf message; a value is a number or bytes."""
  at = 0
  while at < len(data):
    key, at = varint(data, at)
    if key & 7 == 0:
      value, at = varint(data, at)
    else:
      assert key & 7 == 2, key
      n, at = varint(data, at)
      value, at = data[at:at + n], at + n
    yield key >> 3, value


def pack(number, value):
  if isinstance(value, int):
    return put_varint(number << 3) + put_varint(value)
  return put_varint(number << 3 | 2) + put_varint(len(value)) + value


def read_words(path):
  """(head of the file, fields of the one x86 entry, its capability words)."""
  with open(path, "rb") as f:
    data = f.read()
  size, = struct.unpack("<I", data[8:12])
  entry = [v for k, v in fields(data[12:12 + size]) if k == 1]
  assert len(entry) == 1
  all_fields = list(fields(entry[0]))
  return data[:8], all_fields, [v for k, v in all_fields if k == 6]


def write_words(path, words):
  head, old, _ = read_words(path)
  entry = b"".join(pack(k, v) for k, v in old if k < 6)
  entry += b"".join(pack(6, w) for w in words)
  entry += b"".join(pack(k, v) for k, v in old if k > 6)
  message = pack(1, entry)
  with open(path, "wb") as f:
    f.write(head + struct.pack("<I", len(message)) + message)
  os.unlink(os.path.join(os.path.dirname(path), "criu-lite.sum"))


class Test:
  def __init__(self, opts, host, top):
    self.opts, self.host, self.top, self.n = opts, host, top, 0

  def run(self, *args, want=0):
    done = self.host.run([self.opts.tool] + [str(a) for a in args], timeout=60,
                         stderr=subprocess.STDOUT)
    assert done.returncode == want, "%s: exit %d: %s" % (args[0], done.returncode, done.stdout)
    return done.stdout

  def dump(self, pid):
    self.n += 1
    images = os.path.join(self.top, "images%d" % self.n)
    os.mkdir(images)
    self.run("dump", "-t", pid, "-D", images)
    return images

  def guest(self):
    p = self.host.popen(["sh", "-c", "trap 'sleep 100 & wait' USR1; sleep 200 & "
                         "while :; do wait; done"], stdout="/dev/null", stderr="/dev/null")
    hosts.wait_for(lambda: self.sleepers() == 1)
    return p.pid_inside

  def sleepers(self):
    """Programs that have been started: forked is not enough, exec() gives them another CPU."""
    def name(pid):
      try:
        with open(self.host.path("/proc/%d/comm" % pid)) as f:
          return f.read().strip()
      except OSError:
        return ""
    return [name(p) for p in self.host.pids()].count("sleep")

  def kill(self):
    for pid in self.host.pids():
      if pid != 1:
        self.host.run(["kill", "-KILL", pid])
    hosts.wait_for(lambda: self.host.pids() == [1])

  def lacking(self):
    """Instructions that this CPU has not got."""
    images = self.dump(self.guest())
    path = images + "/cpuinfo.img"
    words = read_words(path)[2]
    word, bit = THREEDNOW
    assert not words[word] & bit
    words[word] |= bit
    write_words(path, words)
    out = self.run("restore", "-D", images, "-d", want=1)
    assert "3dnow" in out and "--cpu-cap" in out, out
    assert self.host.pids() == [1], "something is left of the refused guest"
    out = self.run("restore", "-D", images, "-d", "--cpu-cap=ins", want=1)
    assert "3dnow" in out, out
    out = self.run("restore", "-D", images, "-d", "--cpu-cap", want=1)
    self.run("restore", "-D", images, "-d", "--cpu-cap=fpu")
    self.kill()
    self.run("restore", "-D", images, "-d", "--cpu-cap=none")
    self.kill()

  def masked(self):
    """A guest that came from a lesser CPU."""
    word, bit = SSE4_2
    images = self.dump(self.guest())
    words = read_words(images + "/cpuinfo.img")[2]
    assert words[word] & bit
    words[word] &= ~bit
    write_words(images + "/cpuinfo.img", words)
    out = self.run("restore", "-D", images, "-d", "--cpu-cap=cpu", want=1)
    assert "not the same" in out, out
    self.run("restore", "-D", images, "-d")
    root = min(p for p in self.host.pids() if p != 1)
    again = self.dump(root)
    assert not read_words(again + "/cpuinfo.img")[2][word] & bit, "it learned of SSE 4.2"
    self.run("restore", "-D", again, "-d")
    self.host.run(["kill", "-USR1", root], check=True)
    hosts.wait_for(lambda: self.sleepers() == 2)
    last = self.dump(root)
    assert read_words(last + "/cpuinfo.img")[2][word] & bit, "a program started here knows this CPU"


def main():
  p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  p.add_argument("--tool", help="the program (default: $CRIU_LITE, or the one in $BUILDDIR)")
  opts = p.parse_args()
  opts.tool = tool.find_tool(opts.tool)
  if os.geteuid():
    sys.exit("cpu.py: must run as root")
  count = {"ok": 0, "FAIL": 0}
  for name in ("lacking", "masked"):
    top = tempfile.mkdtemp(prefix="criu-lite-cpu.")
    verdict, text = "ok", ""
    try:
      with hosts.Hosts(1) as (host,):
        getattr(Test(opts, host, top), name)()
    except (AssertionError, TimeoutError, subprocess.SubprocessError) as e:
      verdict, text = "FAIL", str(e)
    shutil.rmtree(top, ignore_errors=True)
    count[verdict] += 1
    print("%-4s %s  %s" % (verdict, name, text), flush=True)
  print("%d passed, %d failed, 0 skipped" % (count["ok"], count["FAIL"]))
  return 1 if count["FAIL"] else 0


if __name__ == "__main__":
  sys.exit(main())
