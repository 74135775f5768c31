/* SPDX-License-Identifier: Apache-2.0 */
/* The table of contents of a task's state: which part is asked and put when. */
#include "task_state.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "io.h"
#include "log.h"
#include "mm.pb-c.h"
#include "proc_maps.h"
#include "task_parts.h"

#ifndef PTRACE_EVENT_STOP
#define PTRACE_EVENT_STOP 128
#endif

static int read_status(pid_t pid, pid_t tid, struct buf *text, struct proc_status *out,
		       struct err *e)
{
	int ret;

	text->n = 0;
	if ((ret = io_slurp(text, e, "/proc/%d/task/%d/status", pid, tid)) < 0)
		return ret;
	return proc_status_parse((const char *)text->at, text->n, out, e);
}

/* ---- preflight ---- */

static int refuse_tracer(pid_t tid, pid_t tracer, struct err *e)
{
	err_say(e, EBUSY, "thread %d is traced by process %d", tid, tracer);
	return err_remedy(e, "detach that debugger or tracer (gdb, strace) first");
}

static int refuse_shadow_stack(const char *status, pid_t tid, struct err *e)
{
	/* "x86_Thread_features:\tshstk wrss" (Linux 6.6) */
	const char *line = strstr(status, "\nx86_Thread_features:");

	if (!line || !memmem(line + 1, strcspn(line + 1, "\n"), "shstk", 5))
		return 0;
	err_say(e, ENOTSUP, "thread %d uses a shadow stack", tid);
	return err_remedy(e, "start the program with GLIBC_TUNABLES=glibc.cpu.hwcaps=-SHSTK");
}

static int check_thread(const struct task *t, pid_t tid, struct err *e)
{
	_cleanup_(buf_free) struct buf text = {0};
	_cleanup_(proc_status_free) struct proc_status s = {0};
	int ret = read_status(t->pid, tid, &text, &s, e);

	if (ret == -ENOENT || ret == -ESRCH) { /* has exited meanwhile */
		err_clear(e);
		return 0;
	}
	if (ret < 0)
		return ret;
	if (s.tracer && !t->remote)
		return refuse_tracer(tid, s.tracer, e);
	if (s.seccomp) {
		err_say(e, ENOTSUP, "thread %d is under seccomp", tid);
		return err_remedy(e, "start the program without a seccomp filter");
	}
	if ((ret = refuse_shadow_stack((const char *)text.at, tid, e)) < 0)
		return ret;
	return task_sched_check(tid, e);
}

static int check_class(const struct task *t, struct err *e)
{
	uint8_t head[5];
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/exe", t->pid);
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	/* Not readable: the registers will tell at the freeze. */
	if (fd < 0 || io_pread(fd, head, sizeof(head), 0) < 0 || head[4] != 1 /* ELFCLASS32 */)
		return 0;
	err_say(e, ENOTSUP, "is a 32-bit program");
	return err_remedy(e, "only 64-bit programs can be carried over");
}

int task_state_check(const struct task *t, struct err *e)
{
	char path[64];
	int ret = 0;

	if (t->state == TASK_DEAD)
		return 0;
	snprintf(path, sizeof(path), "/proc/%d/task", t->pid);
	_cleanup_closedir_ DIR *d = opendir(path);
	if (!d)
		return err_set(e, errno == ENOENT ? ESRCH : errno, "task %d", t->pid);
	for (struct dirent *de; ret == 0 && (de = readdir(d));) {
		pid_t tid = (pid_t)atoi(de->d_name);

		if (tid > 0)
			ret = check_thread(t, tid, e);
	}
	if (ret == 0)
		ret = check_class(t, e);
	return ret < 0 ? err_in(e, "task %d (%s)", t->pid, t->comm) : 0;
}

/* ---- capture ---- */

/* Signals that would be handled, or would kill, if the thread went on now. */
static int pending_unblocked(struct rthread *t, uint64_t *set, struct err *e)
{
	static const uint64_t ignored_by_default = KSIG_BIT(SIGCHLD) | KSIG_BIT(SIGCONT) |
						   KSIG_BIT(SIGURG) | KSIG_BIT(SIGWINCH);
	_cleanup_(buf_free) struct buf text = {0};
	_cleanup_(proc_status_free) struct proc_status s = {0};
	int ret = read_status(remote_pid(t->of), t->tid, &text, &s, e);

	if (ret == 0)
		*set = part_unblocked(t, &s) & ~s.sig_ign & ~(ignored_by_default & ~s.sig_cgt);
	return ret;
}

/* A stop of the whole process by a signal shows in the stop of each of its threads. */
static void find_state(struct task *task)
{
	bool seen = false;
	int sig = SIGTRAP;

	for (size_t i = 0; remote_thread(task->remote, i) && sig == SIGTRAP; i++) {
		const struct rthread *t = remote_thread(task->remote, i);
		siginfo_t info;

		if (!t->stopped || ptrace(PTRACE_GETSIGINFO, t->tid, 0, &info) < 0 ||
		    info.si_code >> 8 != PTRACE_EVENT_STOP)
			continue;
		seen = true;
		sig = info.si_signo;
	}
	if (seen)
		task->state = sig == SIGTRAP ? TASK_ALIVE : TASK_STOPPED;
}

int task_state_held(struct task *task, struct err *e)
{
	if (!task->remote)
		return 0;
	task_watch_stopped(task);
	find_state(task);
	int ret = task_vdso_leave(task, e);

	for (size_t i = 0; ret == 0 && remote_thread(task->remote, i); i++) {
		struct rthread *t = remote_thread(task->remote, i);
		uint64_t pending = 0;

		if (!t->stopped)
			continue;
		if ((ret = task_regs_leave_rseq(t, e)) < 0)
			return ret;
		if ((int64_t)t->regs.rax != -EINTR || (int64_t)t->regs.orig_rax < 0)
			continue;
		if ((ret = pending_unblocked(t, &pending, e)) < 0)
			return ret;
		task_regs_restartable(t, pending);
	}
	return ret;
}

static CoreEntry *new_core(const struct task *t, bool leader, bool thread)
{
	CoreEntry *c = MSG_NEW(CoreEntry, core_entry);

	c->mtype = CORE_ENTRY__MARCH__X86_64;
	if (leader) {
		c->tc = MSG_NEW(TaskCoreEntry, task_core_entry);
		c->tc->task_state = t->state;
		c->tc->exit_code = t->state == TASK_DEAD ? (uint32_t)t->exit_code : 0;
		if (t->state == TASK_STOPPED) {
			c->tc->has_stop_signo = 1;
			c->tc->stop_signo = SIGSTOP;
		}
	}
	if (thread) {
		c->thread_info = MSG_NEW(ThreadInfoX86, thread_info_x86);
		c->thread_core = MSG_NEW(ThreadCoreEntry, thread_core_entry);
	}
	return c;
}

/* A thread that sleeps in the stub is stopped for a moment: PTRACE_CONT restarts its read(). */
static int pause_thread(struct rthread *t, struct err *e)
{
	int status;

	if (t->stopped)
		return 0;
	if (ptrace(PTRACE_INTERRUPT, t->tid, 0, 0) < 0 ||
	    waitpid(t->tid, &status, __WALL) < 0 || !WIFSTOPPED(status))
		return err_set(e, errno, "stop thread %d", t->tid);
	return 0;
}

static void unpause_thread(struct rthread *t)
{
	if (!t->stopped)
		ptrace(PTRACE_CONT, t->tid, 0, 0);
}

static int look(struct part *p, struct buf *text, struct err *e)
{
	int ret = pause_thread(p->thread, e);

	if (ret < 0)
		return ret;
	if ((ret = read_status(p->task->pid, p->thread->tid, text, &p->status, e)) == 0 &&
	    (ret = task_misc_look(p, e)) == 0 && (ret = task_regs_look(p, e)) == 0 &&
	    (ret = task_signals_look(p, e)) == 0)
		ret = task_sched_look(p, e);
	unpause_thread(p->thread);
	return ret;
}

static int ask(struct part *p, const TaskCoreEntry *leader, struct err *e)
{
	int ret;

	task_signals_ask(p);
	task_timers_ask(p);
	task_creds_ask(p);
	task_misc_ask(p);
	task_wait_ask(p);
	if ((ret = batch_run(&p->batch, e)) < 0)
		return ret;
	task_signals_take(p);
	task_creds_take(p);
	if ((ret = task_timers_take(p, e)) < 0 || (ret = task_misc_take(p, e)) < 0)
		return ret;
	return task_regs_take(p, leader, e);
}

static void part_free(struct part *p)
{
	if (p->core)
		core_entry__free_unpacked(p->core, NULL);
	proc_status_free(&p->status);
	batch_free(&p->batch);
}

static int capture_threads(struct task *t, struct part *parts, size_t n, struct img_set *set,
			   struct err *e)
{
	_cleanup_(buf_free) struct buf text = {0};
	struct xsave_layout layout;
	int ret;

	xsave_layout_here(&layout);
	/* All of the looking first: a batch makes a thread run. */
	for (size_t i = 0; i < n; i++) {
		parts[i].task = t;
		parts[i].layout = &layout;
		parts[i].thread = remote_thread(t->remote, i);
		parts[i].batch.in = parts[i].thread;
		parts[i].core = new_core(t, part_is_leader(&parts[i]), true);
		if ((ret = look(&parts[i], &text, e)) < 0)
			return ret;
	}
	for (size_t i = 0; i < n; i++) {
		if ((ret = ask(&parts[i], parts[0].core->tc, e)) < 0)
			return ret;
		img_put(set, IMG_CORE, (uint64_t)parts[i].thread->tid, &parts[i].core->base);
	}
	return 0;
}

static void capture_zombie(const struct task *t, struct img_set *set)
{
	CoreEntry *core = new_core(t, true, false);

	core->tc->comm = xstrdup(t->comm);
	img_put(set, IMG_CORE, (uint64_t)t->pid, &core->base);
	core_entry__free_unpacked(core, NULL);
}

int task_state_capture(struct task *t, struct img_set *set, struct err *e)
{
	size_t n = 0;
	int ret;

	if (!t->remote) {
		capture_zombie(t, set);
		return 0;
	}
	if ((ret = task_state_held(t, e)) < 0)
		return err_in(e, "task %d (%s)", t->pid, t->comm);
	while (remote_thread(t->remote, n))
		n++;
	struct part *parts = xcalloc(n, sizeof(*parts));

	ret = capture_threads(t, parts, n, set, e);
	for (size_t i = 0; i < n; i++)
		part_free(&parts[i]);
	free(parts);
	return ret < 0 ? err_in(e, "task %d (%s)", t->pid, t->comm) : 0;
}

/* ---- apply ---- */

static int get_core(const struct img_set *set, const struct rthread *t, CoreEntry **out,
		    struct err *e)
{
	bool leader = t->tid == remote_pid(t->of);
	int ret = img_get(set, IMG_CORE, (uint64_t)t->tid, 0, out, e);

	if (ret < 0)
		return ret;
	if ((*out)->mtype != CORE_ENTRY__MARCH__X86_64 || !(*out)->thread_info ||
	    !(*out)->thread_core || (leader && !(*out)->tc))
		return err_say(e, EBADMSG, "core-%d.img: state of an x86-64 thread is missing",
			       t->tid);
	if (!leader && (*out)->tc) { /* only the leader's counts */
		task_core_entry__free_unpacked((*out)->tc, NULL);
		(*out)->tc = NULL;
	}
	return 0;
}

/* Any change of ids anywhere in the process clears it. */
static int put_dumpable(struct batch *b, pid_t pid, const struct img_set *set, struct err *e)
{
	_cleanup_msg_ MmEntry *mm = NULL;
	int ret;

	if (!img_count(set, IMG_MM, (uint64_t)pid))
		return 0;
	if ((ret = img_get(set, IMG_MM, (uint64_t)pid, 0, &mm, e)) < 0)
		return ret;
	if (mm->has_dumpable && (mm->dumpable == 0 || mm->dumpable == 1))
		batch_call(b, "prctl(PR_SET_DUMPABLE)", SYS_prctl, PR_SET_DUMPABLE, mm->dumpable, 0,
			   0, 0);
	return 0;
}

static int apply_thread(struct rthread *t, const struct img_set *set,
			const struct xsave_layout *layout, const struct proc_status *now,
			struct err *e)
{
	_cleanup_batch_ struct batch b = BATCH(t);
	_cleanup_msg_ CoreEntry *core = NULL;
	int ret;

	if ((ret = get_core(set, t, &core, e)) < 0 || (ret = task_signals_check(core, e)) < 0 ||
	    (ret = task_regs_apply(t, core, layout, e)) < 0)
		return ret;
	task_misc_put(&b, core);
	task_signals_put(&b, core);
	if ((ret = batch_run(&b, e)) < 0 || (ret = task_signals_queue(t, core, e)) < 0)
		return ret;
	if (core->tc) {
		if ((ret = task_timers_create(t, core, e)) < 0 ||
		    (ret = task_misc_limits(t, core, e)) < 0)
			return ret;
		task_misc_outside(remote_pid(t->of), core);
	}
	if ((ret = task_sched_apply(t->tid, core, e)) < 0)
		return ret;
	batch_reset(&b);
	if ((ret = task_creds_put(&b, core, now, e)) < 0)
		return ret;
	task_misc_put_last(&b, core);
	if (core->tc && (ret = put_dumpable(&b, remote_pid(t->of), set, e)) < 0)
		return ret;
	return b.call.n ? batch_run(&b, e) : 0;
}

int task_state_apply(struct task *t, const struct img_set *set, struct err *e)
{
	_cleanup_(buf_free) struct buf text = {0};
	_cleanup_(proc_status_free) struct proc_status now = {0};
	struct xsave_layout layout;
	size_t n = 0;
	int ret = read_status(t->pid, t->pid, &text, &now, e);

	while (remote_thread(t->remote, n))
		n++;
	xsave_layout_here(&layout);
	/* The leader last: its dumpable flag is everyone's. */
	while (ret == 0 && n-- > 0) {
		struct rthread *thread = remote_thread(t->remote, n);

		ret = apply_thread(thread, set, &layout, &now, e);
		if (ret < 0)
			err_in(e, "thread %d", thread->tid);
	}
	return ret < 0 ? err_in(e, "task %d", t->pid) : 0;
}

int task_state_arm(struct task *t, const struct img_set *set, struct err *e)
{
	struct rthread *leader = remote_leader(t->remote);
	_cleanup_msg_ CoreEntry *core = NULL;
	int ret;

	if ((ret = get_core(set, leader, &core, e)) < 0 ||
	    (ret = task_timers_arm(leader, core, e)) < 0)
		return err_in(e, "task %d", t->pid);
	for (size_t i = 1; remote_thread(t->remote, i); i++) {
		_cleanup_msg_ CoreEntry *other = NULL;

		if ((ret = get_core(set, remote_thread(t->remote, i), &other, e)) < 0 ||
		    (!t->clock_goes_on &&
		     (ret = task_wait_arm(remote_thread(t->remote, i), other, e)) < 0) ||
		    (ret = task_sleep_arm(remote_thread(t->remote, i), other, e)) < 0)
			return err_in(e, "task %d", t->pid);
	}
	if ((!t->clock_goes_on && (ret = task_wait_arm(leader, core, e)) < 0) ||
	    (ret = task_sleep_arm(leader, core, e)) < 0)
		return err_in(e, "task %d", t->pid);
	if (core->tc->task_state == TASK_STOPPED)
		remote_leave_stopped(t->remote);
	return 0;
}

/* ---- zombies ---- */

/* Where a `syscall` instruction is in the vDSO, which every shell has. */
static int find_syscall(struct remote *r, gaddr *out, struct err *e)
{
	_cleanup_(buf_free) struct buf text = {0};
	struct proc_maps maps;
	int ret;

	if ((ret = io_slurp(&text, e, "/proc/%d/maps", remote_pid(r))) < 0 ||
	    (ret = proc_maps_parse((const char *)text.at, text.n, &maps, e)) < 0)
		return ret;
	*out = 0;
	vec_each(&maps.vma, v) {
		uint8_t image[2 * PAGE_SIZE];
		size_t n = v->end - v->start < sizeof(image) ? v->end - v->start : sizeof(image);
		const uint8_t *at;

		if (strcmp(v->path, "[vdso]") || remote_read(r, v->start, image, n, e) < 0)
			continue;
		if ((at = memmem(image, n, "\x0f\x05", 2)))
			*out = v->start + (gaddr)(at - image);
	}
	proc_maps_free(&maps);
	return *out ? 0 : err_say(e, ENOTSUP, "no system call instruction in the vDSO");
}

/* Default action and no core file for the signal that is to kill. */
static int prepare_death(struct rthread *t, int sig, struct err *e)
{
	static const struct rlimit no_core = {0, 0};
	static const uint64_t action[4] = {0};
	_cleanup_batch_ struct batch b = BATCH(t);

	batch_call(&b, "prlimit64", SYS_prlimit64, 0, RLIMIT_CORE,
		   batch_in(&b, &no_core, sizeof(no_core)), 0);
	batch_call(&b, "rt_sigaction", SYS_rt_sigaction, sig,
		   batch_in(&b, action, sizeof(action)), 0, 8);
	return batch_run(&b, e);
}

int task_state_die(struct task *t, struct err *e)
{
	struct rthread *leader = remote_leader(t->remote);
	int sig = t->exit_code & 0x7f, ret;
	gaddr insn = 0;

	if (sig == SIGKILL) {
		remote_kill(steal_ptr(t->remote));
		return 0;
	}
	_cleanup_close_ int pidfd = (int)syscall(SYS_pidfd_open, t->pid, 0);
	if (pidfd < 0)
		return err_set(e, errno, "task %d", t->pid);
	ret = sig ? prepare_death(leader, sig, e) : find_syscall(t->remote, &insn, e);
	if (ret < 0)
		return err_in(e, "task %d", t->pid);
	if (sig && kill(t->pid, sig) < 0) /* blocked in the stub: waits for the release */
		return err_set(e, errno, "task %d: signal %d", t->pid, sig);
	leader->sigmask = 0;
	leader->regs.rip = insn;
	leader->regs.rax = SYS_exit_group;
	leader->regs.rdi = (uint64_t)(t->exit_code >> 8 & 0xff);
	leader->regs.orig_rax = ~0ull;
	remote_release(t->remote);
	t->remote = NULL;

	struct pollfd wait = {.fd = pidfd, .events = POLLIN};
	if (poll(&wait, 1, 5000) != 1)
		return err_say(e, ETIMEDOUT, "task %d does not die", t->pid);
	return 0;
}
