/* SPDX-License-Identifier: Apache-2.0 */
/* Interval timers and POSIX timers. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

#include "io.h"
#include "task_parts.h"

#ifndef PR_TIMER_CREATE_RESTORE_IDS
#define PR_TIMER_CREATE_RESTORE_IDS 77 /* Linux 6.15 */
#endif
#define ITIMERS 3 /* ITIMER_REAL, _VIRTUAL, _PROF */

/* Without PR_TIMER_CREATE_RESTORE_IDS an id is reached by creating all before it. */
#define ID_MAX_BY_STEPS (1 << 20)

/* ---- capture ---- */

void task_timers_ask(struct part *p)
{
	if (!p->core->tc)
		return;
	for (int i = 0; i < ITIMERS; i++) {
		p->timer.itimer[i] = batch_out(&p->batch, sizeof(struct itimerval));
		batch_call(&p->batch, "getitimer", SYS_getitimer, i, p->timer.itimer[i]);
	}
}

static ItimerEntry *take_itimer(const struct part *p, int i)
{
	ItimerEntry *m = MSG_NEW(ItimerEntry, itimer_entry);
	struct itimerval v;

	batch_get(&p->batch, p->timer.itimer[i], &v, sizeof(v));
	m->isec = (uint64_t)v.it_interval.tv_sec;
	m->iusec = (uint64_t)v.it_interval.tv_usec;
	m->vsec = (uint64_t)v.it_value.tv_sec;
	m->vusec = (uint64_t)v.it_value.tv_usec;
	return m;
}

static PosixTimerEntry *posix_timer(const struct proc_timer *t, const struct itimerspec *v,
				    int64_t overrun)
{
	PosixTimerEntry *m = MSG_NEW(PosixTimerEntry, posix_timer_entry);

	m->it_id = (uint32_t)t->id;
	m->clock_id = (uint32_t)t->clock;
	m->si_signo = (uint32_t)t->signo;
	m->it_sigev_notify = (uint32_t)t->notify;
	m->sival_ptr = t->sival_ptr;
	m->overrun = overrun > 0 ? (uint32_t)overrun : 0;
	m->isec = (uint64_t)v->it_interval.tv_sec;
	m->insec = (uint64_t)v->it_interval.tv_nsec;
	m->vsec = (uint64_t)v->it_value.tv_sec;
	m->vnsec = (uint64_t)v->it_value.tv_nsec;
	if (t->notify & SIGEV_THREAD_ID) {
		m->has_notify_thread_id = 1;
		m->notify_thread_id = t->notify_pid;
	}
	return m;
}

static int read_list(pid_t pid, proc_timer_vec *out, struct err *e)
{
	_cleanup_(buf_free) struct buf text = {0};
	int ret;

	if ((ret = io_slurp(&text, e, "/proc/%d/timers", pid)) < 0)
		return ret;
	return proc_timers_parse((const char *)text.at, text.n, out, e);
}

/* Asks for `n` timers in one batch. */
static int take_some(struct rthread *t, const struct proc_timer *timer, size_t n,
		     TaskTimersEntry *m, struct err *e)
{
	_cleanup_batch_ struct batch b = BATCH(t);
	_cleanup_free_ gaddr *value = xcalloc(n, sizeof(*value));
	int ret;

	for (size_t i = 0; i < n; i++) {
		value[i] = batch_out(&b, sizeof(struct itimerspec));
		batch_call(&b, "timer_gettime", SYS_timer_gettime, timer[i].id, value[i]);
		batch_call(&b, "timer_getoverrun", SYS_timer_getoverrun, timer[i].id);
	}
	if ((ret = batch_run(&b, e)) < 0)
		return ret;
	for (size_t i = 0; i < n; i++) {
		struct itimerspec v;

		batch_get(&b, value[i], &v, sizeof(v));
		m->posix[m->n_posix++] = posix_timer(&timer[i], &v, b.call.at[2 * i + 1].ret);
	}
	return 0;
}

static int by_id(const void *a, const void *b)
{
	const struct proc_timer *x = a, *y = b;

	return x->id < y->id ? -1 : x->id > y->id;
}

int task_timers_take(struct part *p, struct err *e)
{
	const size_t at_once = BATCH_CALLS_MAX / 2;
	proc_timer_vec list = {0};
	TaskTimersEntry *m;
	int ret;

	if (!p->core->tc)
		return 0;
	m = p->core->tc->timers = MSG_NEW(TaskTimersEntry, task_timers_entry);
	m->real = take_itimer(p, ITIMER_REAL);
	m->virt = take_itimer(p, ITIMER_VIRTUAL);
	m->prof = take_itimer(p, ITIMER_PROF);
	if ((ret = read_list(p->task->pid, &list, e)) < 0)
		return ret;
	if (list.n) {
		qsort(list.at, list.n, sizeof(*list.at), by_id);
		m->posix = xcalloc(list.n, sizeof(*m->posix));
	}
	for (size_t i = 0; i < list.n && ret == 0; i += at_once) {
		size_t n = list.n - i < at_once ? list.n - i : at_once;

		ret = take_some(p->thread, list.at + i, n, m, e);
	}
	vec_free(&list);
	return ret;
}

/* ---- apply ---- */

static bool good_itimer(const ItimerEntry *m)
{
	return m->iusec < 1000000 && m->vusec < 1000000 && m->isec <= INT64_MAX &&
	       m->vsec <= INT64_MAX;
}

static int check(const TaskTimersEntry *m, struct err *e)
{
	if (!good_itimer(m->real) || !good_itimer(m->virt) || !good_itimer(m->prof))
		return err_say(e, EBADMSG, "interval timer makes no sense");
	for (size_t i = 0; i < m->n_posix; i++) {
		const PosixTimerEntry *t = m->posix[i];

		if (t->it_id > INT32_MAX || t->insec > 999999999 || t->vnsec > 999999999 ||
		    t->isec > INT64_MAX || t->vsec > INT64_MAX ||
		    (i && t->it_id <= m->posix[i - 1]->it_id))
			return err_say(e, EBADMSG, "POSIX timer %u makes no sense", t->it_id);
	}
	return 0;
}

/* A timer on the CPU time of a thread belongs to the thread that makes it. */
static struct rthread *maker(struct rthread *leader, const PosixTimerEntry *m)
{
	for (size_t i = 0; m->has_notify_thread_id; i++) {
		struct rthread *t = remote_thread(leader->of, i);

		if (!t)
			break;
		if (t->tid == m->notify_thread_id)
			return t;
	}
	return leader;
}

static gaddr put_create(struct batch *b, const PosixTimerEntry *m)
{
	struct sigevent ev = {
		.sigev_signo = (int)m->si_signo,
		.sigev_notify = (int)m->it_sigev_notify,
		.sigev_value.sival_ptr = (void *)(uintptr_t)m->sival_ptr,
	};
	int32_t id = (int32_t)m->it_id;

	if (m->has_notify_thread_id)
		ev._sigev_un._tid = m->notify_thread_id;
	gaddr at = batch_in(b, &id, sizeof(id));

	batch_call(b, "timer_create", SYS_timer_create, (int64_t)(int32_t)m->clock_id,
		   batch_in(b, &ev, sizeof(ev)), at);
	return at;
}

static int verify_id(const struct batch *b, gaddr at, const PosixTimerEntry *m, struct err *e)
{
	uint32_t got;

	batch_get(b, at, &got, sizeof(got));
	if (got != m->it_id)
		return err_say(e, EBUSY, "POSIX timer %u was created as %u", m->it_id, got);
	return 0;
}

/* Linux before 6.15 counts up: makes and deletes timers until `want` is the next id. */
static int step_to(struct rthread *leader, uint32_t *next, uint32_t want, struct err *e)
{
	_cleanup_batch_ struct batch b = BATCH(leader);
	struct sigevent none = {.sigev_notify = SIGEV_NONE};
	int ret;

	if (want > ID_MAX_BY_STEPS) {
		err_say(e, ENOTSUP, "POSIX timer id %u cannot be made on this kernel", want);
		return err_remedy(e, "restore on Linux 6.15 or later");
	}
	while (*next < want) {
		batch_reset(&b);
		gaddr ev = batch_in(&b, &none, sizeof(none)), id = batch_out(&b, 8);

		for (; *next < want && batch_room(&b, 2, 0); ++*next) {
			batch_call(&b, "timer_create", SYS_timer_create, CLOCK_MONOTONIC, ev, id);
			batch_call(&b, "timer_delete", SYS_timer_delete, *next);
		}
		if ((ret = batch_run(&b, e)) < 0)
			return ret;
	}
	return 0;
}

/* Asks the kernel to take ids from us; false: it cannot. */
static int restore_ids(struct rthread *leader, bool on, bool *can, struct err *e)
{
	_cleanup_batch_ struct batch b = BATCH(leader);
	size_t i = batch_call(&b, "?prctl", SYS_prctl, PR_TIMER_CREATE_RESTORE_IDS, on, 0, 0, 0);
	int ret = batch_run(&b, e);

	*can = ret == 0 && b.call.at[i].ret == 0;
	return ret;
}

int task_timers_create(struct rthread *leader, const CoreEntry *core, struct err *e)
{
	const TaskTimersEntry *m = core->tc->timers;
	uint32_t next = 0;
	bool can;
	int ret;

	if (!m || (ret = check(m, e)) < 0)
		return m ? ret : 0;
	if (!m->n_posix)
		return 0;
	if ((ret = restore_ids(leader, true, &can, e)) < 0)
		return ret;
	for (size_t i = 0; i < m->n_posix; i++) {
		_cleanup_batch_ struct batch b = BATCH(maker(leader, m->posix[i]));

		if (!can && (ret = step_to(leader, &next, m->posix[i]->it_id, e)) < 0)
			return ret;
		gaddr at = put_create(&b, m->posix[i]);

		b.has_out = true; /* the id comes back where it went in */
		if ((ret = batch_run(&b, e)) < 0 || (ret = verify_id(&b, at, m->posix[i], e)) < 0)
			return ret;
		next = m->posix[i]->it_id + 1;
	}
	return can ? restore_ids(leader, false, &can, e) : 0;
}

static void put_itimer(struct batch *b, int which, const ItimerEntry *m)
{
	struct itimerval v = {
		.it_interval = {(time_t)m->isec, (suseconds_t)m->iusec},
		.it_value = {(time_t)m->vsec, (suseconds_t)m->vusec},
	};

	/* It has expired, and its interval begins when the program takes its signal, which is
	 * pending: let it expire again. */
	if (!m->vsec && !m->vusec && (m->isec || m->iusec))
		v.it_value.tv_usec = 1;
	if (v.it_value.tv_sec || v.it_value.tv_usec)
		batch_call(b, "setitimer", SYS_setitimer, which, batch_in(b, &v, sizeof(v)), 0);
}

int task_timers_arm(struct rthread *leader, const CoreEntry *core, struct err *e)
{
	_cleanup_batch_ struct batch b = BATCH(leader);
	const TaskTimersEntry *m = core->tc->timers;
	int ret;

	if (!m)
		return 0;
	put_itimer(&b, ITIMER_REAL, m->real);
	put_itimer(&b, ITIMER_VIRTUAL, m->virt);
	put_itimer(&b, ITIMER_PROF, m->prof);
	for (size_t i = 0; i < m->n_posix; i++) {
		const PosixTimerEntry *t = m->posix[i];
		struct itimerspec v = {
			.it_interval = {(time_t)t->isec, (long)t->insec},
			.it_value = {(time_t)t->vsec, (long)t->vnsec},
		};

		if (!t->vsec && !t->vnsec)
			continue;
		if (!batch_room(&b, 1, sizeof(v))) {
			if ((ret = batch_run(&b, e)) < 0)
				return ret;
			batch_reset(&b);
		}
		batch_call(&b, "timer_settime", SYS_timer_settime, t->it_id, 0,
			   batch_in(&b, &v, sizeof(v)), 0);
	}
	return b.call.n ? batch_run(&b, e) : 0;
}
