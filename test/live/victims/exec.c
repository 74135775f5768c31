/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Executes itself again and again, also from a thread that is not the leader, with others that
 * stand by: same pid, other memory. The n-th image knows its number and the pid from its arguments,
 * keeps an open pipe with a word in it and a pending signal through the change, and has memory of
 * its own to check.
 */
#include "victim.h"

#define PAGES 200

static char **args;
static int n;

static void *exec_again(void *arg)
{
	char number[16];

	snprintf(number, sizeof(number), "%d", n + 1);
	args[3] = number;
	execv("/proc/self/exe", args);
	v_fail("execv: %s", strerror(errno));
	return arg;
}

/* Killed by the exec of another thread. */
static void *bystander(void *arg)
{
	for (;;)
		pause();
	return arg;
}

static void first_image(int argc, char **argv)
{
	static char *next[7];
	static char pid[16], fds[2][16];
	sigset_t set;
	int p[2];

	SYS(pipe(p));
	CHECK(write(p[1], "word", 4) == 4, "write");
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	SYS(sigprocmask(SIG_BLOCK, &set, NULL));
	SYS(kill(getpid(), SIGUSR1));
	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	snprintf(fds[0], sizeof(fds[0]), "%d", p[0]);
	snprintf(fds[1], sizeof(fds[1]), "%d", p[1]);
	next[0] = argv[0];
	next[1] = argv[1];
	next[2] = pid;
	next[3] = (char *)"0";
	next[4] = fds[0];
	next[5] = fds[1];
	args = next;
	v_ready();
	exec_again(NULL);
}

int main(int argc, char **argv)
{
	int rounds, i;
	char word[8], *memory;
	sigset_t set;

	v_init(argc, argv);
	if (argc < 6)
		first_image(argc, argv);
	args = argv;
	n = atoi(argv[3]);
	CHECK(getpid() == atoi(argv[2]), "pid %d, was %s", getpid(), argv[2]);
	memory = v_map(PAGES * V_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (rounds = 0; rounds < 1 + n % 4; rounds++) {
		for (i = 0; i < PAGES; i++)
			v_page_fill(memory + i * V_PAGE, n * PAGES + i);
		v_sleep_ms(n % 10);
		for (i = 0; i < PAGES; i++)
			CHECK(v_page_is(memory + i * V_PAGE, n * PAGES + i), "image %d: page %d", n,
			      i);
	}
	CHECK(read(atoi(argv[4]), word, sizeof(word)) == 4 && !memcmp(word, "word", 4), "the pipe");
	CHECK(write(atoi(argv[5]), "word", 4) == 4, "the pipe");
	sigpending(&set);
	CHECK(sigismember(&set, SIGUSR1), "the pending signal is lost");
	if (v_stopping()) {
		v_observe(NULL, V_NO_COMMON);
		v_remember();
		v_ok();
	}
	if (n % 5 == 0) {
		for (i = 0; i < n / 5 % 4; i++)
			v_thread(bystander, NULL);
		pthread_join(v_thread(exec_again, NULL), NULL);
	}
	exec_again(NULL);
}
