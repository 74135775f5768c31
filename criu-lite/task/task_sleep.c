/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System calls that sleep for a time and were interrupted: nanosleep, poll, futex. The kernel goes
 * on with them by restart_syscall(2), from a restart_block that nobody can read or write from
 * outside.
 *
 * On the target the call begins anew. Where the remaining time was written over the request, as
 * with glibc's sleep(), that is exact. Where it is known from elsewhere (nanosleep's second
 * argument, or task_watch.c), the shell's thread itself begins the call with that and is
 * interrupted in it, which fills its restart_block; with rax = -ERESTART_RESTARTBLOCK the kernel
 * resumes it at the release. epoll_wait is not resumed by the kernel, but begun again: there the
 * argument is what is left.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
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
#define PATIENCE_NS  3000000000u
#define NAP_NS       20000

/* What a thread in the stub is doing. */
enum doing { SLEEPS, HAS_ENDED, UNKNOWN };

/* Waits until the thread sleeps in system call `nr`, or has said that the call is over. That it is
 * in another call means nothing: while it is woken /proc still shows the read() it slept in. */
static enum doing wait_asleep(const struct rthread *t, uint64_t nr)
{
	_cleanup_(buf_free) struct buf text = {0};
	uint64_t until = io_now_ns() + PATIENCE_NS;
	struct err ignored = ERR_INIT;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/task/%d/syscall", remote_pid(t->of), t->tid);
	while (io_now_ns() < until) {
		if (batch_over(t))
			return HAS_ENDED;
		if (io_slurp_at(AT_FDCWD, path, &text, &ignored) < 0)
			return UNKNOWN;
		if (text.n && text.at[0] >= '0' && text.at[0] <= '9' &&
		    strtoull((char *)text.at, NULL, 10) == nr)
			return SLEEPS;
		/* it may need the CPU that we hold at a higher priority */
		nanosleep(&(struct timespec){.tv_nsec = NAP_NS}, NULL);
	}
	return UNKNOWN;
}

/* Stops the sleeping thread; true if its restart_block holds the sleep now. */
static bool stop_asleep(struct rthread *t)
{
	struct user_regs_struct r;
	struct iovec v = {&r, sizeof(r)};
	int status;

	if (ptrace(PTRACE_INTERRUPT, t->tid, 0, 0) < 0 ||
	    waitpid(t->tid, &status, __WALL) != t->tid || !WIFSTOPPED(status))
		return false;
	if (ptrace(PTRACE_GETREGSET, t->tid, NT_PRSTATUS, &v) == 0 && r.rax == RESTARTBLOCK)
		return true;
	ptrace(PTRACE_CONT, t->tid, 0, 0); /* it has just ended */
	return false;
}

/* The timespec that is left, if the kernel wrote it somewhere else than over the request. */
static bool rest_in_memory(struct rthread *t, uint64_t req, uint64_t rmtp, struct timespec *left)
{
	struct err ignored = ERR_INIT;

	return rmtp && rmtp != req &&
	       remote_read(t->of, rmtp, left, sizeof(*left), &ignored) == 0 && left->tv_sec >= 0 &&
	       left->tv_nsec >= 0 && left->tv_nsec < 1000000000;
}

/* Adds the call that the thread is about to begin anew, with what is left of its time. False: it is
 * right as it is. */
static bool put_call(struct batch *b, struct rthread *t, const ThreadCoreEntry *tc)
{
	const struct user_regs_struct *r = &t->regs;
	uint64_t ns = tc->cl_sleep_left;
	struct timespec left = {(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
	bool known = tc->has_cl_sleep_left;

	switch (r->rax) {
	case SYS_nanosleep:
		if (!rest_in_memory(t, r->rdi, r->rsi, &left) && !known)
			return false;
		batch_call(b, "?nanosleep", r->rax, batch_in(b, &left, sizeof(left)), r->rsi);
		return true;
	case SYS_clock_nanosleep:
		if (r->rsi & TIMER_ABSTIME ||
		    (!rest_in_memory(t, r->rdx, r->r10, &left) && !known))
			return false;
		batch_call(b, "?clock_nanosleep", r->rax, r->rdi, r->rsi,
			   batch_in(b, &left, sizeof(left)), r->r10);
		return true;
	case SYS_poll:
		if (known)
			batch_call(b, "?poll", r->rax, r->rdi, r->rsi, (ns + 999999) / 1000000);
		return known;
	case SYS_futex:
		if (known)
			batch_call(b, "?futex", r->rax, r->rdi, r->rsi, r->rdx,
				   batch_in(b, &left, sizeof(left)), r->r8, r->r9);
		return known;
	}
	return false;
}

/* The call came to its end while we looked: that is what the program gets. */
static int take_result(struct rthread *t, struct batch *b, struct err *e)
{
	int ret = batch_end(b, e);

	if (ret < 0)
		return ret;
	t->regs.rip += 2;
	t->regs.rax = (uint64_t)b->call.at[0].ret;
	return 0;
}

int task_sleep_arm(struct rthread *t, const CoreEntry *core, struct err *e)
{
	const ThreadCoreEntry *tc = core->thread_core;
	_cleanup_batch_ struct batch b = BATCH(t);
	struct user_regs_struct *r = &t->regs;
	int ret;

	if (!tc->cl_rewound_sleep) {
		if (tc->has_cl_sleep_left &&
		    (r->rax == SYS_epoll_wait || r->rax == SYS_epoll_pwait))
			r->r10 = (tc->cl_sleep_left + 999999) / 1000000;
		return 0;
	}
	if (!put_call(&b, t, tc))
		return 0;
	if ((ret = batch_begin(&b, e)) < 0)
		return ret;
	switch (wait_asleep(t, r->rax)) {
	case SLEEPS:
		if (stop_asleep(t))
			break;
		return take_result(t, &b, e);
	case HAS_ENDED:
		return take_result(t, &b, e);
	case UNKNOWN:
		return err_say(e, ETIMEDOUT, "thread %d does not go on with its sleep", t->tid);
	}
	t->stopped = true;
	t->live = false;
	r->rip += 2;
	r->orig_rax = r->rax;
	r->rax = RESTARTBLOCK;
	return 0;
}
