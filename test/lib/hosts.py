#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Several hosts on one machine.

A host is a set of namespaces (network, pid, mount, uts, ipc) with an init that reaps
orphans. Hosts of one `Hosts` share a bridge, which stands in a network namespace of its
own: nothing is created in the machine's own network, so runs never collide.

    with Hosts(2) as (a, b):
        guest = a.popen(["sleep", "100"])       # guest.pid_inside, guest.kill()
        b.popen(["criu-lite", "receive", "--listen", b.ip + ":9400", "--once"])
        a.run(["criu-lite", "migrate", "-t", str(guest.pid_inside), "tcp://..."])

The file system is shared, except /proc and /run/criu-lite, which each host has for
itself. Pids begin at 1000 on the first host, at 2000 on the second, and so on, so that a
guest that moves finds its pid free.

Teardown is by closing a pipe that only this process holds: the inits exit at its end,
and the kernel kills everything inside and removes the links. So a test that is killed
leaves nothing behind either.
"""

import os
import signal
import subprocess
import sys
import time

# Pid 1 of a host. SIGCHLD ignored: the kernel reaps orphans at once.
_INIT = r"""
import ctypes, os, signal, socket, sys
name, first_pid = sys.argv[1], int(sys.argv[2])
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
if first_pid:
  libc = ctypes.CDLL(None, use_errno=True)
  def mount(fs, where):
    os.makedirs(where, exist_ok=True)
    if libc.mount(fs.encode(), where.encode(), fs.encode(), 0, None):
      sys.exit("mount %s: %s" % (where, os.strerror(ctypes.get_errno())))
  mount("proc", "/proc")
  mount("tmpfs", "/run/criu-lite")
  socket.sethostname(name)
  with open("/proc/sys/kernel/ns_last_pid", "w") as f:
    f.write(str(first_pid))
os.write(1, b"ready\n")
os.dup2(2, 1)
while os.read(0, 1):
  pass
"""

# Enters a host and runs a command there. Unlike nsenter(1) it does not stop with a
# stopped child and does not keep its output open, so a guest that is frozen, killed or
# moved away is seen as that and nothing else.
_ENTER = r"""
import ctypes, os, resource, signal, sys
init, sid, cwd, out, err = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4], sys.argv[5]
cmd = sys.argv[7:]
libc = ctypes.CDLL(None, use_errno=True)
fds = [os.open("/proc/%d/ns/%s" % (init, ns), os.O_RDONLY)
       for ns in ["net", "uts", "ipc", "pid", "mnt"] + sys.argv[6].split()]
for fd in fds:
  if libc.setns(fd, 0):
    sys.exit("setns: " + os.strerror(ctypes.get_errno()))
  os.close(fd)
child = os.fork()
if not child:
  try:
    os.chdir(cwd)
    if sid == "1":
      os.setsid()
    def put(path, fd, flags):
      got = os.open(path, flags, 0o644)
      if got != fd:
        os.dup2(got, fd)
        os.close(got)
      os.set_inheritable(fd, True)
    # Opened here and not passed in: a guest's files must be on its own mounts.
    if out:
      put(out, 1, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    if err == out and out:
      os.dup2(1, 2)
    elif err:
      put(err, 2, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    if os.path.sameopenfile(0, os.open("/dev/null", os.O_RDWR)):
      put("/dev/null", 0, os.O_RDONLY)
    os.closerange(3, 64)
    for sig in (signal.SIGPIPE, signal.SIGXFSZ):  # python ignores them
      signal.signal(sig, signal.SIG_DFL)
    os.execvp(cmd[0], cmd)
  except OSError as e:
    os.write(2, ("%s: %s\n" % (cmd[0], e)).encode())
  os._exit(127)
for fd in range(3):
  os.close(fd)
status = os.waitpid(child, 0)[1]
if os.WIFSIGNALED(status):
  resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
  sig = os.WTERMSIG(status)
  if sig not in (signal.SIGKILL, signal.SIGSTOP):
    signal.signal(sig, signal.SIG_DFL)
  os.kill(os.getpid(), sig)
os._exit(os.WEXITSTATUS(status))
"""

_PYTHON = [sys.executable or "python3", "-I", "-S", "-c"]


class Proc(subprocess.Popen):
  """A process inside a host. `pid` is that of the process that waits for it (ours);
  `outer_pid` and `pid_inside` are the process itself, seen from here and from there."""

  _outer = None

  def _child(self):
    """Pid of the process inside as this process sees it, None if it is gone."""
    while self._outer is None:
      try:
        with open("/proc/%d/task/%d/children" % (self.pid, self.pid)) as f:
          got = f.read().split()
      except OSError:
        return None
      if got:
        self._outer = int(got[0])
        break
      if self.poll() is not None:
        return None
      time.sleep(0.002)
    return self._outer

  @property
  def outer_pid(self):
    return self._child()

  @property
  def pid_inside(self):
    outer = self._child()
    if outer is None:
      return None
    try:
      with open("/proc/%d/status" % outer) as f:
        for line in f:
          if line.startswith("NSpid:"):
            return int(line.split()[-1])
    except OSError:
      pass
    return None

  def kill_session(self):
    """Kills the process with what it started (unless that left its process group)."""
    outer = self._child()
    try:
      if outer is not None and os.getpgid(outer) == outer:
        os.killpg(outer, signal.SIGKILL)
    except ProcessLookupError:
      pass
    self.kill()

  def send_signal(self, sig):
    outer = self._child()
    if outer is None or self.poll() is not None:
      return
    try:
      os.kill(outer, sig)
    except ProcessLookupError:
      pass


class Host:
  """One host. `ip`, `name`, `init` (its pid 1 as seen from here)."""

  def __init__(self, name, ip, first_pid, clock=0):
    self.name, self.ip, self.clock = name, ip, clock
    flags = ["--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child=KILL",
             "--propagation", "private"]
    if clock:
      flags += ["--time", "--monotonic", str(clock), "--boottime", str(2 * clock)]
    self._holder = _hold(flags, name, first_pid)
    with open("/proc/%d/task/%d/children" % (self._holder.pid, self._holder.pid)) as f:
      self.init = int(f.read().split()[0])

  def popen(self, cmd, *, setsid=True, cwd="/", stdin=subprocess.DEVNULL, stdout=None,
            stderr=None, **kw):
    """Starts `cmd` (a list, or a string for sh). stdout and stderr may be paths: these
    are opened inside, which a guest that shall be moved needs. Returns a Proc."""
    if isinstance(cmd, str):
      cmd = ["sh", "-c", cmd]
    out = err = ""
    if isinstance(stdout, str):
      out, stdout = stdout, None
    if isinstance(stderr, str):
      err, stderr = stderr, None
    elif stderr == subprocess.STDOUT and out:
      err, stderr = out, None
    head = _PYTHON + [_ENTER, str(self.init), "1" if setsid else "0", cwd, out, err,
                      "time" if self.clock else ""]
    return Proc(head + [str(c) for c in cmd], stdin=stdin, stdout=stdout, stderr=stderr,
                start_new_session=True, **kw)

  def run(self, cmd, *, timeout=None, check=False, capture=True, input=None, **kw):
    """Runs `cmd` to its end; the CompletedProcess has text in stdout and stderr.
    After `timeout` seconds it is killed and TimeoutExpired raised."""
    if capture:
      kw.setdefault("stdout", subprocess.PIPE)
      kw.setdefault("stderr", subprocess.PIPE)
    if input is not None:
      kw["stdin"] = subprocess.PIPE
    kw.setdefault("text", True)
    if kw["text"]:
      kw.setdefault("errors", "replace")
    with self.popen(cmd, **kw) as p:
      try:
        out, err = p.communicate(input, timeout=timeout)
      except BaseException as e:
        p.kill_session()
        if isinstance(e, subprocess.TimeoutExpired):
          e.cmd = cmd  # and not how we get there
        raise
    done = subprocess.CompletedProcess(cmd, p.returncode, out, err)
    if check:
      done.check_returncode()
    return done

  def path(self, path):
    """A path inside as this process can open it."""
    return "/proc/%d/root%s" % (self.init, path)

  def alive(self, pid_inside):
    """Whether a process runs there under this pid (a zombie does not). The main thread of one that
    calls exec from another thread is a zombie for a moment."""
    try:
      with open(self.path("/proc/%d/stat" % pid_inside)) as f:
        stat = f.read().rsplit(")", 1)[1].split()
      return stat[0] not in "ZX" or int(stat[17]) > 1
    except OSError:
      return False

  def pids(self):
    return sorted(int(p) for p in os.listdir(self.path("/proc")) if p.isdigit())

  def bytes(self):
    """(received, sent) of the host's link."""
    with open("/proc/%d/net/dev" % self.init) as f:
      for line in f:
        if line.strip().startswith("eth0:"):
          n = line.split(":", 1)[1].split()
          return int(n[0]), int(n[8])
    raise RuntimeError("no eth0")

  def limit(self, mbit):
    """Limits what this host sends to `mbit` Mbit/s; None lifts the limit."""
    if mbit is None:
      _in_net(self.init, "tc qdisc del dev eth0 root", check=False)
      return
    # The bucket holds two of the largest packets a veth passes, or 4 ms.
    burst = max(131072, int(mbit * 500))
    _in_net(self.init, "tc qdisc replace dev eth0 root tbf rate %sbit burst %d "
            "latency 100ms" % (int(mbit * 1e6), burst))

  def link(self, up):
    """Takes the host's link down, or up again."""
    _in_net(self.init, "ip link set eth0 " + ("up" if up else "down"))

  def close(self):
    _release(self._holder)


class Hosts:
  """`count` hosts 10.9.0.1, .2, ... on one bridge. A context manager; also a sequence. `clocks`:
  how many seconds the monotonic clock of each is ahead of the machine's (boottime twice that)."""

  def __init__(self, count=2, subnet="10.9.0", names=None, clocks=None):
    self.hosts, self._switch = [], None
    try:
      self._switch = _hold([], "switch", 0)
      _in_net(self._switch.pid, "ip link add br0 type bridge mcast_snooping 0")
      _in_net(self._switch.pid, "ip link set br0 up")
      for i in range(count):
        name = names[i] if names else "host" + chr(ord("a") + i)
        self.hosts.append(Host(name, "%s.%d" % (subnet, i + 1), 1000 * (i + 1),
                               clocks[i] if clocks else 0))
        self._connect(self.hosts[i], i)
    except BaseException:
      self.close()
      raise

  def _connect(self, host, i):
    _in_net(self._switch.pid, "ip link add port%d type veth peer name eth0 netns %d"
            % (i, host.init))
    _in_net(self._switch.pid, "ip link set port%d master br0 up" % i)
    for cmd in ("ip link set lo up", "ip addr add %s/24 dev eth0" % host.ip,
                "ip link set eth0 up"):
      _in_net(host.init, cmd)

  def __enter__(self):
    return self

  def __exit__(self, *exc):
    self.close()

  def __iter__(self):
    return iter(self.hosts)

  def __getitem__(self, i):
    return self.hosts[i]

  def __len__(self):
    return len(self.hosts)

  def close(self):
    while self.hosts:
      self.hosts.pop().close()
    if self._switch:
      _release(self._switch)
      self._switch = None


def _hold(flags, name, first_pid):
  """Starts the process that keeps namespaces alive; returns when they are ready."""
  p = subprocess.Popen(["unshare", "--net"] + flags + _PYTHON + [_INIT, name, str(first_pid)],
                       stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
                       cwd="/")
  if p.stdout.readline() != b"ready\n":
    p.stdin.close()
    p.wait()
    raise RuntimeError("host %s did not start (root is needed)" % name)
  return p


def _release(p):
  try:
    p.stdin.close()
  except OSError:
    pass
  p.stdout.close()
  try:
    p.wait(10)
  except subprocess.TimeoutExpired:
    p.kill()
    p.wait()


def _in_net(pid, cmd, check=True):
  done = subprocess.run(["nsenter", "-t", str(pid), "-n"] + cmd.split(), text=True,
                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                        stderr=subprocess.PIPE)
  if check and done.returncode:
    raise RuntimeError("%s: %s" % (cmd, done.stderr.strip()))


def wait_for(what, timeout=10.0, step=0.01):
  """Polls `what()` until it is true; returns that value. TimeoutError after `timeout` s."""
  end = time.monotonic() + timeout
  while True:
    got = what()
    if got:
      return got
    if time.monotonic() > end:
      raise TimeoutError("waited %s s in vain" % timeout)
    time.sleep(step)


def wait_listening(host, port, timeout=10.0):
  """Waits until something listens on TCP `port` inside `host` (without connecting)."""
  suffix = ":%04X" % port

  def listening():
    for name in ("tcp", "tcp6"):
      with open("/proc/%d/net/%s" % (host.init, name)) as f:
        for line in f.readlines()[1:]:
          col = line.split()
          if col[1].endswith(suffix) and col[3] == "0A":
            return True
    return False
  wait_for(listening, timeout)
