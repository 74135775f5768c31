/* SPDX-License-Identifier: Apache-2.0 */
/* Threads have signals blocked, their maker has not; waits end at their time or when told. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "io.h"
#include "thread.h"

static void *look_at_mask(void *arg)
{
	pthread_sigmask(SIG_SETMASK, NULL, arg);
	return NULL;
}

static void test_signals(void **state)
{
	struct err e = ERR_INIT;
	sigset_t of_thread, before, after;
	pthread_t t;

	sigemptyset(&of_thread);
	sigemptyset(&before);
	sigaddset(&before, SIGUSR1);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	assert_int_equal(thread_start(&t, look_at_mask, &of_thread, &e), 0);
	pthread_join(t, NULL);
	pthread_sigmask(SIG_SETMASK, NULL, &after);
	for (int sig = 1; sig <= SIGRTMAX; sig++) {
		bool can_block = sig != SIGKILL && sig != SIGSTOP && (sig < 32 || sig >= SIGRTMIN);

		if (can_block)
			assert_int_equal(sigismember(&of_thread, sig), 1);
		assert_int_equal(sigismember(&after, sig), sig == SIGUSR1);
	}
}

struct talk {
	pthread_mutex_t lock;
	pthread_cond_t change;
	bool told;
};

static void *tell(void *arg)
{
	struct talk *t = arg;

	pthread_mutex_lock(&t->lock);
	t->told = true;
	pthread_cond_signal(&t->change);
	pthread_mutex_unlock(&t->lock);
	return NULL;
}

static void test_wait(void **state)
{
	struct talk t = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false };
	struct err e = ERR_INIT;
	pthread_t teller;

	pthread_mutex_lock(&t.lock);
	uint64_t soon = io_now_ns() + 5000000;
	while (io_now_ns() < soon) /* nobody tells: ends all the same */
		thread_wait_until(&t.change, &t.lock, soon);
	thread_wait_until(&t.change, &t.lock, 0);
	assert_int_equal(thread_start(&teller, tell, &t, &e), 0);
	while (!t.told)            /* ends long before its time */
		thread_wait_until(&t.change, &t.lock, UINT64_MAX);
	pthread_mutex_unlock(&t.lock);
	pthread_join(teller, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_signals),
		cmocka_unit_test(test_wait),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
