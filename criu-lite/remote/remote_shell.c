/* SPDX-License-Identifier: Apache-2.0 */
/* Shells: empty processes, born held, that become the guest. */
#include <errno.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/rseq.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "io.h"
#include "remote_priv.h"

#ifndef PTRACE_O_EXITKILL
#define PTRACE_O_EXITKILL (1 << 20)
#endif
#define USER_END 0x7ffffffff000ull
/* In a table of descriptors that several shells share, control sockets stand above this. */
#define SHARED_ABOVE 511

/* ---- the first shell: a fork of ours that jumps into the stub ---- */

/* The stub's home should be where no guest has mappings: the wide hole between heap and
 * mmap area. */
static void *map_stub_area(const struct grange *avoid, size_t n)
{
	for (gaddr at = 0x2000ull << 32; at < 0x5000ull << 32; at += 0x10ull << 32) {
		bool taken = false;

		for (size_t i = 0; i < n; i++)
			taken |= at < avoid[i].end && avoid[i].start < at + STUB_SIZE;
		if (taken)
			continue;
		void *p = mmap((void *)at, STUB_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
		if (p != MAP_FAILED)
			return p;
	}
	return NULL;
}

static pid_t fork_into_stub(pid_t pid, uint64_t flags, uint8_t *area, int fd)
{
	uint8_t *slot = area + STUB_CODE_SIZE;
	uint64_t calls = (uint64_t)(slot + SLOT_CALLS), nfd = (uint64_t)fd;
	struct clone_args args = {
		.flags = flags,
		.exit_signal = flags & CLONE_PARENT ? 0 : SIGCHLD,
		.set_tid = pid > 0 ? (uint64_t)&pid : 0,
		.set_tid_size = pid > 0,
	};
	sigset_t all, old;

	memcpy(area, remote_stub_code, (size_t)(remote_stub_code_end - remote_stub_code));
	memcpy(slot + SLOT_FD, &nfd, 8);
	memcpy(slot + SLOT_CUR, &calls, 8);
	memcpy(slot + SLOT_END, &calls, 8);
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &old);
	pid_t child = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
	if (child == 0)
		arch_jump_to_stub(area, slot);
	int saved = errno;
	sigprocmask(SIG_SETMASK, &old, NULL);
	errno = saved;
	return child;
}

/* ---- in a time namespace ---- */

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

struct birth {
	pid_t pid, child;
	uint64_t flags;
	uint8_t *area;
	int fd, ret;
	const char *offsets;
	struct err *e;
};

static int enter_timens(const char *offsets, struct err *e)
{
	char path[48];

	if (unshare(CLONE_NEWTIME) < 0)
		return err_set(e, errno, "unshare(CLONE_NEWTIME)");
	snprintf(path, sizeof(path), "/proc/%d/timens_offsets", gettid());
	return io_spill(path, offsets, strlen(offsets), e);
}

/* The child would inherit the registration of a thread that it does not have. */
static void forget_rseq(void)
{
	uint8_t *tp = __builtin_thread_pointer();

	if (__rseq_size)
		syscall(SYS_rseq, tp + __rseq_offset, 32, RSEQ_FLAG_UNREGISTER, RSEQ_SIG);
}

static void *bear(void *arg)
{
	struct birth *b = arg;

	if ((b->ret = enter_timens(b->offsets, b->e)) < 0)
		return NULL;
	forget_rseq();
	b->child = fork_into_stub(b->pid, b->flags, b->area, b->fd);
	if (b->child < 0)
		b->ret = -errno;
	return NULL;
}

/* By a thread that lives no longer than that: what has unshared its time namespace cannot make
 * threads (before Linux 6.3), nor go back while there are others. */
static pid_t fork_in_timens(pid_t pid, uint64_t flags, const char *offsets, uint8_t *area, int fd,
			    struct err *e)
{
	struct birth b = { .pid = pid, .flags = flags, .area = area, .fd = fd, .offsets = offsets,
			   .child = -1, .e = e };
	pthread_t t;
	int code = pthread_create(&t, NULL, bear, &b);

	if (code) {
		errno = code;
		return -1;
	}
	pthread_join(t, NULL);
	errno = -b.ret;
	return b.child;
}

static int taken_error(pid_t pid, int code, struct err *e)
{
	if (code == EEXIST) {
		err_say(e, EEXIST, "pid %d is taken on this host", pid);
		return err_remedy(e, "end that process, or restore inside a new pid namespace "
				     "(unshare --pid --fork --mount-proc)");
	}
	err_set(e, code, "create a process with pid %d (clone3)", pid);
	if (code == EPERM)
		err_remedy(e, "CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE in the pid namespace is "
			      "needed");
	return -code;
}

static void close_others(struct batch *b, const struct remote *r)
{
	batch_call(b, "close_range", SYS_close_range, r->guest_sock + 1, ~0u, 0);
	if (r->guest_sock > 0)
		batch_call(b, "close_range", SYS_close_range, 0, r->guest_sock - 1, 0);
}

/* Everything of ours out of the new process: mappings, descriptors, rseq. */
static int empty(struct remote *r, struct err *e)
{
	_cleanup_batch_ struct batch b = BATCH(r->thread.at[0]);
	_cleanup_(buf_free) struct buf maps = { 0 };
	uint8_t *tp = __builtin_thread_pointer();
	gaddr from = 0;
	int ret;

	if (__rseq_size)
		batch_call(&b, "?rseq", SYS_rseq, tp + __rseq_offset, 32, RSEQ_FLAG_UNREGISTER,
			   RSEQ_SIG);
	batch_call(&b, "set_robust_list", SYS_set_robust_list, 0, 24);
	close_others(&b, r);
	if ((ret = io_slurp(&maps, e, "/proc/%d/maps", r->pid)) < 0)
		return ret;
	for (char *line = (char *)maps.at; line && *line;) {
		char *next = strchr(line, '\n');
		gaddr start, end;

		if (next)
			*next++ = '\0';
		bool keep = strstr(line, "[vdso]") || strstr(line, "[vvar");
		if (sscanf(line, "%lx-%lx", &start, &end) == 2 && start < USER_END &&
		    (keep || start == r->stub)) {
			if (from < start)
				batch_call(&b, "munmap", SYS_munmap, from, start - from);
			from = end;
		}
		line = next;
	}
	if (from < USER_END)
		batch_call(&b, "munmap", SYS_munmap, from, USER_END - from);
	return batch_run(&b, e);
}

static int adopt(struct remote *r, struct err *e)
{
	struct rthread *t = remote_thread_new(r, r->pid);
	int ret;

	if (ptrace(PTRACE_SEIZE, r->pid, 0, remote_options() | PTRACE_O_EXITKILL) < 0 &&
	    ptrace(PTRACE_SEIZE, r->pid, 0, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL) < 0)
		return err_set(e, errno, "seize the new process %d", r->pid);
	t->live = true;
	r->live = t;
	if ((ret = stub_wait_done(t, e)) < 0 || (ret = stub_park(r, e)) < 0 ||
	    (ret = thread_read_state(t, e)) < 0)
		return ret;
	t->sigmask = 0;
	return empty(r, e);
}

int remote_shell(struct remote **out, pid_t pid, uint64_t flags, const struct grange *avoid,
		 size_t n_avoid, struct err *e)
{
	return remote_shell_timens(out, pid, flags, NULL, avoid, n_avoid, e);
}

int remote_shell_timens(struct remote **out, pid_t pid, uint64_t flags, const char *offsets,
			const struct grange *avoid, size_t n_avoid, struct err *e)
{
	struct timeval look = { 0, LOOK_US };
	int sv[2];
	uint8_t *area = map_stub_area(avoid, n_avoid);

	if (!area)
		return err_say(e, ENOMEM, "no place for the stub");
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv) < 0) {
		munmap(area, STUB_SIZE);
		return err_set(e, errno, "socketpair");
	}
	pid_t child = offsets ? fork_in_timens(pid, flags, offsets, area, sv[1], e) :
				fork_into_stub(pid, flags, area, sv[1]);
	int code = errno;
	munmap(area, STUB_SIZE);
	close(sv[1]);
	setsockopt(sv[0], SOL_SOCKET, SO_RCVTIMEO, &look, sizeof(look));
	if (child < 0) {
		close(sv[0]);
		return err_is(e) ? -e->code : taken_error(pid, code, e);
	}
	struct remote *r = remote_new(child, e);
	if (!r) {
		close(sv[0]);
		kill(child, SIGKILL);
		waitpid(child, NULL, __WALL);
		return -e->code;
	}
	r->is_shell = true;
	r->sock = sv[0];
	r->guest_sock = sv[1];
	r->stub = (gaddr)area;
	int ret = adopt(r, e);
	if (ret < 0) {
		remote_kill(r);
		return err_in(e, "shell %d", child);
	}
	*out = r;
	return 0;
}

/* ---- children and threads: cloned inside a shell, born stopped (CLONE_PTRACE) ---- */

static int born(struct remote *r, pid_t tid, struct rthread **out, struct err *e)
{
	struct rthread *t = remote_thread_new(r, tid);
	int ret;

	if ((ret = thread_wait_stop(t, e)) < 0 || (ret = thread_read_state(t, e)) < 0)
		return ret;
	t->sigmask = 0;
	*out = t;
	return 0;
}

static int child_boot(struct remote *r, const struct remote *parent, uint64_t flags, struct err *e)
{
	struct rthread *t;
	int ret;

	if ((ret = born(r, r->pid, &t, e)) < 0)
		return ret;
	if (flags & CLONE_VM) {
		ret = stub_inject(r, e);
		return ret < 0 || !(flags & CLONE_FILES) ? ret
							 : remote_move_socket(r, SHARED_ABOVE, e);
	}
	r->stub = parent->stub;
	if ((ret = stub_boot(r, e)) < 0)
		return ret;
	if (flags & CLONE_FILES)
		return remote_move_socket(r, SHARED_ABOVE, e);
	/* control sockets of the parent and of those who share its table */
	_cleanup_batch_ struct batch b = BATCH(t);
	close_others(&b, r);
	return batch_run(&b, e);
}

int remote_shell_child(struct remote **out, struct remote *parent, pid_t pid, uint64_t flags,
		       struct err *e)
{
	_cleanup_batch_ struct batch b = BATCH(parent->thread.at[0]);
	struct clone_args args = {
		.flags = flags | CLONE_PTRACE,
		.exit_signal = flags & CLONE_PARENT ? 0 : SIGCHLD,
		.set_tid_size = pid > 0,
	};
	if (pid > 0)
		args.set_tid = batch_in(&b, &pid, sizeof(pid));
	size_t i = batch_call(&b, "?clone3", SYS_clone3, batch_in(&b, &args, sizeof(args)),
			      sizeof(args));
	int ret = flags & CLONE_FILES ? remote_move_socket(parent, SHARED_ABOVE, e) : 0;

	if (ret == 0)
		ret = batch_run(&b, e);
	if (ret < 0)
		return ret;
	if (b.call.at[i].ret < 0)
		return taken_error(pid, (int)-b.call.at[i].ret, e);
	pid_t child = (pid_t)b.call.at[i].ret;
	struct remote *r = remote_new(child, e);
	if (!r) {
		kill(child, SIGKILL);
		waitpid(child, NULL, __WALL);
		return -e->code;
	}
	r->is_shell = true;
	r->syscall_insn = parent->syscall_insn;
	ret = child_boot(r, parent, flags, e);
	if (ret < 0) {
		remote_kill(r);
		return err_in(e, "shell %d", child);
	}
	*out = r;
	return 0;
}

int remote_shell_threads(struct remote *r, const pid_t *tids, size_t n, struct err *e)
{
	_cleanup_batch_ struct batch b = BATCH(r->thread.at[0]);
	int ret;

	for (size_t from = 0; from < n;) {
		size_t to = from;

		batch_reset(&b);
		for (; to < n && batch_room(&b, 1, sizeof(struct clone_args) + 16); to++) {
			struct clone_args args = {
				.flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND |
					 CLONE_THREAD | CLONE_SYSVSEM | CLONE_PTRACE,
				.set_tid = batch_in(&b, &tids[to], sizeof(pid_t)),
				.set_tid_size = 1,
			};
			batch_call(&b, "?clone3", SYS_clone3, batch_in(&b, &args, sizeof(args)),
				   sizeof(args));
		}
		if ((ret = batch_run(&b, e)) < 0)
			return ret;
		for (size_t i = from; i < to; i++) {
			struct rthread *t;
			int64_t got = b.call.at[i - from].ret;

			if (got < 0)
				return taken_error(tids[i], (int)-got, e);
			if ((ret = born(r, (pid_t)got, &t, e)) < 0)
				return ret;
		}
		from = to;
	}
	return 0;
}

void remote_vdso_moved(struct remote *r)
{
	r->syscall_insn = r->tramp = 0; /* to be looked for */
}
