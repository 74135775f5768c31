/* SPDX-License-Identifier: Apache-2.0 */
#include "kind_test.h"

#include <poll.h>
#include <sys/eventfd.h>

extern const struct kind kind_eventfd;

static int moved(struct trip *t, int fd)
{
	assert_ok(t, trip_check(t, fd));
	trip_begin(t);
	assert_ok(t, trip_dump(t, fd));
	assert_ok(t, trip_carry(t));
	int r = trip_fd(t, fd);
	assert_ok(t, r);
	assert_ok(t, kind_finish(t->r, &t->e));
	assert_int_equal(fcntl(r, F_GETFL), fcntl(fd, F_GETFL));
	return r;
}

static void counter_and_flags(void **state)
{
	static const struct { uint64_t n; int flags; } cases[] = {
		{ 0, EFD_NONBLOCK }, { 1, 0 }, { 7, EFD_NONBLOCK },
		{ 0x123456789abcdefull, EFD_NONBLOCK }, { UINT64_MAX - 1, EFD_NONBLOCK },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct trip t = { 0 };
		uint64_t n = 99;
		int fd = eventfd(0, cases[i].flags);

		assert_true(!cases[i].n || write(fd, &cases[i].n, 8) == 8);
		int r = moved(&t, fd);
		/* Nothing was taken from the source. */
		struct pollfd p = { fd, POLLIN, 0 };
		assert_int_equal(poll(&p, 1, 0), cases[i].n != 0);
		if (cases[i].n) {
			assert_int_equal(read(r, &n, 8), 8);
			assert_true(n == cases[i].n);
		} else {
			assert_int_equal(read(r, &n, 8), -1);
		}
		trip_end(&t);
		close(fd);
	}
}

static void semaphore(void **state)
{
	struct trip t = { 0 };
	int fd = eventfd(3, EFD_SEMAPHORE | EFD_NONBLOCK);
	uint64_t n;
	int r = moved(&t, fd);

	for (int i = 0; i < 3; i++) {
		assert_int_equal(read(r, &n, 8), 8);
		assert_true(n == 1);
	}
	assert_int_equal(read(r, &n, 8), -1);
	trip_end(&t);
	close(fd);
}

/* As before Linux 6.5: fdinfo does not say which are semaphores. Blocking ones, that a wrong step
 * would wait for ever. */
static void old_kernel(void **state)
{
	static const uint64_t counts[] = { 0, 1, 2, 3, 1ull << 40, UINT64_MAX - 2, UINT64_MAX - 1 };

	for (size_t i = 0; i < 2 * sizeof(counts) / sizeof(*counts); i++) {
		uint64_t n = counts[i / 2];
		int flag = i & 1 ? EFD_SEMAPHORE : 0, fd = eventfd(0, flag);
		struct trip t = { 0 };
		struct fd_view v;
		FileEntry fe = FILE_ENTRY__INIT;

		alarm(10);
		assert_true(!n || write(fd, &n, 8) == 8);
		for (int turn = 0; turn < 2; turn++) {
			assert_ok(&t, kind_view(getpid(), fd, fd, &v, &t.e));
			assert_true(v.info.eventfd_count == n);
			v.info.has_eventfd_semaphore = false;
			v.info.eventfd_semaphore = 0;
			assert_ok(&t, kind_eventfd.dump(NULL, &v, &fe, &t.e));
			assert_int_equal(fe.efd->flags & EFD_SEMAPHORE, flag);
			assert_true(fe.efd->counter == n);
			eventfd_file_entry__free_unpacked(fe.efd, NULL);
			assert_int_equal(fcntl(fd, F_GETFL), O_RDWR);
			kind_view_free(&v);
		}
		close(fd);
		alarm(0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(counter_and_flags),
		cmocka_unit_test(semaphore),
		cmocka_unit_test(old_kernel),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
