#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""nginx moves there and back while a client on a third host downloads from it.

The file's bytes follow from their places, and the client's checksum is compared with that of the
file; it connects once. nginx runs as an unprivileged user, master and worker.
"""

import hashlib
import os
import pwd
import random
import shutil
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import server  # noqa: E402
from peers import ADDRESS, Failed, check, hosts, socket_in  # noqa: E402

PORT, USER = 8080, "nobody"
CONFIG = """
daemon off;
worker_processes 1;
pid {d}/pid;
error_log {d}/error.log info;
events {{ worker_connections 64; }}
http {{
  access_log off;
  sendfile {sendfile};
  client_body_temp_path {d}/body;
  proxy_temp_path {d}/proxy;
  fastcgi_temp_path {d}/fastcgi;
  uwsgi_temp_path {d}/uwsgi;
  scgi_temp_path {d}/scgi;
  server {{ listen 8080; root {d}/files; }}
}}
"""


def make_file(path, size):
  rng, digest = random.Random(1), hashlib.sha256()
  with open(path, "wb") as f:
    for _ in range(size >> 20):
      piece = rng.randbytes(1 << 20)
      digest.update(piece)
      f.write(piece)
  return digest.hexdigest()


class Download:
  """GET in steps, so that moves fall between and into them."""

  def __init__(self, b):
    import socket
    self.sock = socket_in(b.c, socket.AF_INET, socket.SOCK_STREAM)
    self.sock.settimeout(20)
    self.sock.connect((ADDRESS[4], PORT))
    self.sock.sendall(b"GET /file HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    self.digest, self.got, self.longest = hashlib.sha256(), 0, 0.0
    head = b""
    while b"\r\n\r\n" not in head:
      head += self.sock.recv(4096)
    head, body = head.split(b"\r\n\r\n", 1)
    check(head.startswith(b"HTTP/1.1 200"), "nginx says: %s", head[:200])
    self.put(body)

  def put(self, data):
    self.digest.update(data)
    self.got += len(data)

  def run(self, until):
    """To this many bytes, or to the end."""
    last = time.monotonic()
    while self.got < until:
      data = self.sock.recv(1 << 16)
      now = time.monotonic()
      self.longest, last = max(self.longest, now - last), now
      if not data:
        break
      self.put(data)


def start(b, sendfile):
  if not shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin"):
    raise Failed("nginx is not installed")
  os.environ["PATH"] += ":/usr/sbin"
  d = b.mkdir("nginx")
  os.makedirs(os.path.join(d, "files"))
  with open(os.path.join(d, "conf"), "w") as f:
    f.write(CONFIG.format(d=d, sendfile=sendfile))
  user = pwd.getpwnam(USER)
  for path in (d, os.path.join(d, "files")):
    os.chown(path, user.pw_uid, user.pw_gid)
  nginx = server.Server(b, USER, ["nginx", "-p", d, "-e", d + "/error.log", "-c", d + "/conf"], d)
  nginx.wait_ready(PORT)
  return nginx, os.path.join(d, "files", "file")


def run(b, args):
  import threading
  nginx, path = start(b, args.sendfile)
  size = args.size << 20
  want = make_file(path, size)
  os.chmod(path, 0o644)
  if args.limit:
    b.a.limit(args.limit), b.b.limit(args.limit)
  get = Download(b)
  errors = []

  def work():
    try:
      get.run(size + 1)
    except OSError as e:
      errors.append(e)
  thread = threading.Thread(target=work, daemon=True)
  thread.start()
  moves = 0
  for n in range(args.moves):
    hosts.wait_for(lambda: get.got > size * (n + 1) // (args.moves + 2) or not thread.is_alive(),
                   120)
    check(thread.is_alive(), "the download ended before move %d: %d bytes, %s", n, get.got, errors)
    begin = get.got
    m = b.move(nginx)
    moves += 1
    print("move %d at %d MiB: downtime %.1f ms" % (n + 1, begin >> 20, m["downtime"] * 1e3))
  thread.join(120)
  check(not thread.is_alive() and not errors, "the download does not end: %d bytes, %s", get.got,
        errors)
  check(get.got == size, "%d bytes of %d", get.got, size)
  check(get.digest.hexdigest() == want, "the checksum is wrong")
  print("%d MiB in one connection through %d moves, checksum right, longest pause %.1f ms"
        % (args.size, moves, get.longest * 1e3))
  again = Download(b)
  again.run(1000)
  again.sock.close()
  b.check_open(nginx.host, b.other(nginx.host))


def main():
  p = server.parser(__doc__)
  p.add_argument("--size", type=int, default=256, metavar="MIB", help="1024 is the full test")
  p.add_argument("--limit", type=int, default=400, metavar="MBIT", help="of each host; 0: none")
  p.add_argument("--sendfile", choices=["on", "off"], default="on")
  return server.main(p, run)


if __name__ == "__main__":
  sys.exit(main())
