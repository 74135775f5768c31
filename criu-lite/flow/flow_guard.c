/* SPDX-License-Identifier: Apache-2.0 */
#include "flow_guard.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "flow_net.h"
#include "io.h"
#include "kind_tcp.h"
#include "log.h"
#include "proc_task.h"

#define TRIES 9
#define PAUSE_NS 1000000   /* the first; each is twice as long */

#define BOARD_TASKS 4000

/* Written by us, read by the guard when we are gone. */
struct guard_board {
	atomic_bool over;            /* the list is complete, and its tasks are to end */
	unsigned n;
	struct board_task {
		pid_t pid;
		uint64_t start_time;
	} task[BOARD_TASKS];
	atomic_uint stopped_n;       /* tasks that the throttle has stopped or is about to stop */
	struct board_task stopped[BOARD_TASKS];
	atomic_bool frozen;          /* the freezer is in use */
	struct freezer freezer;
};

static bool is_same(pid_t pid, uint64_t start_time)
{
	_cleanup_(buf_free) struct buf b = { 0 };
	struct proc_stat st;
	struct err ignored = ERR_INIT;

	return io_slurp(&b, &ignored, "/proc/%d/stat", pid) == 0 &&
	       proc_stat_parse((char *)b.at, b.n, &st, &ignored) == 0 &&
	       st.start_time == start_time;
}

static void end_all(const struct guard_board *board)
{
	for (unsigned i = 0; i < board->n; i++)
		if (is_same(board->task[i].pid, board->task[i].start_time))
			kill(board->task[i].pid, SIGKILL);
}

static void let_go(const struct guard_board *board)
{
	if (board->frozen)
		freezer_end(&board->freezer);
	/* children first, as the throttle does: a parent must not find them stopped */
	for (unsigned i = board->stopped_n; i-- > 0;)
		if (is_same(board->stopped[i].pid, board->stopped[i].start_time))
			kill(board->stopped[i].pid, SIGCONT);
}

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
	/* What is kept stopped may run elsewhere: its connections are to stay silent. */
	vec_each(&t.task, k)
		if ((*k)->state != TASK_DEAD && (*k)->state != TASK_STOPPED)
			kind_tcp_sweep((*k)->pid, &e);
	task_tree_free(&t);
}

static void take_out(pid_t root, const struct guard_board *board)
{
	let_go(board);
	if (board->over)
		end_all(board);
	else
		sweep(root);
}

static void watch(int line, pid_t root, const struct guard_board *board)
{
	char byte;

	/* its own session: who kills our group does not mean the guard */
	setsid();
	prctl(PR_SET_NAME, "criu-lite-guard");
	dup2(line, 0);
	log_to_fd(STDERR_FILENO);
	syscall(SYS_close_range, 1, ~0u, 0);
	/* or warnings would go to what is opened next */
	if (open("/dev/null", O_RDWR) == STDOUT_FILENO)
		dup2(STDOUT_FILENO, STDERR_FILENO);
	if (read(0, &byte, 1) == 0) {
		if (board)
			take_out(root, board);
		/* when its sockets are as they were, and our owner is no more */
		flow_net_sweep();
	}
	_exit(0);
}

static int begin(struct flow_guard *g, pid_t root, struct err *e)
{
	int line[2];

	if (pipe2(line, O_CLOEXEC) < 0)
		return err_set(e, errno, "guard");
	g->pid = fork();
	if (g->pid == 0) {
		close(line[1]);
		watch(line[0], root, g->board);
	}
	close(line[0]);
	g->line = line[1];
	if (g->pid > 0)
		return 0;
	close(line[1]);
	g->line = -1;
	return err_set(e, errno, "fork");
}

int flow_guard_begin(struct flow_guard *g, pid_t root, struct err *e)
{
	g->board = mmap(NULL, sizeof(*g->board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
			-1, 0);
	if (g->board == MAP_FAILED)
		return err_set(e, errno, "guard");
	return begin(g, root, e);
}

int flow_guard_target(struct flow_guard *g, struct err *e) { return begin(g, 0, e); }

void flow_guard_over(struct flow_guard *g, const struct tree *t)
{
	struct guard_board *b = g->board;

	vec_each(&t->task, k) {
		if (b->n == BOARD_TASKS)
			break;
		b->task[b->n].pid = (*k)->pid;
		b->task[b->n++].start_time = (*k)->start_time;
	}
	b->over = true;
}

size_t flow_guard_room(void) { return BOARD_TASKS; }

void flow_guard_stopped(struct flow_guard *g, size_t i, pid_t pid, uint64_t start_time)
{
	g->board->stopped[i] = (struct board_task){ pid, start_time };
}

void flow_guard_stopped_count(struct flow_guard *g, size_t n)
{
	g->board->stopped_n = (unsigned)n;
}

void flow_guard_freezer(struct flow_guard *g, const struct freezer *f)
{
	if (f->n == 0) {
		g->board->frozen = false;
		return;
	}
	g->board->freezer = *f;
	g->board->frozen = true;
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
	if (g->board)
		munmap(g->board, sizeof(*g->board));
}
