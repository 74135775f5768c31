/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System calls that sleep for a time and were interrupted: nanosleep, poll, futex. The kernel goes
 * on with them by restart_syscall(2), from a restart_block that nobody can read or write from
 * outside.
 *
 * Which call it was is in the registers only at the first stop; later they say restart_syscall.
 * Then the thread is made to go on sleeping in the stub for a moment, and where it waits tells.
 *
 * On the target the call begins anew. With glibc's sleep(), where the remaining time was written
 * over the request, that is exact. A nanosleep with its remaining time elsewhere is begun with that
 * by the shell's thread itself and interrupted in it, which fills its restart_block; with
 * rax = -ERESTART_RESTARTBLOCK the kernel resumes it at the release. For the others the remaining
 * time is not known.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

#include "io.h"
#include "log.h"
#include "task_parts.h"

#define RESTARTBLOCK ((uint64_t)-516)
#define SHORT_NS     20000000ll /* too short for the exercise */

/* Waits until the thread sleeps in system call `nr`. */
static bool wait_asleep(const struct rthread *t, uint64_t nr)
{
	char path[64], want[16];
	uint64_t until = io_now_ns() + 100000000;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/syscall", remote_pid(t->of), t->tid);
	snprintf(want, sizeof(want), "%llu ", (unsigned long long)nr);
	do {
		_cleanup_(buf_free) struct buf text = {0};
		struct err ignored = ERR_INIT;

		if (io_slurp_at(AT_FDCWD, path, &text, &ignored) < 0)
			return false;
		if (text.n > strlen(want) && !memcmp(text.at, want, strlen(want)))
			return true;
	} while (io_now_ns() < until);
	return false;
}

/* Stops the sleeping thread; true if its restart_block holds the sleep now. */
static bool stop_asleep(struct rthread *t, struct user_regs_struct *r)
{
	struct iovec v = {r, sizeof(*r)};
	int status;

	return ptrace(PTRACE_INTERRUPT, t->tid, 0, 0) == 0 &&
	       waitpid(t->tid, &status, __WALL) == t->tid && WIFSTOPPED(status) &&
	       ptrace(PTRACE_GETREGSET, t->tid, NT_PRSTATUS, &v) == 0 && r->rax == RESTARTBLOCK;
}

/* ---- source: what a thread in restart_syscall(2) is doing ---- */

static uint64_t sleep_by_place(const struct rthread *t)
{
	_cleanup_(buf_free) struct buf text = {0};
	struct err ignored = ERR_INIT;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/task/%d/wchan", remote_pid(t->of), t->tid);
	if (io_slurp_at(AT_FDCWD, path, &text, &ignored) < 0 || text.n < 2)
		return 0; /* "0": kept from us */
	if (strstr((char *)text.at, "poll"))
		return SYS_poll;
	if (strstr((char *)text.at, "futex"))
		return SYS_futex;
	/* nanosleep's own functions do not count as places; its first argument is a pointer,
	 * that of clock_nanosleep a small number */
	return t->regs.rdi < PAGE_SIZE ? SYS_clock_nanosleep : SYS_nanosleep;
}

/* Back into the stub, where the batch ends; the restart_block stays. */
static int leave_sleep(struct batch *b, struct user_regs_struct *r, struct err *e)
{
	struct rthread *t = b->in;
	struct iovec v = {r, sizeof(*r)};

	r->rax = (uint64_t)-EINTR;
	r->orig_rax = ~0ull;
	if (ptrace(PTRACE_SETREGSET, t->tid, NT_PRSTATUS, &v) < 0 ||
	    ptrace(PTRACE_CONT, t->tid, 0, 0) < 0)
		return err_set(e, errno, "thread %d", t->tid);
	return batch_end(b, e);
}

int task_sleep_identify(struct rthread *t, struct user_regs_struct *r, struct err *e)
{
	_cleanup_batch_ struct batch b = BATCH(t);
	struct user_regs_struct now;
	uint64_t nr = 0;
	int ret;

	*r = t->regs;
	if (r->orig_rax != SYS_restart_syscall || r->rax != RESTARTBLOCK)
		return 0;
	size_t i = batch_call(&b, "?restart_syscall", SYS_restart_syscall);
	if ((ret = batch_begin(&b, e)) < 0)
		return ret;
	if (wait_asleep(t, SYS_restart_syscall)) {
		nr = sleep_by_place(t);
		if (stop_asleep(t, &now)) {
			r->orig_rax = nr ? nr : SYS_restart_syscall;
			return leave_sleep(&b, &now, e);
		}
		ptrace(PTRACE_CONT, t->tid, 0, 0);
	}
	if ((ret = batch_end(&b, e)) < 0)
		return ret;
	/* it ended meanwhile: this is the result that the program waits for */
	t->regs.rax = (uint64_t)b.call.at[i].ret;
	t->regs.orig_rax = ~0ull;
	*r = t->regs;
	return 0;
}

/* ---- target ---- */

/* The arguments of a sleep that a thread is about to begin anew. */
struct sleep_call {
	uint64_t nr, clock, req, rmtp;
};

static bool sleep_of(const struct user_regs_struct *r, struct sleep_call *s)
{
	if (r->rax == SYS_nanosleep)
		*s = (struct sleep_call){r->rax, CLOCK_MONOTONIC, r->rdi, r->rsi};
	else if (r->rax == SYS_clock_nanosleep && r->rsi == 0)
		*s = (struct sleep_call){r->rax, r->rdi, r->rdx, r->r10};
	else
		return false;
	return s->rmtp && s->rmtp != s->req;
}

int task_sleep_arm(struct rthread *t, const CoreEntry *core, struct err *e)
{
	_cleanup_batch_ struct batch b = BATCH(t);
	struct user_regs_struct now;
	struct timespec left;
	struct sleep_call s;
	gaddr req;
	int ret;

	if (!core->thread_core->cl_rewound_sleep || !sleep_of(&t->regs, &s))
		return 0;
	if (remote_read(t->of, s.rmtp, &left, sizeof(left), e) < 0) {
		err_clear(e); /* unmapped meanwhile by another thread: begin anew */
		return 0;
	}
	t->regs.rip += 2;
	t->regs.rax = 0;
	if (left.tv_sec == 0 && left.tv_nsec < SHORT_NS)
		return 0;
	req = batch_in(&b, &left, sizeof(left));
	if (s.nr == SYS_nanosleep)
		batch_call(&b, "?nanosleep", s.nr, req, s.rmtp);
	else
		batch_call(&b, "?clock_nanosleep", s.nr, s.clock, 0, req, s.rmtp);
	if ((ret = batch_begin(&b, e)) < 0)
		return ret;
	if (!wait_asleep(t, s.nr) || !stop_asleep(t, &now)) {
		log_warn("thread %d: the rest of its sleep is cut short", t->tid);
		return 0;
	}
	t->stopped = true;
	t->live = false;
	t->regs.rax = RESTARTBLOCK;
	t->regs.orig_rax = s.nr;
	return 0;
}
