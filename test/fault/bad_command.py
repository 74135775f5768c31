# SPDX-License-Identifier: Apache-2.0
"""Wrong processes, wrong options, wrong user."""

import os
import subprocess

from frame import Guest, Failed, check, hosts


NO_SUCH = ["no such", "not exist", "no process"]


def no_such_pid(b):
  for command in ("dump", "pre-dump"):
    d = b.mkdir(command)
    b.refused(b.a, command, "-t", 29999, "-D", d, say=["29999", NO_SUCH])
    check(not os.listdir(d), "%s left files: %s", command, os.listdir(d))
  b.receiver()
  b.refused(b.a, "migrate", "-t", 29999, b.target, say=["29999", NO_SUCH])
  b.clean(b.b, b.receiver_pid)
  b.clean(b.a)


def shell(b, text, timeout=30):
  """Runs a shell script with $T and $D; returns (exit code, output)."""
  try:
    done = b.a.run(["env", "T=" + b.tool, "D=" + b.mkdir("d"), "M=" + b.target, "sh", "-c", text],
                   timeout=timeout, stderr=subprocess.STDOUT)
  except subprocess.TimeoutExpired:
    raise Failed("no end: " + text)
  return done.returncode, done.stdout


def own_pid(b):
  for command in ("dump -D $D", "pre-dump -D $D", "dump -R -D $D", "migrate $M"):
    rc, out = shell(b, "exec $T %s -t $$" % command)
    b.check_refusal(command, rc, out)
  b.clean(b.a)


def own_ancestor(b):
  """The shell that runs the tool, and the shell of that shell."""
  for command in ("dump -D $D", "pre-dump -D $D", "migrate $M"):
    rc, out = shell(b, "$T %s -t $$; echo rc=$?" % command)
    check(rc == 0 and "rc=" in out, "%s: the shell did not live on: %s", command, out)
    b.check_refusal(command, int(out.strip().rsplit("rc=", 1)[1]), out)
    rc, out = shell(b, "P=$$ sh -c '$T %s -t $P; echo rc=$?'; true" % command)
    check(rc == 0 and "rc=" in out, "%s: the shells did not live on: %s", command, out)
    b.check_refusal(command, int(out.strip().rsplit("rc=", 1)[1]), out)
  b.clean(b.a)


def init(b):
  b.refused(b.a, "dump", "-t", 1, "-D", b.mkdir("d"))
  check(b.a.alive(1), "the host's init is dead")


def kernel_thread(b):
  """On the machine itself: a host has no kernel threads."""
  with open("/proc/2/comm") as f:
    check(f.read().strip() == "kthreadd", "pid 2 is not kthreadd here")
  for command in (["dump", "-D", b.mkdir("d")], ["pre-dump", "-D", b.mkdir("d")],
                  ["migrate", "tcp://127.0.0.1:1"]):
    done = subprocess.run([b.tool, command[0], "-t", "2", *command[1:]], text=True, timeout=30,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    b.check_refusal(" ".join(command), done.returncode, done.stdout, ["kernel thread"])


def thread_id(b):
  guest = Guest(b, b.a, "threads")
  tids = [int(t) for t in os.listdir(b.a.path("/proc/%d/task" % guest.pid))]
  b.refused(b.a, "dump", "-t", max(tids), "-D", b.mkdir("d"))
  guest.end()


def zombie(b):
  # Its parent does not wait for it.
  parent = b.a.popen(["sh", "-c", "sh -c 'exit 3' & exec sleep 1000"])

  def find():
    for p in b.a.pids():
      with open(b.a.path("/proc/%d/stat" % p)) as f:
        if f.read().rsplit(")", 1)[1].split()[0] == "Z":
          return p
    return None
  pid = hosts.wait_for(find)
  b.refused(b.a, "dump", "-t", pid, "-D", b.mkdir("d"))
  parent.kill_session()


def not_root(b):
  guest = Guest(b, b.a, "eventfd")
  os.chmod(b.mkdir("d"), 0o777)
  for command in (["dump", "-t", guest.pid, "-D", b.path("d")],
                  ["pre-dump", "-t", guest.pid, "-D", b.path("d")],
                  ["restore", "-D", b.path("d")],
                  ["migrate", "-t", guest.pid, b.target],
                  ["receive", "--listen", "127.0.0.1:9400", "--once"]):
    done = b.a.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", b.tool,
                    *map(str, command)], timeout=30, stderr=subprocess.STDOUT)
    b.check_refusal(command[0] + " as nobody", done.returncode, done.stdout, ["root"])
    check(not os.listdir(b.path("d")), "%s left %s", command[0], os.listdir(b.path("d")))
  guest.end()


def wrong_options(b):
  guest = Guest(b, b.a, "eventfd")
  d, pid = b.mkdir("d"), guest.pid
  file = b.path("file")
  open(file, "w").close()
  nowhere = b.path("nowhere")
  for command, say in (
      (["dump", "--no-such-option", "-t", pid, "-D", d], ["no-such-option"]),
      (["dump", "-Z", "-t", pid, "-D", d], ["Z"]),
      (["dump", "-D", d], ["-t"]),
      (["dump", "-t"], ["t"]),
      (["dump", "-t", "abc", "-D", d], ["abc"]),
      (["dump", "-t", "%dx" % pid, "-D", d], ["%dx" % pid]),
      (["dump", "-t", "-5", "-D", d], ["-5"]),
      (["dump", "-t", "0", "-D", d], ["0"]),
      (["dump", "-t", "", "-D", d], []),
      (["dump", "-t", "99999999999999999999", "-D", d], ["99999999999999999999"]),
      (["dump", "-t", pid, "-D", nowhere], [nowhere]),
      (["dump", "-t", pid, "-D", file], [file]),
      (["dump", "-t", pid, "-D", d, "extra"], ["extra"]),
      (["dump", "-t", pid, "-D", d, "--ghost-limit", "xyz"], ["xyz"]),
      (["dump", "-t", pid, "-D", d, "--ghost-limit", "-1"], ["-1"]),
      (["dump", "-t", pid, "-D", d, "-o", "no/such/dir/log"], ["no/such/dir/log"]),
      (["dump", "-t", pid, "-D", d, "-W", nowhere, "-o", "log"], [nowhere]),
      (["dump", "-t", pid, "-D", d, "--track-mem", "--prev-images-dir", "../none"], ["none"]),
      (["pre-dump", "-t", pid, "-D", d, "--track-mem", "--tracker", "magic"], ["magic"]),
      (["pre-dump", "-t", pid, "-D", nowhere, "--track-mem"], [nowhere]),
      (["restore", "-D", d, "extra"], ["extra"]),
      (["restore", "-D", nowhere], [nowhere]),
      (["migrate", "-t", pid], [["host", "tcp://", "missing"]]),
      (["migrate", b.target], ["-t"]),
      (["migrate", "-t", pid, "http://10.9.0.2:9400"], ["http://10.9.0.2:9400"]),
      (["migrate", "-t", pid, "tcp://"], ["tcp://"]),
      (["migrate", "-t", pid, "tcp://10.9.0.2:port"], ["port"]),
      (["migrate", "-t", pid, "tcp://10.9.0.2:0"], ["0"]),
      (["migrate", "-t", pid, "tcp://10.9.0.2:99999"], ["99999"]),
      (["migrate", "-t", pid, "tcp://[::1"], ["[::1"]),
      (["migrate", "-t", pid, "tcp://no-such-host.invalid:9400"], ["no-such-host.invalid"]),
      (["migrate", "-t", pid, b.target, "tcp://10.9.0.3:1"], ["10.9.0.3"]),
      (["receive", "--listen", "nonsense"], ["nonsense"]),
      (["receive", "--listen", "10.77.0.1:9400"], ["10.77.0.1:9400"]),
      (["receive", "--listen", "127.0.0.1:70000"], ["70000"]),
      (["receive", "--listen", "127.0.0.1:9400", "extra"], ["extra"]),
      (["show"], []),
      (["show", nowhere], [nowhere]),
      (["show", d], [d]),
      (["show", file], [file]),
      (["no-such-command"], ["no-such-command"]),
  ):
    b.refused(b.a, *command, say=say, timeout=20)
    check(not os.listdir(d), "criu-lite %s left files: %s", " ".join(map(str, command)),
          os.listdir(d))
  rc, out = b.run(b.a)
  check(0 < rc < 126 and "migrate" in out, "criu-lite alone: exit %d: %s", rc, out)
  guest.end()


def port_in_use(b):
  b.receiver()
  b.refused(b.b, "receive", "--listen", "%s:9400" % b.b.ip, say=["9400", "in use"], timeout=20)
  b.clean(b.b, b.receiver_pid)


def guest_of_other_host(b):
  """From outside the guest's namespaces: its pid is another one there, or none."""
  guest = Guest(b, b.a, "eventfd")
  done = subprocess.run([b.tool, "dump", "-t", str(guest.proc.outer_pid), "-D", b.mkdir("d")],
                        text=True, timeout=30, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                        stderr=subprocess.STDOUT)
  b.check_refusal("dump of another pid namespace", done.returncode, done.stdout, ["namespace"])
  guest.end()


def tests(opts):
  return [("command: " + f.__name__.replace("_", " "), f) for f in
          (no_such_pid, own_pid, own_ancestor, init, kernel_thread, thread_id, zombie, not_root,
           wrong_options, port_in_use, guest_of_other_host)]
