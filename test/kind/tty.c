/* SPDX-License-Identifier: Apache-2.0 */
#include "kind_test.h"

#include <stdlib.h>
#include <sys/ioctl.h>
#include <termios.h>

static int open_pty(int *slave)
{
	int m = open("/dev/ptmx", O_RDWR | O_NOCTTY), unlock = 0;

	assert_true(m >= 0);
	assert_return_code(ioctl(m, TIOCSPTLCK, &unlock), errno);
	*slave = ioctl(m, TIOCGPTPEER, O_RDWR | O_NOCTTY);
	assert_true(*slave >= 0);
	return m;
}

static void pair_of_its_own(void **state)
{
	struct trip t = { 0 };
	struct winsize w = { 11, 22, 0, 0 }, got = { 0 };
	struct termios raw, back;
	int slave, master = open_pty(&slave), other = open(ptsname(master), O_WRONLY | O_NOCTTY);
	char buf[16], name[64];

	snprintf(name, sizeof(name), "%s", ptsname(master));
	tcgetattr(slave, &raw);
	cfmakeraw(&raw);
	raw.c_cc[VINTR] = 9;
	tcsetattr(slave, TCSANOW, &raw);
	ioctl(master, TIOCSWINSZ, &w);
	int fds[] = { slave, other, master };
	for (int i = 0; i < 3; i++)
		assert_ok(&t, trip_check(&t, fds[i]));
	assert_ok(&t, kind_dump_end(t.d, &t.e));
	trip_begin(&t);
	for (int i = 0; i < 3; i++)
		assert_ok(&t, trip_dump(&t, fds[i]));
	assert_ok(&t, kind_dump_end(t.d, &t.e));
	for (int i = 0; i < 3; i++)
		close(fds[i]);
	assert_ok(&t, trip_carry(&t));
	int r[3];
	for (int i = 0; i < 3; i++) {
		r[i] = trip_fd(&t, fds[i]);
		assert_ok(&t, r[i]);
	}
	assert_ok(&t, kind_finish(t.r, &t.e));
	assert_int_equal(tcgetattr(r[0], &back), 0);
	assert_true(back.c_lflag == raw.c_lflag && back.c_iflag == raw.c_iflag &&
		    back.c_cflag == raw.c_cflag && back.c_cc[VINTR] == 9);
	assert_int_equal(ioctl(r[0], TIOCGWINSZ, &got), 0);
	assert_true(got.ws_row == 11 && got.ws_col == 22);
	assert_string_equal(ptsname(r[2]), name);
	assert_int_equal(fcntl(r[1], F_GETFL) & O_ACCMODE, O_WRONLY);
	assert_int_equal(write(r[1], "abc", 3), 3);
	assert_int_equal(read(r[2], buf, sizeof(buf)), 3);
	assert_int_equal(write(r[2], "xy", 2), 2);
	assert_int_equal(read(r[0], buf, sizeof(buf)), 2);
	trip_end(&t);
}

static void terminal_of_somebody_else(void **state)
{
	struct trip t = { 0 }, job = { .opts.shell_job = true };
	int slave, master = open_pty(&slave);

	assert_ok(&t, trip_check(&t, slave));
	assert_true(kind_dump_end(t.d, &t.e) < 0);
	assert_says(&t, "/dev/pts/");
	assert_says(&t, "--shell-job");
	trip_end(&t);

	assert_ok(&job, trip_check(&job, slave));
	assert_ok(&job, kind_dump_end(job.d, &job.e));
	trip_begin(&job);
	assert_ok(&job, trip_dump(&job, slave));
	assert_ok(&job, trip_carry(&job));
	/* Ours: the terminal on descriptor 0. */
	int saved[3];
	for (int i = 0; i < 3; i++) {
		saved[i] = dup(i);
		dup2(slave, i);
	}
	int r = trip_fd(&job, slave);
	bool ours = r >= 0 && isatty(r);
	struct stat a, b;
	fstat(r, &a);
	fstat(slave, &b);
	/* and when there is none */
	int null = open("/dev/null", O_RDWR);
	for (int i = 0; i < 3; i++)
		dup2(null, i);
	assert_ok(&job, kind_restore_begin(job.r, job.set, &job.e));
	int none = trip_fd(&job, slave);
	for (int i = 0; i < 3; i++) {
		dup2(saved[i], i);
		close(saved[i]);
	}
	assert_ok(&job, r);
	assert_true(ours && a.st_rdev == b.st_rdev);
	if (none < 0)
		assert_says(&job, "no terminal here");
	trip_end(&job);
	close(null);
	close(master);
	close(slave);
}

static void hung_up(void **state)
{
	struct trip t = { 0 };
	struct termios tio;
	int slave, master = open_pty(&slave);

	close(master);
	assert_true(tcgetattr(slave, &tio) < 0 && errno == EIO);
	assert_ok(&t, trip_check(&t, slave));
	assert_ok(&t, kind_dump_end(t.d, &t.e));
	trip_begin(&t);
	assert_ok(&t, trip_dump(&t, slave));
	assert_ok(&t, trip_carry(&t));
	int r = trip_fd(&t, slave);
	assert_ok(&t, r);
	assert_ok(&t, kind_finish(t.r, &t.e));
	assert_true(tcgetattr(r, &tio) < 0 && errno == EIO);
	trip_end(&t);
	close(slave);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pair_of_its_own), cmocka_unit_test(terminal_of_somebody_else),
		cmocka_unit_test(hung_up),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
