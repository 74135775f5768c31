/* SPDX-License-Identifier: Apache-2.0 */
/* The remote layer: hold, batches in any thread, the dead-man tail, shells. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io.h"
#include "remote.h"

struct shared {
	volatile uint64_t count;
	volatile int bad;
	volatile int stop;
};

static void *sleeper(void *arg)
{
	struct shared *s = arg;

	while (!s->stop)
		if (usleep(20000) < 0)
			s->bad = errno;
	return NULL;
}

/* A victim with `threads` sleeping threads that counts, with a check on its own registers. */
static pid_t victim(struct shared **out, int threads)
{
	struct shared *s = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
				0);
	pid_t pid = fork();

	if (pid == 0) {
		pthread_t t;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (int i = 0; i < threads; i++)
			pthread_create(&t, NULL, sleeper, s);
		double x = 1.0;
		for (uint64_t n = 1; !s->stop; n++) {
			x = x * 1.5 / 1.5;
			if (x < 0.999 || x > 1.001)
				s->bad = 1000;
			s->count = n;
		}
		_exit(s->bad ? (s->bad == 1000 ? 200 : s->bad) : 42);
	}
	while (s->count < 1000)
		usleep(1000);
	*out = s;
	return pid;
}

static void expect_goes_on(pid_t pid, struct shared *s)
{
	uint64_t was = s->count;
	int status;

	for (int i = 0; i < 200 && s->count <= was + 1000; i++)
		usleep(5000);
	assert_true(s->count > was + 1000);
	s->stop = 1;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 42);
	munmap(s, 4096);
}

#define OK(call) \
	do { \
		int ret_ = (call); \
		if (ret_ < 0) \
			fail_msg("%s: %s", #call, e.text); \
	} while (0)

static size_t maps_lines(pid_t pid)
{
	struct buf b = { 0 };
	struct err e = ERR_INIT;
	size_t n = 0;

	io_slurp(&b, &e, "/proc/%d/maps", pid);
	for (size_t i = 0; i < b.n; i++)
		n += b.at[i] == '\n';
	buf_free(&b);
	return n;
}

static void hold_and_release(void **state)
{
	struct err e = ERR_INIT;
	struct shared *s;
	pid_t pid = victim(&s, 8);

	for (int i = 0; i < 20; i++) {
		struct remote *r;

		OK(remote_hold(&r, pid, &e));
		size_t n = 0;
		while (remote_thread(r, n))
			n++;
		assert_int_equal(n, 9);
		uint64_t at = s->count;
		usleep(3000);
		assert_true(s->count == at);
		remote_release(r);
	}
	expect_goes_on(pid, s);
}

static void batches(void **state)
{
	struct err e = ERR_INIT;
	struct shared *s;
	struct remote *r;
	pid_t pid = victim(&s, 3);
	size_t lines = maps_lines(pid);

	for (int round = 0; round < 5; round++) {
		OK(remote_hold(&r, pid, &e));
		struct rthread *t;
		for (size_t i = 0; (t = remote_thread(r, i)); i++) {
			_cleanup_batch_ struct batch b = BATCH(t);
			char name[16] = "";
			gaddr at = batch_out(&b, 16);

			size_t tid = batch_call(&b, "gettid", SYS_gettid);
			batch_call(&b, "prctl", SYS_prctl, PR_GET_NAME, at);
			size_t bad = batch_call(&b, "?close", SYS_close, 999);
			OK(batch_run(&b, &e));
			assert_int_equal(b.call.at[tid].ret, t->tid);
			assert_int_equal(b.call.at[bad].ret, -EBADF);
			batch_get(&b, at, name, 16);
			assert_string_equal(name, "kind_remote");
		}
		_cleanup_batch_ struct batch b = BATCH(remote_leader(r));
		batch_call(&b, "close", SYS_close, 999);
		assert_int_equal(batch_run(&b, &e), -EBADF);
		assert_non_null(strstr(e.text, "close"));
		remote_release(r);
		assert_int_equal(maps_lines(pid), lines);
	}
	expect_goes_on(pid, s);
}

/* The orchestrator dies by SIGKILL at some moment of its work; the guest must go on. */
static void dead_man(void **state)
{
	struct shared *s;
	pid_t pid = victim(&s, 3);

	for (int i = 0; i < 60; i++) {
		pid_t tool = fork();

		if (tool == 0) {
			struct err e = ERR_INIT;
			struct remote *r;

			if (remote_hold(&r, pid, &e) < 0)
				_exit(1);
			for (size_t k = 0;; k++) {
				struct rthread *t = remote_thread(r, k % 4);
				_cleanup_batch_ struct batch b = BATCH(t);

				for (int c = 0; c < 50; c++)
					batch_call(&b, "gettid", SYS_gettid);
				if (batch_run(&b, &e) < 0)
					_exit(2);
			}
		}
		usleep(1500 + (useconds_t)i * 211);
		kill(tool, SIGKILL);
		int status;
		waitpid(tool, &status, 0);
		assert_true(WIFSIGNALED(status));
		uint64_t was = s->count;
		for (int k = 0; k < 400 && s->count == was; k++)
			usleep(5000);
		assert_true(s->count > was);
	}
	struct buf b = { 0 };
	struct err e = ERR_INIT;
	OK(io_slurp(&b, &e, "/proc/%d/status", pid));
	assert_non_null(strstr((char *)b.at, "SigBlk:\t0000000000000000"));
	buf_free(&b);
	expect_goes_on(pid, s);
}

/* Code for a shell's life after release: exit_group(7). */
static const uint8_t exit7[] = { 0xb8, 0xe7, 0, 0, 0, 0xbf, 7, 0, 0, 0, 0x0f, 0x05 };

static void shells(void **state)
{
	struct err e = ERR_INIT;
	struct remote *root, *child;

	OK(remote_shell(&root, 0, 0, NULL, 0, &e));
	assert_true(maps_lines(remote_pid(root)) <= 5);
	OK(remote_shell_child(&child, root, 0, 0, &e));
	pid_t base = remote_pid(child) + 50, tids[3] = { base, base + 1, base + 2 };
	OK(remote_shell_threads(child, tids, 3, &e));
	assert_int_equal(remote_thread(child, 2)->tid, base + 1);
	assert_int_equal(remote_shell_threads(child, tids, 1, &e), -EEXIST);

	int p[2];
	assert_int_equal(pipe(p), 0);
	struct remote_fd fds[] = { { p[1], 1, 0 }, { p[0], 3, FD_CLOEXEC }, { p[1], 700, 0 } };
	OK(remote_fd_put(root, fds, 3, &e));

	_cleanup_batch_ struct batch b = BATCH(remote_leader(root));
	gaddr code = 0x400000;
	batch_call(&b, "write", SYS_write, 700, batch_in(&b, "hi", 2), 2);
	size_t cloexec = batch_call(&b, "fcntl", SYS_fcntl, 3, F_GETFD);
	size_t none = batch_call(&b, "?fcntl", SYS_fcntl, 0, F_GETFD);
	batch_call(&b, "mmap", SYS_mmap, code, 4096, PROT_READ | PROT_EXEC,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	OK(batch_run(&b, &e));
	assert_int_equal(b.call.at[cloexec].ret, FD_CLOEXEC);
	assert_int_equal(b.call.at[none].ret, -EBADF);
	char got[2];
	assert_int_equal(read(p[0], got, 2), 2);
	OK(remote_write(root, code, exit7, sizeof(exit7), &e));
	struct rthread *t = remote_leader(root);
	pid_t pid = t->tid;
	t->regs.rip = code;
	t->regs.orig_rax = (unsigned long long)-1;
	remote_kill(child);
	remote_release(root);
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 7);
	close(p[0]);
	close(p[1]);
}

/* ---- exec in a thread, with others that have to end for it ---- */

#define STORM "--exec-again"

static char *storm_args[4];

static void *exec_again(void *arg)
{
	usleep(*(unsigned int *)arg % 700);
	execv("/proc/self/exe", storm_args);
	_exit(201);
}

/* The image: counts, and makes way for the next one. */
static int storm(char **argv)
{
	struct shared *s = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, atoi(argv[2]), 0);
	unsigned int pause_us = (unsigned int)s->count * 37;
	pthread_t t;

	s->count++;
	if (s->stop)
		return 42;
	for (int i = 0; i < 6; i++)
		pthread_create(&t, NULL, sleeper, s);
	memcpy(storm_args, argv, 3 * sizeof(*argv));
	pthread_create(&t, NULL, exec_again, &pause_us);
	pthread_join(t, NULL);
	return 202;
}

static void expect_more(const struct shared *s)
{
	uint64_t was = s->count;

	for (int i = 0; i < 5000 && s->count == was; i++)
		usleep(1000);
	assert_true(s->count > was);
}

/* Held at any moment of an exec, it goes on after that: nothing of it waits for us. */
static void exec_storm(void **state)
{
	struct err e = ERR_INIT;
	int fd = memfd_create("count", 0), status;
	char number[16];
	struct shared *s;

	assert_int_equal(ftruncate(fd, 4096), 0);
	s = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	snprintf(number, sizeof(number), "%d", fd);
	pid_t pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		execl("/proc/self/exe", "storm", STORM, number, NULL);
		_exit(203);
	}
	expect_more(s);
	for (int i = 0; i < 300; i++) {
		struct remote *r;

		OK(remote_hold(&r, pid, &e));
		remote_release(r);
		if (i % 10 == 0)
			expect_more(s);
		usleep((unsigned int)i * 61 % 900);
	}
	s->stop = 1;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 42);
	munmap(s, 4096);
	close(fd);
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], STORM))
		return storm(argv);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(hold_and_release),
		cmocka_unit_test(batches),
		cmocka_unit_test(dead_man),
		cmocka_unit_test(shells),
		cmocka_unit_test(exec_storm),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
