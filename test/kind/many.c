/* SPDX-License-Identifier: Apache-2.0 */
/* Many descriptors: time (of the CPU) must not grow with the square of their number. */
#include "kind_test.h"

#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>

#define MAX 8000

static double now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

struct times { double check, dump, load, make, finish; };

static size_t open_all(const char *dir, size_t n, int *fds)
{
	_cleanup_free_ char *path = xasprintf("%s/file", dir);
	size_t i = 0;

	write_file(path, "contents");
	while (i + 8 <= n) {
		fds[i++] = open(path, O_RDWR);
		fds[i++] = open("/dev/null", O_RDWR);
		fds[i++] = eventfd(5, 0);
		fds[i++] = socket(AF_INET, SOCK_STREAM, 0);
		assert_int_equal(pipe(&fds[i]), 0);
		assert_int_equal(write(fds[i + 1], "piped", 5), 5);
		i += 2;
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, &fds[i]), 0);
		assert_int_equal(send(fds[i], "sent", 4, 0), 4);
		i += 2;
	}
	for (size_t k = 0; k < i; k++)
		assert_true(fds[k] >= 0);
	return i;
}

static struct times travel(const char *dir, size_t want)
{
	static int fds[MAX];
	struct trip t = { 0 };
	struct times r;
	size_t n = open_all(dir, want, fds);

	double start = now_ms();
	for (size_t i = 0; i < n; i++)
		assert_ok(&t, trip_check(&t, fds[i]));
	assert_ok(&t, kind_dump_end(t.d, &t.e));
	r.check = now_ms() - start;
	start = now_ms();
	trip_begin(&t);
	for (size_t i = 0; i < n; i++)
		assert_ok(&t, trip_dump(&t, fds[i]));
	assert_ok(&t, kind_dump_end(t.d, &t.e));
	r.dump = now_ms() - start;
	start = now_ms();
	assert_ok(&t, trip_carry(&t));
	r.load = now_ms() - start;
	start = now_ms();
	for (size_t i = 0; i < n; i++)
		assert_ok(&t, trip_fd(&t, fds[i]));
	r.make = now_ms() - start;
	start = now_ms();
	assert_ok(&t, kind_finish(t.r, &t.e));
	r.finish = now_ms() - start;
	trip_end(&t);
	for (size_t i = 0; i < n; i++)
		close(fds[i]);
	print_message("%5zu: check %.1f, dump %.1f, load %.1f, make %.1f, finish %.1f ms\n",
		      n, r.check, r.dump, r.load, r.make, r.finish);
	return r;
}

static void grows_with_their_number(void **state)
{
	struct rlimit limit;

	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = 2 * MAX + 100;
	if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
		skip();
	struct times few = travel(*state, 1000), many = travel(*state, MAX);
	/* Eight times as many: the square would be 64 times as long. */
	assert_true(many.check < 30 * few.check + 50);
	assert_true(many.dump < 30 * few.dump + 50);
	assert_true(many.load < 30 * few.load + 50);
	assert_true(many.make < 30 * few.make + 50);
	assert_true(many.finish < 30 * few.finish + 50);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(grows_with_their_number),
	};

	return cmocka_run_group_tests(tests, enter_dir, leave_dir);
}
