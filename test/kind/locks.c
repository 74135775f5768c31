/* SPDX-License-Identifier: Apache-2.0 */
/* File locks: taken again in the name of who held them. */
#include "kind_test.h"

#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "remote.h"

static short lock_state(const char *path, int cmd, pid_t *pid)
{
	struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 10, .l_len = 5 };
	int fd = open(path, O_RDWR);

	assert_return_code(fcntl(fd, cmd, &fl), errno);
	if (pid)
		*pid = fl.l_pid;
	close(fd);
	return fl.l_type;
}

static void flock_and_ofd(void **state)
{
	struct flock fl = { .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 8, .l_len = 4 };
	_cleanup_free_ char *path = xasprintf("%s/f", (char *)*state);
	struct trip t = { 0 };

	write_file(path, "lock me");
	int a = open(path, O_RDWR), b = open(path, O_RDWR), same = dup(a);
	assert_return_code(flock(a, LOCK_EX), errno);
	assert_return_code(fcntl(b, F_OFD_SETLK, &fl), errno);
	assert_true(trip_check(&t, a) < 0);
	assert_says(&t, "--file-locks");
	trip_end(&t);

	t = (struct trip){ .opts.file_locks = true };
	assert_ok(&t, trip_check(&t, a));
	trip_begin(&t);
	assert_ok(&t, trip_dump(&t, a));
	assert_ok(&t, trip_dump(&t, b));
	assert_int_equal(img_count(kind_dump_set(t.d), IMG_FILE_LOCKS, 0), 2);
	assert_ok(&t, trip_carry(&t));
	int ra = trip_fd(&t, a), rb = trip_fd(&t, b);
	kind_hold(t.r, trip_id(&t, a), (struct kind_holder){ NULL, a });
	kind_hold(t.r, trip_id(&t, b), (struct kind_holder){ NULL, b });
	assert_int_equal(kind_finish(t.r, &t.e), -EAGAIN);   /* the original still has it */
	assert_says(&t, path);
	close(a);
	close(same);
	close(b);
	assert_ok(&t, kind_finish(t.r, &t.e));
	int other = open(path, O_RDWR);
	assert_int_equal(flock(other, LOCK_EX | LOCK_NB), -1);
	assert_int_equal(lock_state(path, F_OFD_GETLK, NULL), F_RDLCK);
	assert_int_equal(flock(ra, LOCK_UN), 0);
	assert_int_equal(flock(other, LOCK_EX | LOCK_NB), 0);
	assert_true(rb >= 0);
	trip_end(&t);
	assert_int_equal(lock_state(path, F_OFD_GETLK, NULL), F_UNLCK);
	close(other);
}

/* A process that holds a POSIX lock, dumped and made again with the same pid. */
static pid_t locker(const char *path, int fd, int *local)
{
	int ready[2];
	char c;

	assert_return_code(pipe(ready), errno);
	pid_t pid = fork();
	if (pid == 0) {
		struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 12 };
		int mine = open(path, O_RDWR);

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		/* Closing any descriptor of the file would end the lock. */
		if (dup2(mine, fd) != fd || close(mine) < 0 || fcntl(fd, F_SETLK, &fl) < 0)
			_exit(1);
		if (write(ready[1], "x", 1) == 1)
			pause();
		_exit(1);
	}
	assert_int_equal(read(ready[0], &c, 1), 1);
	close(ready[0]);
	close(ready[1]);
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	*local = (int)syscall(SYS_pidfd_getfd, pidfd, fd, 0);
	assert_true(*local >= 0);
	close(pidfd);
	return pid;
}

static void posix_in_process(void **state)
{
	_cleanup_free_ char *path = xasprintf("%s/p", (char *)*state);
	struct trip t = { .opts.file_locks = true };
	struct remote *shell = NULL;
	int local;
	pid_t holder;

	write_file(path, "lock me");
	pid_t pid = locker(path, 40, &local);
	trip_begin(&t);
	assert_ok(&t, trip_dump_of(&t, pid, 40, local));
	assert_ok(&t, trip_dump_of(&t, pid, 40, local));
	assert_int_equal(img_count(kind_dump_set(t.d), IMG_FILE_LOCKS, 0), 1);
	assert_ok(&t, trip_carry(&t));
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	close(local);
	assert_int_equal(lock_state(path, F_GETLK, NULL), F_UNLCK);

	assert_ok(&t, remote_shell(&shell, pid, 0, NULL, 0, &t.e));
	struct remote_fd put = { .local = trip_fd(&t, 40), .guest = 40 };
	assert_ok(&t, put.local);
	assert_ok(&t, remote_fd_put(shell, &put, 1, &t.e));
	kind_set_process(t.r, pid, shell);
	assert_ptr_equal(kind_process(t.r, pid), shell);
	kind_hold(t.r, trip_id(&t, 40), (struct kind_holder){ shell, 40 });
	assert_ok(&t, kind_finish(t.r, &t.e));
	assert_int_equal(lock_state(path, F_GETLK, &holder), F_WRLCK);
	assert_int_equal(holder, pid);

	/* Somebody else in the way is said so. */
	trip_begin(&t);
	struct fd_view v;
	assert_ok(&t, kind_view(pid, 40, put.local, &v, &t.e));
	v.id = trip_id(&t, 40);
	assert_int_equal(v.info.locks.n, 1);
	assert_ok(&t, kind_dump_fd(t.d, &v, &t.e));
	kind_view_free(&v);
	assert_ok(&t, trip_carry(&t));
	remote_kill(shell);
	int other = open(path, O_RDWR);
	struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	assert_return_code(fcntl(other, F_OFD_SETLK, &fl), errno);
	t.e = (struct err)ERR_INIT;
	assert_ok(&t, remote_shell(&shell, pid, 0, NULL, 0, &t.e));
	put.local = trip_fd(&t, 40);
	assert_ok(&t, remote_fd_put(shell, &put, 1, &t.e));
	kind_hold(t.r, trip_id(&t, 40), (struct kind_holder){ shell, 40 });
	assert_int_equal(kind_finish(t.r, &t.e), -EAGAIN);
	close(other);
	assert_ok(&t, kind_finish(t.r, &t.e));
	remote_kill(shell);
	trip_end(&t);
}

static void lease(void **state)
{
	_cleanup_free_ char *path = xasprintf("%s/lease", (char *)*state);
	struct trip t = { .opts.file_locks = true };

	write_file(path, "x");
	int fd = open(path, O_RDONLY);
	if (fcntl(fd, F_SETLEASE, F_RDLCK) < 0)
		skip();
	assert_true(trip_check(&t, fd) < 0);
	assert_says(&t, "lease");
	trip_end(&t);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(flock_and_ofd),
		cmocka_unit_test(posix_in_process),
		cmocka_unit_test(lease),
	};

	return cmocka_run_group_tests(tests, enter_dir, leave_dir);
}
