/* SPDX-License-Identifier: Apache-2.0 */
/*
 * After us. A criu-lite that is killed leaves its stub's mapping in the guest: the dead-man tail
 * runs in it and cannot unmap it. It is known by its size, and its place or its code.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
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
			if (is_stub(mem, start) || (start == STUB_HOME && end - start == STUB_SIZE))
				return start;
			if (is_stub(mem, end - STUB_SIZE))
				return end - STUB_SIZE;
		}
		line = next;
	}
	return 0;
}

static bool runs_in(const struct rthread *t, gaddr stub)
{
	return t->regs.rip >= stub && t->regs.rip < stub + STUB_CODE_SIZE;
}

/* A thread that was stopped (SIGSTOP) before its tail could run: what the tail would have put back
 * is in its frame, and the number of the socket in its slot. */
static int take_back(struct rthread *t, gaddr stub, uint64_t *sock, struct err *e)
{
	uint8_t frame[ARCH_FRAME_MIN];
	gaddr slot = t->regs.rsp;
	int ret;

	if (slot != stub + STUB_CODE_SIZE && slot != stub + STUB_CODE_SIZE + SLOT_SIZE)
		return err_say(e, EBUSY, "thread %d is on its way out of the stub", t->tid);
	if ((ret = remote_read(t->of, slot + SLOT_FRAME, frame, sizeof(frame), e)) < 0 ||
	    (ret = remote_read(t->of, slot + SLOT_FD, sock, sizeof(*sock), e)) < 0)
		return ret;
	arch_from_frame(frame, &t->regs, &t->sigmask);
	t->syscall_nr = -1;
	t->touched = true;
	return 0;
}

/* The same in the trampoline. */
static int take_back_from_tramp(struct rthread *t, struct err *e)
{
	uint8_t code[ARCH_TRAMP_MAX];
	struct remote *r = t->of;

	if (!r->tramp || t->regs.rip < r->tramp || t->regs.rip >= r->tramp + sizeof(code))
		return 0;
	int ret = remote_read(r, r->tramp, code, sizeof(code), e);
	if (ret < 0)
		return ret;
	arch_from_trampoline(code, &t->regs, &t->sigmask);
	t->syscall_nr = -1;
	t->touched = r->tramp_used = true;
	return 0;
}

static bool is_our_socket(struct remote *r, int fd)
{
	struct err ignored = ERR_INIT;
	_cleanup_close_ int local = fd < 0 ? -1 : remote_fd_get(r, fd, &ignored);
	int type = 0;
	socklen_t n = sizeof(type);

	return local >= 0 && getsockopt(local, SOL_SOCKET, SO_TYPE, &type, &n) == 0 &&
	       type == SOCK_SEQPACKET;
}

/* Killed between making the control socket and taking our end: the guest has both. */
static void close_pair(struct rthread *t, gaddr stub)
{
	int32_t pair[2] = { -1, -1 };
	struct err ignored = ERR_INIT;
	int64_t result;

	if (remote_read(t->of, stub + STUB_CODE_SIZE + SLOT_PAIR, pair, sizeof(pair),
			&ignored) < 0 ||
	    pair[0] == pair[1] || !is_our_socket(t->of, pair[0]) || !is_our_socket(t->of, pair[1]))
		return;
	for (int i = 0; i < 2; i++)
		stub_poke_syscall(t, "close", &result, SYS_close, (uint64_t)pair[i], 0, 0, 0, 0, 0,
				  &ignored);
}

static int clean(struct remote *r, gaddr stub, bool stopped, struct err *e)
{
	struct rthread *t;
	int64_t ignored;
	uint64_t sock = ~0ull;
	int ret;

	if ((ret = stub_look_in_vdso(r, e)) < 0)
		return ret;
	for (size_t i = 0; (t = remote_thread(r, i)); i++) {
		if ((ret = take_back_from_tramp(t, e)) < 0)
			return ret;
		if (!runs_in(t, stub))
			continue;
		if (!stopped)
			return err_say(e, EBUSY, "thread %d is on its way out of the stub", t->tid);
		if ((ret = take_back(t, stub, &sock, e)) < 0)
			return ret;
	}
	t = remote_leader(r);
	close_pair(t, stub);
	if (sock <= INT32_MAX)
		stub_poke_syscall(t, "close", &ignored, SYS_close, sock, 0, 0, 0, 0, 0, e);
	return stub_poke_syscall(t, "munmap", &ignored, SYS_munmap, stub, STUB_SIZE, 0, 0, 0, 0, e);
}

static bool is_stopped(pid_t pid)
{
	_cleanup_(buf_free) struct buf b = { 0 };
	struct err ignored = ERR_INIT;

	if (io_slurp(&b, &ignored, "/proc/%d/stat", pid) < 0)
		return false;
	const char *at = strrchr((char *)b.at, ')');
	return at && at[1] && at[2] == 'T';
}

int remote_sweep(pid_t pid, struct err *e)
{
	gaddr stub = find_stub(pid);
	struct remote *r;
	int ret;

	if (!stub)
		return 0;
	bool stopped = is_stopped(pid);
	if ((ret = remote_hold(&r, pid, e)) < 0)
		return ret;
	ret = clean(r, stub, stopped, e);
	remote_release(r);
	return ret;
}
