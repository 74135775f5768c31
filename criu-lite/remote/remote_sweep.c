/* SPDX-License-Identifier: Apache-2.0 */
/*
 * After us. A criu-lite that is killed leaves its stub's mapping in the guest: the dead-man tail
 * runs in it and cannot unmap it. It is known by its size and its code.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>

#include "io.h"
#include "log.h"
#include "remote_priv.h"

static size_t code_size(void) { return (size_t)(remote_stub_code_end - remote_stub_code); }

static bool is_stub(int mem, gaddr at)
{
	uint8_t code[1024];

	return code_size() <= sizeof(code) && io_pread(mem, code, code_size(), (off_t)at) == 0 &&
	       !memcmp(code, remote_stub_code, code_size());
}

/* The kernel may have merged it with a neighbour: it is looked for at both ends. */
static gaddr find_stub(pid_t pid)
{
	char path[64];
	_cleanup_(buf_free) struct buf maps = { 0 };
	struct err ignored = ERR_INIT;

	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	_cleanup_close_ int mem = open(path, O_RDONLY | O_CLOEXEC);
	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	if (mem < 0 || io_slurp_at(AT_FDCWD, path, &maps, &ignored) < 0)
		return 0;
	for (char *line = (char *)maps.at; line && *line;) {
		char *next = strchr(line, '\n');
		gaddr start, end;
		char prot[8];

		if (next)
			*next++ = '\0';
		if (sscanf(line, "%lx-%lx %7s", &start, &end, prot) == 3 && !strcmp(prot, "rwxp") &&
		    end - start >= STUB_SIZE) {
			if (is_stub(mem, start))
				return start;
			if (is_stub(mem, end - STUB_SIZE))
				return end - STUB_SIZE;
		}
		line = next;
	}
	return 0;
}

static bool runs_in(struct remote *r, gaddr stub)
{
	struct rthread *t;

	for (size_t i = 0; (t = remote_thread(r, i)); i++)
		if (t->regs.rip >= stub && t->regs.rip < stub + STUB_SIZE)
			return true;
	return false;
}

int remote_sweep(pid_t pid, struct err *e)
{
	gaddr stub = find_stub(pid);
	struct remote *r;
	int64_t ignored;
	int ret;

	if (!stub)
		return 0;
	if ((ret = remote_hold(&r, pid, e)) < 0)
		return ret;
	struct rthread *t = remote_leader(r);
	if (runs_in(r, stub)) {
		remote_release(r);
		return err_say(e, EBUSY, "task %d still runs what was injected into it", pid);
	}
	ret = stub_poke_syscall(t, "munmap", &ignored, SYS_munmap, stub, STUB_SIZE, 0, 0, 0, 0, e);
	remote_release(r);
	return ret;
}
