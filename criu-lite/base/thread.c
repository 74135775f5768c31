/* SPDX-License-Identifier: Apache-2.0 */
#include "thread.h"

#include <signal.h>
#include <time.h>

int thread_start(pthread_t *t, void *(*run)(void *), void *arg, struct err *e)
{
	sigset_t all, old;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old); /* the new thread begins with it */
	int code = pthread_create(t, NULL, run, arg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return code ? err_set(e, code, "create thread") : 0;
}

void thread_wait_until(pthread_cond_t *c, pthread_mutex_t *locked, uint64_t at)
{
	struct timespec t = { (time_t)(at / 1000000000u), (long)(at % 1000000000u) };

	pthread_cond_clockwait(c, locked, CLOCK_MONOTONIC, &t);
}
