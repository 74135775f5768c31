/* SPDX-License-Identifier: Apache-2.0 */
/* Seizing, stopping and letting go of the threads of a process. */
#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

#include "io.h"
#include "log.h"
#include "remote_priv.h"

#ifndef PTRACE_EVENT_STOP
#define PTRACE_EVENT_STOP 128
#endif

pid_t remote_pid(const struct remote *r) { return r->pid; }
struct rthread *remote_leader(struct remote *r) { return r->thread.at[0]; }

struct rthread *remote_thread(struct remote *r, size_t i)
{
	return i < r->thread.n ? r->thread.at[i] : NULL;
}

struct remote *remote_new(pid_t pid, struct err *e)
{
	struct remote *r = xcalloc(1, sizeof(*r));

	r->pid = pid;
	r->mem_fd = r->sock = r->guest_sock = -1;
	r->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (r->pidfd < 0) {
		err_set(e, errno, "task %d", pid);
		free(r);
		return NULL;
	}
	return r;
}

static void thread_free(struct rthread *t)
{
	free(t->xstate);
	free(t);
}

void remote_free(struct remote *r)
{
	if (!r)
		return;
	vec_each(&r->thread, t)
		thread_free(*t);
	vec_free(&r->thread);
	if (r->sock >= 0)
		close(r->sock);
	if (r->mem_fd >= 0)
		close(r->mem_fd);
	if (r->pidfd >= 0)
		close(r->pidfd);
	free(r);
}

struct rthread *remote_thread_new(struct remote *r, pid_t tid)
{
	struct rthread *t = xcalloc(1, sizeof(*t));

	t->tid = tid;
	t->of = r;
	vec_push(&r->thread, t);
	return t;
}

/* SUSPEND_SECCOMP needs CAP_SYS_ADMIN and a tracer without filters of its own; where it is
 * refused, only guests under seccomp suffer, and they are refused by name elsewhere. */
uint64_t remote_options(void)
{
	return PTRACE_O_TRACESYSGOOD | PTRACE_O_SUSPEND_SECCOMP;
}

/* A thread that is exiting refuses with EPERM. */
static bool is_dying(pid_t tid)
{
	char path[64];
	_cleanup_(buf_free) struct buf b = { 0 };
	struct err ignored = ERR_INIT;

	snprintf(path, sizeof(path), "/proc/%d/stat", tid);
	if (io_slurp_at(AT_FDCWD, path, &b, &ignored) < 0)
		return true;
	const char *state = strrchr((char *)b.at, ')');
	return state && strlen(state) > 2 && strchr("ZX", state[2]);
}

static int seize(pid_t tid)
{
	if (ptrace(PTRACE_SEIZE, tid, 0, remote_options()) == 0)
		return 0;
	if (errno != EPERM && errno != EINVAL)
		return -errno;
	if (ptrace(PTRACE_SEIZE, tid, 0, PTRACE_O_TRACESYSGOOD) == 0)
		return 0;
	int code = errno;
	return code == EPERM && is_dying(tid) ? -ESRCH : -code;
}

static int gone(struct rthread *t, int status, struct err *e)
{
	t->dead = true;
	t->stopped = t->live = false;
	return err_say(e, ESRCH, "thread %d exited (status 0x%x)", t->tid, status);
}

/* A parent in vfork(2) cannot be stopped before its child has called exec or exit. */
static int does_not_stop(struct rthread *t, struct err *e)
{
	err_say(e, EBUSY, "thread %d does not stop: it waits in the kernel (vfork, or a device or file "
			  "system that does not answer)", t->tid);
	return err_remedy(e, "try again; see /proc/%d/stack for what it waits for", t->tid);
}

/* Waits until a thread that was asked to stop has stopped. A signal that arrives first is
 * delivered; the request to stop stays. */
int thread_wait_stop(struct rthread *t, struct err *e)
{
	for (;;) {
		int status;

		if (waitpid(t->tid, &status, __WALL) < 0) {
			if (errno == EINTR && !t->of->late)
				continue;
			if (errno == EINTR)
				return does_not_stop(t, e);
			t->dead = errno == ECHILD;
			return err_set(e, errno == ECHILD ? ESRCH : errno, "wait for thread %d",
				       t->tid);
		}
		if (!WIFSTOPPED(status))
			return gone(t, status, e);
		if (status >> 16 == PTRACE_EVENT_STOP) {
			t->stopped = true;
			t->live = false;
			return 0;
		}
		/* signal-delivery stop, or a leftover event: go on */
		long sig = status >> 16 ? 0 : WSTOPSIG(status) & 0x7f;
		if (WSTOPSIG(status) == (SIGTRAP | 0x80))
			sig = 0;
		ptrace(PTRACE_CONT, t->tid, 0, sig);
	}
}

int thread_interrupt(struct rthread *t, struct err *e)
{
	if (t->stopped)
		return 0;
	if (ptrace(PTRACE_INTERRUPT, t->tid, 0, 0) < 0)
		return err_set(e, errno, "interrupt thread %d", t->tid);
	return thread_wait_stop(t, e);
}

int thread_set_regs(struct rthread *t, const struct user_regs_struct *regs, struct err *e)
{
	struct iovec v = { (void *)regs, sizeof(*regs) };

	if (ptrace(PTRACE_SETREGSET, t->tid, NT_PRSTATUS, &v) < 0)
		return err_set(e, errno, "set registers of thread %d", t->tid);
	return 0;
}

int thread_set_mask(struct rthread *t, uint64_t mask, struct err *e)
{
	if (ptrace(PTRACE_SETSIGMASK, t->tid, sizeof(mask), &mask) < 0)
		return err_set(e, errno, "set signal mask of thread %d", t->tid);
	return 0;
}

#define NR_RESTART_SYSCALL 219

static int64_t interrupted_syscall(struct rthread *t)
{
	uint8_t code[48];
	struct err e = ERR_INIT;

	if ((long long)t->regs.orig_rax < 0)
		return -1;
	if (t->regs.orig_rax != NR_RESTART_SYSCALL)
		return (int64_t)t->regs.orig_rax;
	if (remote_read(t->of, t->regs.rip - sizeof(code), code, sizeof(code), &e) < 0)
		return REMOTE_NR_UNKNOWN;
	return arch_restarted_nr(code, sizeof(code));
}

int thread_read_state(struct rthread *t, struct err *e)
{
	struct iovec v = { &t->regs, sizeof(t->regs) };

	if (ptrace(PTRACE_GETREGSET, t->tid, NT_PRSTATUS, &v) < 0)
		return err_set(e, errno, "read registers of thread %d", t->tid);
	if (v.iov_len != sizeof(t->regs))
		return err_say(e, ENOTSUP, "thread %d runs in 32-bit mode", t->tid);
	t->syscall_nr = interrupted_syscall(t);
	if (ptrace(PTRACE_GETSIGMASK, t->tid, sizeof(t->sigmask), &t->sigmask) < 0)
		return err_set(e, errno, "read signal mask of thread %d", t->tid);
	uint8_t x[REMOTE_XSTATE_MAX];
	v = (struct iovec){ x, sizeof(x) };
	if (ptrace(PTRACE_GETREGSET, t->tid, NT_X86_XSTATE, &v) < 0)
		return err_set(e, errno, "read FP state of thread %d", t->tid);
	free(t->xstate);
	t->xstate = xmemdup(x, v.iov_len);
	t->xstate_len = (uint32_t)v.iov_len;
	return 0;
}

static bool known(const struct remote *r, pid_t tid)
{
	vec_each(&r->thread, t)
		if ((*t)->tid == tid)
			return true;
	return false;
}

static int seize_error(pid_t pid, pid_t tid, int code, struct err *e)
{
	if (code == EPERM) {
		err_say(e, EPERM, "task %d: thread %d cannot be traced", pid, tid);
		return err_remedy(e, "it may be traced already (gdb, strace, another criu-lite: see "
				     "TracerPid in /proc/%d/status), or this user may not", tid);
	}
	return err_set(e, code, "task %d: seize thread %d", pid, tid);
}

/* One pass over /proc/PID/task: seizes and interrupts what is new. */
static int seize_new(struct remote *r, size_t *fresh, struct err *e)
{
	char path[64];
	size_t first = r->thread.n;

	snprintf(path, sizeof(path), "/proc/%d/task", r->pid);
	_cleanup_closedir_ DIR *d = opendir(path);
	if (!d)
		return err_set(e, errno == ENOENT ? ESRCH : errno, "task %d", r->pid);
	for (struct dirent *de; (de = readdir(d));) {
		pid_t tid = (pid_t)atoi(de->d_name);

		if (tid <= 0 || known(r, tid))
			continue;
		int ret = seize(tid);
		if (ret == -ESRCH && tid != r->pid)
			continue; /* exited meanwhile */
		if (ret < 0)
			return seize_error(r->pid, tid, -ret, e);
		remote_thread_new(r, tid);
	}
	for (size_t i = first; i < r->thread.n; i++)
		ptrace(PTRACE_INTERRUPT, r->thread.at[i]->tid, 0, 0);
	*fresh = r->thread.n - first;
	return 0;
}

static void drop_dead(struct remote *r)
{
	size_t keep = 0;

	vec_each(&r->thread, t) {
		if ((*t)->dead && (*t)->tid != r->pid)
			thread_free(*t);
		else
			r->thread.at[keep++] = *t;
	}
	r->thread.n = keep;
}

static int stop_all(struct remote *r, struct err *e)
{
	for (size_t fresh = 1, done = 0; fresh > 0;) {
		int ret = seize_new(r, &fresh, e);
		if (ret < 0)
			return ret;
		for (; done < r->thread.n; done++) {
			struct rthread *t = r->thread.at[done];

			if (thread_wait_stop(t, e) == 0)
				ret = thread_read_state(t, e);
			else
				ret = t->dead && t->tid != r->pid ? 0 : -e->code;
			if (ret < 0)
				return ret;
		}
	}
	err_clear(e);
	drop_dead(r);
	if (r->thread.n == 0 || r->thread.at[0]->tid != r->pid)
		return err_say(e, ESRCH, "task %d: its main thread has exited", r->pid);
	return 0;
}

/* Stopping must not take for ever: the guest's other threads stand still meanwhile. A timer
 * interrupts our wait. */
#define STOP_LIMIT_MS 1000

static void on_alarm(int sig, siginfo_t *info, void *context)
{
	*(volatile bool *)info->si_value.sival_ptr = true;
}

static bool set_alarm(struct remote *r, timer_t *timer)
{
	struct sigaction sa = { .sa_sigaction = on_alarm, .sa_flags = SA_SIGINFO };
	struct sigevent ev = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGALRM };
	struct itimerspec its = {
		.it_value = { STOP_LIMIT_MS / 1000, STOP_LIMIT_MS % 1000 * 1000000 },
		.it_interval = { 0, 100000000 },
	};

	ev.sigev_value.sival_ptr = (void *)&r->late;
	ev._sigev_un._tid = gettid();
	return sigaction(SIGALRM, &sa, NULL) == 0 && timer_create(CLOCK_MONOTONIC, &ev, timer) == 0 &&
	       timer_settime(*timer, 0, &its, NULL) == 0;
}

int remote_hold(struct remote **out, pid_t pid, struct err *e)
{
	struct remote *r = remote_new(pid, e);
	timer_t timer;

	if (!r)
		return -e->code;
	if (!set_alarm(r, &timer)) {
		err_set(e, errno, "set a timer");
		remote_free(r);
		return -e->code;
	}
	int ret = stop_all(r, e);
	timer_delete(timer);
	r->late = false;
	if (ret < 0) {
		remote_release(r);
		return ret;
	}
	*out = r;
	return 0;
}

void remote_leave_stopped(struct remote *r) { r->leave_stopped = true; }

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

			if (thread_set_regs(t, &t->regs, &e) < 0 || thread_set_mask(t, t->sigmask, &e) < 0)
				log_warn("task %d: %s", r->pid, e.text);
			if (r->is_shell && t->xstate &&
			    ptrace(PTRACE_SETREGSET, t->tid, NT_X86_XSTATE, &v) < 0)
				log_warn("task %d: set FP state of thread %d: %s", r->pid, t->tid,
					 strerror(errno));
		}
	}
	/* not earlier: each system call run by hand would swallow it */
	if (r->leave_stopped)
		syscall(SYS_pidfd_send_signal, r->pidfd, SIGSTOP, NULL, 0);
	vec_each(&r->thread, it)
		if (!(*it)->dead && ptrace(PTRACE_DETACH, (*it)->tid, 0, 0) < 0 && errno != ESRCH)
			log_warn("task %d: detach from thread %d: %s", r->pid, (*it)->tid,
				 strerror(errno));
	remote_free(r);
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
