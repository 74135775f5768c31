/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Processes that share what threads share: one the table of fds, one the working directory and
 * umask, one both, and one neither.
 */
#include "victim.h"

#define STACK 65536

enum { FILES, FS, BOTH, NEITHER, KINDS };

static const int flags[KINDS] = {CLONE_FILES, CLONE_FS, CLONE_FILES | CLONE_FS, 0};
static const char *const dirs[KINDS] = {"/", "/proc", "/dev", "/usr"};
static struct {
	_Atomic int asked, answered, fd, pid;
} * board;

static void answer(int kind)
{
	board[kind].fd = SYS(open("/dev/zero", O_RDONLY));
	SYS(chdir(dirs[kind]));
	umask(0100 + kind);
}

static int child(void *arg)
{
	int kind = (intptr_t)arg;

	while (!board[kind].asked)
		v_sleep_ms(2);
	answer(kind);
	board[kind].answered = 1;
	while (board[kind].asked < 2)
		v_sleep_ms(2);
	_exit(20 + kind);
}

/* What the child opens, enters and sets is the parent's too, or is not. */
static void check_sharing(int kind)
{
	bool files = flags[kind] & CLONE_FILES, fs = flags[kind] & CLONE_FS;
	char cwd[256];

	SYS(chdir("/tmp"));
	umask(022);
	board[kind].asked = 1;
	while (!board[kind].answered)
		v_sleep_ms(1);
	CHECK((fcntl(board[kind].fd, F_GETFD) >= 0) == files, "child %d: table of fds", kind);
	if (files)
		close(board[kind].fd);
	CHECK(getcwd(cwd, sizeof(cwd)), "getcwd");
	CHECK(!strcmp(cwd, fs ? dirs[kind] : "/tmp"), "child %d: working directory %s", kind, cwd);
	CHECK(umask(022) == (fs ? 0100U + kind : 022U), "child %d: umask", kind);
}

/* Whether the kernel says that both share it: kcmp(2) gives 0. */
static void note_sharing(void)
{
	static const int what[] = {1, 2, 3, 4}; /* VM FILES FS SIGHAND */
	size_t i, j;

	for (i = 0; i < KINDS; i++)
		for (j = 0; j < V_COUNT(what); j++)
			v_note("child %zu shares %d: %d", i, what[j],
			       syscall(SYS_kcmp, getpid(), board[i].pid, what[j], 0, 0) == 0);
}

int main(int argc, char **argv)
{
	char *stack;
	pid_t pid[KINDS];
	intptr_t i;

	v_init(argc, argv);
	board = v_map(V_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	for (i = 0; i < KINDS; i++) {
		stack = v_map(STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		pid[i] = SYS(clone(child, stack + STACK, flags[i] | SIGCHLD, (void *)i));
		board[i].pid = pid[i];
	}
	v_observe(note_sharing, 0);
	v_ready();
	v_wait();
	v_recheck();
	for (i = 0; i < KINDS; i++)
		check_sharing(i);
	for (i = 0; i < KINDS; i++) {
		board[i].asked = 2;
		v_reap(pid[i], (20 + i) << 8);
	}
	v_ok();
}
