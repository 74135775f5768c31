#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A guest that has one of everything, so that its dump has every kind of image.

crit_guest.py DIR: works in DIR, writes "ready" to DIR/ready and sleeps.
"""

import ctypes
import mmap
import os
import select
import signal
import socket
import sys
import threading
import time

libc = ctypes.CDLL(None, use_errno=True)


class Itimerspec(ctypes.Structure):
  _fields_ = [("interval_s", ctypes.c_long), ("interval_ns", ctypes.c_long),
              ("value_s", ctypes.c_long), ("value_ns", ctypes.c_long)]


def must(ret):
  if ret < 0:
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
  return ret


def files(keep):
  keep.append(open("plain", "w+"))
  keep[-1].write("some text")
  keep[-1].flush()
  keep.append(open("plain", "a"))
  keep.append(os.dup(keep[-1].fileno()))
  keep.append(os.open(".", os.O_RDONLY | os.O_DIRECTORY))
  keep.append(open("/dev/urandom", "rb"))
  ghost = open("ghost", "w+")
  ghost.write("no name any more")
  ghost.flush()
  os.unlink("ghost")
  keep.append(ghost)


def pipes(keep):
  r, w = os.pipe()
  os.write(w, b"in the pipe")
  os.mkfifo("fifo")
  f = os.open("fifo", os.O_RDWR | os.O_NONBLOCK)
  os.write(f, b"in the fifo")
  keep += [r, w, f]


def anon_fds(keep):
  efd = must(libc.eventfd(3, os.O_NONBLOCK))
  tfd = must(libc.timerfd_create(time.CLOCK_MONOTONIC, 0))
  when = Itimerspec(0, 0, 3600, 0)
  must(libc.timerfd_settime(tfd, 0, ctypes.byref(when), None))
  mask = (ctypes.c_ulong * 16)(1 << (signal.SIGUSR2 - 1))
  sfd = must(libc.signalfd(-1, mask, 0))
  mfd = os.memfd_create("crit")
  os.write(mfd, b"m" * 5000)
  poll = select.epoll()
  poll.register(efd, select.EPOLLIN)
  poll.register(tfd, select.EPOLLIN)
  keep += [efd, tfd, sfd, mfd, poll]


def sockets(keep):
  for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    for family, addr in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
      s = socket.socket(family, kind)
      s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      s.bind((addr, 0))
      if kind == socket.SOCK_STREAM:
        s.listen(5)
      keep.append(s)
  a, b = socket.socketpair()
  a.send(b"between the two")
  u = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
  u.bind("unix.sock")
  u.listen(3)
  keep += [a, b, u]


def memory(keep):
  shared = mmap.mmap(-1, 65536)
  shared[:6] = b"shared"
  with open("mapped", "wb+") as f:
    f.write(b"x" * 20000)
    f.flush()
    keep.append(mmap.mmap(f.fileno(), 20000))
    keep.append(mmap.mmap(f.fileno(), 20000, mmap.MAP_PRIVATE))
  keep[-1][:4] = b"cow!"
  keep.append(shared)
  return shared


def child(shared):
  pid = os.fork()
  if not pid:
    shared[6:11] = b"child"
    if not os.fork():
      os._exit(3)  # a zombie
    os.setpgid(0, 0)
    while True:
      time.sleep(100)


def main():
  os.chdir(sys.argv[1])
  keep = []
  files(keep)
  pipes(keep)
  anon_fds(keep)
  sockets(keep)
  child(memory(keep))
  signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
  threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
  signal.signal(signal.SIGUSR1, lambda *_: None)
  os.kill(os.getpid(), signal.SIGUSR2)
  signal.setitimer(signal.ITIMER_REAL, 3000)
  time.sleep(0.3)
  with open("ready", "w") as f:
    f.write("ready\n")
  while True:
    time.sleep(100)


if __name__ == "__main__":
  main()
