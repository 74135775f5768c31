/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads that stand in system calls while the victim is moved. None may see an error that the
 * kernel keeps to itself, nor EINTR: no handler ran. Calls with a timeout must last as long as
 * was asked, not counting the time in which the victim stood still.
 */
#include "victim.h"

#include <linux/futex.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>

#define WAIT_MS 3000

struct waiter {
	const char *name;
	int (*wait)(void);
	int want, want_errno;
	/* A call that the kernel never resumes itself starts again in full when it was stopped. */
	bool may_start_again, endless;
};

static int pipe_fd[2], socks[2], ep;
static uint32_t word;

static const struct timespec wait_ts = {WAIT_MS / 1000, WAIT_MS % 1000 * 1000000};

static int do_nanosleep(void)
{
	return nanosleep(&wait_ts, NULL);
}

static int do_nanosleep_rem(void)
{
	struct timespec rem;

	return nanosleep(&wait_ts, &rem);
}

static int do_sleep_until(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	ts.tv_sec += WAIT_MS / 1000;
	errno = clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL);
	return errno ? -1 : 0;
}

static int do_poll(void)
{
	struct pollfd p = {.fd = pipe_fd[0], .events = POLLIN};

	return poll(&p, 1, WAIT_MS);
}

static int do_ppoll(void)
{
	struct pollfd p = {.fd = pipe_fd[0], .events = POLLIN};
	sigset_t set;

	sigemptyset(&set);
	return ppoll(&p, 1, &wait_ts, &set);
}

static int do_select(void)
{
	struct timeval tv = {WAIT_MS / 1000, WAIT_MS % 1000 * 1000};
	fd_set set;

	FD_ZERO(&set);
	FD_SET(pipe_fd[0], &set);
	return select(pipe_fd[0] + 1, &set, NULL, NULL, &tv);
}

static int do_epoll(void)
{
	struct epoll_event ev;

	return epoll_wait(ep, &ev, 1, WAIT_MS);
}

static int do_futex(void)
{
	return syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &wait_ts, NULL, 0);
}

static int do_sigtimedwait(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	return sigtimedwait(&set, NULL, &wait_ts);
}

static int do_recv_timeout(void)
{
	struct timeval tv = {WAIT_MS / 1000, WAIT_MS % 1000 * 1000};
	char c;

	SYS(setsockopt(socks[0], SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)));
	return recv(socks[0], &c, 1, 0);
}

static int do_read(void)
{
	char c;

	return read(pipe_fd[0], &c, 1);
}

static int do_futex_endless(void)
{
	return syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
}

static int do_epoll_endless(void)
{
	struct epoll_event ev;

	return epoll_wait(ep, &ev, 1, -1);
}

static int do_sigsuspend(void)
{
	sigset_t set;

	/* Another mask than the thread's: after the call it must be the thread's again. */
	sigfillset(&set);
	sigdelset(&set, SIGTERM);
	return sigsuspend(&set);
}

static int do_pause(void)
{
	return pause();
}

static const struct waiter waiters[] = {
    {"nanosleep", do_nanosleep, 0},
    {"nanosleep with a rest", do_nanosleep_rem, 0},
    {"clock_nanosleep until", do_sleep_until, 0},
    {"poll", do_poll, 0},
    {"ppoll", do_ppoll, 0},
    {"select", do_select, 0},
    {"epoll_wait", do_epoll, 0, 0, true},
    {"futex", do_futex, -1, ETIMEDOUT},
    {"sigtimedwait", do_sigtimedwait, -1, EAGAIN, true},
    {"recv with a timeout", do_recv_timeout, -1, EAGAIN, true},
    {"read", do_read, 1, 0, .endless = true},
    {"futex without end", do_futex_endless, 0, 0, .endless = true},
    {"epoll_wait without end", do_epoll_endless, 1, 0, .endless = true},
    {"sigsuspend", do_sigsuspend, 0, 0, .endless = true},
    {"pause", do_pause, 0, 0, .endless = true},
};

static _Atomic unsigned int finished;
static _Atomic bool stopping;

static void *wait_thread(void *arg)
{
	const struct waiter *w = arg;
	uint64_t start, paused, took;
	int ret;

	prctl(PR_SET_NAME, w->name);
	while (!stopping) {
		start = v_now();
		paused = v_paused();
		errno = 0;
		ret = w->wait();
		took = v_now() - start;
		if (w->endless && !stopping)
			v_fail("%s: returned %d, errno %d", w->name, ret, errno);
		CHECK(ret == w->want && (ret >= 0 || errno == w->want_errno),
		      "%s: returned %d, errno %d", w->name, ret, errno);
		if (w->endless)
			break;
		CHECK(took + 2 * V_MSEC >= WAIT_MS * V_MSEC, "%s: only %lu ms", w->name,
		      (unsigned long)(took / V_MSEC));
		/* The clock thread may not have seen the pause yet. */
		v_sleep_ms(50);
		paused = v_paused() - paused;
		CHECK(w->may_start_again || took <= WAIT_MS * V_MSEC + paused + 800 * V_MSEC,
		      "%s: took %lu ms, of which it stood still %lu ms", w->name,
		      (unsigned long)(took / V_MSEC), (unsigned long)(paused / V_MSEC));
	}
	finished++;
	return NULL;
}

int main(int argc, char **argv)
{
	struct epoll_event ev = {.events = EPOLLIN};
	unsigned int timed = 0, i;
	sigset_t set;

	v_init(argc, argv);
	v_watch_pauses();
	SYS(pipe(pipe_fd));
	SYS(socketpair(AF_UNIX, SOCK_STREAM, 0, socks));
	ep = SYS(epoll_create1(0));
	SYS(epoll_ctl(ep, EPOLL_CTL_ADD, pipe_fd[0], &ev));
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	SYS(pthread_sigmask(SIG_BLOCK, &set, NULL));
	for (i = 0; i < V_COUNT(waiters); i++) {
		v_thread(wait_thread, (void *)&waiters[i]);
		timed += !waiters[i].endless;
		/* Not all at one time: each is met at another point of its wait. */
		v_sleep_ms(97);
	}
	/* In ppoll and sigsuspend a thread has another mask for a while. */
	v_observe(NULL, V_NO_SIGNALS);
	v_ready();
	v_wait();
	v_recheck();
	stopping = true;
	for (i = 0; i < 200 && finished < timed; i++)
		v_sleep_ms(50);
	CHECK(finished == timed, "%u calls with a timeout still wait", timed - finished);
	word = 1;
	syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 99, NULL, NULL, 0);
	for (i = 0; i < 2; i++)
		CHECK(write(pipe_fd[1], "x", 1) == 1, "write");
	for (i = 0; i < 200 && finished < timed + 3; i++)
		v_sleep_ms(50);
	CHECK(finished == timed + 3, "%u threads still wait that should not", timed + 3 - finished);
	v_ok();
}
