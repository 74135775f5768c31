#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""postgresql moves there and back while a psql session on a third host is inside a transaction.

The session inserts rows before, between and after the moves, sees its own and not those of nobody
else, and commits at the end; then another session finds all of them. The server, a process tree
with shared memory, a page of it System V's, runs as an unprivileged user.
"""

import glob
import os
import pwd
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import server  # noqa: E402
from peers import ADDRESS, Failed, check, hosts  # noqa: E402

PORT, USER, ROWS = 5432, "postgres", 1000
SETTINGS = {"listen_addresses": "*", "unix_socket_directories": "", "fsync": "off",
            "shared_buffers": "16MB", "logging_collector": "off", "huge_pages": "off",
            "wal_level": "minimal", "max_wal_senders": "0", "autovacuum": "off"}


def programs():
  found = sorted(glob.glob("/usr/lib/postgresql/*/bin/postgres"))
  if not found:
    raise Failed("postgresql is not installed")
  return os.path.dirname(found[-1])


def start(b):
  d, where = b.mkdir("pg"), programs()
  os.chown(d, pwd.getpwnam(USER).pw_uid, -1)
  data = os.path.join(d, "data")
  initdb = [where + "/initdb", "-D", data, "-A", "trust", "-N", "--locale=C"]
  done = b.a.run(server.as_user(USER, initdb), cwd=d, timeout=120)
  check(done.returncode == 0, "initdb: %s", done.stderr)
  with open(data + "/pg_hba.conf", "a") as f:
    f.write("host all all 10.9.0.0/24 trust\n")
  cmd = [where + "/postgres", "-D", data]
  for name, value in SETTINGS.items():
    cmd += ["-c", "%s=%s" % (name, value)]
  postgres = server.Server(b, USER, cmd, d)
  postgres.wait_ready(PORT, "ready to accept")
  return postgres


class Session:
  """One psql, spoken to through its standard input."""

  def __init__(self, b):
    self.proc = b.c.popen(["psql", "-h", ADDRESS[4], "-U", USER, "-d", "postgres", "-XAtq",
                           "-v", "ON_ERROR_STOP=1"], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

  def ask(self, sql):
    """The first column of the first row of the last of these statements."""
    self.proc.stdin.write(sql + ";\n")
    self.proc.stdin.flush()
    line = self.proc.stdout.readline()
    if not line:
      raise Failed("psql has ended: " + self.proc.stderr.read())
    return line.strip()

  def insert(self, first):
    return self.ask("INSERT INTO t SELECT i, md5(i::text) FROM generate_series(%d, %d) i; "
                    "SELECT count(*) FROM t" % (first, first + ROWS - 1))

  def end(self):
    self.proc.stdin.close()
    check(self.proc.wait(20) == 0, "psql: %s", self.proc.stderr.read())


def run(b, args):
  postgres = start(b)
  s = Session(b)
  check(s.ask("CREATE TABLE t (i int, m text); SELECT 1") == "1", "CREATE TABLE")
  backend = s.ask("BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT pg_backend_pid()")
  xid = s.ask("SELECT txid_current()")
  check(s.insert(0) == str(ROWS), "rows are missing before the first move")
  for n in range(1, args.moves + 1):
    m = b.move(postgres, timeout=180)
    begin = time.monotonic()
    got = s.insert(n * ROWS)
    print("move %d: downtime %.1f ms, then %s rows after %.1f ms" % (
        n, m["downtime"] * 1e3, got, (time.monotonic() - begin) * 1e3))
    check(got == str((n + 1) * ROWS), "%s rows after move %d", got, n)
    check(s.ask("SELECT txid_current()") == xid, "it is another transaction")
    check(s.ask("SELECT pg_backend_pid()") == backend, "it is another server")
  other = Session(b)
  check(other.ask("SELECT count(*) FROM t") == "0", "rows are seen before they are committed")
  check(s.ask("COMMIT; SELECT 1") == "1", "COMMIT")
  want = (args.moves + 1) * ROWS
  check(other.ask("SELECT count(*) FROM t WHERE m = md5(i::text)") == str(want), "rows are wrong")
  s.end()
  other.end()
  text = postgres.said()
  check("PANIC" not in text and "terminated by signal" not in text, "postgres says: %s",
        text[-800:])
  b.check_open(postgres.host, b.other(postgres.host))
  print("%d rows in one transaction through %d moves, committed" % (want, args.moves))
  # without its last checkpoint, which waits for a disk
  postgres.host.run(["kill", "-QUIT", str(postgres.pid)])
  hosts.wait_for(lambda: not postgres.host.alive(postgres.pid), 20)


if __name__ == "__main__":
  sys.exit(server.main(server.parser(__doc__), run))
