/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For how long the threads of a running task have slept in calls with a relative timeout. Once such
 * a call is interrupted, only the kernel knows what is left of it: in a restart_block, which nobody
 * can read. So it is noted before: when a thread that sleeps ran last (se.exec_start in its sched
 * file) is when its sleep began.
 *
 * That clock is the one of the CPU that the thread ran on, which leaves out interrupts and stolen
 * time; it is compared with CLOCK_MONOTONIC by a look at our own thread on that CPU.
 *
 * A call that was interrupted before shows as restart_syscall(2). If we have known it since, its
 * beginning stays what it was.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>

#include "io.h"
#include "task_parts.h"

/* A system call that a thread is in: its number, arguments, stack pointer and return address. */
struct call {
	uint64_t nr, arg[6], sp, pc;
};

struct sleeper {
	pid_t tid;
	struct call call;          /* nr: 0 for a restart_syscall of what cannot be told */
	uint64_t since;            /* CLOCK_MONOTONIC */
	uint64_t slept;            /* times that it gave up its CPU */
	bool found;                /* the stop found it in the same sleep */
	uint64_t left;             /* ns; 0: not known */
};

struct cpu_clock {
	int cpu;
	int64_t behind;            /* CLOCK_MONOTONIC - clock of the CPU */
};

struct task_watch {
	VEC(struct sleeper) sleeper;
	VEC(struct cpu_clock) clock;
	bool stopped;              /* task_watch_stopped() has been here */
	size_t next;               /* threads are asked for in the order of the list */
};

static void watch_clear(struct task_watch *w)
{
	vec_free(&w->sleeper);
	vec_free(&w->clock);
}

void task_watch_free(struct task_watch *w)
{
	if (w)
		watch_clear(w);
	free(w);
}

/* ---- calls with a relative timeout ---- */

#define MSEC 1000000ull

/* Whether a call has one, and in which argument: a number of ms, or a pointer to a timespec. */
static bool has_timeout(const struct call *c, unsigned *arg, bool *in_ms)
{
	static const uint64_t futex_flags = FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME;

	*in_ms = false;
	switch (c->nr) {
	case SYS_poll:
		*in_ms = true;
		*arg = 2;
		return (int)c->arg[2] > 0;
	case SYS_epoll_wait:
	case SYS_epoll_pwait:
		*in_ms = true;
		*arg = 3;
		return (int)c->arg[3] > 0;
	case SYS_futex:
		*arg = 3;
		return (c->arg[1] & ~futex_flags) == FUTEX_WAIT && c->arg[3];
	/* With a pointer for the rest the kernel writes it there. */
	case SYS_nanosleep:
		*arg = 0;
		return !c->arg[1];
	case SYS_clock_nanosleep: /* the clocks of CPU time do not tick meanwhile */
		*arg = 2;
		return !(c->arg[1] & TIMER_ABSTIME) && !c->arg[3] &&
		       (c->arg[0] == CLOCK_REALTIME || c->arg[0] == CLOCK_MONOTONIC ||
			c->arg[0] == CLOCK_BOOTTIME || c->arg[0] == CLOCK_TAI);
	}
	return false;
}

/* The timeout that the program gave, in ns. 0: none, or not to be read. */
static uint64_t timeout_of(struct rthread *t, const struct call *c)
{
	struct err ignored = ERR_INIT;
	struct timespec ts;
	unsigned arg;
	bool in_ms;

	if (!has_timeout(c, &arg, &in_ms))
		return 0;
	if (in_ms)
		return c->arg[arg] * MSEC;
	if (remote_read(t->of, c->arg[arg], &ts, sizeof(ts), &ignored) < 0 || ts.tv_sec < 0 ||
	    ts.tv_sec > INT32_MAX)
		return 0;
	return (uint64_t)ts.tv_sec * 1000 * MSEC + (uint64_t)ts.tv_nsec;
}

static bool same_call(const struct call *a, const struct call *b)
{
	return !memcmp(a->arg, b->arg, sizeof(a->arg)) && a->sp == b->sp && a->pc == b->pc;
}

/* ---- the files of a thread ---- */

static bool slurp(int dir, pid_t tid, const char *file, struct buf *text)
{
	struct err ignored = ERR_INIT;
	char path[48];

	snprintf(path, sizeof(path), "%d/%s", tid, file);
	return io_slurp_at(dir, path, text, &ignored) == 0;
}

/* "35 0x7ffc... 0x0 0x0 0x0 0x0 0x0 0x7ffc... 0x7f2c...", "running", or "-1 ..." */
static bool read_call(int dir, pid_t tid, struct buf *text, struct call *c)
{
	uint64_t v[9];
	char *at;

	if (!slurp(dir, tid, "syscall", text) || !text->n || text->at[0] < '0' || text->at[0] > '9')
		return false;
	at = (char *)text->at;
	for (int i = 0; i < 9; i++) {
		char *from = at;

		v[i] = strtoull(from, &at, i ? 16 : 10);
		if (at == from)
			return false;
	}
	c->nr = v[0];
	memcpy(c->arg, v + 1, sizeof(c->arg));
	c->sp = v[7];
	c->pc = v[8];
	return true;
}

/* The value of a line "name      :       4666374.232206", in millionths if it has a fraction. */
static bool sched_value(const char *text, const char *name, uint64_t *v)
{
	const char *at = strstr(text, name);
	char *end;

	if (!at || !(at = strchr(at, ':')))
		return false;
	*v = strtoull(at + 1, &end, 10);
	if (*end == '.')
		*v = *v * 1000000 + strtoull(end + 1, NULL, 10);
	return true;
}

/* When it ran last, by the clock of its CPU, and how often it has gone to sleep. */
static bool read_sched(int dir, pid_t tid, struct buf *text, uint64_t *ran, uint64_t *slept)
{
	const char *rows;

	/* the first line is the thread's name, which may hold anything but more than 15 bytes */
	return slurp(dir, tid, "sched", text) && (rows = strstr((char *)text->at, "\n---")) &&
	       sched_value(rows, "\nse.exec_start ", ran) &&
	       sched_value(rows, "\nnr_voluntary_switches ", slept);
}

/* Field 39 of its stat: the CPU. */
static int read_cpu(int dir, pid_t tid, struct buf *text)
{
	char *at;

	if (!slurp(dir, tid, "stat", text) || !(at = strrchr((char *)text->at, ')')))
		return -1;
	for (int field = 2; at && field < 39; field++)
		at = strchr(at + 1, ' ');
	return at ? atoi(at) : -1;
}

/* A thread in restart_syscall(2): where it waits tells what for. */
static uint64_t nr_by_place(int dir, pid_t tid, const struct call *c, struct buf *text)
{
	if (!slurp(dir, tid, "wchan", text) || text->n < 2)
		return 0; /* "0": kept from us */
	if (strstr((char *)text->at, "poll"))
		return SYS_poll;
	if (strstr((char *)text->at, "futex"))
		return SYS_futex;
	/* nanosleep's own functions do not count as places; its first argument is a pointer,
	 * that of clock_nanosleep a small number */
	return c->arg[0] < PAGE_SIZE ? SYS_clock_nanosleep : SYS_nanosleep;
}

/* ---- clocks ---- */

/* Our own thread on that CPU shows how its clock stands. */
static bool compare_clock(int dir, int cpu, struct buf *text, int64_t *behind)
{
	struct timespec ignored;
	uint64_t ran, slept, now;
	cpu_set_t before, one;
	bool moved, ok;

	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	moved = sched_getaffinity(0, sizeof(before), &before) == 0 &&
		sched_setaffinity(0, sizeof(one), &one) == 0;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ignored); /* brings exec_start up to date */
	now = io_now_ns();
	ok = read_sched(dir, gettid(), text, &ran, &slept);
	if (moved)
		sched_setaffinity(0, sizeof(before), &before);
	*behind = (int64_t)(now - ran);
	return ok;
}

static bool clock_of(struct task_watch *w, int cpu, struct buf *text, int64_t *behind)
{
	vec_each(&w->clock, c) {
		*behind = c->behind;
		if (c->cpu == cpu)
			return true;
	}
	if (cpu < 0 || cpu >= CPU_SETSIZE)
		return false;
	_cleanup_close_ int self = open("/proc/self/task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (self < 0 || !compare_clock(self, cpu, text, behind))
		return false;
	vec_push(&w->clock, (struct cpu_clock){cpu, *behind});
	return true;
}

/* ---- before a stop ---- */

static const struct sleeper *known(const struct task_watch *old, pid_t tid, const struct call *c)
{
	vec_each(&old->sleeper, s)
		if (s->tid == tid && s->found && same_call(&s->call, c))
			return s;
	return NULL;
}

/* Since when it sleeps. False: that cannot be told. */
static bool asleep_since(struct task_watch *w, int dir, struct sleeper *s, struct buf *text)
{
	uint64_t ran, now = io_now_ns();
	int64_t behind;
	int cpu;

	if (!read_sched(dir, s->tid, text, &ran, &s->slept) ||
	    (cpu = read_cpu(dir, s->tid, text)) < 0 || !clock_of(w, cpu, text, &behind))
		return false;
	s->since = ran + (uint64_t)behind;
	if (s->since > now)
		s->since = now;
	return true;
}

static void look_at(struct task_watch *w, const struct task_watch *old, int dir, pid_t tid,
		    struct buf *text)
{
	struct sleeper s = {.tid = tid};
	unsigned arg;
	bool in_ms, again;

	if (!read_call(dir, tid, text, &s.call))
		return;
	again = s.call.nr == SYS_restart_syscall;
	const struct sleeper *before = again ? known(old, tid, &s.call) : NULL;
	if (again)
		s.call.nr = before ? before->call.nr : nr_by_place(dir, tid, &s.call, text);
	if (has_timeout(&s.call, &arg, &in_ms) && asleep_since(w, dir, &s, text)) {
		if (before && before->since)
			s.since = before->since;
	} else if (!again) {
		return;
	}
	vec_push(&w->sleeper, s);
}

void task_sleep_watch(struct task *t)
{
	struct task_watch old = {0};
	_cleanup_(buf_free) struct buf text = {0};
	char path[32];

	snprintf(path, sizeof(path), "/proc/%d/task", t->pid);
	_cleanup_closedir_ DIR *d = opendir(path);
	if (!d)
		return;
	if (!t->watch)
		t->watch = xcalloc(1, sizeof(*t->watch));
	old = *t->watch;
	*t->watch = (struct task_watch){0};
	for (struct dirent *de; (de = readdir(d));) {
		pid_t tid = (pid_t)atoi(de->d_name);

		if (tid > 0)
			look_at(t->watch, &old, dirfd(d), tid, &text);
	}
	watch_clear(&old);
}

/* ---- after it ---- */

static struct sleeper *sleeper_of(const struct task *t, pid_t tid)
{
	struct task_watch *w = t->watch;

	for (size_t i = 0; w && i < w->sleeper.n; i++) {
		size_t at = (w->next + i) % w->sleeper.n;

		if (w->sleeper.at[at].tid != tid)
			continue;
		w->next = at;
		return &w->sleeper.at[at];
	}
	return NULL;
}

static bool still_in(const struct rthread *t, const struct call *c)
{
	const struct user_regs_struct *r = &t->regs;
	const struct call now = {
		.arg = {r->rdi, r->rsi, r->rdx, r->r10, r->r8, r->r9},
		.sp = r->rsp,
		.pc = r->rip,
	};

	return (r->orig_rax == c->nr || r->orig_rax == SYS_restart_syscall) && same_call(&now, c);
}

/* The same arguments may be those of the next turn of a loop. If it is one sleep, the thread has
 * gone to sleep once since then: in our stop. */
static bool slept_on(int dir, const struct sleeper *s, struct buf *text)
{
	uint64_t ran, slept;

	return read_sched(dir, s->tid, text, &ran, &slept) && slept == s->slept + 1;
}

static void found(int dir, struct rthread *t, struct sleeper *s, uint64_t now, struct buf *text)
{
	uint64_t timeout;

	if (!still_in(t, &s->call))
		return;
	s->found = true;
	if (t->syscall_nr < 0 && s->call.nr)
		t->syscall_nr = (int64_t)s->call.nr;
	if (!s->since || !(timeout = timeout_of(t, &s->call)))
		return;
	if (!slept_on(dir, s, text))
		s->found = false;
	else if (now - s->since < timeout)
		s->left = timeout - (now - s->since);
	/* else it should have ended: another sleep, after all */
}

void task_watch_stopped(struct task *t)
{
	_cleanup_(buf_free) struct buf text = {0};
	uint64_t now = io_now_ns();
	struct rthread *thread;
	char path[32];

	if (!t->watch || t->watch->stopped)
		return;
	t->watch->stopped = true;
	if (!t->watch->sleeper.n)
		return;
	snprintf(path, sizeof(path), "/proc/%d/task", t->pid);
	_cleanup_close_ int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	for (size_t i = 0; dir >= 0 && (thread = remote_thread(t->remote, i)); i++) {
		struct sleeper *s = thread->stopped ? sleeper_of(t, thread->tid) : NULL;

		if (s)
			found(dir, thread, s, now, &text);
	}
}

uint64_t task_watch_nr(const struct task *t, const struct rthread *thread)
{
	const struct sleeper *s = sleeper_of(t, thread->tid);

	if (s && s->found && s->call.nr)
		return s->call.nr;
	return thread->syscall_nr > 0 ? (uint64_t)thread->syscall_nr : 0;
}

bool task_watch_left(const struct task *t, pid_t tid, uint64_t nr, uint64_t *ns)
{
	const struct sleeper *s = sleeper_of(t, tid);

	*ns = s ? s->left : 0;
	return s && s->found && s->left && s->call.nr == nr;
}
