/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside task_state: the parts of a thread's state. Each part stands in one file, both ways:
 *
 *   capture   _look   from outside, threads stopped, before any batch runs
 *             _ask    adds calls to the thread's batch and remembers where the answers will be
 *             _take   puts the answers into the message
 *   apply     _put    adds calls to the batch of the shell's thread
 *
 * Messages are built of malloc and freed by protobuf_c_message_free_unpacked.
 */
#pragma once

#include <time.h>

#include "core.pb-c.h"
#include "proc_task.h"
#include "remote.h"
#include "task.h"
#include "task_state.h"
#include "task_xsave.h"

#define KSIGS 64
#define KSIG_BIT(sig) (1ull << ((sig) - 1))

/* A new message: MSG_NEW(SaEntry, sa_entry). */
#define MSG_NEW(Type, name) ({ Type *_m = xmalloc(sizeof(*_m)); name##__init(_m); _m; })

/* One thread on its way into its image. */
struct part {
	struct task *task;
	struct rthread *thread;
	CoreEntry *core;            /* tc for the leader only */
	const struct xsave_layout *layout;  /* read once a task: CPUID is slow in a VM */
	struct proc_status status;
	struct batch batch;
	struct {
		gaddr action[KSIGS + 1], altstack;
	} sig;
	struct {
		gaddr itimer[3];
	} timer;
	struct {
		size_t securebits;
	} cred;
	struct {
		gaddr tid_address, comm, pdeathsig, subreaper, limit[16], xcomp, shstk;
		size_t personality, slack, membarrier;
	} misc;
	struct {
		gaddr at, now;      /* at: 0 if it does not wait so */
		clockid_t clock;
		size_t call;
	} wait;
};

static inline bool part_is_leader(const struct part *p)
{
	return p->thread->tid == remote_pid(p->thread->of);
}

/* Signals of these sets that this thread would take if it went on now. The kernel gives one that is
 * sent to the process to the leader, if it wants it: the others' calls are not interrupted. */
static inline uint64_t part_unblocked(struct rthread *t, const struct proc_status *s)
{
	const struct rthread *leader = remote_leader(t->of);
	uint64_t shd = t == leader ? s->shd_pnd : s->shd_pnd & leader->sigmask;

	return (s->sig_pnd | shd) & ~t->sigmask;
}

/* Registers; robust list and rseq, which are looked at in the same way. */
/* Right after the thread was stopped; see task_state_held(). */
int task_regs_leave_rseq(struct rthread *t, struct err *e);
/* Threads go on to the end of the vDSO's function that they are in (task_vdso_source.c): the next
 * kernel's is another, and its data are. */
int task_vdso_leave(struct task *t, struct err *e);
int task_regs_look(struct part *p, struct err *e);
/* After sigactions are known: what a resumed thread must find in its registers. */
int task_regs_take(struct part *p, const TaskCoreEntry *leader, struct err *e);
int task_regs_apply(struct rthread *t, const CoreEntry *core, const struct xsave_layout *l,
		    struct err *e);

/* Sleeps. The source's side (task_watch.c): threads were just stopped; */
void task_watch_stopped(struct task *t);
/* the number of the call that a thread sleeps in, 0: not known; */
uint64_t task_watch_nr(const struct task *t, const struct rthread *thread);
/* what was left of its timeout when it was stopped. */
bool task_watch_left(const struct task *t, pid_t tid, uint64_t nr, uint64_t *ns);
/* The target's side (task_sleep.c): an interrupted sleep goes on with its remaining time. */
int task_sleep_arm(struct rthread *t, const CoreEntry *core, struct err *e);

/* Waits until a moment of a clock (task_clock_wait.c). _take: the call is to begin anew. */
void task_wait_ask(struct part *p);
void task_wait_take(struct part *p);
int task_wait_arm(struct rthread *t, const CoreEntry *core, struct err *e);

int task_signals_look(struct part *p, struct err *e);
void task_signals_ask(struct part *p);
void task_signals_take(struct part *p);
int task_signals_check(const CoreEntry *core, struct err *e);
void task_signals_put(struct batch *b, const CoreEntry *core);
int task_signals_queue(struct rthread *t, const CoreEntry *core, struct err *e);

void task_timers_ask(struct part *p);
int task_timers_take(struct part *p, struct err *e);
int task_timers_create(struct rthread *leader, const CoreEntry *core, struct err *e);
int task_timers_arm(struct rthread *leader, const CoreEntry *core, struct err *e);

void task_creds_ask(struct part *p);
void task_creds_take(struct part *p);
/* `now`: the status of the shell, whose credentials its threads inherited. */
int task_creds_put(struct batch *b, const CoreEntry *core, const struct proc_status *now,
		   struct err *e);

int task_sched_check(pid_t tid, struct err *e);
int task_sched_look(struct part *p, struct err *e);
int task_sched_apply(pid_t tid, const CoreEntry *core, struct err *e);

int task_misc_look(struct part *p, struct err *e);
void task_misc_ask(struct part *p);
int task_misc_take(struct part *p, struct err *e);
void task_misc_put(struct batch *b, const CoreEntry *core);
void task_misc_put_last(struct batch *b, const CoreEntry *core);  /* after credentials */
int task_misc_limits(struct rthread *leader, const CoreEntry *core, struct err *e);
void task_misc_outside(pid_t pid, const CoreEntry *core);
