/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Handlers with masks and flags, blocked and pending signals with their siginfo (of the process and
 * of a thread), an alternate stack, and a handler that is running while the victim is moved.
 */
#include "victim.h"

static char alt[65536] __attribute__((aligned(4096)));
static volatile sig_atomic_t in_handler, leave_handler, handled;
static _Atomic int standing;

static void note_actions(void)
{
	struct sigaction sa;
	int sig;

	for (sig = 1; sig <= 64; sig++) {
		if (sigaction(sig, NULL, &sa) < 0)
			continue;
		v_note("signal %d: handler %p flags %#x mask %#lx", sig, (void *)sa.sa_sigaction,
		       sa.sa_flags, *(unsigned long *)&sa.sa_mask);
	}
}

/* Stays inside until it is told to leave: moved while on the alternate stack. */
static void slow_handler(int sig, siginfo_t *si, void *ctx)
{
	char here;

	CHECK(&here > alt && &here < alt + sizeof(alt), "not on the alternate stack");
	in_handler = 1;
	while (!leave_handler)
		v_sleep_ms(1);
	handled = si->si_value.sival_int;
}

static void never(int sig)
{
	v_fail("handler of signal %d ran", sig);
}

/* The code is one that libc hands on as it is. */
static void queue(pid_t tid, int sig, int code, int value)
{
	siginfo_t si;

	memset(&si, 0, sizeof(si));
	si.si_signo = sig;
	si.si_code = code;
	si.si_pid = getpid();
	si.si_uid = 4321;
	si.si_value.sival_int = value;
	if (tid)
		SYS(syscall(SYS_rt_tgsigqueueinfo, getpid(), tid, sig, &si));
	else
		SYS(syscall(SYS_rt_sigqueueinfo, getpid(), sig, &si));
}

static void expect(int sig, int code, int value)
{
	struct timespec zero = {0};
	siginfo_t si;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, sig);
	CHECK(sigtimedwait(&set, &si, &zero) == sig, "signal %d is not pending", sig);
	CHECK(si.si_code == code && si.si_value.sival_int == value && si.si_uid == 4321 &&
		  si.si_pid == getpid(),
	      "signal %d: code %d value %d uid %d", sig, si.si_code, si.si_value.sival_int,
	      si.si_uid);
}

static void expect_none(void)
{
	struct timespec zero = {0};
	siginfo_t si;
	sigset_t set;
	int sig;

	sigfillset(&set);
	sig = sigtimedwait(&set, &si, &zero);
	CHECK(sig < 0 && errno == EAGAIN, "signal %d is pending that was not", sig);
}

static void set_actions(void)
{
	struct sigaction sa = {.sa_handler = never, .sa_flags = SA_RESTART | SA_NODEFER};

	sigaddset(&sa.sa_mask, SIGHUP);
	sigaddset(&sa.sa_mask, 50);
	SYS(sigaction(SIGHUP, &sa, NULL));
	SYS(sigaction(SIGUSR1, &sa, NULL));
	SYS(sigaction(40, &sa, NULL));
	sa.sa_handler = SIG_IGN;
	SYS(sigaction(SIGPIPE, &sa, NULL));
	/* An ignored SIGTRAP is what a debugger's trap would reset. */
	SYS(sigaction(SIGTRAP, &sa, NULL));
	memset(&sa, 0, sizeof(sa));
	sa.sa_sigaction = slow_handler;
	sa.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESETHAND;
	SYS(sigaction(SIGUSR2, &sa, NULL));
}

/* Has signals of its own pending. */
static void *second(void *arg)
{
	sigset_t set;
	int i;

	sigfillset(&set);
	sigdelset(&set, SIGTERM);
	SYS(pthread_sigmask(SIG_SETMASK, &set, NULL));
	for (i = 0; i < 5; i++)
		queue(gettid(), 41, SI_MESGQ, 200 + i);
	standing++;
	while (!leave_handler)
		v_sleep_ms(5);
	for (i = 0; i < 5; i++)
		expect(41, SI_MESGQ, 200 + i);
	return arg;
}

/* Is in its handler, on the alternate stack, while it is moved. */
static void *third(void *arg)
{
	union sigval v = {.sival_int = 77};
	stack_t st = {.ss_sp = alt, .ss_size = sizeof(alt)}, now;
	sigset_t set;

	SYS(sigaltstack(&st, NULL));
	sigfillset(&set);
	sigdelset(&set, SIGUSR2);
	SYS(pthread_sigmask(SIG_SETMASK, &set, NULL));
	SYS(pthread_sigqueue(pthread_self(), SIGUSR2, v));
	CHECK(handled == 77, "the handler was left without its siginfo");
	SYS(sigaltstack(NULL, &now));
	CHECK(now.ss_sp == alt && now.ss_size == sizeof(alt) && !now.ss_flags, "altstack changed");
	return arg;
}

int main(int argc, char **argv)
{
	sigset_t set;
	pthread_t t[2];
	int i;

	v_init(argc, argv);
	set_actions();
	sigfillset(&set);
	SYS(pthread_sigmask(SIG_SETMASK, &set, NULL));
	t[0] = v_thread(second, NULL);
	t[1] = v_thread(third, NULL);
	for (i = 0; i < 8; i++)
		queue(0, 40, SI_QUEUE, 100 + i);
	queue(0, SIGHUP, SI_QUEUE, 1);
	queue(gettid(), SIGUSR1, SI_MESGQ, 2);
	queue(gettid(), 42, SI_MESGQ, 3);
	while (!in_handler || !standing)
		v_sleep_ms(1);
	v_observe(note_actions, 0);
	v_ready();
	v_wait();
	v_recheck();
	leave_handler = 1;
	pthread_join(t[0], NULL);
	pthread_join(t[1], NULL);
	expect(SIGUSR1, SI_MESGQ, 2);
	expect(SIGHUP, SI_QUEUE, 1);
	for (i = 0; i < 8; i++)
		expect(40, SI_QUEUE, 100 + i);
	expect(42, SI_MESGQ, 3);
	expect_none();
	v_ok();
}
