/* SPDX-License-Identifier: Apache-2.0 */
/* Pipes and FIFOs with what is in them. */
#include "kind_test.h"

#include <poll.h>
#include <signal.h>
#include <sys/wait.h>

static void carry(struct trip *t, const int *fds, size_t n)
{
	trip_begin(t);
	for (size_t i = 0; i < n; i++)
		assert_ok(t, trip_dump(t, fds[i]));
	assert_ok(t, trip_carry(t));
}

static void assert_reads(int fd, const char *want)
{
	char buf[256];
	ssize_t n = read(fd, buf, sizeof(buf));

	assert_int_equal(n, strlen(want));
	assert_memory_equal(buf, want, strlen(want));
}

static void both_ends(void **state)
{
	struct trip t = { 0 };
	int p[2], n = 0;

	assert_return_code(pipe(p), errno);
	assert_return_code(fcntl(p[1], F_SETPIPE_SZ, 1 << 18), errno);
	_cleanup_free_ char *again = xasprintf("/proc/self/fd/%d", p[0]);
	int third = open(again, O_RDWR | O_NONBLOCK);
	assert_true(third >= 0);
	for (int i = 0; i < 20000; i++)
		n += (int)write(p[1], "0123456789", 10);
	int fds[] = { p[0], p[1], third };
	carry(&t, fds, 3);
	assert_ok(&t, kind_dump_end(t.d, &t.e));
	int rd = trip_fd(&t, p[0]), wr = trip_fd(&t, p[1]), rw = trip_fd(&t, third);
	assert_ok(&t, rd);
	assert_ok(&t, wr);
	assert_ok(&t, rw);
	assert_int_equal(fcntl(rd, F_GETPIPE_SZ), 1 << 18);
	assert_int_equal(fcntl(rd, F_GETFL), fcntl(p[0], F_GETFL));
	assert_int_equal(fcntl(wr, F_GETFL), fcntl(p[1], F_GETFL));
	assert_int_equal(fcntl(rw, F_GETFL) & (O_ACCMODE | O_NONBLOCK), O_RDWR | O_NONBLOCK);
	for (int side = 0; side < 2; side++) {      /* the copy, and the original as it was */
		char buf[10];

		for (int i = 0; i < 20000; i++) {
			assert_int_equal(read(side ? p[0] : rd, buf, 10), 10);
			assert_memory_equal(buf, "0123456789", 10);
		}
	}
	assert_int_equal(n, 200000);
	assert_int_equal(write(wr, "x", 1), 1);
	assert_reads(rw, "x");
	assert_ok(&t, kind_finish(t.r, &t.e));
	trip_end(&t);
	close(p[0]);
	close(p[1]);
	close(third);
}

static void one_end(void **state)
{
	struct trip t = { 0 };
	int a[2], b[2];

	assert_return_code(pipe(a), errno);
	assert_return_code(pipe(b), errno);
	assert_int_equal(write(a[1], "last words", 10), 10);
	close(a[1]);
	assert_int_equal(write(b[1], "unread", 6), 6);
	close(b[0]);
	int fds[] = { a[0], b[1] };
	carry(&t, fds, 2);
	assert_ok(&t, kind_dump_end(t.d, &t.e));
	int rd = trip_fd(&t, a[0]), wr = trip_fd(&t, b[1]);
	assert_ok(&t, rd);
	assert_ok(&t, wr);
	assert_reads(rd, "last words");
	assert_reads(rd, "");
	signal(SIGPIPE, SIG_IGN);
	assert_int_equal(write(wr, "x", 1), -1);
	assert_int_equal(errno, EPIPE);
	trip_end(&t);
	close(a[0]);
	close(b[1]);
}

static void packets(void **state)
{
	struct trip t = { 0 };
	int p[2], q[2];

	assert_return_code(pipe2(p, O_DIRECT), errno);
	assert_return_code(pipe2(q, O_DIRECT), errno);
	assert_int_equal(write(p[1], "one", 3), 3);
	assert_int_equal(write(p[1], "second", 6), 6);
	assert_int_equal(write(p[1], "3", 1), 1);
	assert_int_equal(write(q[1], "single", 6), 6);
	int fds[] = { p[0], p[1], q[0], q[1] };
	carry(&t, fds, 4);
	int rd = trip_fd(&t, p[0]), wr = trip_fd(&t, p[1]), one = trip_fd(&t, q[0]);
	assert_ok(&t, rd);
	assert_ok(&t, one);
	assert_int_equal(fcntl(wr, F_GETFL), fcntl(p[1], F_GETFL));
	assert_reads(rd, "one");
	assert_reads(rd, "second");
	assert_reads(rd, "3");
	char c;
	assert_int_equal(read(one, &c, 1), 1);      /* the rest of a packet is lost */
	struct pollfd poll_one = { .fd = one, .events = POLLIN };
	assert_int_equal(poll(&poll_one, 1, 0), 0);
	trip_end(&t);
	for (size_t i = 0; i < 4; i++)
		close(fds[i]);
}

static void outside(void **state)
{
	struct trip t = { 0 };
	int p[2];

	assert_return_code(pipe(p), errno);
	assert_ok(&t, trip_check(&t, p[1]));
	assert_true(kind_dump_end(t.d, &t.e) < 0);
	assert_says(&t, "reading end is held by a process outside");
	assert_ok(&t, trip_check(&t, p[0]));
	assert_true(kind_dump_end(t.d, &t.e) < 0);
	assert_says(&t, "writing end is held by a process outside");
	assert_ok(&t, trip_check(&t, p[0]));
	assert_ok(&t, trip_check(&t, p[1]));
	assert_ok(&t, kind_dump_end(t.d, &t.e));
	trip_end(&t);
	close(p[0]);
	close(p[1]);
}

static void fifo(void **state)
{
	struct trip t = { .opts.ghost_limit = 1 };
	_cleanup_free_ char *path = xasprintf("%s/fifo", (char *)*state);

	for (int round = 0; round < 2; round++) {
		assert_return_code(mkfifo(path, 0600), errno);
		int rd = open(path, O_RDONLY | O_NONBLOCK), wr = open(path, O_WRONLY);
		assert_int_equal(write(wr, "in the fifo", 11), 11);
		if (round)
			unlink(path);
		int fds[] = { rd, wr };
		carry(&t, fds, 2);
		assert_reads(rd, "in the fifo");
		close(rd);
		close(wr);
		assert_int_equal(trip_verify(&t), 0);
		int rrd = trip_fd(&t, rd), rwr = trip_fd(&t, wr);
		assert_ok(&t, rrd);
		assert_ok(&t, rwr);
		assert_int_equal(fcntl(rrd, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
		assert_int_equal(fcntl(rwr, F_GETFL) & O_NONBLOCK, 0);
		assert_reads(rrd, "in the fifo");
		assert_int_equal(write(rwr, "more", 4), 4);
		assert_reads(rrd, "more");
		assert_ok(&t, kind_finish(t.r, &t.e));
		trip_end(&t);
		memset(&t, 0, sizeof(t));
		t.opts.ghost_limit = 1;
		unlink(path);
	}
}

static void fifo_missing(void **state)
{
	struct trip t = { 0 };
	_cleanup_free_ char *path = xasprintf("%s/gone", (char *)*state);

	assert_return_code(mkfifo(path, 0600), errno);
	int rd = open(path, O_RDONLY | O_NONBLOCK);
	carry(&t, &rd, 1);
	unlink(path);
	assert_int_equal(trip_verify(&t), 1);
	assert_says(&t, path);
	write_file(path, "no fifo");
	assert_int_equal(trip_verify(&t), 1);
	assert_true(trip_fd(&t, rd) < 0);
	assert_says(&t, "another type of file");
	trip_end(&t);
	close(rd);
}

/* The source stands still on the same kernel and holds the same FIFO. */
static void fifo_shared(void **state)
{
	struct trip t = { 0 };
	_cleanup_free_ char *path = xasprintf("%s/shared", (char *)*state);

	assert_return_code(mkfifo(path, 0600), errno);
	int rw = open(path, O_RDWR | O_NONBLOCK);
	assert_int_equal(write(rw, "once", 4), 4);
	carry(&t, &rw, 1);
	int fd = trip_fd(&t, rw);
	assert_ok(&t, fd);
	assert_reads(fd, "once");
	assert_true(read(rw, &(char){ 0 }, 1) < 0);
	assert_int_equal(write(rw, "other", 5), 5);
	assert_ok(&t, kind_restore_begin(t.r, t.set, &t.e));
	assert_true(trip_fd(&t, rw) < 0);
	assert_says(&t, "holds 5 other bytes");
	trip_end(&t);
	close(rw);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(both_ends),
		cmocka_unit_test(one_end),
		cmocka_unit_test(packets),
		cmocka_unit_test(outside),
		cmocka_unit_test(fifo),
		cmocka_unit_test(fifo_missing),
		cmocka_unit_test(fifo_shared),
	};

	return cmocka_run_group_tests(tests, enter_dir, leave_dir);
}
