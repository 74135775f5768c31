/* SPDX-License-Identifier: Apache-2.0 */
#include "flow_guard.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "task.h"

#define TRIES 9
#define PAUSE_NS 1000000   /* the first; each is twice as long */

static void sweep(pid_t root)
{
	struct tree t = { 0 };
	struct err e = ERR_INIT;
	bool clean = false;

	/* threads may still be on their way out of the stub */
	for (int i = 0; !clean && i < TRIES; i++) {
		nanosleep(&(struct timespec){ .tv_nsec = (long)PAUSE_NS << i }, NULL);
		if (task_tree_scan(&t, root, &e) < 0)
			break;
		clean = true;
		vec_each(&t.task, k)
			if ((*k)->state != TASK_DEAD && remote_sweep((*k)->pid, &e) < 0)
				clean = false;
	}
	task_tree_free(&t);
}

static void watch(int line, pid_t root)
{
	char byte;

	/* its own session: who kills our group does not mean the guard */
	setsid();
	prctl(PR_SET_NAME, "criu-lite-guard");
	dup2(line, 0);
	syscall(SYS_close_range, 1, ~0u, 0);
	if (read(0, &byte, 1) == 0)
		sweep(root);
	_exit(0);
}

int flow_guard_begin(struct flow_guard *g, pid_t root, struct err *e)
{
	int line[2];

	if (pipe2(line, O_CLOEXEC) < 0)
		return err_set(e, errno, "pipe");
	g->pid = fork();
	if (g->pid == 0) {
		close(line[1]);
		watch(line[0], root);
	}
	close(line[0]);
	g->line = line[1];
	if (g->pid > 0)
		return 0;
	close(line[1]);
	g->line = -1;
	return err_set(e, errno, "fork");
}

void flow_guard_end(struct flow_guard *g)
{
	if (g->pid <= 0)
		return;
	if (write(g->line, "x", 1) != 1)
		kill(g->pid, SIGKILL);
	close(g->line);
	while (waitpid(g->pid, NULL, 0) < 0 && errno == EINTR)
		;
	g->pid = 0;
}
