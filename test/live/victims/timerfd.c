/* SPDX-License-Identifier: Apache-2.0 */
/* Timers read as files: periodic, far off, absolute, expired and not read, not armed. */
#include "victim.h"

#include <sys/timerfd.h>

#define FAR 5000

enum { PERIODIC, FAR_OFF, ABSOLUTE, EXPIRED, DISARMED, BOOT, TIMERS };

static int fds[TIMERS];

static int make(clockid_t clock, int how, uint64_t first, uint64_t period)
{
	struct itimerspec its = {.it_value = {first / V_SEC, first % V_SEC},
				 .it_interval = {period / V_SEC, period % V_SEC}};
	int fd = SYS(timerfd_create(clock, TFD_NONBLOCK));

	SYS(timerfd_settime(fd, how, &its, NULL));
	return fd;
}

static uint64_t expirations(int i)
{
	uint64_t n;

	if (read(fds[i], &n, sizeof(n)) == sizeof(n))
		return n;
	CHECK(errno == EAGAIN, "timer %d: errno %d", i, errno);
	return 0;
}

static uint64_t left(int i)
{
	struct itimerspec its;

	SYS(timerfd_gettime(fds[i], &its));
	return its.it_value.tv_sec * V_SEC + its.it_value.tv_nsec;
}

static void note_timers(void)
{
	struct itimerspec its;
	int i;

	for (i = 0; i < TIMERS; i++) {
		SYS(timerfd_gettime(fds[i], &its));
		/* Until its interrupt has come, one that is due has nothing left. */
		v_note("timer %d every %ld.%09ld, armed %d", i, its.it_interval.tv_sec,
		       its.it_interval.tv_nsec, its.it_interval.tv_nsec || left(i) != 0);
	}
}

int main(int argc, char **argv)
{
	uint64_t start, gone, n, rest;

	v_init(argc, argv);
	v_watch_pauses();
	start = v_now();
	fds[PERIODIC] = make(CLOCK_MONOTONIC, 0, 10 * V_MSEC, 10 * V_MSEC);
	fds[FAR_OFF] = make(CLOCK_MONOTONIC, 0, FAR * V_SEC, 0);
	fds[ABSOLUTE] = make(CLOCK_MONOTONIC, TFD_TIMER_ABSTIME, start + FAR * V_SEC, 0);
	fds[EXPIRED] = make(CLOCK_REALTIME, 0, 1 * V_MSEC, 0);
	fds[DISARMED] = make(CLOCK_MONOTONIC, 0, 0, 0);
	fds[BOOT] = make(CLOCK_BOOTTIME, 0, FAR * V_SEC, 77 * V_SEC);
	v_sleep_ms(30);
	v_observe(note_timers, 0);
	v_ready();
	v_wait();
	v_recheck();
	gone = v_now() - start;
	n = expirations(PERIODIC);
	CHECK(n * 10 * V_MSEC <= gone + 50 * V_MSEC &&
		  n * 10 * V_MSEC + v_paused() + V_SEC / 2 >= gone,
	      "%lu periods of 10 ms in %lu ms, of which it stood still %lu", n, gone / V_MSEC,
	      v_paused() / V_MSEC);
	CHECK(expirations(EXPIRED) == 1, "the expiry that was not read is lost");
	CHECK(!expirations(FAR_OFF) && !expirations(ABSOLUTE) && !expirations(DISARMED) &&
		  !expirations(BOOT),
	      "a timer expired too early");
	rest = left(FAR_OFF) + gone;
	CHECK(rest + V_SEC >= FAR * V_SEC && rest <= FAR * V_SEC + v_paused() + V_SEC,
	      "relative timer: %lu ms left after %lu", left(FAR_OFF) / V_MSEC, gone / V_MSEC);
	rest = left(ABSOLUTE) + gone;
	CHECK(rest + V_SEC >= FAR * V_SEC && rest <= FAR * V_SEC + v_paused() + V_SEC,
	      "absolute timer: %lu ms left after %lu", left(ABSOLUTE) / V_MSEC, gone / V_MSEC);
	v_sleep_ms(200);
	n = expirations(PERIODIC);
	CHECK(n >= 10 && n <= 60, "%lu periods of 10 ms in 200 ms", n);
	v_ok();
}
