/* SPDX-License-Identifier: Apache-2.0 */
/* Scheduling: policy, priority, niceness, CPUs, I/O priority. All from outside, by tid. */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "log.h"
#include "task_parts.h"

#define CPUS_MAX_BYTES 1024 /* 8192 CPUs */
#define IOPRIO_WHO_PROCESS 1

#ifndef SCHED_DEADLINE
#define SCHED_DEADLINE 6
#endif

struct sched_now {
	int policy, prio, nice, ioprio;
	uint8_t cpus[CPUS_MAX_BYTES];
	size_t cpu_bytes;
};

static int read_now(pid_t tid, struct sched_now *s, struct err *e)
{
	struct sched_param param = {0};
	long n;

	memset(s, 0, sizeof(*s));
	s->policy = sched_getscheduler(tid);
	if (s->policy < 0 || sched_getparam(tid, &param) < 0)
		return err_set(e, errno, "thread %d: scheduling policy", tid);
	s->prio = param.sched_priority;
	errno = 0;
	s->nice = getpriority(PRIO_PROCESS, (id_t)tid);
	if (s->nice == -1 && errno)
		return err_set(e, errno, "thread %d: niceness", tid);
	n = syscall(SYS_sched_getaffinity, tid, sizeof(s->cpus), s->cpus);
	if (n < 0)
		return err_set(e, errno, "thread %d: CPUs", tid);
	s->cpu_bytes = (size_t)n;
	s->ioprio = (int)syscall(SYS_ioprio_get, IOPRIO_WHO_PROCESS, tid);
	return 0;
}

int task_sched_check(pid_t tid, struct err *e)
{
	int policy = sched_getscheduler(tid);

	if (policy < 0)
		return errno == ESRCH ? 0 : err_set(e, errno, "thread %d: scheduling policy", tid);
	if ((policy & ~SCHED_RESET_ON_FORK) != SCHED_DEADLINE)
		return 0;
	err_say(e, ENOTSUP, "thread %d is scheduled by deadline", tid);
	return err_remedy(e, "change it for the time of the move (chrt --other --pid 0 %d)", tid);
}

/* All CPUs of one host are not all CPUs of another: only a choice is carried over. */
static bool chosen_cpus(const struct sched_now *s)
{
	long online = sysconf(_SC_NPROCESSORS_ONLN), n = 0;

	for (size_t i = 0; i < s->cpu_bytes; i++)
		n += __builtin_popcount(s->cpus[i]);
	return n < online;
}

int task_sched_look(struct part *p, struct err *e)
{
	ThreadCoreEntry *tc = p->core->thread_core;
	struct sched_now s;
	int ret;

	if ((ret = task_sched_check(p->thread->tid, e)) < 0 ||
	    (ret = read_now(p->thread->tid, &s, e)) < 0)
		return ret;
	tc->has_sched_policy = tc->has_sched_nice = tc->has_sched_prio = 1;
	tc->sched_policy = (uint32_t)s.policy;
	tc->sched_prio = (uint32_t)s.prio;
	tc->sched_nice = s.nice;
	if (chosen_cpus(&s)) {
		tc->has_cl_affinity = 1;
		tc->cl_affinity.len = s.cpu_bytes;
		tc->cl_affinity.data = xmemdup(s.cpus, s.cpu_bytes);
	}
	if (s.ioprio >= 0) {
		tc->has_cl_ioprio = 1;
		tc->cl_ioprio = (uint32_t)s.ioprio;
	}
	return 0;
}

static int refused(pid_t tid, const char *what, struct err *e)
{
	int code = errno;

	err_set(e, code, "thread %d: %s", tid, what);
	if (code == EPERM)
		err_remedy(e, "CAP_SYS_NICE is needed, or higher RLIMIT_NICE and RLIMIT_RTPRIO");
	return -code;
}

static void apply_cpus(pid_t tid, const ThreadCoreEntry *tc)
{
	if (!tc->has_cl_affinity || !tc->cl_affinity.len)
		return;
	if (syscall(SYS_sched_setaffinity, tid, tc->cl_affinity.len, tc->cl_affinity.data) < 0)
		log_warn("thread %d: this host has none of the CPUs it was bound to: %s", tid,
			 strerror(errno));
}

int task_sched_apply(pid_t tid, const CoreEntry *core, struct err *e)
{
	const ThreadCoreEntry *tc = core->thread_core;
	struct sched_param param = {.sched_priority = (int)tc->sched_prio};
	struct sched_now now;
	int ret;

	if ((ret = read_now(tid, &now, e)) < 0)
		return ret;
	apply_cpus(tid, tc);
	if (tc->has_sched_policy &&
	    (tc->sched_policy != (uint32_t)now.policy || tc->sched_prio != (uint32_t)now.prio) &&
	    sched_setscheduler(tid, (int)tc->sched_policy, &param) < 0)
		return refused(tid, "scheduling policy", e);
	if (tc->has_sched_nice && tc->sched_nice != now.nice &&
	    setpriority(PRIO_PROCESS, (id_t)tid, tc->sched_nice) < 0)
		return refused(tid, "niceness", e);
	if (tc->has_cl_ioprio && tc->cl_ioprio != (uint32_t)now.ioprio &&
	    syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, tid, tc->cl_ioprio) < 0)
		log_warn("thread %d: I/O priority: %s", tid, strerror(errno));
	return 0;
}
