/* SPDX-License-Identifier: Apache-2.0 */
/* Signals: actions, masks, alternative stacks, and what is pending with its siginfo. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include "task_parts.h"

#define KSIGINFO_SIZE 128
#define PEEK_AT_ONCE  32

struct ksigaction {
	uint64_t handler, flags, restorer, mask;
};

static bool settable(int sig)
{
	return sig != SIGKILL && sig != SIGSTOP;
}

/* ---- capture ---- */

struct ksiginfo {
	uint8_t raw[KSIGINFO_SIZE];
};
typedef VEC(struct ksiginfo) ksiginfo_vec;

static int peek(struct rthread *t, bool shared, ksiginfo_vec *out, struct err *e)
{
	for (;;) {
		struct __ptrace_peeksiginfo_args args = {
			.off = out->n,
			.flags = shared ? PTRACE_PEEKSIGINFO_SHARED : 0,
			.nr = PEEK_AT_ONCE,
		};

		vec_reserve(out, out->n + PEEK_AT_ONCE);
		long got = ptrace(PTRACE_PEEKSIGINFO, t->tid, &args, out->at + out->n);
		if (got < 0)
			return err_set(e, errno, "thread %d: pending signals", t->tid);
		out->n += (size_t)got;
		if (got < PEEK_AT_ONCE)
			return 0;
	}
}

/* A timer's signal carries a mark by which the kernel would rearm a timer that is not the one
 * that will exist then. */
static void forget_timer(struct ksiginfo *i)
{
	siginfo_t info;

	memcpy(&info, i->raw, sizeof(info));
	if (info.si_code == SI_TIMER)
		memset(i->raw + 32, 0, 4); /* si_sys_private */
}

static int look_queue(struct rthread *t, bool shared, SignalQueueEntry **out, struct err *e)
{
	ksiginfo_vec v = {0};
	SignalQueueEntry *q;
	int ret = peek(t, shared, &v, e);

	if (ret < 0) {
		vec_free(&v);
		return ret;
	}
	q = MSG_NEW(SignalQueueEntry, signal_queue_entry);
	q->signals = xcalloc(v.n + 1, sizeof(*q->signals));
	vec_each(&v, info) {
		SiginfoEntry *m = MSG_NEW(SiginfoEntry, siginfo_entry);

		forget_timer(info);
		m->siginfo.len = KSIGINFO_SIZE;
		m->siginfo.data = xmemdup(info->raw, KSIGINFO_SIZE);
		q->signals[q->n_signals++] = m;
	}
	vec_free(&v);
	*out = q;
	return 0;
}

int task_signals_look(struct part *p, struct err *e)
{
	ThreadCoreEntry *tc = p->core->thread_core;
	int ret;

	tc->has_blk_sigset = 1;
	tc->blk_sigset = p->thread->sigmask;
	if ((ret = look_queue(p->thread, false, &tc->signals_p, e)) < 0)
		return ret;
	if (!p->core->tc)
		return 0;
	p->core->tc->blk_sigset = p->thread->sigmask;
	return look_queue(p->thread, true, &p->core->tc->signals_s, e);
}

void task_signals_ask(struct part *p)
{
	struct batch *b = &p->batch;

	p->sig.altstack = batch_out(b, sizeof(stack_t));
	batch_call(b, "sigaltstack", SYS_sigaltstack, 0, p->sig.altstack);
	if (!p->core->tc)
		return;
	for (int sig = 1; sig <= KSIGS; sig++) {
		if (!settable(sig))
			continue;
		p->sig.action[sig] = batch_out(b, sizeof(struct ksigaction));
		batch_call(b, "rt_sigaction", SYS_rt_sigaction, sig, 0, p->sig.action[sig], 8);
	}
}

static SaEntry *take_action(const struct part *p, int sig)
{
	SaEntry *m = MSG_NEW(SaEntry, sa_entry);
	struct ksigaction a;

	batch_get(&p->batch, p->sig.action[sig], &a, sizeof(a));
	m->sigaction = a.handler;
	m->flags = a.flags;
	m->restorer = a.restorer;
	m->mask = a.mask;
	m->has_compat_sigaction = 1;
	return m;
}

void task_signals_take(struct part *p)
{
	TaskCoreEntry *tc = p->core->tc;
	ThreadSasEntry *sas = MSG_NEW(ThreadSasEntry, thread_sas_entry);
	stack_t ss;

	batch_get(&p->batch, p->sig.altstack, &ss, sizeof(ss));
	sas->ss_sp = (uint64_t)(uintptr_t)ss.ss_sp;
	sas->ss_size = ss.ss_size;
	/* whether the stack is in use follows from the stack pointer */
	sas->ss_flags = (uint32_t)ss.ss_flags & ~(uint32_t)SS_ONSTACK;
	p->core->thread_core->sas = sas;
	if (!tc)
		return;
	tc->sigactions = xcalloc(KSIGS, sizeof(*tc->sigactions));
	for (int sig = 1; sig <= KSIGS; sig++)
		if (settable(sig))
			tc->sigactions[tc->n_sigactions++] = take_action(p, sig);
}

/* ---- apply ---- */

static int check_queue(const SignalQueueEntry *q, struct err *e)
{
	for (size_t i = 0; q && i < q->n_signals; i++) {
		const ProtobufCBinaryData *d = &q->signals[i]->siginfo;
		int32_t sig = 0;

		if (d->len == KSIGINFO_SIZE)
			memcpy(&sig, d->data, sizeof(sig));
		if (sig < 1 || sig > KSIGS)
			return err_say(e, EBADMSG, "pending signal %zu makes no sense", i);
	}
	return 0;
}

int task_signals_check(const CoreEntry *core, struct err *e)
{
	const TaskCoreEntry *tc = core->tc;
	int ret = check_queue(core->thread_core->signals_p, e);

	if (ret < 0 || !tc)
		return ret;
	if (tc->n_sigactions != KSIGS - 2)
		return err_say(e, EBADMSG, "%zu signal actions, not 62", tc->n_sigactions);
	for (size_t i = 0; i < tc->n_sigactions; i++)
		if (tc->sigactions[i]->compat_sigaction)
			return err_say(e, ENOTSUP, "signal actions of a 32-bit program");
	return check_queue(tc->signals_s, e);
}

static void put_actions(struct batch *b, const TaskCoreEntry *tc)
{
	static const struct ksigaction ignore = {.handler = 1 /* SIG_IGN */};
	size_t i = 0;

	/* The deaths of shells of zombies are not news to the guest: ignoring a signal forgets
	 * what is pending of it. */
	batch_call(b, "rt_sigaction", SYS_rt_sigaction, SIGCHLD,
		   batch_in(b, &ignore, sizeof(ignore)), 0, 8);
	for (int sig = 1; sig <= KSIGS; sig++) {
		if (!settable(sig))
			continue;
		const SaEntry *m = tc->sigactions[i++];
		struct ksigaction a = {m->sigaction, m->flags, m->restorer, m->mask};

		batch_call(b, "rt_sigaction", SYS_rt_sigaction, sig, batch_in(b, &a, sizeof(a)), 0,
			   8);
	}
}

void task_signals_put(struct batch *b, const CoreEntry *core)
{
	const ThreadSasEntry *sas = core->thread_core->sas;

	if (core->tc)
		put_actions(b, core->tc);
	if (!sas)
		return;
	stack_t ss = {
		.ss_sp = (void *)(uintptr_t)sas->ss_sp,
		.ss_size = sas->ss_size,
		.ss_flags = (int)(sas->ss_flags & ~(uint32_t)SS_ONSTACK),
	};
	batch_call(b, "sigaltstack", SYS_sigaltstack, batch_in(b, &ss, sizeof(ss)), 0);
}

/* A task may send itself a siginfo of any origin; everything is blocked in the stub, so it stays
 * pending until the release. */
static int queue(struct rthread *t, bool shared, const SignalQueueEntry *q, struct err *e)
{
	_cleanup_batch_ struct batch b = BATCH(t);
	int ret;

	for (size_t i = 0; q && i < q->n_signals; i++) {
		const uint8_t *raw = q->signals[i]->siginfo.data;
		int32_t sig;

		memcpy(&sig, raw, sizeof(sig));
		if (!settable(sig))
			continue;
		if (!batch_room(&b, 1, KSIGINFO_SIZE)) {
			if ((ret = batch_run(&b, e)) < 0)
				return ret;
			batch_reset(&b);
		}
		gaddr info = batch_in(&b, raw, KSIGINFO_SIZE);
		pid_t pid = remote_pid(t->of);

		if (shared)
			batch_call(&b, "rt_sigqueueinfo", SYS_rt_sigqueueinfo, pid, sig, info);
		else
			batch_call(&b, "rt_tgsigqueueinfo", SYS_rt_tgsigqueueinfo, pid, t->tid, sig,
				   info);
	}
	return b.call.n ? batch_run(&b, e) : 0;
}

int task_signals_queue(struct rthread *t, const CoreEntry *core, struct err *e)
{
	int ret = queue(t, false, core->thread_core->signals_p, e);

	return ret < 0 || !core->tc ? ret : queue(t, true, core->tc->signals_s, e);
}
