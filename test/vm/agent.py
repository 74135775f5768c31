#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The driver's hand inside a virtual machine: runs what is asked for over a virtio port.

One JSON object a line, both ways:

    {"id": 7, "run": ["ls", "/"], "timeout": 10, "input": "", "env": {}}
        -> {"id": 7, "rc": 0, "out": "..."}            rc -9 and "timeout": true after a timeout
    {"id": 8, "spawn": ["sleep", "9"], "log": "/tmp/log", "dir": "/"}
        -> {"id": 8, "pid": 123}                       a session of its own; reaped by init
    {"id": 9, "put": "/tmp/x", "data": BASE64}         -> {"id": 9}
    {"id": 10, "get": "/tmp/x"}                        -> {"id": 10, "data": BASE64}

A request that cannot be carried out is answered by {"id": N, "error": "why"}. The agent says
{"ready": true, "kernel": "6.1.0-..."} first. Requests run side by side.
"""

import base64
import json
import os
import signal
import subprocess
import threading

PORT = "criu-lite"


def find_port():
  top = "/sys/class/virtio-ports"
  for name in os.listdir(top):
    with open("%s/%s/name" % (top, name)) as f:
      if f.read().strip() == PORT:
        return "/dev/" + name
  raise SystemExit("agent: no virtio port " + PORT)


def do_run(ask):
  env = dict(os.environ, **ask.get("env", {}))
  p = subprocess.Popen(ask["run"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, env=env, cwd=ask.get("dir", "/"),
                       start_new_session=True)
  late = False
  try:
    out = p.communicate(ask.get("input", "").encode(), ask.get("timeout", 60))[0]
  except subprocess.TimeoutExpired:
    late = True
    os.killpg(p.pid, signal.SIGKILL)
    try:
      out = p.communicate(timeout=5)[0]
    except subprocess.TimeoutExpired:
      out = b"(output is still held by a process)"
  return {"rc": p.returncode, "timeout": late, "out": out.decode(errors="replace")}


def do_spawn(ask):
  """By way of a child that ends at once: what is spawned is init's, like a daemon. Its pid comes
  back through a pipe."""
  r, w = os.pipe()
  child = os.fork()
  if not child:
    try:
      os.setsid()
      if os.fork():
        os._exit(0)
      os.setsid()
      os.write(w, b"%d\n" % os.getpid())
      os.chdir(ask.get("dir", "/"))
      null = os.open("/dev/null", os.O_RDONLY)
      log = os.open(ask.get("log", "/dev/null"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
      os.dup2(null, 0)
      os.dup2(log, 1)
      os.dup2(log, 2)
      os.closerange(3, 256)
      for sig in (signal.SIGPIPE, signal.SIGXFSZ):  # python ignores them
        signal.signal(sig, signal.SIG_DFL)
      os.execvpe(ask["spawn"][0], ask["spawn"], dict(os.environ, **ask.get("env", {})))
    except OSError as e:
      os.write(2, ("%s: %s\n" % (ask["spawn"][0], e)).encode())
    os._exit(127)
  os.close(w)
  os.waitpid(child, 0)
  with os.fdopen(r) as f:
    return {"pid": int(f.readline())}


def do_put(ask):
  with open(ask["put"], "wb") as f:
    f.write(base64.b64decode(ask["data"]))
  return {}


def do_get(ask):
  with open(ask["get"], "rb") as f:
    return {"data": base64.b64encode(f.read()).decode()}


DO = {"run": do_run, "spawn": do_spawn, "put": do_put, "get": do_get}


class Agent:
  def __init__(self):
    self.port = os.open(find_port(), os.O_RDWR | os.O_CLOEXEC)
    self.lock = threading.Lock()

  def say(self, what):
    data = json.dumps(what).encode() + b"\n"
    with self.lock:
      while data:
        data = data[os.write(self.port, data):]

  def serve(self, ask):
    try:
      answer = next(DO[key](ask) for key in DO if key in ask)
    except Exception as e:
      answer = {"error": "%s: %s" % (type(e).__name__, e)}
    self.say(dict(answer, id=ask["id"]))

  def loop(self):
    self.say({"ready": True, "kernel": os.uname().release})
    rest = b""
    while True:
      got = os.read(self.port, 65536)
      if not got:
        raise SystemExit("agent: the other end of the port is closed")
      *lines, rest = (rest + got).split(b"\n")
      for line in lines:
        threading.Thread(target=self.serve, args=(json.loads(line),), daemon=True).start()


os.environ["PATH"] = "/usr/bin:/usr/sbin"
Agent().loop()
