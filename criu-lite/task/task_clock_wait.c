/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System calls that wait until a moment of a clock which is another one on the target. They begin
 * anew there, with the moment that they find in the program's memory: it is put as far from the
 * target's now as it was from the source's. So the program waits as long as it would have, also if
 * it calls again with the same moment, or reckons with it (next += period).
 */
#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>

#include "task_parts.h"

#define NSEC 1000000000ll

#ifndef FUTEX_LOCK_PI2
#define FUTEX_LOCK_PI2 13
#endif
#define NR_FUTEX_WAITV 449
#define NR_FUTEX_WAIT  455

/* Those of the wall are the same everywhere. */
static bool differs(clockid_t c)
{
	return c != CLOCK_REALTIME && c != CLOCK_TAI && c != CLOCK_REALTIME_ALARM;
}

static bool futex_waits(const struct user_regs_struct *r)
{
	uint64_t op = r->rsi & FUTEX_CMD_MASK;

	return (op == FUTEX_WAIT_BITSET || op == FUTEX_WAIT_REQUEUE_PI || op == FUTEX_LOCK_PI2) &&
	       !(r->rsi & FUTEX_CLOCK_REALTIME);
}

/* Where the moment is, and of which clock; 0: there is none. */
static gaddr moment_of(const struct user_regs_struct *r, uint64_t nr, clockid_t *clock)
{
	gaddr at = 0;

	*clock = CLOCK_MONOTONIC;
	switch (nr) {
	case SYS_clock_nanosleep:
		*clock = (clockid_t)r->rdi;
		at = r->rsi & TIMER_ABSTIME ? r->rdx : 0;
		break;
	case SYS_futex:
		at = futex_waits(r) ? r->r10 : 0;
		break;
	case NR_FUTEX_WAITV:
		*clock = (clockid_t)r->r8;
		at = r->r10;
		break;
	case NR_FUTEX_WAIT:
		*clock = (clockid_t)r->r9;
		at = r->r8;
		break;
	}
	return differs(*clock) ? at : 0;
}

void task_wait_ask(struct part *p)
{
	const struct user_regs_struct *r = &p->thread->regs;
	uint64_t nr = r->orig_rax;

	/* what an interrupted call that begins anew leaves in rax: ERESTARTSYS and its like */
	if ((int64_t)r->orig_rax < 0 || (int64_t)r->rax > -512 || (int64_t)r->rax < -516)
		return;
	if (nr == SYS_restart_syscall)
		nr = task_watch_nr(p->task, p->thread);
	if (!(p->wait.at = moment_of(r, nr, &p->wait.clock)))
		return;
	p->wait.now = batch_out(&p->batch, sizeof(struct timespec));
	p->wait.call = batch_call(&p->batch, "?clock_gettime", SYS_clock_gettime, p->wait.clock,
				  p->wait.now);
}

void task_wait_take(struct part *p)
{
	ThreadCoreEntry *tc = p->core->thread_core;
	struct err ignored = ERR_INIT;
	struct timespec until, now;

	if (!p->wait.at || p->batch.call.at[p->wait.call].ret < 0 ||
	    remote_read(p->thread->of, p->wait.at, &until, sizeof(until), &ignored) < 0)
		return;
	if (until.tv_sec < 0 || until.tv_sec > INT32_MAX * 64ll || until.tv_nsec < 0 ||
	    until.tv_nsec >= NSEC) /* for ever, or refused by the kernel */
		return;
	batch_get(&p->batch, p->wait.now, &now, sizeof(now));
	tc->has_cl_wait_at = tc->has_cl_wait_clock = tc->has_cl_wait_left = 1;
	tc->cl_wait_at = p->wait.at;
	tc->cl_wait_clock = p->wait.clock;
	tc->cl_wait_left = (until.tv_sec - now.tv_sec) * NSEC + until.tv_nsec - now.tv_nsec;
}

int task_wait_arm(struct rthread *t, const CoreEntry *core, struct err *e)
{
	const ThreadCoreEntry *tc = core->thread_core;
	_cleanup_batch_ struct batch b = BATCH(t);
	struct timespec now;
	int ret;

	if (!tc->has_cl_wait_at || !tc->has_cl_wait_clock || !tc->has_cl_wait_left)
		return 0;
	gaddr at = batch_out(&b, sizeof(now));
	batch_call(&b, "clock_gettime", SYS_clock_gettime, tc->cl_wait_clock, at);
	if ((ret = batch_run(&b, e)) < 0)
		return ret;
	batch_get(&b, at, &now, sizeof(now));
	int64_t until = now.tv_sec * NSEC + now.tv_nsec + tc->cl_wait_left;
	if (until < 0)
		until = 0;
	now = (struct timespec){ until / NSEC, until % NSEC };
	return remote_write(t->of, tc->cl_wait_at, &now, sizeof(now), e);
}
