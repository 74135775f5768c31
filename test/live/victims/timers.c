/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Interval timers of the three clocks and POSIX timers of several sorts: ids, periods, remaining
 * time, overruns, and that each goes on to fire at its rate.
 */
#include "victim.h"

#include <sys/time.h>

/* Longer than any test: only what remains of them is looked at. */
#define FAR 5000

enum { PERIODIC, THREAD, SILENT, FAR_OFF, DISARMED, OVERRUN, TIMERS };

static int ids[TIMERS];
static _Atomic unsigned int ticks[3], fired[TIMERS];
static volatile uint64_t burned;
static uint64_t started;

static void on_itimer(int sig)
{
	ticks[sig == SIGALRM ? 0 : sig == SIGVTALRM ? 1 : 2]++;
}

static void on_timer(int sig, siginfo_t *si, void *ctx)
{
	int i;

	CHECK(si->si_code == SI_TIMER, "signal %d: code %d", sig, si->si_code);
	i = si->si_value.sival_int;
	CHECK(i >= 0 && i < TIMERS, "signal %d: value %d", sig, i);
	CHECK(si->si_timerid == ids[i], "timer %d: id %d, was %d", i, si->si_timerid, ids[i]);
	if (i == THREAD)
		CHECK(gettid() != getpid(), "the thread's timer came to the leader");
	fired[i]++;
}

static void make_timer(int i, clockid_t clock, int notify, int sig, pid_t tid, long first,
		       long period)
{
	struct sigevent ev = {.sigev_notify = notify, .sigev_signo = sig};
	struct itimerspec its = {.it_value = {first / 1000, first % 1000 * 1000000},
				 .it_interval = {period / 1000, period % 1000 * 1000000}};

	ev.sigev_value.sival_int = i;
	ev._sigev_un._tid = tid;
	SYS(syscall(SYS_timer_create, clock, &ev, &ids[i]));
	SYS(syscall(SYS_timer_settime, ids[i], 0, &its, NULL));
}

static void note_timers(void)
{
	struct itimerspec its;
	struct itimerval itv;
	int i;

	for (i = 0; i < 3; i++) {
		SYS(getitimer(i, &itv));
		v_note("itimer %d every %ld.%06ld", i, itv.it_interval.tv_sec,
		       itv.it_interval.tv_usec);
	}
	for (i = 0; i < TIMERS; i++) {
		SYS(syscall(SYS_timer_gettime, ids[i], &its));
		v_note("timer %d id %d every %ld.%09ld armed %d", i, ids[i], its.it_interval.tv_sec,
		       its.it_interval.tv_nsec, its.it_value.tv_sec || its.it_value.tv_nsec);
	}
}

static void *second(void *arg)
{
	sigset_t set;

	sigfillset(&set);
	sigdelset(&set, SIGUSR2);
	SYS(pthread_sigmask(SIG_SETMASK, &set, NULL));
	make_timer(THREAD, CLOCK_MONOTONIC, SIGEV_THREAD_ID, SIGUSR2, gettid(), 30, 30);
	*(_Atomic bool *)arg = true;
	for (;;)
		pause();
	return NULL;
}

static uint64_t cpu_time(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return ts.tv_sec * V_SEC + ts.tv_nsec;
}

static void set_all(void)
{
	struct sigaction sa = {.sa_handler = on_itimer, .sa_flags = SA_RESTART};
	struct itimerval itv = {{0, 50000}, {0, 50000}}, cpu = {{0, 20000}, {0, 20000}};
	_Atomic bool second_up = false;

	SYS(sigaction(SIGALRM, &sa, NULL));
	SYS(sigaction(SIGVTALRM, &sa, NULL));
	SYS(sigaction(SIGPROF, &sa, NULL));
	sa.sa_sigaction = on_timer;
	sa.sa_flags |= SA_SIGINFO;
	SYS(sigaction(SIGUSR1, &sa, NULL));
	SYS(sigaction(SIGUSR2, &sa, NULL));
	make_timer(PERIODIC, CLOCK_REALTIME, SIGEV_SIGNAL, SIGUSR1, 0, 40, 40);
	/* One that was and is no more: the next id is not the next number. */
	make_timer(SILENT, CLOCK_MONOTONIC, SIGEV_NONE, 0, 0, 10, 10);
	SYS(syscall(SYS_timer_delete, ids[SILENT]));
	make_timer(SILENT, CLOCK_BOOTTIME, SIGEV_NONE, 0, 0, FAR * 1000, 1000);
	make_timer(FAR_OFF, CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGUSR1, 0, FAR * 1000, 0);
	make_timer(DISARMED, CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGUSR1, 0, 0, 0);
	/* Its signal is blocked: it is pending and collects overruns. */
	make_timer(OVERRUN, CLOCK_MONOTONIC, SIGEV_SIGNAL, 45, 0, 1, 1);
	v_thread(second, &second_up);
	while (!second_up)
		v_sleep_ms(1);
	SYS(setitimer(ITIMER_REAL, &itv, NULL));
	SYS(setitimer(ITIMER_VIRTUAL, &cpu, NULL));
	SYS(setitimer(ITIMER_PROF, &cpu, NULL));
	started = v_now();
}

/* What remains of a far timer is the time gone by less, within the time the victim stood still. */
static void check_remaining(int i)
{
	struct itimerspec its;
	uint64_t gone = v_now() - started, left;

	SYS(syscall(SYS_timer_gettime, ids[i], &its));
	left = its.it_value.tv_sec * V_SEC + its.it_value.tv_nsec;
	CHECK(left + gone >= FAR * V_SEC - V_SEC && left + gone <= FAR * V_SEC + v_paused() + V_SEC,
	      "timer %d has %lu ms left after %lu ms, of which it stood still %lu ms", i,
	      (unsigned long)(left / V_MSEC), (unsigned long)(gone / V_MSEC),
	      (unsigned long)(v_paused() / V_MSEC));
}

/* Uses so much time of the processor, of which others may take most. */
static void work(unsigned int ms)
{
	uint64_t end = cpu_time() + ms * V_MSEC;

	while (cpu_time() < end)
		for (int i = 0; i < 10000; i++)
			burned++;
}

int main(int argc, char **argv)
{
	static const unsigned int period[3] = {50, 20, 20};
	unsigned int t[3], f[TIMERS], i, overruns = 0;
	uint64_t start, took;
	struct timespec zero = {0};
	siginfo_t si;
	sigset_t set;

	v_init(argc, argv);
	/* In all threads. */
	sigemptyset(&set);
	sigaddset(&set, 45);
	SYS(pthread_sigmask(SIG_BLOCK, &set, NULL));
	v_watch_pauses();
	set_all();
	v_observe(note_timers, V_NO_SIGNALS);
	v_ready();
	while (!v_stopping())
		work(10);
	v_recheck();
	for (i = 0; i < 3; i++)
		t[i] = ticks[i];
	memcpy(f, fired, sizeof(f));
	start = v_now();
	work(600);
	took = (v_now() - start) / V_MSEC;
	for (i = 0; i < 3; i++)
		CHECK(ticks[i] - t[i] >= 4 && ticks[i] - t[i] <= (i ? 1200 : took) / period[i] + 5,
		      "itimer %u: %u ticks in %lu ms, 600 of the processor", i, ticks[i] - t[i],
		      took);
	CHECK(fired[PERIODIC] - f[PERIODIC] >= 4 && fired[PERIODIC] - f[PERIODIC] <= took / 40 + 5,
	      "periodic timer: %u ticks in %lu ms", fired[PERIODIC] - f[PERIODIC], took);
	CHECK(fired[THREAD] - f[THREAD] >= 4, "the thread's timer does not fire");
	CHECK(!fired[FAR_OFF] && !fired[DISARMED] && !fired[SILENT], "a timer fired too early");
	check_remaining(SILENT);
	check_remaining(FAR_OFF);
	/* One that was pending when it was dumped, and the timer's next. */
	while (sigtimedwait(&set, &si, &zero) == 45) {
		CHECK(si.si_code == SI_TIMER && si.si_value.sival_int == OVERRUN,
		      "overrun's siginfo");
		overruns += 1 + si.si_overrun;
	}
	CHECK(overruns > 500, "only %u periods of 1 ms in 0.6 s", overruns);
	v_ok();
}
