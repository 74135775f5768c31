/* SPDX-License-Identifier: Apache-2.0 */
/* Seizing and stopping the threads of a process. */
#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
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

/* Stopping must not take for ever: the guest's other threads stand still meanwhile. A timer
 * interrupts our waits. */
#define STOP_TICK_NS   20000000
#define STOP_TICKS_MAX 50

struct stop_clock {
	volatile unsigned int ticks;
	volatile sig_atomic_t seizing;
	sigjmp_buf out;
	timer_t timer;
};

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

bool thread_look(pid_t tid, char *state, int *threads)
{
	_cleanup_(buf_free) struct buf b = { 0 };
	struct err ignored = ERR_INIT;

	if (io_slurp(&b, &ignored, "/proc/%d/stat", tid) < 0)
		return false;
	const char *rest = strrchr((char *)b.at, ')');
	*state = 'X';
	*threads = 0;
	if (rest) /* field 3; field 20 */
		sscanf(rest,
		       ") %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %d",
		       state, threads);
	return true;
}

/* A thread that is exiting refuses with EPERM. */
static bool is_dying(pid_t tid)
{
	char state;
	int threads;

	return !thread_look(tid, &state, &threads) || state == 'Z' || state == 'X';
}

/* When another thread calls exec, the main thread dies and the other takes its place and pid. */
static bool lives_on(pid_t pid)
{
	char state;
	int threads;

	return thread_look(pid, &state, &threads) &&
	       ((state != 'Z' && state != 'X') || threads > 1);
}

static void on_alarm(int sig, siginfo_t *info, void *context)
{
	struct stop_clock *c = info->si_value.sival_ptr;

	c->ticks++;
	if (c->seizing)
		siglongjmp(c->out, 1);
}

static int clock_start(struct stop_clock *c, struct err *e)
{
	struct sigaction sa = { .sa_sigaction = on_alarm, .sa_flags = SA_SIGINFO };
	struct sigevent ev = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGALRM };
	struct itimerspec its = { { 0, STOP_TICK_NS }, { 0, STOP_TICK_NS } };

	ev.sigev_value.sival_ptr = c;
	ev._sigev_un._tid = gettid();
	if (sigaction(SIGALRM, &sa, NULL) == 0 &&
	    timer_create(CLOCK_MONOTONIC, &ev, &c->timer) == 0 &&
	    timer_settime(c->timer, 0, &its, NULL) == 0)
		return 0;
	return err_set(e, errno, "set a timer");
}

/* While a thread of the process is in exec(2), this waits for the end of that, and starts over
 * after a signal. The exec may be waiting for us: -EINTR after a tick. */
static int seize_as(struct stop_clock *c, pid_t tid, uint64_t options)
{
	if (sigsetjmp(c->out, 1)) {
		c->seizing = 0;
		/* it may have come just after the call */
		return ptrace(PTRACE_INTERRUPT, tid, 0, 0) == 0 ? 0 : -EINTR;
	}
	c->seizing = 1;
	int ret = ptrace(PTRACE_SEIZE, tid, 0, options) == 0 ? 0 : -errno;
	c->seizing = 0;
	return ret;
}

static int seize(struct stop_clock *c, pid_t tid)
{
	int ret = seize_as(c, tid, remote_options());

	if (ret == -EPERM || ret == -EINVAL)
		ret = seize_as(c, tid, PTRACE_O_TRACESYSGOOD);
	return ret == -EPERM && is_dying(tid) ? -ESRCH : ret;
}

static int gone(struct rthread *t, int status, struct err *e)
{
	t->dead = true;
	t->stopped = t->live = false;
	return err_say(e, ESRCH, "thread %d exited (status 0x%x)", t->tid, status);
}

/* A thread in exec(2) waits for the end of all others, those included that we have to reap. */
static void reap_others(struct remote *r)
{
	vec_each(&r->thread, t) {
		siginfo_t info = { 0 };

		if ((*t)->dead || (*t)->tid == r->pid)
			continue;
		/* of a tracee, stops are told too, asked for or not: they stay */
		if (waitid(P_PID, (id_t)(*t)->tid, &info,
			   WEXITED | WNOHANG | WNOWAIT | __WALL) < 0 ||
		    !info.si_pid || info.si_code == CLD_TRAPPED || info.si_code == CLD_STOPPED)
			continue;
		waitid(P_PID, (id_t)(*t)->tid, &info, WEXITED | WNOHANG | __WALL);
		(*t)->dead = true;
		(*t)->stopped = (*t)->live = false;
	}
}

/* A parent in vfork(2) cannot be stopped before its child has called exec or exit. */
static int does_not_stop(pid_t tid, struct err *e)
{
	err_say(e, EBUSY,
		"thread %d does not stop: it waits in the kernel (vfork, or a device or file "
		"system that does not answer)",
		tid);
	return err_remedy(e, "try again; see /proc/%d/stack for what it waits for", tid);
}

static pid_t tracer_of(pid_t tid)
{
	_cleanup_(buf_free) struct buf b = { 0 };
	struct err ignored = ERR_INIT;

	if (io_slurp(&b, &ignored, "/proc/%d/status", tid) < 0)
		return 0;
	const char *at = strstr((char *)b.at, "TracerPid:");
	return at ? (pid_t)atoi(at + strlen("TracerPid:")) : 0;
}

/* Called back by a tick. */
static int look_around(struct rthread *t, struct err *e)
{
	struct remote *r = t->of;

	if (r->clock->ticks >= STOP_TICKS_MAX)
		return does_not_stop(t->tid, e);
	reap_others(r);
	/* Another thread has taken its place by exec. To the process' parent that is no news. */
	if (t->tid == r->pid && tracer_of(t->tid) == 0) {
		t->dead = true;
		return err_say(e, ESRCH, "task %d called exec", r->pid);
	}
	return 0;
}

/* Waits until a thread that was asked to stop has stopped. A signal that arrives first is
 * delivered; the request to stop stays. */
int thread_wait_stop(struct rthread *t, struct err *e)
{
	struct remote *r = t->of;

	while (!t->dead) {
		int status;

		if (waitpid(t->tid, &status, __WALL) < 0) {
			if (errno == EINTR) {
				int ret = r->clock ? look_around(t, e) : 0;
				if (ret < 0)
					return ret;
				continue;
			}
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
	return err_say(e, ESRCH, "thread %d exited", t->tid);
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
	if (ptrace(PTRACE_GETREGSET, t->tid, NT_X86_XSTATE, &v) < 0) {
		int why = errno;

		err_set(e, why, "read FP state of thread %d", t->tid);
		return why != ENODEV ? -why :
			err_remedy(e, "a CPU with XSAVE is needed (Intel's since Sandy Bridge, "
				   "AMD's since Bulldozer), and a kernel without the option "
				   "noxsave; give a virtual machine another model of CPU");
	}
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
	pid_t tracer = code == EPERM ? tracer_of(tid) : 0;

	if (code == EINTR)
		return does_not_stop(tid, e);
	if (code != EPERM)
		return err_set(e, code, "task %d: seize thread %d", pid, tid);
	if (tracer) {
		err_say(e, EPERM, "task %d: thread %d is traced by process %d", pid, tid, tracer);
		return err_remedy(e, "end that tracer (gdb, strace, another criu-lite)");
	}
	err_set(e, EPERM, "task %d: thread %d cannot be traced", pid, tid);
	return err_remedy(e, "CAP_SYS_PTRACE over it is needed");
}

static int seize_patiently(struct remote *r, pid_t tid)
{
	int ret = seize(r->clock, tid);

	while (ret == -EINTR && r->clock->ticks < STOP_TICKS_MAX) {
		reap_others(r);
		ret = seize(r->clock, tid);
	}
	/* a tracer that has just died may not have let go yet */
	for (int i = 0; ret == -EPERM && i < 20; i++) {
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
		ret = seize(r->clock, tid);
	}
	return ret;
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
		int ret = seize_patiently(r, tid);
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

/* While some threads stood still already, another may have called exec: they are dead then, and it
 * has the main thread's number. True: each is in the stop that we have seen. */
static bool all_stand(struct remote *r)
{
	bool ok = true;

	vec_each(&r->thread, it) {
		struct rthread *t = *it;
		int status;

		/* in this order: what is found in another stop has an event of it to tell */
		errno = 0;
		ptrace(PTRACE_PEEKUSER, t->tid, offsetof(struct user_regs_struct, rip), 0);
		if (errno)
			ok = t->stopped = false;
		pid_t got = waitpid(t->tid, &status, __WALL | WNOHANG);
		if (got == 0)
			continue;
		ok = false;
		t->dead = got < 0 || !WIFSTOPPED(status);
		t->stopped = !t->dead;
	}
	return ok;
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
	return all_stand(r) ? 0 : err_say(e, ESRCH, "task %d called exec", r->pid);
}

static int hold_once(struct remote **out, pid_t pid, struct stop_clock *clock, struct err *e)
{
	struct remote *r = remote_new(pid, e);

	if (!r)
		return -e->code;
	r->clock = clock;
	int ret = stop_all(r, e);
	if (ret < 0) {
		remote_release(r);
		return ret;
	}
	r->clock = NULL;
	*out = r;
	return 0;
}

int remote_hold(struct remote **out, pid_t pid, struct err *e)
{
	struct stop_clock clock = { .ticks = 0 };
	int ret = clock_start(&clock, e);

	if (ret < 0)
		return ret;
	while ((ret = hold_once(out, pid, &clock, e)) == -ESRCH && lives_on(pid)) {
		err_clear(e);
		if (clock.ticks >= STOP_TICKS_MAX) {
			ret = err_say(e, ENOTSUP,
				      "task %d: its main thread has exited, others run on", pid);
			err_remedy(e, "only programs whose main thread lives can be carried over");
			break;
		}
		nanosleep(&(struct timespec){ .tv_nsec = 500000 }, NULL);
	}
	timer_delete(clock.timer);
	return ret;
}
