#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Reports of migrations as a browser shows them.

Samples of made-up migrations (unit_story --make) become pages by `criu-lite report`. Headless
Chromium loads each, without a network: its DOM must hold the charts and the numbers, and its
screenshot the colours of what is drawn. --keep DIR leaves the pages and pictures there to look at.
"""

import argparse
import html.parser
import os
import signal
import struct
import subprocess
import sys
import tempfile
import zlib

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import tool

BLUE, PURPLE, GREEN, RED = (31, 111, 196), (139, 79, 179), (11, 128, 104), (184, 50, 39)

# Samples; charts (with the bar of the downtime); words in the text; colours in the picture.
CASES = [
  ("completed", 5, ["completed after 4.50 s, in 8 rounds", "the guest was stopped for 4.96 ms",
                    "900 MiB, 1 byte for 2.28 of memory", "time since the start (s)", "MiB/s",
                    "max-downtime"], [BLUE, PURPLE, GREEN, RED]),
  ("one", 4, ["time since the start (ms)", "The guest was not throttled."], [BLUE, GREEN]),
  ("none", 1, ["No sample was taken"], [BLUE, GREEN]),
  ("long", 5, ["from 10000 samples", "time since the start (min)"], [BLUE, PURPLE, GREEN, RED]),
  ("failed", 4, ["the target has no such file", "Remedy: copy it"], [BLUE, PURPLE, RED]),
  ("running", 4, ["no result: what was recorded ends after 4.40 s"], [BLUE, PURPLE]),
  ("hostile", 4, ["Migration of </title><script>alert(1)</script>\"'&"], [BLUE, PURPLE, RED]),
]


class Dom(html.parser.HTMLParser):
  """Counts of elements, and the text of all but style and script."""

  def __init__(self, text):
    super().__init__()
    self.count, self.words, self.inside, self.handlers = {}, [], [], 0
    self.feed(text)
    self.text = " ".join("".join(self.words).split())

  def handle_starttag(self, tag, attrs):
    self.count[tag] = self.count.get(tag, 0) + 1
    self.handlers += sum(name.startswith("on") for name, _ in attrs)
    self.inside.append(tag)

  def handle_endtag(self, tag):
    while tag in self.inside and self.inside.pop() != tag:
      pass

  def handle_data(self, data):
    if not {"style", "script", "title"} & set(self.inside[-1:]):
      self.words.append(data)


def pixels(path):
  """Counts of the colours of a PNG with 8 bits per channel."""
  with open(path, "rb") as f:
    data = f.read()
  if data[:8] != b"\x89PNG\r\n\x1a\n":
    raise ValueError("no PNG")
  at, packed = 8, b""
  while at < len(data):
    size, kind = struct.unpack(">I4s", data[at:at + 8])
    body = data[at + 8:at + 8 + size]
    if kind == b"IHDR":
      width, height, depth, colour = struct.unpack(">IIBB", body[:10])
    packed += body if kind == b"IDAT" else b""
    at += 12 + size
  step = {2: 3, 6: 4}[colour]
  assert depth == 8
  raw, line, counts = zlib.decompress(packed), bytearray(width * step), {}
  for row in range(height):
    start = row * (width * step + 1)
    how, this = raw[start], bytearray(raw[start + 1:start + 1 + width * step])
    for i in range(len(this)):
      left = this[i - step] if i >= step else 0
      up, corner = line[i], line[i - step] if i >= step else 0
      if how == 1:
        this[i] = (this[i] + left) & 255
      elif how == 2:
        this[i] = (this[i] + up) & 255
      elif how == 3:
        this[i] = (this[i] + (left + up) // 2) & 255
      elif how == 4:
        p = left + up - corner
        near = min((abs(p - left), 0, left), (abs(p - up), 1, up), (abs(p - corner), 2, corner))
        this[i] = (this[i] + near[2]) & 255
    for i in range(0, len(this), step):
      c = tuple(this[i:i + 3])
      counts[c] = counts.get(c, 0) + 1
    line = this
  return counts


def chromium(directory, *args):
  """What it prints. Its helpers end with it, or are killed."""
  p = subprocess.Popen(["chromium", "--headless", "--no-sandbox", "--disable-gpu",
                        "--disable-dev-shm-usage", "--hide-scrollbars",
                        "--user-data-dir=" + directory + "/profile", *args],
                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                       stderr=subprocess.DEVNULL, text=True, start_new_session=True)
  try:
    return p.communicate(timeout=60)[0]
  finally:
    try:
      os.killpg(p.pid, signal.SIGKILL)
    except ProcessLookupError:
      pass
    p.wait()


def check(program, story, directory, name, charts, words, colours):
  """What is wrong with this page: a list of texts."""
  base = os.path.join(directory, name)
  with open(base + ".json", "wb") as f:
    subprocess.run([story, "--make", name], stdout=f, check=True)
  done = subprocess.run([program, "report", base + ".json"], text=True, capture_output=True)
  if done.returncode or done.stdout.strip() != base + ".html":
    return ["criu-lite report: " + done.stdout + done.stderr]
  bad = []
  url = "file://" + base + ".html"
  dom = Dom(chromium(directory, "--dump-dom", url))
  if dom.count.get("svg") != charts:
    bad.append("%s charts, not %d" % (dom.count.get("svg"), charts))
  if dom.count.get("script") or dom.handlers:
    bad.append("a script")
  bad += ["the page does not show: " + w for w in words if w not in dom.text]
  chromium(directory, "--window-size=600,1900", "--screenshot=" + base + ".png", url)
  if not os.path.exists(base + ".png"):
    return bad + ["no screenshot"]
  seen = pixels(base + ".png")
  bad += ["the colour %s is not to be seen" % (c,) for c in colours if seen.get(c, 0) < 20]
  return bad


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--keep", metavar="DIR")
  args = parser.parse_args()
  program = tool.find_tool()
  story = os.path.join(tool.build_dir(), "test", "unit", "unit_story")
  failed = 0
  with tempfile.TemporaryDirectory(prefix="report.") as directory:
    if args.keep:
      directory = os.path.abspath(args.keep)
      os.makedirs(directory, exist_ok=True)
    for name, *want in CASES:
      bad = check(program, story, directory, name, *want)
      failed += bool(bad)
      print("%s %s" % ("FAIL" if bad else "ok  ", name))
      for text in bad:
        print("  " + text)
  print("%d passed, %d failed, 0 skipped" % (len(CASES) - failed, failed))
  return 1 if failed else 0


if __name__ == "__main__":
  sys.exit(main())
