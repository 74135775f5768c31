/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Timers and waits on clocks that are others on the next host: each takes as long as it was to
 * take, by the clock of the wall, however far the monotonic clocks of the hosts are apart.
 *
 * With argument 1 the clocks themselves must go on, too, as in a time namespace.
 */
#include "victim.h"

#include <linux/futex.h>
#include <sys/timerfd.h>

#define WAIT_MS 2500
#define TURN_MS 400
/* What a move takes at most on a slow machine; the clocks are much further apart. */
#define SLACK_MS 20000

static _Atomic unsigned int done, turns;
static _Atomic bool ticked;
static bool goes_on;

static int64_t now_ms(clockid_t c)
{
	struct timespec ts;

	SYS(clock_gettime(c, &ts));
	return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static struct timespec moment(clockid_t c, int64_t ms)
{
	ms += now_ms(c);
	return (struct timespec){ms / 1000, ms % 1000 * 1000000};
}

static void check_took(const char *what, int64_t since)
{
	int64_t took = now_ms(CLOCK_REALTIME) - since;

	CHECK(took >= WAIT_MS - 50 && took < WAIT_MS + SLACK_MS, "%s: took %ld ms, not %d", what,
	      (long)took, WAIT_MS);
	done++;
}

static void *sleeps_until(void *arg)
{
	clockid_t c = (clockid_t)(intptr_t)arg;
	struct timespec until = moment(c, WAIT_MS);
	int64_t since = now_ms(CLOCK_REALTIME);
	int ret = clock_nanosleep(c, TIMER_ABSTIME, &until, NULL);

	CHECK(ret == 0, "clock_nanosleep: %d", ret);
	check_took(c == CLOCK_MONOTONIC ? "sleep until (monotonic)" : "sleep until (boottime)",
		   since);
	return NULL;
}

static void *sleeps_for(void *arg)
{
	struct timespec left = {WAIT_MS / 1000, WAIT_MS % 1000 * 1000000};
	int64_t since = now_ms(CLOCK_REALTIME);

	while (clock_nanosleep(CLOCK_MONOTONIC, 0, &left, &left) == EINTR)
		;
	check_took("sleep for", since);
	return NULL;
}

static void *waits_on_futex(void *arg)
{
	struct timespec until = moment(CLOCK_MONOTONIC, WAIT_MS);
	int64_t since = now_ms(CLOCK_REALTIME);
	int word = 0;
	long ret = syscall(SYS_futex, &word, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, 0, &until,
			   NULL, FUTEX_BITSET_MATCH_ANY);

	CHECK(ret == -1 && errno == ETIMEDOUT, "futex: %ld, errno %d", ret, errno);
	check_took("futex", since);
	return NULL;
}

static void *waits_on_condition(void *arg)
{
	pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
	pthread_cond_t c = PTHREAD_COND_INITIALIZER;
	struct timespec until = moment(CLOCK_MONOTONIC, WAIT_MS);
	int64_t since = now_ms(CLOCK_REALTIME);
	int ret;

	pthread_mutex_lock(&m);
	while (!(ret = pthread_cond_clockwait(&c, &m, CLOCK_MONOTONIC, &until)))
		;
	CHECK(ret == ETIMEDOUT, "pthread_cond_clockwait: %d", ret);
	check_took("condition", since);
	return NULL;
}

static void *reads_timerfd(void *arg)
{
	clockid_t c = (clockid_t)(intptr_t)arg;
	int64_t since = now_ms(CLOCK_REALTIME);
	struct itimerspec its = {.it_value = moment(c, WAIT_MS)};
	int fd = SYS(timerfd_create(c, TFD_CLOEXEC));
	uint64_t ticks = 0;

	SYS(timerfd_settime(fd, TFD_TIMER_ABSTIME, &its, NULL));
	CHECK(read(fd, &ticks, 8) == 8 && ticks == 1, "timerfd: %lu ticks", ticks);
	check_took("timerfd", since);
	return NULL;
}

/* A period, reckoned by the program itself: long, so that it is met in its sleep. */
static void *takes_turns(void *arg)
{
	struct timespec next = moment(CLOCK_MONOTONIC, 0);
	int64_t since = now_ms(CLOCK_REALTIME), took;

	while (done != *(unsigned int *)arg) {
		next.tv_nsec += TURN_MS * 1000000;
		if (next.tv_nsec >= 1000000000) {
			next.tv_nsec -= 1000000000;
			next.tv_sec++;
		}
		while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL) == EINTR)
			;
		turns++;
		took = now_ms(CLOCK_REALTIME) - since;
		CHECK(turns <= took / TURN_MS + 1, "%u turns of %d ms in %ld ms", turns, TURN_MS,
		      (long)took);
	}
	return NULL;
}

static void on_timer(int sig)
{
	ticked = true;
}

static void *sets_timer(void *arg)
{
	struct sigaction sa = {.sa_handler = on_timer, .sa_flags = SA_RESTART};
	struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
	struct itimerspec its = {.it_value = moment(CLOCK_MONOTONIC, WAIT_MS)};
	int64_t since = now_ms(CLOCK_REALTIME);
	timer_t t;

	SYS(sigaction(SIGUSR1, &sa, NULL));
	SYS(timer_create(CLOCK_MONOTONIC, &ev, &t));
	SYS(timer_settime(t, TIMER_ABSTIME, &its, NULL));
	while (!ticked)
		v_sleep_ms(5);
	check_took("POSIX timer", since);
	SYS(timer_delete(t));
	return NULL;
}

/* Of the wall clock, and of the others against it. */
static void check_clocks(int64_t ahead[2], int64_t last[2])
{
	static const clockid_t c[2] = {CLOCK_MONOTONIC, CLOCK_BOOTTIME};

	for (int i = 0; i < 2 && goes_on; i++) {
		int64_t now = now_ms(c[i]), wall = now_ms(CLOCK_REALTIME);

		CHECK(now >= last[i], "clock %d went back by %ld ms", c[i], (long)(last[i] - now));
		last[i] = now;
		if (!ahead[i])
			ahead[i] = wall - now;
		CHECK(llabs(wall - now - ahead[i]) < SLACK_MS, "clock %d jumped by %ld ms", c[i],
		      (long)(ahead[i] - (wall - now)));
	}
}

int main(int argc, char **argv)
{
	struct {
		void *(*fn)(void *);
		intptr_t arg;
	} waits[] = {{sleeps_until, CLOCK_MONOTONIC}, {sleeps_until, CLOCK_BOOTTIME},
		     {sleeps_for, 0},                 {waits_on_futex, 0},
		     {waits_on_condition, 0},         {reads_timerfd, CLOCK_MONOTONIC},
		     {reads_timerfd, CLOCK_BOOTTIME}, {sets_timer, 0}};
	static unsigned int all = V_COUNT(waits);
	int64_t ahead[2] = {0}, last[2] = {0};
	pthread_t turning;

	v_init(argc, argv);
	goes_on = v_arg(0, 0);
	for (unsigned int i = 0; i < all; i++)
		v_thread(waits[i].fn, (void *)waits[i].arg);
	turning = v_thread(takes_turns, &all);
	v_observe(NULL, V_NO_THREADS | V_NO_FDS | V_NO_SIGNALS | V_NO_CODE);
	check_clocks(ahead, last);
	v_ready();
	while (done < all || !v_stopping()) {
		check_clocks(ahead, last);
		usleep(2000);
	}
	SYS(pthread_join(turning, NULL) ? -1 : 0);
	CHECK(turns >= 4, "%u turns", turns);
	v_ok();
}
