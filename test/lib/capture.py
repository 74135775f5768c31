# SPDX-License-Identifier: Apache-2.0
"""What goes over a host's link, and whether its TCP is sound: no RST, no byte sent twice with
different values."""

import ctypes
import os
import socket
import struct
import threading

_libc = ctypes.CDLL(None, use_errno=True)
ETH_P_ALL, SOL_PACKET, PACKET_STATISTICS = 3, 263, 6
FIN, SYN, RST = 1, 2, 4


def socket_in(host, *args):
  """A socket in a host's network; it stays there."""
  here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
  there = os.open("/proc/%d/ns/net" % host.init, os.O_RDONLY)
  try:
    if _libc.setns(there, 0):
      raise OSError(ctypes.get_errno(), "setns")
    try:
      return socket.socket(*args)
    finally:
      if _libc.setns(here, 0):
        os._exit(70)  # nothing must go on in the wrong network
  finally:
    os.close(here)
    os.close(there)


class Capture:
  """From its making to `stop()`; then `faults(address)` tells what is wrong with the connections of
  that address."""

  def __init__(self, host):
    self.frames = []
    self.sock = socket_in(host, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    self.sock.setsockopt(socket.SOL_SOCKET, 33, 256 << 20)  # SO_RCVBUFFORCE
    self.sock.bind(("eth0", ETH_P_ALL))
    self.sock.settimeout(0.2)
    self.ended = False
    self.thread = threading.Thread(target=self._run, daemon=True)
    self.thread.start()

  def _run(self):
    while True:
      try:
        self.frames.append(self.sock.recv(1 << 17))
      except TimeoutError:
        if self.ended:
          return
      except OSError:  # the host is gone
        return

  def stop(self):
    self.ended = True
    self.thread.join()
    stats = self.sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
    self.dropped = struct.unpack("II", stats)[1]
    self.sock.close()

  def faults(self, address):
    """A list of texts; `segments`, `resets` and `again` (bytes sent more than once) are counted."""
    want = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
    flows, bad = {}, []
    self.segments = self.resets = self.again = 0
    if self.dropped:
      bad.append("%d packets were not captured" % self.dropped)
    for frame in self.frames:
      s = parse(frame)
      if not s or want not in (s[0][0], s[0][1]):
        continue
      key, seq, flags, data = s
      self.segments += 1
      if flags & RST:
        self.resets += 1
        bad.append("RST from %s" % text(key))
      flow = flows.get(key)
      if flow is None or flags & SYN:
        flow = flows[key] = Flow(seq + bool(flags & SYN))
      wrong = flow.add(seq + bool(flags & SYN), data)
      if wrong is not None:
        bad.append("%s: byte %d was sent twice, with different values" % (text(key), wrong))
    self.again = sum(f.again for f in flows.values())
    return bad


class Flow:
  """One direction of a connection. `start` is the sequence number of its first byte here."""

  def __init__(self, start):
    self.start, self.data, self.again = start, bytearray(), 0
    self.known = bytearray()  # 1 for each byte that was seen; a later segment may come first

  def add(self, seq, data):
    """The position of the first byte that differs from what was sent there before, or None."""
    at = (seq - self.start) & 0xffffffff
    if at >> 31:  # before what the capture has seen
      skip = (1 << 32) - at
      at, data = 0, data[skip:]
    if at > len(self.data):
      self.known.extend(bytes(at - len(self.data)))
      self.data.extend(bytes(at - len(self.data)))
    old, known = self.data[at:at + len(data)], self.known[at:at + len(data)]
    if old != data[:len(old)]:
      for i in range(len(old)):
        if known[i] and old[i] != data[i]:
          return at + i
    self.again += known.count(1)
    self.data[at:at + len(data)] = data
    self.known[at:at + len(data)] = b"\1" * len(data)
    return None


def parse(frame):
  """((source, destination, ports), sequence number, flags, payload) of a TCP segment, or None."""
  kind = frame[12:14]
  if kind == b"\x08\x00" and frame[23] == 6:
    ip = 14
    tcp = ip + (frame[ip] & 15) * 4
    end = ip + struct.unpack_from("!H", frame, ip + 2)[0]
    ends = frame[ip + 12:ip + 16], frame[ip + 16:ip + 20]
  elif kind == b"\x86\xdd" and frame[20] == 6:
    ip = 14
    tcp = ip + 40
    end = tcp + struct.unpack_from("!H", frame, ip + 4)[0]
    ends = frame[ip + 8:ip + 24], frame[ip + 24:ip + 40]
  else:
    return None
  ports, seq, _, offset, flags = struct.unpack_from("!4sIIBB", frame, tcp)
  return (ends[0], ends[1], ports), seq, flags, frame[tcp + (offset >> 4) * 4:end]


def text(key):
  family = socket.AF_INET if len(key[0]) == 4 else socket.AF_INET6
  ports = struct.unpack("!HH", key[2])
  return "%s:%d to %s:%d" % (socket.inet_ntop(family, key[0]), ports[0],
                             socket.inet_ntop(family, key[1]), ports[1])
