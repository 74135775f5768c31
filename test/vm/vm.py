# SPDX-License-Identifier: Apache-2.0
"""Virtual machines on a bridge, with a host made of namespaces as third party.

    with Net(image, directory) as net:
        a, b = net.boot("a"), net.boot("b")
        a.ready()
        a.run(["criu-lite", "check"], timeout=20)   # a CompletedProcess
        pid = a.spawn(["/criu-lite/build/test/vm/vm_guest", "64"], log="/tmp/guest.log")
        b.power_off()                                # as by pulling the plug

Machines are 10.9.0.11, .12, ...; the third party, `net.third`, is a hosts.Host with address
10.9.0.1, and `net.socket(...)` makes a socket of this process in its network. QEMU is ended by
its pid, and dies with this process.
"""

import base64
import ctypes
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
import hosts  # noqa: E402

TREE = "/criu-lite"
TOOL = TREE + "/build/criu-lite/cmd/criu-lite"
BOOT_TIMEOUT = 90
CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1
TUNSETIFF = 0x400454ca
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 2, 0x1000, 0x4000

_libc = ctypes.CDLL(None, use_errno=True)


class Failed(Exception):
  pass


class Lost(Failed):
  """The machine does not answer any more."""


class Hangs(Lost):
  """It does not boot."""


def in_netns(pid, what):
  """Calls what() in the network namespace of @pid and returns its result. Threads have
  namespaces of their own: the caller stays where it is."""
  got = {}

  def work():
    try:
      fd = os.open("/proc/%d/ns/net" % pid, os.O_RDONLY)
      if _libc.setns(fd, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
      os.close(fd)
      got["value"] = what()
    except BaseException as e:
      got["error"] = e
  t = threading.Thread(target=work)
  t.start()
  t.join()
  if "error" in got:
    raise got["error"]
  return got["value"]


def _open_tap(name):
  fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
  fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(),
                                         IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
  return fd


class Vm:
  """One machine. Made by Net.boot()."""

  def __init__(self, net, name, number, options):
    self.net, self.name, self.number = net, name, number
    self.ip = "10.9.0.%d" % (10 + number)
    self.generation = 0
    self.options = options
    self.qemu = None
    self._start()

  def _command(self, tap):
    o = self.options
    mac = "52:54:00:09:00:%02x" % (10 + self.number)
    line = ("console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable vm.name=%s vm.ip=%s/24 "
            "vm.pid=%d %s" % (self.name, self.ip, 2000 * self.number, o.get("append", "")))
    return ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none",
            "-no-reboot", "-name", self.name, "-machine", "pc,graphics=off",
            "-accel", "tcg,thread=multi", "-cpu", o.get("cpu", "max"),
            "-smp", str(o.get("smp", 2)), "-m", str(o.get("mem", 1024)),
            "-kernel", self.net.image.vmlinuz, "-initrd", self.net.image.initramfs,
            "-append", line, "-serial", "file:" + self.console,
            "-device", "virtio-serial-pci",
            "-chardev", "socket,id=agent,server=on,wait=off,path=" + self.sock,
            "-device", "virtserialport,chardev=agent,name=criu-lite",
            "-netdev", "tap,id=net,fd=%d" % tap,
            "-device", "virtio-net-pci,netdev=net,romfile=,mac=" + mac] + o.get("qemu", [])

  def _start(self):
    self.generation += 1
    tag = "%s%d" % (self.name, self.generation)
    self.console = os.path.join(self.net.dir, "console-%s.log" % tag)
    self.sock = os.path.join(self.net.dir, "agent-%s" % tag)
    tap_name = "tap" + tag
    switch = self.net.hosts._switch.pid
    tap = in_netns(switch, lambda: _open_tap(tap_name))
    hosts._in_net(switch, "ip link set %s master br0 up" % tap_name)

    def before():
      _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    with open(os.path.join(self.net.dir, "qemu-%s.log" % tag), "w") as log:
      self.qemu = subprocess.Popen(self._command(tap), stdin=subprocess.DEVNULL, stdout=log,
                                   stderr=log, pass_fds=[tap], preexec_fn=before)
    os.close(tap)
    self.port = None
    self._answers, self._next = {}, 0
    self._lock, self._news = threading.Lock(), threading.Condition()
    self._up = self._down = self.kernel = None
    self.started = time.monotonic()
    threading.Thread(target=self._listen, args=(self.qemu,), daemon=True).start()

  # ---- the agent ----

  def ready(self):
    """Waits until the agent inside has spoken; returns the seconds from power-on to that. On a busy
    machine the emulated BIOS or kernel hangs now and then: it gets a second chance."""
    try:
      return self._ready(BOOT_TIMEOUT)
    except Hangs as e:
      print("again: %s" % e, file=sys.stderr)
      self.power_off()
      self._start()
      return self._ready(BOOT_TIMEOUT)

  def _ready(self, timeout):
    end = time.monotonic() + timeout
    with self._news:
      while not self._up:
        self._must_run()
        if self._down or time.monotonic() > end:
          raise Hangs("%s did not boot within %d s: %s" % (self.name, timeout, self.tail()))
        self._news.wait(0.5)
    return self._up - self.started

  def _must_run(self):
    if self.qemu is None or self.qemu.poll() is not None:
      raise Lost("%s: QEMU has ended: %s" % (self.name, self.tail()))

  def _listen(self, qemu):
    """The thread that hears the agent, as long as this QEMU runs."""
    s, rest = socket.socket(socket.AF_UNIX), b""
    while qemu.returncode is None:
      try:
        s.connect(self.sock)
        self.port = s
        break
      except OSError:
        time.sleep(0.05)
    while True:
      try:
        got = s.recv(1 << 16)
      except OSError:
        got = b""
      if not got:
        break
      *lines, rest = (rest + got).split(b"\n")
      with self._news:
        for line in lines:
          try:
            say = json.loads(line)
          except ValueError:
            continue
          if say.get("ready"):
            self._up, self.kernel = time.monotonic(), say["kernel"]
          else:
            self._answers[say["id"]] = say
        self._news.notify_all()
    with self._news:
      # After power_on() it is another one that counts.
      if self.qemu is qemu:
        self._down = True
      self._news.notify_all()

  def ask(self, what, timeout):
    with self._lock:
      self._next += 1
      number = self._next
      if self.port is None or not self._up:
        raise Lost("%s does not run" % self.name)
      try:
        self.port.sendall(json.dumps(dict(what, id=number)).encode() + b"\n")
      except OSError as e:
        raise Lost("%s: %s" % (self.name, e))
    with self._news:
      self._news.wait_for(lambda: number in self._answers or self._down, timeout)
      got = self._answers.pop(number, None)
    if got is None:
      raise Lost("%s did not answer within %d s: %s: %s"
                 % (self.name, timeout, str(what)[:200], self.tail()))
    if "error" in got:
      raise Failed("%s: %s: %s" % (self.name, str(what)[:200], got["error"]))
    return got

  def run(self, cmd, timeout=60, check=False, **more):
    """Runs a command (a list, or a string for sh) to its end; its output is in stdout. After
    @timeout seconds it is killed, and Failed raised."""
    if isinstance(cmd, str):
      cmd = ["sh", "-c", cmd]
    cmd = [str(c) for c in cmd]
    got = self.ask(dict(more, run=cmd, timeout=timeout), timeout + 20)
    if got.get("timeout"):
      raise Failed("%s: %s: no end after %d s: %s"
                   % (self.name, " ".join(cmd)[:200], timeout, got["out"][-600:]))
    done = subprocess.CompletedProcess(cmd, got["rc"], got["out"], "")
    if check and done.returncode:
      raise Failed("%s: %s: exit %d: %s" % (self.name, " ".join(cmd)[:200], done.returncode,
                                            done.stdout[-1500:]))
    return done

  def out(self, cmd, timeout=30):
    return self.run(cmd, timeout, check=True).stdout

  def spawn(self, cmd, log="/dev/null", **more):
    """Starts a daemon; returns its pid."""
    return self.ask(dict(more, spawn=[str(c) for c in cmd], log=log), 30)["pid"]

  def read(self, path):
    """Text of a file, "" if there is none."""
    try:
      data = self.ask({"get": path}, 30)["data"]
    except Lost:
      raise
    except Failed:
      return ""
    return base64.b64decode(data).decode(errors="replace")

  def fetch(self, path):
    """Bytes of a file."""
    return base64.b64decode(self.ask({"get": path}, 60)["data"])

  def put(self, path, text):
    self.ask({"put": path, "data": base64.b64encode(text.encode()).decode()}, 30)

  def alive(self, pid):
    stat = self.read("/proc/%d/stat" % pid)
    return bool(stat) and stat.rsplit(")", 1)[1].split()[0] not in "ZX"

  def listening(self, port):
    suffix = ":%04X" % port
    lines = (self.read("/proc/net/tcp") + self.read("/proc/net/tcp6")).splitlines()
    return any(len(c) > 3 and c[1].endswith(suffix) and c[3] == "0A"
               for c in (line.split() for line in lines))

  # ---- power ----

  def tail(self, size=1500):
    text = ""
    for path in (self.console, self.console.replace("console-", "qemu-")):
      try:
        with open(path, errors="replace") as f:
          text += f.read()[-size:]
      except OSError:
        pass
    return text.strip()

  def power_off(self):
    """At once: QEMU is killed by its pid."""
    if self.qemu is not None:
      self.qemu.kill()
      self.qemu.wait()
      with self._news:
        self.qemu, self._down = None, True
        self._news.notify_all()
    if self.port is not None:
      # The thread that reads from it may be in recv().
      try:
        self.port.shutdown(socket.SHUT_RDWR)
      except OSError:
        pass
      self.port.close()
      self.port = None

  def power_on(self, **options):
    """After power_off(): boots again, with other options if given."""
    self.options = dict(self.options, **options)
    self._start()


class Net:
  """The bridge, the third party, and the machines on it. @connection: guests have one to the third
  party while they move."""

  def __init__(self, image, directory, connection=True):
    self.image, self.dir, self.connection = image, directory, connection
    self.vms = []
    self.hosts = hosts.Hosts(1, names=["third"])
    self.third = self.hosts[0]

  def boot(self, name, **options):
    """Powers a machine on; its ready() waits for it. To be called by the main thread: QEMU dies
    with the thread that starts it."""
    vm = Vm(self, name, len(self.vms) + 1, options)
    self.vms.append(vm)
    return vm

  def socket(self, *args):
    return in_netns(self.third.init, lambda: socket.socket(*args))

  def close(self):
    for vm in self.vms:
      vm.power_off()
    self.vms = []
    self.hosts.close()

  def __enter__(self):
    return self

  def __exit__(self, *exc):
    self.close()
