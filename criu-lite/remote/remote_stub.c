/* SPDX-License-Identifier: Apache-2.0 */
/* The stub: how it gets into a guest, runs, and leaves again. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "io.h"
#include "log.h"
#include "remote_priv.h"

gaddr stub_slot(const struct rthread *t)
{
	return t->of->stub + STUB_CODE_SIZE + (t == t->of->thread.at[0] ? 0 : SLOT_SIZE);
}

struct grange remote_stub(const struct remote *r)
{
	return r->stub ? (struct grange){ r->stub, r->stub + STUB_SIZE } : (struct grange){ 0, 0 };
}

/* ---- one system call by hand, before there is a stub and after ---- */

#define VDSO_MAX 32768

/* The vDSO gives a `syscall` instruction, and padding for the trampoline. */
static bool look_in_vdso(struct remote *r, gaddr vdso)
{
	_cleanup_free_ uint8_t *image = xmalloc(VDSO_MAX);
	struct err ignored = ERR_INIT;
	size_t n = 0;

	while (n < VDSO_MAX && remote_read(r, vdso + n, image + n, PAGE_SIZE, &ignored) == 0 &&
	       (n == 0 || memcmp(image + n, "\177ELF", 4)))
		n += PAGE_SIZE;
	long at = arch_find_syscall(image, n);
	if (at < 0)
		return false;
	r->syscall_insn = vdso + (uint64_t)at;
	/* only as far as the image goes: what lies behind it may be another mapping */
	size_t pages = arch_image_size(image, n);
	long pad = arch_find_padding(image, pages, ARCH_TRAMP_MAX);
	r->tramp = pad < 0 ? 0 : vdso + (uint64_t)pad;
	return true;
}

/* The auxv of a shell is ours until it gets the guest's, its vDSO may have moved since. */
static int look_in_maps(struct remote *r, struct err *e)
{
	_cleanup_(buf_free) struct buf maps = { 0 };
	int ret = io_slurp(&maps, e, "/proc/%d/maps", r->pid);

	if (ret < 0)
		return ret;
	const char *line = strstr((char *)maps.at, "[vdso]");
	while (line && line > (char *)maps.at && line[-1] != '\n')
		line--;
	if (line && look_in_vdso(r, strtoull(line, NULL, 16)))
		return 0;
	return err_say(e, ENOTSUP, "task %d: no system call instruction found (no vDSO)", r->pid);
}

int stub_look_in_vdso(struct remote *r, struct err *e)
{
	_cleanup_(buf_free) struct buf auxv = { 0 };
	int ret = io_slurp(&auxv, e, "/proc/%d/auxv", r->pid);

	if (ret < 0)
		return ret;
	for (size_t i = 0; i + 16 <= auxv.n; i += 16) {
		uint64_t pair[2];

		memcpy(pair, auxv.at + i, 16);
		if (pair[0] == AT_SYSINFO_EHDR && look_in_vdso(r, pair[1]))
			return 0;
	}
	if (r->is_shell)
		return look_in_maps(r, e);
	vec_each(&r->thread, t)
		if ((long long)(*t)->regs.orig_rax >= 0) {
			r->syscall_insn = (*t)->regs.rip - 2;
			return 0;
		}
	return err_say(e, ENOTSUP, "task %d: no system call instruction found (no vDSO)", r->pid);
}

/* Where the thread runs its system call: with a way back in the trampoline, should we die. */
static int place_call(struct rthread *t, gaddr *insn, struct err *e)
{
	uint8_t code[ARCH_TRAMP_MAX];
	struct remote *r = t->of;

	*insn = r->syscall_insn;
	if (!r->tramp || r->is_shell)
		return 0;
	size_t n = arch_trampoline(t, code);
	int ret = remote_write(r, r->tramp, code, n, e);
	r->tramp_used = true;
	*insn = r->tramp;
	return ret;
}

/* The padding is zero again; no thread is in it any more. */
void stub_clear_tramp(struct remote *r)
{
	static const uint8_t zero[ARCH_TRAMP_MAX];
	struct err ignored = ERR_INIT;

	if (r->tramp_used)
		remote_write(r, r->tramp, zero, sizeof(zero), &ignored);
	r->tramp_used = false;
}

static int step_to_syscall_stop(struct rthread *t, struct err *e)
{
	if (ptrace(PTRACE_SYSCALL, t->tid, 0, 0) < 0)
		return err_set(e, errno, "step thread %d", t->tid);
	for (;;) {
		int status;

		if (waitpid(t->tid, &status, __WALL) < 0) {
			if (errno == EINTR)
				continue;
			return err_set(e, errno, "wait for thread %d", t->tid);
		}
		if (!WIFSTOPPED(status)) {
			t->dead = true;
			return err_say(e, ESRCH, "thread %d exited", t->tid);
		}
		if (WSTOPSIG(status) == (SIGTRAP | 0x80) && status >> 16 == 0)
			return 0;
		if (status >> 16 == 0 &&
		    (WSTOPSIG(status) == SIGSEGV || WSTOPSIG(status) == SIGBUS))
			return err_say(e, EFAULT, "thread %d: fault in injected code", t->tid);
		ptrace(PTRACE_SYSCALL, t->tid, 0, 0); /* a stop of the whole group, say */
	}
}

/* The thread is stopped and masked. Leaves it at the syscall exit, registers changed. */
int stub_poke_syscall(struct rthread *t, const char *name, int64_t *result, uint64_t nr,
		      uint64_t a0, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4,
		      uint64_t a5, struct err *e)
{
	struct user_regs_struct regs = t->regs;
	const uint64_t v[7] = { nr, a0, a1, a2, a3, a4, a5 };
	int ret;

	if (!t->of->syscall_insn && (ret = stub_look_in_vdso(t->of, e)) < 0)
		return ret;
	gaddr insn;
	if ((ret = place_call(t, &insn, e)) < 0)
		return ret;
	t->touched = true;
	arch_regs_for_syscall(&regs, insn, v);
	/* in this order: the trampoline puts the mask back */
	if ((ret = thread_set_regs(t, &regs, e)) < 0 || (ret = thread_set_mask(t, ~0ull, e)) < 0 ||
	    (ret = step_to_syscall_stop(t, e)) < 0 ||
	    (ret = step_to_syscall_stop(t, e)) < 0)
		return ret;
	errno = 0;
	long rax = ptrace(PTRACE_PEEKUSER, t->tid, offsetof(struct user_regs_struct, rax), 0);
	if (errno)
		return err_set(e, errno, "read result of %s in thread %d", name, t->tid);
	*result = rax;
	if (rax < 0 && rax > -4096)
		return err_set(e, (int)-rax, "task %d: %s in the guest", t->of->pid, name);
	return 0;
}

/* ---- into the guest ---- */

static int put_frame(struct rthread *t, struct err *e)
{
	uint8_t frame[SLOT_HIDDEN - SLOT_FRAME];
	gaddr at = stub_slot(t) + SLOT_FRAME;

	if (!t->xstate)
		return 0; /* a shell thread: nowhere to return to */
	size_t n = arch_signal_frame(t, at, frame, sizeof(frame));
	if (!n)
		return err_say(e, ENOTSUP, "thread %d: FP state of %u bytes", t->tid,
			       t->xstate_len);
	return remote_write(t->of, at, frame, n, e);
}

struct slot_head {
	uint64_t fd, cur, end, msg, pair;
};

/* Makes a stopped thread enter the stub at the first of calls [cur, end). */
int stub_enter(struct rthread *t, gaddr cur, gaddr end, struct err *e)
{
	gaddr slot = stub_slot(t);
	struct batch_entry altstack = {
		.nr = SYS_sigaltstack, .arg = { 0, arch_frame_altstack(slot + SLOT_FRAME) },
	};
	struct slot_head head = { (uint64_t)t->of->guest_sock, cur, end, 0, ~0ull };
	struct user_regs_struct regs = t->regs;
	int ret;

	if (cur == slot + SLOT_HIDDEN &&
	    (ret = remote_write(t->of, cur, &altstack, sizeof(altstack), e)) < 0)
		return ret;
	if ((ret = put_frame(t, e)) < 0 ||
	    (ret = remote_write(t->of, slot, &head, sizeof(head), e)) < 0)
		return ret;
	t->touched = true;
	arch_regs_for_stub(&regs, t->of->stub, slot);
	/* in this order: with us dead in between, the tail puts the mask back */
	if ((ret = thread_set_regs(t, &regs, e)) < 0)
		return ret;
	return thread_set_mask(t, ~0ull, e);
}

/* Opens the socket between stub and us. The leader runs stub code with its tail from the first
 * instruction on; until we hold our end, slot.fd is -1, so that our death leads into the tail. */
int stub_boot(struct remote *r, struct err *e)
{
	struct rthread *t = r->thread.at[0];
	gaddr calls = stub_slot(t) + SLOT_CALLS, data = stub_slot(t) + SLOT_PAIR;
	struct timeval look = { 0, LOOK_US };
	struct batch_entry pair[] = {
		{ .nr = SYS_socketpair,
		  .arg = { AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, data } },
	};
	int32_t sv[2] = { -1, -1 };
	int ret;

	if ((ret = remote_write(r, calls, pair, sizeof(pair), e)) < 0)
		return ret;
	r->guest_sock = -1;
	if ((ret = stub_enter(t, calls, calls + sizeof(pair), e)) < 0 ||
	    (ret = step_to_syscall_stop(t, e)) < 0 || (ret = step_to_syscall_stop(t, e)) < 0 ||
	    (ret = remote_read(r, data, sv, sizeof(sv), e)) < 0)
		return ret;
	if (sv[0] < 0)
		return err_remedy((err_say(e, EMFILE, "task %d: no file descriptor left for the "
					   "control socket", r->pid), e),
				  "raise the guest's RLIMIT_NOFILE (prlimit --pid %d --nofile=...)",
				  r->pid);
	r->guest_sock = sv[0];
	r->sock = (int)syscall(SYS_pidfd_getfd, r->pidfd, sv[1], 0);
	if (r->sock < 0)
		return err_set(e, errno, "task %d: take the control socket", r->pid);

	/* our end is ours alone from here on: its closing is our death */
	struct batch_entry rest[] = {
		{ .nr = SYS_close, .arg = { (uint64_t)sv[1] } },
		{ .nr = SYS_sigaltstack,
		  .arg = { 0, arch_frame_altstack(stub_slot(t) + SLOT_FRAME) } },
	};
	/* the first entry's result is stored after the exit stop: cur still points to it */
	struct slot_head head = { (uint64_t)sv[0], calls, calls + 3 * 64, 0, ~0ull };
	setsockopt(r->sock, SOL_SOCKET, SO_RCVTIMEO, &look, sizeof(look));
	if ((ret = remote_write(r, calls + 64, rest, sizeof(rest), e)) < 0 ||
	    (ret = remote_write(r, stub_slot(t), &head, sizeof(head), e)) < 0)
		return ret;
	if (ptrace(PTRACE_CONT, t->tid, 0, 0) < 0)
		return err_set(e, errno, "continue thread %d", t->tid);
	t->stopped = false;
	t->live = true;
	r->live = t;
	return stub_wait_done(t, e);
}

static int map_stub(struct rthread *t, gaddr where, uint64_t flags, int64_t *at, struct err *e)
{
	return stub_poke_syscall(t, "mmap", at, SYS_mmap, where, STUB_SIZE,
				 PROT_READ | PROT_WRITE | PROT_EXEC,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, (uint64_t)-1,
				 0, e);
}

int stub_inject(struct remote *r, struct err *e)
{
	struct rthread *t = r->thread.at[0];
	int64_t at;
	int ret;

	ret = map_stub(t, STUB_HOME, MAP_FIXED_NOREPLACE, &at, e);
	if (ret == -EEXIST) { /* a task that shares its memory with another that we hold */
		err_clear(e);
		ret = map_stub(t, 0, 0, &at, e);
	}
	if (ret < 0)
		return ret;
	r->stub = (gaddr)at;
	size_t n = (size_t)(remote_stub_code_end - remote_stub_code);
	if ((ret = remote_write(r, r->stub, remote_stub_code, n, e)) < 0)
		return ret;
	return stub_boot(r, e);
}

/* ---- running ---- */

static int still_there(struct rthread *t, struct err *e)
{
	int status;
	pid_t got = waitpid(t->tid, &status, __WALL | WNOHANG);

	if (got == 0)
		return 0;
	if (got < 0 || !WIFSTOPPED(status)) {
		t->dead = true;
		t->live = false;
		return err_say(e, ESRCH, "thread %d was killed", t->tid);
	}
	int sig = WSTOPSIG(status);
	if (status >> 16 == 0 && (sig == SIGSEGV || sig == SIGBUS || sig == SIGILL))
		return err_say(e, EFAULT, "thread %d: %s in injected code", t->tid, strsignal(sig));
	ptrace(PTRACE_CONT, t->tid, 0, 0); /* SIGSTOP to the whole group: not now */
	return 0;
}

int stub_wait_done(struct rthread *t, struct err *e)
{
	uint64_t msg;

	for (;;) {
		ssize_t n = recv(t->of->sock, &msg, sizeof(msg), 0);

		if (n == sizeof(msg))
			return 0;
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return err_set(e, errno, "task %d: control socket", t->of->pid);
		if (n == 0) {
			t->dead = true;
			return err_say(e, ESRCH, "task %d was killed", t->of->pid);
		}
		int ret = still_there(t, e);
		if (ret < 0)
			return ret;
	}
}

/* Stops the thread that sleeps in the stub. A thread other than the leader gets its own registers
 * back at once; the leader stays in the stub's read(), so that the tail closes the socket. */
int stub_park(struct remote *r, struct err *e)
{
	struct rthread *t = r->live;
	int ret;

	if (!t)
		return 0;
	if ((ret = thread_interrupt(t, e)) < 0)
		return ret;
	r->live = NULL;
	if (t == r->thread.at[0] || r->is_shell)
		return 0;
	if ((ret = thread_set_mask(t, t->sigmask, e)) < 0 ||
	    (ret = thread_set_regs(t, &t->regs, e)) < 0)
		return ret;
	t->touched = false;
	return 0;
}

/* ---- out of the guest ---- */

int stub_remove(struct remote *r, struct err *e)
{
	struct rthread *t = r->thread.at[0];
	int64_t ignored;
	int ret = stub_park(r, e);

	if (ret == 0 && !t->stopped)
		ret = thread_interrupt(t, e);
	if (ret == 0 && r->guest_sock >= 0)
		ret = stub_poke_syscall(t, "close", &ignored, SYS_close, (uint64_t)r->guest_sock, 0,
					0, 0, 0, 0, e);
	if (ret == 0)
		ret = stub_poke_syscall(t, "munmap", &ignored, SYS_munmap, r->stub, STUB_SIZE, 0, 0,
					0, 0, e);
	r->stub = 0;
	r->guest_sock = -1;
	if (r->sock >= 0)
		close(r->sock);
	r->sock = -1;
	return ret;
}
