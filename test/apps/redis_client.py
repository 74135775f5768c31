#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A redis client that knows every value it may see.

    redis_client.py fill   --addr IP --bytes N            fills fill:0, fill:1, ...
    redis_client.py verify --addr IP --keys N             reads all of them back
    redis_client.py hammer --addr IP --keys N --log FILE  writes and reads until SIGTERM

Every value follows from its key (and, for hammer's own keys, a sequence number), so a
value that is lost, stale, torn or in the wrong place is seen. Each command ends with one
line of JSON on stdout and exits 0 only if nothing was wrong.

hammer: a write that was acknowledged must be there ever after. Connections are made once; one
that breaks is the end, and a failure. Pauses (no reply for more than 5 ms) go to the log, one
JSON a line, in seconds of CLOCK_MONOTONIC.
"""

import argparse
import json
import random
import signal
import socket
import sys
import time

PORT = 6379
LIVE_KEYS = 5000  # of each connection
BATCH = 16        # commands in one go


class Broken(Exception):
  """The connection is gone, or no reply came in time."""


def fill_value(i):
  """Value of fill:i. A quarter is text, a quarter half text, the rest does not compress."""
  rng = random.Random(i)
  size = 1024 + rng.randrange(7168)
  head = b"fill %d " % i
  if i % 4 == 0:
    body = b"the quick brown fox %d " % i * (size // 22)
  elif i % 4 == 1:
    body = rng.randbytes(size // 2) + b"\0" * (size // 2)
  else:
    body = rng.randbytes(size)
  return head + body


def live_value(conn, k, seq):
  rng = random.Random(conn << 40 | k << 24 | seq)
  return b"live %d %d %d " % (conn, k, seq) + rng.randbytes(64 + rng.randrange(1500))


def command(*args):
  out = [b"*%d\r\n" % len(args)]
  for a in args:
    if not isinstance(a, bytes):
      a = str(a).encode()
    out.append(b"$%d\r\n%b\r\n" % (len(a), a))
  return b"".join(out)


class Link:
  """One connection."""

  def __init__(self, addr, timeout):
    try:
      self.sock = socket.create_connection((addr, PORT), timeout)
      self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
      self.file = self.sock.makefile("rb", 1 << 16)
    except OSError as e:
      raise Broken(str(e))

  def send(self, data):
    try:
      self.sock.sendall(data)
    except OSError as e:
      raise Broken(str(e))

  def reply(self):
    """One reply: bytes, int, or None for nil. Errors of the server are fatal here."""
    try:
      line = self.file.readline()
      if not line.endswith(b"\r\n"):
        raise Broken("closed")
      kind, rest = line[:1], line[1:-2]
      if kind == b"+":
        return rest
      if kind == b":":
        return int(rest)
      if kind == b"$":
        n = int(rest)
        if n < 0:
          return None
        data = self.file.read(n + 2)
        if len(data) != n + 2:
          raise Broken("closed")
        return data[:-2]
    except OSError as e:
      raise Broken(str(e))
    raise SystemExit("redis says: %r" % line)

  def call(self, *args):
    self.send(command(*args))
    return self.reply()

  def close(self):
    self.file.close()
    self.sock.close()


def fill(args):
  link = Link(args.addr, 60)
  i = total = 0
  while total < args.bytes:
    out, size, first = [], 0, i
    while size < 1 << 20:
      value = fill_value(i)
      out.append(command(b"SET", b"fill:%d" % i, value))
      size += len(value)
      i += 1
    link.send(b"".join(out))
    for _ in range(first, i):
      if link.reply() != b"OK":
        raise SystemExit("a SET was not acknowledged")
    total += size
  print(json.dumps({"keys": i, "bytes": total}))
  return 0


def verify(args):
  link = Link(args.addr, 60)
  lost, wrong = 0, 0
  for first in range(0, args.keys, 256):
    chunk = range(first, min(first + 256, args.keys))
    link.send(b"".join(command(b"GET", b"fill:%d" % i) for i in chunk))
    for i in chunk:
      got = link.reply()
      if got is None:
        lost += 1
      elif got != fill_value(i):
        wrong += 1
  print(json.dumps({"keys": args.keys, "lost": lost, "wrong": wrong,
                    "dbsize": link.call("DBSIZE")}))
  return 0 if not lost and not wrong else 1


class Worker:
  """One connection of hammer and what the server may hold of it."""

  def __init__(self, ident, args, log):
    self.id, self.args, self.log = ident, args, log
    self.rng = random.Random(ident)
    self.link = Link(args.addr, args.timeout)
    self.seq = 0
    self.acked = {}    # k: seq that was acknowledged last
    self.count = 0     # of INCR: acknowledged
    self.flight = []   # [(op, k, seq)] without a reply so far
    self.last = None   # time of the last reply
    self.stat = dict(ops=0, writes=0, lost=0, wrong=0, pauses=0, longest=0.0)

  def write(self):
    k = self.rng.randrange(LIVE_KEYS)
    self.seq += 1
    self.flight.append(("set", k, self.seq))
    return command(b"SET", b"live:%d:%d" % (self.id, k), live_value(self.id, k, self.seq))

  def read(self, k=None):
    if k is None:
      k = self.rng.randrange(LIVE_KEYS)
    self.flight.append(("get", k, 0))
    return command(b"GET", b"live:%d:%d" % (self.id, k))

  def read_fill(self):
    i = self.rng.randrange(self.args.keys)
    self.flight.append(("fill", i, 0))
    return command(b"GET", b"fill:%d" % i)

  def incr(self):
    self.flight.append(("incr", 0, 0))
    return command(b"INCR", b"count:%d" % self.id)

  def start_batch(self):
    out = [self.incr()]
    for n in range(BATCH - 1):
      what = n % 4
      out.append(self.write() if what < 2 else
                 self.read() if what == 2 or not self.args.keys else self.read_fill())
    self.send(out)

  def send(self, out):
    self.link.send(b"".join(out))

  def finish_batch(self):
    while self.flight:
      got = self.link.reply()
      self.arrived(time.monotonic())
      self.check(*self.flight.pop(0), got)

  def arrived(self, now):
    if self.last is not None and now - self.last > 0.005:
      self.stat["pauses"] += 1
      self.stat["longest"] = max(self.stat["longest"], now - self.last)
      self.log.write(json.dumps({"conn": self.id, "from": self.last, "to": now}) + "\n")
      self.log.flush()
    self.last = now
    self.stat["ops"] += 1

  def check(self, op, k, seq, got):
    if op == "set":
      if got != b"OK":
        self.complain("wrong", "SET answered %r" % got)
      self.acked[k] = seq
      self.stat["writes"] += 1
    elif op == "fill":
      if got is None:
        self.complain("lost", "fill:%d" % k)
      elif got != fill_value(k):
        self.complain("wrong", "fill:%d is %r" % (k, got[:60]))
    elif op == "incr":
      if got != self.count + 1:
        self.complain("wrong" if got > self.count else "lost", "count:%d is %d, not %d"
                      % (self.id, got, self.count + 1))
      self.count = got
      self.stat["writes"] += 1
    else:
      self.check_live(k, got)

  def check_live(self, k, got):
    seq = self.acked.get(k)
    if got == (live_value(self.id, k, seq) if seq else None):
      return
    if got is None:
      self.complain("lost", "live:%d:%d" % (self.id, k))
    else:
      self.complain("wrong", "live:%d:%d is %r, not seq %s" % (self.id, k, got[:40], seq))

  def complain(self, what, text):
    self.stat[what] += 1
    if self.stat[what] <= 20:
      sys.stderr.write("hammer: %s: %s\n" % (what, text))

  def check_all(self):
    """Reads back every key it ever wrote."""
    self.last = None
    keys = sorted(self.acked)
    for first in range(0, len(keys), 256):
      self.send([self.read(k) for k in keys[first:first + 256]])
      self.finish_batch()


def hammer(args):
  stop = []
  signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
  with open(args.log, "w") as log:
    workers = [Worker(n, args, log) for n in range(args.conns)]
    log.write(json.dumps({"start": time.monotonic()}) + "\n")
    log.flush()
    while not stop:
      for w in workers:
        w.start_batch()
      for w in workers:
        w.finish_batch()
      time.sleep(args.pace / 1000)
    for w in workers:
      w.check_all()
  total = {}
  for w in workers:
    for name, n in w.stat.items():
      total[name] = max(total.get(name, 0), n) if name == "longest" else \
          total.get(name, 0) + n
  total["live_keys"] = sum(len(w.acked) for w in workers)
  print(json.dumps(total))
  return 0 if not total["lost"] and not total["wrong"] else 1


def main():
  p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  p.add_argument("what", choices=["fill", "verify", "hammer"])
  p.add_argument("--addr", required=True)
  p.add_argument("--bytes", type=int, default=0)
  p.add_argument("--keys", type=int, default=0)
  p.add_argument("--conns", type=int, default=4)
  p.add_argument("--pace", type=float, default=1.0, help="ms between two batches")
  p.add_argument("--timeout", type=float, default=5.0, help="s to wait for a reply")
  p.add_argument("--log", default="/dev/null")
  args = p.parse_args()
  try:
    return {"fill": fill, "verify": verify, "hammer": hammer}[args.what](args)
  except Broken as e:
    raise SystemExit("the connection broke: %s" % e)


if __name__ == "__main__":
  sys.exit(main())
