# SPDX-License-Identifier: Apache-2.0
"""The third party: talks to vm_guest (guest.c) while that moves."""

import json
import socket
import threading
import time

import vm

PORT = 7000


def stream(first, count):
  """Bytes number first, first + 1, ... of what a client sends."""
  return bytes(((i * 0x9e3779b97f4a7c15) >> 56) & 0xff for i in range(first, first + count))


class Questions:
  """Asks the guest, wherever it is, over UDP."""

  def __init__(self, net):
    self.sock = net.socket(socket.AF_INET, socket.SOCK_DGRAM)
    self.number = 0

  def ask(self, ip, word="say", timeout=30):
    """What the guest says of itself. Asks again until @timeout, as datagrams get lost."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
      self.number += 1
      tag = "%s %d" % (word, self.number)
      try:
        self.sock.sendto(tag.encode(), (ip, PORT))
        # A machine without KVM takes its time to check all pages.
        wait = time.monotonic() + (10 if word == "verify" else 2)
        while True:
          self.sock.settimeout(max(0.01, wait - time.monotonic()))
          got = json.loads(self.sock.recv(2048))
          if got["ask"] == tag:
            return got
      except OSError:
        time.sleep(0.1)
    raise vm.Failed("the guest does not answer at %s" % ip)

  def healthy(self, ip, when, steady):
    """All its memory and clocks are right. @steady: its monotonic clock, too, which otherwise is
    the one of the machine that it is on."""
    got = self.ask(ip, "verify", 60)
    for what in ("bad", "wrong_clock") + (("back",) if steady else ()):
      if got[what]:
        raise vm.Failed("%s: the guest says %s: %s" % (when, what, got))
    return got

  def speed(self, ip, seconds=2.0):
    """Pages that it changes in a second."""
    one = self.ask(ip)
    time.sleep(seconds)
    two = self.ask(ip)
    return (two["steps"] - one["steps"]) * 1e6 / max(1, two["now_us"] - one["now_us"])


class Stream:
  """One TCP connection that must live through everything: sends without end, and each byte must
  come back inverted. `wrong` says what was wrong first, `pause` is the longest time without a
  byte."""

  CHUNK = 512

  def __init__(self, net, ip, bytes_per_second=20000):
    self.rate = bytes_per_second
    self.sock = net.socket(socket.AF_INET, socket.SOCK_STREAM)
    self.sock.settimeout(20)
    self.sock.connect((ip, PORT))
    self.sent = self.got = 0
    self.wrong, self.pause, self.ended = None, 0.0, False
    self.threads = [threading.Thread(target=f, daemon=True) for f in (self._send, self._take)]
    for t in self.threads:
      t.start()

  def _send(self):
    begin = time.monotonic()
    while not self.ended:
      due = int((time.monotonic() - begin) * self.rate)
      # What could not be sent during a pause is not made up for.
      if due > self.sent + 2 * self.rate:
        begin = time.monotonic() - self.sent / self.rate
      if due < self.sent + self.CHUNK:
        time.sleep(0.005)
        continue
      try:
        self.sock.settimeout(60)
        self.sock.sendall(stream(self.sent, self.CHUNK))
        self.sent += self.CHUNK
      except OSError as e:
        return self._fail("send: %s" % e)

  def _take(self):
    last = time.monotonic()
    while not self.ended:
      try:
        data = self.sock.recv(65536)
      except OSError as e:
        return self._fail("receive: %s" % e)
      if not data:
        return self._fail("the guest closed the connection")
      now = time.monotonic()
      self.pause, last = max(self.pause, now - last), now
      if data != bytes(b ^ 0xff for b in stream(self.got, len(data))):
        return self._fail("wrong bytes after %d" % self.got)
      self.got += len(data)

  def _fail(self, why):
    if not self.ended and self.wrong is None:
      self.wrong = why

  def check(self, when, timeout=60):
    """Bytes sent from now on come back. Returns the longest pause since the last check."""
    goal, end = self.sent + self.CHUNK, time.monotonic() + timeout
    while self.got < goal and not self.wrong:
      if time.monotonic() > end:
        self._fail("nothing comes back: %d sent, %d received" % (self.sent, self.got))
      time.sleep(0.02)
    if self.wrong:
      raise vm.Failed("%s: connection: %s" % (when, self.wrong))
    pause, self.pause = self.pause, 0.0
    return pause

  def close(self):
    self.ended = True
    try:
      self.sock.shutdown(socket.SHUT_RDWR)  # wakes the threads
    except OSError:
      pass
    self.sock.close()
    for t in self.threads:
      t.join(5)
