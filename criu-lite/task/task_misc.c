/* SPDX-License-Identifier: Apache-2.0 */
/* Names, limits, personality, and the other small things of a task and its threads. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "io.h"
#include "log.h"
#include "task_parts.h"

#define LIMITS 16
#define COMM_SIZE 16

#ifndef ARCH_GET_XCOMP_PERM
#define ARCH_GET_XCOMP_PERM 0x1022
#define ARCH_REQ_XCOMP_PERM 0x1023
#endif
#ifndef ARCH_SHSTK_STATUS
#define ARCH_SHSTK_STATUS 0x5005
#endif
#define MEMBARRIER_GET_REGISTRATIONS (1 << 9) /* Linux 6.3 */
#define MEMBARRIER_REGISTER_ALL      0x154u   /* every REGISTER command */

/* ---- capture ---- */

static bool read_number(pid_t pid, const char *file, int64_t *v)
{
	_cleanup_(buf_free) struct buf text = {0};
	struct err ignored = ERR_INIT;

	if (io_slurp(&text, &ignored, "/proc/%d/%s", pid, file) < 0 || !text.n)
		return false;
	*v = strtoll((const char *)text.at, NULL, 10);
	return true;
}

int task_misc_look(struct part *p, struct err *e)
{
	TaskCoreEntry *tc = p->core->tc;
	int64_t v;

	if (p->status.seccomp) {
		err_say(e, ENOTSUP, "thread %d is under seccomp", p->thread->tid);
		return err_remedy(e, "start the program without a seccomp filter");
	}
	if (!tc)
		return 0;
	if (read_number(p->task->pid, "oom_score_adj", &v)) {
		tc->has_oom_score_adj = 1;
		tc->oom_score_adj = (int32_t)v;
	}
	if (read_number(p->task->pid, "loginuid", &v)) {
		tc->has_loginuid = 1;
		tc->loginuid = (uint32_t)v;
	}
	return 0;
}

static void ask_process(struct part *p)
{
	struct batch *b = &p->batch;

	p->misc.personality = batch_call(b, "personality", SYS_personality, 0xffffffff);
	p->misc.subreaper = batch_out(b, sizeof(int));
	batch_call(b, "prctl(PR_GET_CHILD_SUBREAPER)", SYS_prctl, PR_GET_CHILD_SUBREAPER,
		   p->misc.subreaper, 0, 0, 0);
	p->misc.membarrier = batch_call(b, "?membarrier", SYS_membarrier,
					MEMBARRIER_GET_REGISTRATIONS, 0, 0);
	p->misc.xcomp = batch_out(b, sizeof(uint64_t));
	batch_call(b, "?arch_prctl", SYS_arch_prctl, ARCH_GET_XCOMP_PERM, p->misc.xcomp);
	for (int i = 0; i < LIMITS; i++) {
		p->misc.limit[i] = batch_out(b, sizeof(struct rlimit));
		batch_call(b, "prlimit64", SYS_prlimit64, 0, i, 0, p->misc.limit[i]);
	}
}

void task_misc_ask(struct part *p)
{
	struct batch *b = &p->batch;

	p->misc.tid_address = batch_out(b, sizeof(uint64_t));
	batch_call(b, "prctl(PR_GET_TID_ADDRESS)", SYS_prctl, PR_GET_TID_ADDRESS,
		   p->misc.tid_address, 0, 0, 0);
	p->misc.comm = batch_out(b, COMM_SIZE);
	batch_call(b, "prctl(PR_GET_NAME)", SYS_prctl, PR_GET_NAME, p->misc.comm, 0, 0, 0);
	p->misc.pdeathsig = batch_out(b, sizeof(int));
	batch_call(b, "prctl(PR_GET_PDEATHSIG)", SYS_prctl, PR_GET_PDEATHSIG, p->misc.pdeathsig, 0,
		   0, 0);
	p->misc.slack = batch_call(b, "prctl(PR_GET_TIMERSLACK)", SYS_prctl, PR_GET_TIMERSLACK, 0,
				   0, 0, 0);
	p->misc.shstk = batch_out(b, sizeof(uint64_t));
	batch_call(b, "?arch_prctl", SYS_arch_prctl, ARCH_SHSTK_STATUS, p->misc.shstk);
	if (p->core->tc)
		ask_process(p);
}

static char *take_comm(const struct part *p)
{
	char comm[COMM_SIZE + 1] = {0};

	batch_get(&p->batch, p->misc.comm, comm, COMM_SIZE);
	return xstrdup(comm);
}

static TaskRlimitsEntry *take_limits(const struct part *p)
{
	TaskRlimitsEntry *m = MSG_NEW(TaskRlimitsEntry, task_rlimits_entry);

	m->rlimits = xcalloc(LIMITS, sizeof(*m->rlimits));
	for (int i = 0; i < LIMITS; i++) {
		struct rlimit lim;
		RlimitEntry *r = m->rlimits[m->n_rlimits++] = MSG_NEW(RlimitEntry, rlimit_entry);

		batch_get(&p->batch, p->misc.limit[i], &lim, sizeof(lim));
		r->cur = lim.rlim_cur;
		r->max = lim.rlim_max;
	}
	return m;
}

static void take_process(struct part *p)
{
	TaskCoreEntry *tc = p->core->tc;
	int64_t barrier = p->batch.call.at[p->misc.membarrier].ret;
	int subreaper;

	tc->comm = take_comm(p);
	tc->personality = (uint32_t)p->batch.call.at[p->misc.personality].ret;
	batch_get(&p->batch, p->misc.subreaper, &subreaper, sizeof(subreaper));
	tc->has_child_subreaper = 1;
	tc->child_subreaper = subreaper != 0;
	if (barrier > 0) {
		tc->has_membarrier_registration_mask = 1;
		tc->membarrier_registration_mask = (uint32_t)barrier;
	}
	batch_get(&p->batch, p->misc.xcomp, &tc->cl_xcomp_perm, sizeof(uint64_t));
	tc->has_cl_xcomp_perm = tc->cl_xcomp_perm != 0;
	tc->rlimits = take_limits(p);
}

int task_misc_take(struct part *p, struct err *e)
{
	ThreadCoreEntry *tc = p->core->thread_core;
	uint64_t shstk;
	int pdeathsig;

	batch_get(&p->batch, p->misc.shstk, &shstk, sizeof(shstk));
	if (shstk) {
		err_say(e, ENOTSUP, "thread %d uses a shadow stack", p->thread->tid);
		return err_remedy(e, "start the program with "
				     "GLIBC_TUNABLES=glibc.cpu.hwcaps=-SHSTK");
	}
	batch_get(&p->batch, p->misc.tid_address, &p->core->thread_info->clear_tid_addr,
		  sizeof(uint64_t));
	batch_get(&p->batch, p->misc.pdeathsig, &pdeathsig, sizeof(pdeathsig));
	tc->comm = take_comm(p);
	tc->has_pdeath_sig = 1;
	tc->pdeath_sig = (uint32_t)pdeathsig;
	tc->has_cl_timer_slack = 1;
	tc->cl_timer_slack = (uint64_t)p->batch.call.at[p->misc.slack].ret;
	if (p->core->tc)
		take_process(p);
	return 0;
}

/* ---- apply ---- */

static gaddr put_comm(struct batch *b, const char *comm)
{
	char name[COMM_SIZE] = {0};

	memcpy(name, comm, strnlen(comm, sizeof(name) - 1));
	return batch_in(b, name, sizeof(name));
}

static void put_process(struct batch *b, const TaskCoreEntry *tc)
{
	batch_call(b, "personality", SYS_personality, tc->personality);
	batch_call(b, "prctl(PR_SET_CHILD_SUBREAPER)", SYS_prctl, PR_SET_CHILD_SUBREAPER,
		   tc->child_subreaper, 0, 0, 0);
	for (int i = 0; i < 32; i++)
		if (tc->membarrier_registration_mask & MEMBARRIER_REGISTER_ALL & 1u << i)
			batch_call(b, "membarrier", SYS_membarrier, 1u << i, 0, 0);
	if (tc->cl_xcomp_perm & 1ull << XSAVE_TILEDATA)
		batch_call(b, "arch_prctl(ARCH_REQ_XCOMP_PERM) for AMX", SYS_arch_prctl,
			   ARCH_REQ_XCOMP_PERM, XSAVE_TILEDATA);
}

void task_misc_put(struct batch *b, const CoreEntry *core)
{
	const ThreadCoreEntry *tc = core->thread_core;

	if (core->tc)
		put_process(b, core->tc);
	batch_call(b, "set_tid_address", SYS_set_tid_address, core->thread_info->clear_tid_addr);
	batch_call(b, "set_robust_list", SYS_set_robust_list, tc->futex_rla, tc->futex_rla_len);
	if (tc->rseq_entry)
		batch_call(b, "rseq", SYS_rseq, tc->rseq_entry->rseq_abi_pointer,
			   tc->rseq_entry->rseq_abi_size, 0, tc->rseq_entry->signature);
	if (tc->comm || core->tc)
		batch_call(b, "prctl(PR_SET_NAME)", SYS_prctl, PR_SET_NAME,
			   put_comm(b, tc->comm ? tc->comm : core->tc->comm), 0, 0, 0);
	if (tc->cl_timer_slack)
		batch_call(b, "prctl(PR_SET_TIMERSLACK)", SYS_prctl, PR_SET_TIMERSLACK,
			   tc->cl_timer_slack, 0, 0, 0);
}

void task_misc_put_last(struct batch *b, const CoreEntry *core)
{
	/* A change of ids clears it. */
	if (core->thread_core->pdeath_sig)
		batch_call(b, "prctl(PR_SET_PDEATHSIG)", SYS_prctl, PR_SET_PDEATHSIG,
			   core->thread_core->pdeath_sig, 0, 0, 0);
}

int task_misc_limits(struct rthread *leader, const CoreEntry *core, struct err *e)
{
	const TaskRlimitsEntry *m = core->tc->rlimits;
	_cleanup_batch_ struct batch b = BATCH(leader);
	int ret;

	if (!m || !m->n_rlimits)
		return 0;
	if (m->n_rlimits > LIMITS)
		return err_say(e, EBADMSG, "%zu resource limits", m->n_rlimits);
	for (size_t i = 0; i < m->n_rlimits; i++) {
		struct rlimit lim = {m->rlimits[i]->cur, m->rlimits[i]->max};

		batch_call(&b, "?prlimit64", SYS_prlimit64, 0, i, batch_in(&b, &lim, sizeof(lim)),
			   0);
	}
	if ((ret = batch_run(&b, e)) < 0)
		return ret;
	for (size_t i = 0; i < m->n_rlimits; i++) {
		if (b.call.at[i].ret == 0)
			continue;
		err_set(e, (int)-b.call.at[i].ret, "resource limit %zu to %llu, at most %llu", i,
			(unsigned long long)m->rlimits[i]->cur,
			(unsigned long long)m->rlimits[i]->max);
		return err_remedy(e, "give criu-lite CAP_SYS_RESOURCE, or raise its own hard limit "
				     "before it is started");
	}
	return 0;
}

/* Best effort: these change how the host treats the task, not what it computes. */
static void write_number(pid_t pid, const char *file, int64_t v, bool loud)
{
	struct err e = ERR_INIT;
	char path[64], text[24];
	int64_t now;
	int n;

	if (!read_number(pid, file, &now) || now == v)
		return;
	snprintf(path, sizeof(path), "/proc/%d/%s", pid, file);
	n = snprintf(text, sizeof(text), "%lld", (long long)v);
	if (io_spill(path, text, (size_t)n, &e) < 0)
		log_at(loud ? LOG_L_WARN : LOG_L_DEBUG, "%s stays %lld: %s", path, (long long)now,
		       e.text);
}

void task_misc_outside(pid_t pid, const CoreEntry *core)
{
	if (core->tc->has_oom_score_adj)
		write_number(pid, "oom_score_adj", core->tc->oom_score_adj, true);
	if (core->tc->has_loginuid)
		write_number(pid, "loginuid", core->tc->loginuid, false);
}
