/* SPDX-License-Identifier: Apache-2.0 */
#include "kind_test.h"

#include <signal.h>
#include <sys/signalfd.h>

static void mask_and_flags(void **state)
{
	struct trip t = { 0 };
	struct signalfd_siginfo si;
	sigset_t mask;

	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR1);
	sigaddset(&mask, SIGRTMIN + 3);
	sigaddset(&mask, 64);
	sigprocmask(SIG_BLOCK, &mask, NULL);
	int fd = signalfd(-1, &mask, SFD_NONBLOCK);
	assert_ok(&t, trip_check(&t, fd));
	trip_begin(&t);
	assert_ok(&t, trip_dump(&t, fd));
	assert_ok(&t, trip_carry(&t));
	int r = trip_fd(&t, fd);
	assert_ok(&t, r);
	assert_ok(&t, kind_finish(t.r, &t.e));
	assert_int_equal(fcntl(r, F_GETFL), fcntl(fd, F_GETFL));

	struct fd_view a, b;
	assert_ok(&t, kind_view(getpid(), fd, fd, &a, &t.e));
	assert_ok(&t, kind_view(getpid(), r, r, &b, &t.e));
	assert_true(a.info.sigmask && a.info.sigmask == b.info.sigmask);
	kind_view_free(&a);
	kind_view_free(&b);
	raise(SIGUSR1);
	assert_int_equal(read(r, &si, sizeof(si)), sizeof(si));
	assert_int_equal(si.ssi_signo, SIGUSR1);
	assert_int_equal(read(r, &si, sizeof(si)), -1);
	trip_end(&t);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(mask_and_flags) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
