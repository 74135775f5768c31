#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A live redis-server moves from one host to another and back, under a client that checks.

Two hosts (namespaces with their own network, pids and mounts) and a third for the client.
The server is filled, the client writes and reads all the time, the server moves there and
back with its address; then the client reads back everything it wrote, and another reads back
every key of the fill. The client connects once and never again. The exit code is 0 only if every
move succeeded, no connection broke, and no value was lost or wrong.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
import hosts  # noqa: E402
import tool  # noqa: E402

CLIENT = [sys.executable or "python3", os.path.join(HERE, "redis_client.py")]
PORT = 9400
ADDRESS = "10.9.0.50"  # of the server, wherever it is
BENCHMARK = ["redis-benchmark", "-h", ADDRESS, "-c", "50", "-P", "16", "-n", "2000000000",
             "-r", "100000", "-t", "set"]


class Failed(Exception):
  pass


def say(text):
  print(text, flush=True)


def last_json(text, what):
  try:
    return json.loads(text.strip().splitlines()[-1])
  except (IndexError, ValueError):
    raise Failed("%s said nothing: %r" % (what, text[-300:]))


class Demo:
  def __init__(self, args, net, directory):
    self.args, self.dir = args, directory
    self.a, self.b, self.c = net
    self.where = self.a
    self.pid = None
    self.keys = 0
    self.moves = []

  def start_server(self, host, extra=()):
    log = os.path.join(self.dir, "redis.log")
    cmd = ["redis-server", "--port", "6379", "--bind", "0.0.0.0", "--protected-mode", "no",
           "--save", "", "--dir", self.dir, "--logfile", log,
           "--appendonly", "yes" if self.args.aof else "no"]
    if self.args.io_threads > 1:
      cmd += ["--io-threads", str(self.args.io_threads), "--io-threads-do-reads", "yes"]
    guest = host.popen(cmd + list(extra), cwd=self.dir, stdout=log, stderr=subprocess.STDOUT)
    hosts.wait_listening(host, 6379, 20)
    return guest

  def cli(self, *words, timeout=600):
    done = self.where.run(["redis-cli", *words], timeout=timeout)
    return done.stdout

  def client(self, what, *more):
    done = self.c.run(CLIENT + [what, "--addr", ADDRESS, *more], timeout=1800)
    if not done.stdout:
      raise Failed("%s: %s" % (what, done.stderr.strip()))
    return last_json(done.stdout, what)

  def info(self, section):
    return dict(line.split(":", 1) for line in self.cli("info", section).splitlines()
                if ":" in line)

  def server_id(self):
    info = self.info("server")
    return int(info["process_id"]), info["run_id"]

  def start(self):
    self.a.run(["ip", "addr", "add", ADDRESS + "/24", "dev", "eth0"], check=True)
    guest = self.start_server(self.a)
    self.pid = guest.pid_inside
    size = int(self.args.size * (1 << 30))
    begin = time.monotonic()
    filled = self.client("fill", "--bytes", str(size))
    self.keys = filled["keys"]
    say("redis-server, pid %d on %s: %d keys, %d MiB, filled in %.1f s"
        % (self.pid, self.a.name, self.keys, filled["bytes"] >> 20,
           time.monotonic() - begin))
    self.ident = self.server_id()
    conns = "8" if self.args.io_threads > 1 else "4"
    self.log = os.path.join(self.dir, "client.log")
    self.hammer = self.c.popen(
        CLIENT + ["hammer", "--addr", ADDRESS, "--conns", conns, "--keys", str(self.keys),
                  "--log", self.log],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(1)
    if self.hammer.poll() is not None:
      raise Failed("the client does not run: " + self.hammer.communicate()[1])

  def move(self, src, dst):
    """One migration, with the target's `receive` started and ended."""
    name = "%s-%d" % (dst.name, len(self.moves))
    rlog, mlog = (os.path.join(self.dir, "%s-%s.log" % (name, w)) for w in ("recv", "send"))
    target = "%s:%d" % (dst.ip, PORT)
    receive = dst.popen([self.args.tool, "receive", "--listen", target, "--once"]
                        + self.args.receive_opt, stdout=rlog, stderr=subprocess.STDOUT)
    try:
      hosts.wait_listening(dst, PORT)
    except TimeoutError:
      raise Failed("receive does not listen:\n" + open(rlog).read())
    cmd = [self.args.tool, "migrate", "-t", str(self.pid), "--json", "--tcp-established",
           "--move-address", ADDRESS + "/24"]
    if self.args.rewrite:
      self.cli("bgrewriteaof")
    begin = time.monotonic()
    done = src.run(cmd + self.args.migrate_opt + ["tcp://" + target], timeout=600,
                   stderr=subprocess.STDOUT)
    end = time.monotonic()
    with open(mlog, "w") as f:
      f.write(done.stdout)
    if done.returncode:
      raise Failed("migrate to %s exited %d:\n%s\nreceive said:\n%s" % (
          dst.name, done.returncode, done.stdout, open(rlog).read()[-3000:]))
    if receive.wait(20):
      raise Failed("receive --once exited %d:\n%s"
                   % (receive.returncode, open(rlog).read()[-3000:]))
    self.where = dst
    if src.alive(self.pid):
      raise Failed("the source still runs on " + src.name)
    if not dst.alive(self.pid):
      raise Failed("no pid %d on %s" % (self.pid, dst.name))
    got = tool.summary(done.stdout)
    got.update(way="%s > %s" % (src.name, dst.name), begin=begin, end=end)
    time.sleep(self.args.settle)
    if self.server_id() != self.ident:
      raise Failed("another server answers: %s, was %s" % (self.server_id(), self.ident))
    if self.hammer.poll() is not None:
      raise Failed("the client ended: " + self.hammer.communicate()[1])
    self.moves.append(got)
    say("%s: moved in %.1f s" % (got["way"], got["total"]))

  def benchmark(self):
    """redis-benchmark, pipelined, while the server moves there and back. It ends at any error."""
    log = os.path.join(self.dir, "benchmark.log")
    before = int(self.info("stats")["total_connections_received"])
    bench = self.c.popen(BENCHMARK, stdout=log, stderr=subprocess.STDOUT)
    time.sleep(1)
    src, dst = (self.a, self.b) if self.where is self.a else (self.b, self.a)
    self.move(src, dst)
    self.move(dst, src)
    first, seconds = self.info("stats"), 1
    time.sleep(seconds)
    last = self.info("stats")
    if bench.poll() is not None:
      raise Failed("redis-benchmark ended: " + open(log).read()[-2000:])
    bench.kill_session()
    # It makes one connection more to ask for the configuration; the rest is redis-cli.
    made = int(last["total_connections_received"]) - before
    if made > 50 + 1 + 8:
      raise Failed("%d connections for the 50 of redis-benchmark" % made)
    name = "total_commands_processed"
    rate = (int(last[name]) - int(first[name])) / seconds
    if rate < 100:
      raise Failed("redis-benchmark does not go on: %d commands a second" % rate)
    say("redis-benchmark: 50 connections through two moves, then %d commands a second" % rate)

  def finish(self):
    """Everything is read back; returns (hammer's result, verify's result)."""
    self.hammer.send_signal(signal.SIGTERM)
    try:
      out, err = self.hammer.communicate(timeout=120)
    except subprocess.TimeoutExpired:
      raise Failed("the client does not end")
    if not out:
      raise Failed("the client died: " + err)
    sys.stderr.write(err)
    live = last_json(out, "the client")
    say("reading back all %d keys" % self.keys)
    full = self.client("verify", "--keys", str(self.keys))
    if self.args.aof:
      self.reload_aof(full)
    return live, full

  def reload_aof(self, full):
    """What the moved server wrote to its file must make the same server again."""
    self.cli("shutdown")
    hosts.wait_for(lambda: not self.where.alive(self.pid), 60)
    self.start_server(self.where)
    hosts.wait_for(lambda: "PONG" in self.cli("ping"), 300, 0.2)
    again = self.client("verify", "--keys", str(self.keys))
    say("started again from its append-only file: %d keys" % again["dbsize"])
    full["lost"] += again["lost"] + abs(full["dbsize"] - again["dbsize"])
    full["wrong"] += again["wrong"]

  def pause(self, move):
    """The longest time without a reply that touches this move."""
    longest = 0.0
    with open(self.log) as f:
      for line in f:
        gap = json.loads(line)
        if "conn" in gap and gap["from"] <= move["end"] + self.args.settle \
                and gap["to"] >= move["begin"]:
          longest = max(longest, gap["to"] - gap["from"])
    return longest

  def table(self):
    rows = [("move", "rounds", "sent", "total", "downtime", "longest client pause")]
    for m in self.moves:
      rows.append((m["way"], str(m["rounds"]), "%.0f MiB" % (m["bytes"] / (1 << 20)),
                   "%.2f s" % m["total"], "%.1f ms" % (m["downtime"] * 1e3),
                   "%.1f ms" % (self.pause(m) * 1e3)))
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    say("")
    for r in rows:
      say("  ".join(w.ljust(n) if i == 0 else w.rjust(n)
                    for i, (w, n) in enumerate(zip(r, widths))))


def enough_memory(size):
  """The pages are on both hosts for a while, and the client's buffers come on top."""
  with open("/proc/meminfo") as f:
    free = next(int(line.split()[1]) << 10 for line in f if line.startswith("MemAvailable"))
  need = int(size * (1 << 30) * 2.6) + (300 << 20)
  if free < need:
    raise Failed("%d MiB of memory are available, %d are needed; use a smaller --size"
                 % (free >> 20, need >> 20))


def run(args):
  begin = time.monotonic()
  enough_memory(args.size)
  directory = tempfile.mkdtemp(prefix="criu-lite-redis-")
  ok = False
  try:
    with hosts.Hosts(3, names=["hosta", "hostb", "client"]) as net:
      demo = Demo(args, net, directory)
      demo.start()
      for n in range(args.moves):
        demo.move(*((demo.b, demo.a) if n % 2 else (demo.a, demo.b)))
      if args.benchmark:
        demo.benchmark()
      live, full = demo.finish()
      demo.table()
    say("")
    say("client: %d commands, %d writes acknowledged, longest pause %.1f ms, never reconnected"
        % (live["ops"], live["writes"], live["longest"] * 1e3))
    lost, wrong = live["lost"] + full["lost"], live["wrong"] + full["wrong"]
    say("values: %d of the fill and %d of the client read back: %d lost, %d wrong (%.0f s)"
        % (full["keys"], live["live_keys"], lost, wrong, time.monotonic() - begin))
    ok = not lost and not wrong
  finally:
    if ok or not args.keep:
      shutil.rmtree(directory, ignore_errors=True)
    else:
      say("logs are in " + directory)
  return 0 if ok else 1


def main():
  p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  p.add_argument("--aof", action="store_true", help="with appendonly yes")
  p.add_argument("--rewrite", action="store_true",
                 help="with --aof: a child rewrites the file while the server moves")
  p.add_argument("--io-threads", type=int, default=1, metavar="N")
  p.add_argument("--size", type=float, default=1.0, metavar="GIB", help="data (default 1)")
  p.add_argument("--moves", type=int, default=2, metavar="N",
                 help="there and back in turn (default 2; 10 is the full test)")
  p.add_argument("--benchmark", action="store_true",
                 help="then two moves more under a pipelined redis-benchmark")
  p.add_argument("--settle", type=float, default=1.0, metavar="S", help="time between moves")
  p.add_argument("--tool", metavar="PATH", help="the criu-lite to use")
  p.add_argument("--keep", action="store_true", help="keep the logs of a failure")
  p.add_argument("--migrate-opt", action="append", default=[], metavar="OPT")
  p.add_argument("--receive-opt", action="append", default=[], metavar="OPT")
  args = p.parse_args()
  args.aof |= args.rewrite
  args.tool = tool.find_tool(args.tool)
  if os.geteuid():
    p.exit(1, "root is needed\n")
  try:
    return run(args)
  except Failed as e:
    sys.stderr.write("failed: %s\n" % e)
    return 1


if __name__ == "__main__":
  sys.exit(main())
