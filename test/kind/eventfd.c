/* SPDX-License-Identifier: Apache-2.0 */
#include "kind_test.h"

#include <poll.h>
#include <sys/eventfd.h>

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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(counter_and_flags),
		cmocka_unit_test(semaphore),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
