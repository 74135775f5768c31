/* SPDX-License-Identifier: Apache-2.0 */
/* Event counters, also as semaphores and full, and signalfds with and without waiting signals. */
#include "victim.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>

static int plain, semaphore, zero, full, shared, sig_one, sig_two;

static uint64_t get(int fd)
{
	uint64_t v;

	return read(fd, &v, sizeof(v)) == sizeof(v) ? v : ~0ULL;
}

static void put(int fd, uint64_t v)
{
	CHECK(write(fd, &v, sizeof(v)) == sizeof(v), "write");
}

static void expect_signal(int fd, int sig, int value)
{
	struct signalfd_siginfo si;

	CHECK(read(fd, &si, sizeof(si)) == sizeof(si), "signalfd: errno %d", errno);
	CHECK(si.ssi_signo == (uint32_t)sig && si.ssi_int == value, "signalfd: signal %u value %d",
	      si.ssi_signo, si.ssi_int);
}

static void make_signalfds(void)
{
	union sigval v = {.sival_int = 11};
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, 44);
	SYS(pthread_sigmask(SIG_BLOCK, &set, NULL));
	sig_one = SYS(signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC));
	sigdelset(&set, SIGUSR1);
	sigaddset(&set, 50);
	sig_two = SYS(signalfd(-1, &set, 0));
	SYS(sigqueue(getpid(), SIGUSR1, v));
	for (v.sival_int = 20; v.sival_int < 23; v.sival_int++)
		SYS(sigqueue(getpid(), 44, v));
}

static void note_ready(void)
{
	struct pollfd p[] = {{plain, POLLIN | POLLOUT},   {semaphore, POLLIN | POLLOUT},
			     {zero, POLLIN | POLLOUT},    {full, POLLIN | POLLOUT},
			     {sig_one, POLLIN | POLLOUT}, {sig_two, POLLIN | POLLOUT}};
	size_t i;

	SYS(poll(p, V_COUNT(p), 0));
	for (i = 0; i < V_COUNT(p); i++)
		v_note("fd %d is ready for %#x", p[i].fd, p[i].revents);
}

int main(int argc, char **argv)
{
	int i, beats = 0;
	pid_t pid;

	v_init(argc, argv);
	plain = SYS(eventfd(0, EFD_CLOEXEC));
	put(plain, 123456789012345ULL);
	semaphore = SYS(eventfd(5, EFD_SEMAPHORE | EFD_NONBLOCK));
	zero = SYS(eventfd(0, EFD_NONBLOCK));
	full = SYS(eventfd(0, EFD_NONBLOCK));
	put(full, ~0ULL - 1);
	shared = SYS(eventfd(0, EFD_SEMAPHORE));
	pid = SYS(fork());
	if (!pid) {
		/* Each unit of the shared counter is a beat. */
		while (get(shared) == 1)
			if (++beats == 1000)
				_exit(5);
		_exit(1);
	}
	make_signalfds();
	v_observe(note_ready, 0);
	v_ready();
	for (beats = 0; beats < 900 && !v_stopping(); beats++) {
		put(shared, 1);
		v_sleep_ms(3);
	}
	v_wait();
	v_recheck();
	put(shared, 1000 - beats);
	v_reap(pid, 5 << 8);
	CHECK(get(plain) == 123456789012345ULL, "plain counter");
	for (i = 0; i < 5; i++)
		CHECK(get(semaphore) == 1, "semaphore, %d", i);
	CHECK(get(semaphore) == ~0ULL && errno == EAGAIN, "semaphore: one too many");
	CHECK(get(zero) == ~0ULL && errno == EAGAIN, "zero counter");
	CHECK(get(full) == ~0ULL - 1, "full counter");
	expect_signal(sig_one, SIGUSR1, 11);
	expect_signal(sig_two, 44, 20);
	expect_signal(sig_one, 44, 21);
	expect_signal(sig_two, 44, 22);
	v_ok();
}
