/* SPDX-License-Identifier: Apache-2.0 */
#include "kind_test.h"

#include <poll.h>
#include <sys/timerfd.h>
#include <time.h>

static struct timespec in(clockid_t clock, double sec)
{
	struct timespec t;

	clock_gettime(clock, &t);
	t.tv_sec += (time_t)sec;
	t.tv_nsec += (long)((sec - (double)(time_t)sec) * 1e9);
	if (t.tv_nsec >= 1000000000) {
		t.tv_nsec -= 1000000000;
		t.tv_sec++;
	}
	return t;
}

static double left(int fd)
{
	struct itimerspec its;

	assert_return_code(timerfd_gettime(fd, &its), errno);
	return (double)its.it_value.tv_sec + (double)its.it_value.tv_nsec / 1e9;
}

/* Out of the images after `pause` seconds. */
static int moved(struct trip *t, int fd, double pause)
{
	assert_ok(t, trip_check(t, fd));
	trip_begin(t);
	assert_ok(t, trip_dump(t, fd));
	usleep((useconds_t)(pause * 1e6));
	assert_ok(t, trip_carry(t));
	int r = trip_fd(t, fd);
	assert_ok(t, r);
	assert_ok(t, kind_finish(t->r, &t->e));
	assert_int_equal(fcntl(r, F_GETFL), fcntl(fd, F_GETFL));
	return r;
}

static void time_left_is_kept(void **state)
{
	static const struct { int clock, flags; } cases[] = {
		{ CLOCK_MONOTONIC, 0 }, { CLOCK_MONOTONIC, TFD_TIMER_ABSTIME },
		{ CLOCK_BOOTTIME, 0 }, { CLOCK_BOOTTIME, TFD_TIMER_ABSTIME },
		{ CLOCK_REALTIME, 0 },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct trip t = { 0 };
		struct itimerspec its = { .it_value = { 100, 900000000 },
					  .it_interval = { 7, 5 } }, now;
		int fd = timerfd_create(cases[i].clock, TFD_NONBLOCK);

		if (cases[i].flags)
			its.it_value = in(cases[i].clock, 100.9);
		assert_return_code(timerfd_settime(fd, cases[i].flags, &its, NULL), errno);
		int r = moved(&t, fd, 0.3);
		/* 0.3 seconds passed only here. */
		assert_true(left(r) - left(fd) > 0.29 && left(r) <= 100.9);
		assert_return_code(timerfd_gettime(r, &now), errno);
		assert_true(now.it_interval.tv_sec == 7 && now.it_interval.tv_nsec == 5);
		trip_end(&t);
		close(fd);
	}
}

static void wall_clock_moment_is_kept(void **state)
{
	static const int flags[] = { TFD_TIMER_ABSTIME,
				     TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET };

	for (size_t i = 0; i < 2; i++) {
		struct trip t = { 0 };
		struct itimerspec its = { .it_value = in(CLOCK_REALTIME, 50.5) };
		struct fd_view v;
		int fd = timerfd_create(CLOCK_REALTIME, 0);

		assert_return_code(timerfd_settime(fd, flags[i], &its, NULL), errno);
		int r = moved(&t, fd, 0.3);
		double diff = left(r) - left(fd);
		assert_true(diff > -0.01 && diff < 0.1);
		assert_ok(&t, kind_view(getpid(), r, r, &v, &t.e));
		assert_int_equal(v.info.timerfd.settime_flags, flags[i]);
		kind_view_free(&v);
		trip_end(&t);
		close(fd);
	}
}

static void ticks_not_read(void **state)
{
	struct trip t = { 0 };
	struct itimerspec its = { .it_value = { 0, 1000000 }, .it_interval = { 0, 10000000 } };
	int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
	uint64_t a, b;

	timerfd_settime(fd, 0, &its, NULL);
	usleep(55000);
	its = (struct itimerspec){ { 1000, 0 }, { 1000, 0 } };
	int r = moved(&t, fd, 0);
	assert_int_equal(read(r, &b, 8), 8);
	assert_int_equal(read(fd, &a, 8), 8);
	assert_true(b >= 5 && b <= a && a - b <= 10);
	trip_end(&t);
	close(fd);
}

static void fired_once_and_never_set(void **state)
{
	struct trip t = { 0 }, t2 = { 0 };
	struct itimerspec its = { .it_value = { 0, 1 } };
	int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
	int idle = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
	uint64_t n = 0;

	timerfd_settime(fd, 0, &its, NULL);
	usleep(1000);
	int r = moved(&t, fd, 0);
	assert_int_equal(read(r, &n, 8), 8);
	assert_true(n == 1 && left(r) == 0);
	r = moved(&t2, idle, 0);
	assert_int_equal(read(r, &n, 8), -1);
	assert_true(left(r) == 0);
	trip_end(&t);
	trip_end(&t2);
	close(fd);
	close(idle);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(time_left_is_kept),
		cmocka_unit_test(wall_clock_moment_is_kept),
		cmocka_unit_test(ticks_not_read),
		cmocka_unit_test(fired_once_and_never_set),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
