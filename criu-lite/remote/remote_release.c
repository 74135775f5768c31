/* SPDX-License-Identifier: Apache-2.0 */
/* Letting go of the threads of a process, as they were. */
#include <elf.h>
#include <errno.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

#include "io.h"
#include "log.h"
#include "remote_priv.h"

void remote_leave_stopped(struct remote *r) { r->leave_stopped = true; }

/* Threads on their way to their end, that we have to ask for. */
#define DETACH_LIMIT_NS 200000000u
/* The signal is taken on the way out of the kernel: not at once, if others have the CPU. */
#define STOPPED_LIMIT_NS 1000000000u

static void wait_stopped(const struct remote *r)
{
	uint64_t until = io_now_ns() + STOPPED_LIMIT_NS;
	char state;
	int threads;

	vec_each(&r->thread, t)
		while (!(*t)->dead && thread_look((*t)->tid, &state, &threads) &&
		       !strchr("TZX", state) && io_now_ns() < until)
			nanosleep(&(struct timespec){ .tv_nsec = 50000 }, NULL);
}

/* True: we have no part in it any more. One that has died stays until its tracer has asked for it,
 * and an exec in another thread waits for that. */
static bool let_go(struct remote *r, struct rthread *t)
{
	char state;
	int status, threads;

	if (ptrace(PTRACE_DETACH, t->tid, 0, 0) == 0)
		return true;
	if (errno != ESRCH) {
		log_warn("task %d: detach from thread %d: %s", r->pid, t->tid, strerror(errno));
		return true;
	}
	if (r->is_shell && t->tid == r->pid) /* our child: its end is for who waits for it */
		return true;
	pid_t got = waitpid(t->tid, &status, __WALL | WNOHANG);
	if (got)
		return got < 0 || !WIFSTOPPED(status);
	/* Before its last thread, the main one cannot be asked for: nobody waits for that. */
	return t->tid == r->pid && (!thread_look(t->tid, &state, &threads) || strchr("ZX", state));
}

static void detach(struct remote *r)
{
	uint64_t until = io_now_ns() + DETACH_LIMIT_NS;

	for (bool again = true; again;) {
		again = false;
		vec_each(&r->thread, t) {
			if (!(*t)->dead)
				(*t)->dead = let_go(r, *t);
			again |= !(*t)->dead;
		}
		if (again && io_now_ns() > until) {
			log_debug("task %d: not all threads could be let go", r->pid);
			return;
		}
		if (again)
			nanosleep(&(struct timespec){ .tv_nsec = 50000 }, NULL);
	}
}

void remote_release(struct remote *r)
{
	struct err e = ERR_INIT;

	if (r->stub && stub_remove(r, &e) < 0)
		log_warn("task %d: %s", r->pid, e.text);
	vec_each(&r->thread, it) {
		struct rthread *t = *it;

		if (t->dead)
			continue;
		if (!t->stopped && thread_interrupt(t, &e) < 0)
			continue;
		if (t->touched || r->is_shell) {
			struct iovec v = { t->xstate, t->xstate_len };

			/* in this order: with us dead in between, the trampoline does both */
			if (thread_set_mask(t, t->sigmask, &e) < 0 ||
			    thread_set_regs(t, &t->regs, &e) < 0)
				log_warn("task %d: %s", r->pid, e.text);
			if (r->is_shell && t->xstate &&
			    ptrace(PTRACE_SETREGSET, t->tid, NT_X86_XSTATE, &v) < 0)
				log_warn("task %d: set FP state of thread %d: %s", r->pid, t->tid,
					 strerror(errno));
		}
	}
	/* not earlier: each system call run by hand would swallow it */
	stub_clear_tramp(r);
	if (r->leave_stopped)
		syscall(SYS_pidfd_send_signal, r->pidfd, SIGSTOP, NULL, 0);
	detach(r);
	if (r->leave_stopped)
		wait_stopped(r);
	remote_free(r);
}

int remote_pin(struct remote *r, struct err *e)
{
	if (syscall(SYS_pidfd_send_signal, r->pidfd, SIGSTOP, NULL, 0) < 0)
		return err_set(e, errno, "task %d: stop", r->pid);
	return 0;
}

void remote_unpin(struct remote *r)
{
	syscall(SYS_pidfd_send_signal, r->pidfd, SIGCONT, NULL, 0);
}

void remote_kill(struct remote *r)
{
	syscall(SYS_pidfd_send_signal, r->pidfd, SIGKILL, NULL, 0);
	/* every thread is to be reaped, or the wait for the leader hangs */
	for (size_t i = r->thread.n; i-- > 0;) {
		int status;

		while (waitpid(r->thread.at[i]->tid, &status, __WALL) > 0 && WIFSTOPPED(status))
			;
	}
	remote_free(r);
}
