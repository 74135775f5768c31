/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A parent that waits for its children with WUNTRACED, as shells and supervisors do, while one of
 * them writes memory so fast that it has to be throttled. No stop of that child may ever be seen.
 * Another one is stopped from the start, by itself, and must stay so. DIR/count: pages that the
 * writer has written, as in victim dirtier. Arguments: MiB of memory (32), MiB dirtied a second
 * (100).
 */
#include "victim.h"

static uint64_t *counter;

static void write_on(size_t pages, uint64_t per_second)
{
	char *memory = v_map(pages * V_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			     -1, 0);
	uint64_t i, due = 0, last = v_now();

	SYS(prctl(PR_SET_PDEATHSIG, SIGKILL));
	for (i = 0; i < pages; i++)
		v_page_fill(memory + i * V_PAGE, i);
	for (i = 0;; last = v_now()) {
		v_sleep_ms(1);
		uint64_t ns = v_now() - last;

		due += (ns > 20 * V_MSEC ? 20 * V_MSEC : ns) * per_second;
		for (; due > V_SEC; due -= V_SEC, i++) {
			CHECK(v_page_is(memory + i % pages * V_PAGE, i), "write %lu", i);
			v_page_fill(memory + i % pages * V_PAGE, i + pages);
			__atomic_store_n(counter, i + 1, __ATOMIC_RELEASE);
		}
	}
}

static char state_of(pid_t pid)
{
	char path[32], text[256] = "", *p;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	fd = SYS(open(path, O_RDONLY | O_CLOEXEC));
	SYS(read(fd, text, sizeof(text) - 1));
	close(fd);
	p = strrchr(text, ')');
	return p ? p[2] : '?';
}

int main(int argc, char **argv)
{
	pid_t writer, sleeper;
	int fd, status = 0;
	sigset_t child;

	v_init(argc, argv);
	fd = SYS(open(v_path("count"), O_CREAT | O_RDWR | O_TRUNC | O_CLOEXEC, 0666));
	SYS(ftruncate(fd, V_PAGE));
	counter = v_map(V_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	sleeper = SYS(fork());
	if (!sleeper) {
		raise(SIGSTOP);
		_exit(7);
	}
	CHECK(SYS(waitpid(sleeper, &status, WUNTRACED)) == sleeper && WIFSTOPPED(status),
	      "status %x", status);
	writer = SYS(fork());
	if (!writer)
		write_on((v_arg(0, 32) << 20) / V_PAGE, (v_arg(1, 100) << 20) / V_PAGE);
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	SYS(sigprocmask(SIG_BLOCK, &child, NULL));
	v_observe(NULL, V_NO_SIGNALS);
	v_ready();
	while (!v_stopping()) {
		/* asks as soon as something is said of a child */
		struct timespec tick = { .tv_nsec = 20 * V_MSEC };

		sigtimedwait(&child, NULL, &tick);
		CHECK(SYS(waitpid(writer, &status, WNOHANG | WUNTRACED)) == 0, "writer: status %x",
		      status);
	}
	CHECK(state_of(sleeper) == 'T', "the stopped child is in state %c", state_of(sleeper));
	SYS(kill(sleeper, SIGCONT));
	v_reap(sleeper, 7 << 8);
	SYS(kill(writer, SIGKILL));
	v_reap(writer, SIGKILL);
	v_ok();
}
