/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The state of a task and its threads except memory, files and namespaces:
 * one CoreEntry per thread (core-TID.img; the leader's has the task-wide part tc),
 * creds inside thread_core, rlimits, timers, sigactions and signal queues inside tc.
 *
 * One file per part (task_regs.c, task_signals.c, task_timers.c, task_creds.c, task_sched.c,
 * task_misc.c), capture and apply side by side; task_state.c is the table of contents.
 */
#pragma once

#include "task.h"

/* Preflight of a running task: what cannot be carried over (seccomp filters for now, a foreign
 * tracer, shadow stack, 32-bit programs, deadline scheduling) is refused with its remedy. Disturbs
 * nothing. What only a stopped task shows (AMX tiles in use, segments) is refused by capture. */
int task_state_check(const struct task *t, struct err *e);

/* Source, right before every remote_hold(), while the task still runs: notes in which timed calls
 * its threads sleep and since when, for a stop hides that. Keeps what it knew of sleeps that an
 * earlier stop of ours interrupted. Best effort, disturbs nothing. */
void task_sleep_watch(struct task *t);
void task_watch_free(struct task_watch *w);

/* Source, right after every remote_hold(), before any batch: makes the stop invisible to the guest.
 * A thread inside a restartable sequence (rseq) is sent to its abort handler, as a preemption does
 * it; a system call that would return EINTR for our stop alone is wound back. Tells whether the
 * task was stopped by a signal (t->state). Cheap. Capture does it as well, for threads that no
 * batch has run in yet. */
int task_state_held(struct task *t, struct err *e);

/* The second half of it for one thread: `pending_unblocked` are the signals that will interrupt
 * the call anyway. */
void task_regs_restartable(struct rthread *t, uint64_t pending_unblocked);

/* Source, task frozen. Puts IMG_CORE of each thread. All in-guest questions of one thread
 * go in one batch. Robust list and rseq come from outside. Reads one status file of /proc per
 * thread. */
int task_state_capture(struct task *t, struct img_set *set, struct err *e);

/* Target. The task is a shell whose threads exist (t->remote), its memory and fds are in place.
 * All that may be done early: sigactions, limits, names, personality, scheduling,
 * robust lists, rseq, pending signals, tid address, altstack, registers and masks into rthread,
 * then credentials. */
int task_state_apply(struct task *t, const struct img_set *set, struct err *e);

/* Target: the last moment before remote_release(), no batch may follow: arms timers, lets an
 * interrupted sleep go on with its remaining time, leaves a stopped task stopped. */
int task_state_arm(struct task *t, const struct img_set *set, struct err *e);

/* Zombie shells: exit as they did. Frees t->remote. To be done before the parent's state is
 * applied, so that the parent gets no SIGCHLD that the guest has not seen coming. */
int task_state_die(struct task *t, struct err *e);
