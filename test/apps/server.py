# SPDX-License-Identifier: Apache-2.0
"""A server that knows nothing of tests moves there and back between its clients' requests."""

import argparse
import os
import pwd
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "live"))
from peers import Failed, Peers, hosts, tool  # noqa: E402


def as_user(user, cmd):
  gid = pwd.getpwnam(user).pw_gid
  return ["setpriv", "--reuid", user, "--regid", str(gid), "--clear-groups", *cmd]


class Server:
  """Runs in directory `d` of host a, as an unprivileged user; enough of frame.Guest for
  `Peers.move`."""

  def __init__(self, b, user, cmd, d):
    self.host, self.log = b.a, os.path.join(d, "log")
    self.proc = b.a.popen(as_user(user, cmd), cwd=d, stdout=self.log, stderr=subprocess.STDOUT)
    self.pid = self.proc.pid_inside

  def said(self):
    with open(self.log) as f:
      return f.read()

  def wait_ready(self, port, words=""):
    """Until it listens there and has said this."""
    try:
      hosts.wait_listening(self.host, port, 30)
      hosts.wait_for(lambda: words in self.said(), 30)
    except TimeoutError:
      raise Failed("the server does not listen: " + self.said()[-1000:])


def parser(doc):
  p = argparse.ArgumentParser(description=doc.split("\n")[0])
  p.add_argument("--moves", type=int, default=2)
  p.add_argument("--tool", help="criu-lite (default: $CRIU_LITE or the built one)")
  return p


def main(p, run):
  """Lays the hosts and calls run(hosts, arguments); the exit code."""
  args = p.parse_args()
  args.tool, args.victims_dir = tool.find_tool(args.tool), None
  try:
    with Peers(args) as b:
      run(b, args)
  except (Failed, TimeoutError) as e:
    print("failed: %s" % e)
    return 1
  return 0
