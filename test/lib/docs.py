#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The documents say what the tool does.

README.md, HACKING.md and the manual page are searched for criu-lite commands: each must
exist, and `criu-lite COMMAND --help` must name each option that is used with it. The other
way round, every option in a --help must be in the manual page. README's set-up commands and
every path that README and HACKING name must exist.
"""

import os
import re
import subprocess
import sys

import tool

COMMANDS = ["check", "ctl", "dump", "migrate", "pre-dump", "receive", "report", "restore",
            "show"]
OPTION = r"(?<![\w-])(--[a-z][a-z0-9-]*|-[A-Za-z](?![\w-]))"


class Tally:
  def __init__(self):
    self.passed = self.failed = 0

  def check(self, good, text):
    if good:
      self.passed += 1
    else:
      self.failed += 1
      print(text)


def help_of(program, command):
  done = subprocess.run([program, command, "--help"], text=True, stdin=subprocess.DEVNULL,
                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
  return done.stdout if done.returncode == 0 else ""


def options(text):
  return set(re.findall(OPTION, text))


def read(path):
  with open(os.path.join(tool.TOP, path), encoding="utf-8") as f:
    return f.read()


def man_text():
  """The manual page without its markup."""
  text = read("criu-lite/criu-lite.8").replace("\\-", "-").replace("\\&", "")
  return re.sub(r"\\f[A-Z]|\\f\([A-Z]{2}", "", text)


def code_lines(text):
  """Lines of fenced or indented code, with backslash continuations joined."""
  lines, fenced = [], False
  for line in text.replace("\\\n", " ").splitlines():
    if line.lstrip().startswith("```"):
      fenced = not fenced
    elif fenced or line.startswith("    "):
      lines.append(line.strip())
  return lines


def commands_in(text):
  """(command, options) of each criu-lite command."""
  for line in code_lines(text):
    line = line.split(" #")[0]
    m = re.match(r"(?:sudo |\S*/)?criu-lite +([a-z-]+)(.*)", line)
    if m:
      yield line, m.group(1), options(m.group(2))


def main():
  program = tool.find_tool()
  tally = Tally()
  helps = {c: help_of(program, c) for c in COMMANDS}
  man = man_text()
  for command, text in helps.items():
    tally.check(text, "criu-lite %s --help fails" % command)
    for opt in sorted(options(text)):
      tally.check(opt in options(man), "manual page lacks %s of %s" % (opt, command))
  everything = set().union(*(options(t) for t in helps.values()))
  for line in man.splitlines():
    if line.startswith((".BR --", ".BI --", ".B --", ".BR -", ".BI -", ".B -")):
      for opt in options(line):
        tally.check(opt in everything, "manual page: no command has " + opt)
  for doc in ("README.md", "HACKING.md"):
    text = read(doc)
    for line, command, opts in commands_in(text):
      tally.check(command in helps, "%s: no such command: %s" % (doc, line))
      for opt in opts:
        tally.check(opt in options(helps.get(command, "")),
                    "%s: %s: no such option %s" % (doc, line, opt))
    paths = re.findall(r"`((?:\.ci|contrib|criu-lite|images|proto|test)/[\w./-]+)`", text)
    for line in code_lines(text):
      paths += re.findall(r"^(?:python3 +)?((?:\.ci|contrib|test)/[\w./-]+)", line)
    for path in paths:
      if "NAME" in path:
        continue
      tally.check(os.path.exists(os.path.join(tool.TOP, path)),
                  "%s names %s, which is not there" % (doc, path))
  setup = [line.split()[0] for line in code_lines(read("README.md"))]
  for script in ("contrib/demo", "test/run"):
    tally.check(script in setup, "README.md lacks the command " + script)
  print("%d passed, %d failed, 0 skipped" % (tally.passed, tally.failed))
  return 1 if tally.failed else 0


if __name__ == "__main__":
  sys.exit(main())
