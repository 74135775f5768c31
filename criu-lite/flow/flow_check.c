/* SPDX-License-Identifier: Apache-2.0 */
/* check: what can this kernel do? Each answer by trying it. */
#include <errno.h>
#include <linux/kcmp.h>
#include <linux/sched.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "flow.h"
#include "flow_host.h"
#include "net_queue.h"
#include "remote.h"
#include "task.h"

static int try_shell(struct err *e)
{
	struct remote *r, *child;
	int ret = remote_shell(&r, 0, 0, NULL, 0, e);

	if (ret < 0)
		return ret;
	pid_t tid = remote_pid(r) + 100;
	ret = remote_shell_child(&child, r, 0, 0, e);
	if (ret == 0) {
		tid = remote_pid(child) + 100;
		ret = remote_shell_threads(child, &tid, 1, e);
		remote_kill(child);
	}
	remote_kill(r);
	return ret;
}

static int try_hold(struct err *e)
{
	pid_t pid = fork();
	struct remote *r;
	int ret;

	if (pid == 0)
		for (;;)
			pause();
	ret = remote_hold(&r, pid, e);
	if (ret == 0) {
		_cleanup_batch_ struct batch b = BATCH(remote_leader(r));

		batch_call(&b, "getpid", SYS_getpid);
		ret = batch_run(&b, e);
		int fd = ret < 0 ? ret : remote_fd_get(r, 0, e);
		if (fd >= 0)
			close(fd);
		remote_release(r);
	}
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	return ret;
}

static int try_kcmp(struct err *e)
{
	if (syscall(SYS_kcmp, getpid(), getpid(), KCMP_VM, 0, 0) == 0)
		return 0;
	return err_set(e, errno, "kcmp (CONFIG_KCMP)");
}

static int try_children(struct err *e)
{
	if (access("/proc/thread-self/children", R_OK) == 0)
		return 0;
	return err_set(e, errno, "/proc/PID/task/TID/children (CONFIG_PROC_CHILDREN)");
}

static int try_map_files(struct err *e)
{
	if (access("/proc/self/map_files", R_OK | X_OK) == 0)
		return 0;
	return err_set(e, errno, "/proc/PID/map_files");
}

static const struct {
	const char *what;
	int (*try)(struct err *e);
} needs[] = {
	{ "hold a process, run calls in it, take a descriptor (ptrace, pidfd_getfd)", try_hold },
	{ "make processes and threads with given pids (clone3 set_tid)", try_shell },
	{ "tell what tasks share (kcmp)", try_kcmp },
	{ "list children of a task", try_children },
	{ "open mapped files (map_files)", try_map_files },
};

static bool print_tracker(enum tracker_kind k)
{
	struct err e = ERR_INIT;
	int ret = tracker_probe(&k, &e);

	printf("  %-12s %s%s%s\n", tracker_name(k), ret == 0 ? "yes" : "no", ret == 0 ? "" : ": ",
	       ret == 0 ? "" : e.text);
	return ret == 0;
}

static int try_queue(struct err *e)
{
	struct net_queue *q;
	int ret = net_queue_open(&q, e);

	if (ret == 0)
		ret = net_queue_try(q, e);
	net_queue_close(q);
	return ret;
}

int flow_check(struct err *e)
{
	size_t bad = 0;
	int ret = flow_need_root(e);

	if (ret < 0)
		return ret;
	printf("needed:\n");
	for (size_t i = 0; i < sizeof(needs) / sizeof(needs[0]); i++) {
		struct err why = ERR_INIT;

		ret = needs[i].try(&why);
		printf("  %-4s %s%s%s%s%s\n", ret == 0 ? "yes" : "NO", needs[i].what,
		       ret == 0 ? "" : ": ", why.text, why.remedy[0] ? "; " : "", why.remedy);
		bad += ret < 0;
	}
	printf("dirty page trackers (for migrate and pre-dump):\n");
	bool any = print_tracker(TRACKER_SOFT_DIRTY);
	any |= print_tracker(TRACKER_UFFD_WP);
	enum tracker_kind k = TRACKER_AUTO;
	struct err why = ERR_INIT;
	if (any && tracker_probe(&k, &why) == 0)
		printf("  auto means %s\n", tracker_name(k));
	struct err no_queue = ERR_INIT;
	ret = try_queue(&no_queue);
	printf("connections that wait for accept() are taken over:\n  %s%s%s%s%s\n",
	       ret == 0 ? "yes" : "no", ret == 0 ? "" : ": ", no_queue.text,
	       no_queue.remedy[0] ? "; " : "", no_queue.remedy);
	if (bad)
		return err_say(e, ENOTSUP, "%zu of what is needed is missing", bad);
	printf("Looks good.\n");
	return 0;
}
