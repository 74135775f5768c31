/* SPDX-License-Identifier: Apache-2.0 */
/* Regular files, directories, device nodes, deleted files, and what is refused. */
#include "kind_test.h"

#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>

static void in_dir(void **state, const char *name, char *path)
{
	snprintf(path, PATH_MAX, "%s/%s", (char *)*state, name);
}

static void set_mtime(const char *path, time_t sec)
{
	struct timespec ts[2] = { { .tv_sec = sec }, { .tv_sec = sec } };

	assert_return_code(utimensat(AT_FDCWD, path, ts, 0), errno);
}

static void offset_and_flags(void **state)
{
	struct trip t = { 0 };
	char path[PATH_MAX];

	in_dir(state, "f", path);
	write_file(path, "0123456789");
	int a = open(path, O_RDWR | O_APPEND | O_NONBLOCK);
	int b = open(path, O_RDONLY | O_NOFOLLOW | O_SYNC);
	assert_int_equal(lseek(a, 4, SEEK_SET), 4);
	assert_int_equal(fcntl(a, F_SETOWN, getpid()), 0);
	assert_int_equal(fcntl(a, F_SETSIG, SIGUSR1), 0);
	assert_ok(&t, trip_check(&t, a));
	trip_begin(&t);
	assert_ok(&t, trip_dump(&t, a));
	assert_ok(&t, trip_dump(&t, b));
	assert_ok(&t, trip_dump(&t, b));
	assert_ok(&t, trip_carry(&t));
	assert_int_equal(trip_verify(&t), 0);
	int ra = trip_fd(&t, a), rb = trip_fd(&t, b);
	assert_ok(&t, ra);
	assert_ok(&t, rb);
	assert_int_equal(trip_fd(&t, a), ra);
	assert_int_equal(lseek(ra, 0, SEEK_CUR), 4);
	assert_int_equal(lseek(rb, 0, SEEK_CUR), 0);
	assert_int_equal(fcntl(ra, F_GETFL), fcntl(a, F_GETFL));
	assert_int_equal(fcntl(rb, F_GETFL), fcntl(b, F_GETFL));
	assert_ok(&t, kind_finish(t.r, &t.e));
	assert_int_equal(fcntl(ra, F_GETOWN), getpid());
	assert_int_equal(fcntl(ra, F_GETSIG), SIGUSR1);
	assert_int_equal(fcntl(rb, F_GETOWN), 0);
	assert_link(ra, path);
	trip_end(&t);
	close(a);
	close(b);
}

static void directory_node_opath_proc(void **state)
{
	struct trip t = { 0 };
	int fds[] = {
		open("/tmp", O_RDONLY | O_DIRECTORY), open("/dev/null", O_RDWR),
		open("/dev/urandom", O_RDONLY), open("/dev/zero", O_RDONLY),
		open("/etc/passwd", O_PATH), open("/proc/self/exe", O_PATH | O_NOFOLLOW),
		open("/proc/meminfo", O_RDONLY), open("/bin/true", O_RDONLY),
	};
	size_t n = sizeof(fds) / sizeof(*fds);

	trip_begin(&t);
	for (size_t i = 0; i < n; i++) {
		assert_true(fds[i] >= 0);
		assert_ok(&t, trip_dump(&t, fds[i]));
	}
	assert_ok(&t, trip_carry(&t));
	if (trip_verify(&t))
		fail_msg("%s", t.e.text);
	for (size_t i = 0; i < n; i++) {
		struct stat was, is;
		int fd = trip_fd(&t, fds[i]);

		assert_ok(&t, fd);
		assert_return_code(fstat(fds[i], &was), errno);
		assert_return_code(fstat(fd, &is), errno);
		assert_int_equal(is.st_mode, was.st_mode);
		assert_int_equal(is.st_rdev, was.st_rdev);
		assert_int_equal(fcntl(fd, F_GETFL), fcntl(fds[i], F_GETFL));
	}
	assert_ok(&t, kind_finish(t.r, &t.e));
	trip_end(&t);
	for (size_t i = 0; i < n; i++)
		close(fds[i]);
}

static void one_dump(struct trip *t, int fd)
{
	trip_begin(t);
	assert_ok(t, trip_dump(t, fd));
	assert_ok(t, trip_carry(t));
}

static void missing_or_different(void **state)
{
	char path[PATH_MAX];

	in_dir(state, "g", path);
	write_file(path, "abc");
	set_mtime(path, 1000000);
	int fd = open(path, O_RDONLY);
	struct trip t = { 0 };
	one_dump(&t, fd);

	write_file(path, "abcd");
	set_mtime(path, 1000000);
	assert_int_equal(trip_verify(&t), 1);
	assert_says(&t, "has 4 bytes here, expected 3");
	assert_says(&t, "shared storage");
	assert_true(trip_fd(&t, fd) < 0);

	write_file(path, "xyz");
	set_mtime(path, 1000005);
	assert_int_equal(trip_verify(&t), 1);
	assert_says(&t, "newer");

	set_mtime(path, 1000000);
	assert_int_equal(trip_verify(&t), 0);

	unlink(path);
	assert_int_equal(trip_verify(&t), 1);
	assert_says(&t, "No such file");
	assert_int_equal(mkdir(path, 0700), 0);
	assert_int_equal(trip_verify(&t), 1);
	assert_says(&t, "another type of file");
	rmdir(path);
	trip_end(&t);
	close(fd);
}

static void build_id(void **state)
{
	_cleanup_free_ char *copy = xasprintf("cp /bin/true %s/elf", (char *)*state);
	_cleanup_free_ char *other = xasprintf("cp /bin/cat %s/elf", (char *)*state);
	char path[PATH_MAX];
	struct trip t = { 0 };
	uint32_t id, again;

	in_dir(state, "elf", path);
	assert_int_equal(system(copy), 0);
	int fd = open(path, O_PATH);
	trip_begin(&t);
	assert_ok(&t, kind_dump_path(t.d, fd, path, O_RDONLY, &id, &t.e));
	assert_ok(&t, kind_dump_path(t.d, fd, path, O_RDONLY, &again, &t.e));
	assert_int_equal(id, again);
	assert_int_equal(img_count(kind_dump_set(t.d), IMG_FILES, 0), 1);
	assert_ok(&t, trip_carry(&t));
	set_mtime(path, 5);          /* the build-id counts */
	assert_int_equal(trip_verify(&t), 0);
	assert_ok(&t, kind_fd(t.r, id, &t.e));
	close(fd);
	assert_int_equal(system(other), 0);
	assert_int_equal(trip_verify(&t), 1);
	assert_says(&t, "build-id differs");
	trip_end(&t);
}

/* On shared storage a running guest's files are newer by the time the target looks. */
static void file_in_use(void **state)
{
	struct trip t = { 0 };
	char path[PATH_MAX];

	in_dir(state, "log", path);
	write_file(path, "one");
	int fd = open(path, O_WRONLY | O_APPEND);
	one_dump(&t, fd);
	usleep(20000);
	assert_int_equal(write(fd, "two", 3), 3);
	assert_int_equal(trip_verify(&t), 0);
	int mine = trip_fd(&t, fd);
	assert_ok(&t, mine);
	assert_true(kind_finish(t.r, &t.e) < 0);
	assert_says(&t, "has 6 bytes here, expected 3");

	err_clear(&t.e);
	one_dump(&t, fd);            /* the next round */
	assert_int_equal(trip_fd(&t, fd), mine);
	assert_int_equal(lseek(mine, 0, SEEK_CUR), 6);
	assert_ok(&t, kind_finish(t.r, &t.e));
	set_mtime(path, 1000000);
	assert_int_equal(trip_verify(&t), 1);
	assert_says(&t, "older");
	trip_end(&t);
	close(fd);
}

static void deleted(void **state)
{
	struct trip t = { .opts.ghost_limit = 1 << 20 };
	char path[PATH_MAX], link[PATH_MAX + 16], buf[8] = "";

	in_dir(state, "ghost", path);
	int a = open(path, O_RDWR | O_CREAT, 0640);
	int b = open(path, O_RDONLY);
	assert_int_equal(pwrite(a, "head", 4, 0), 4);
	assert_int_equal(pwrite(a, "tail", 4, 300 << 20), 4);
	assert_int_equal(lseek(a, 2, SEEK_SET), 2);
	unlink(path);
	assert_ok(&t, trip_check(&t, a));
	trip_begin(&t);
	assert_ok(&t, trip_dump(&t, a));
	assert_ok(&t, trip_dump(&t, b));
	assert_ok(&t, trip_carry(&t));
	assert_int_equal(trip_verify(&t), 0);
	int ra = trip_fd(&t, a), rb = trip_fd(&t, b);
	assert_ok(&t, ra);
	assert_ok(&t, rb);
	snprintf(link, sizeof(link), "%s (deleted)", path);
	assert_link(ra, link);
	assert_link(rb, link);
	struct stat st;
	fstat(ra, &st);
	assert_int_equal(st.st_size, (300 << 20) + 4);
	assert_int_equal(st.st_mode & 07777, 0640);
	assert_int_equal(st.st_nlink, 0);
	assert_true(st.st_blocks < 1000);
	assert_int_equal(read(ra, buf, 2), 2);
	assert_memory_equal(buf, "ad", 2);
	assert_int_equal(pread(rb, buf, 4, 300 << 20), 4);
	assert_memory_equal(buf, "tail", 4);
	assert_int_equal(pwrite(ra, "HE", 2, 0), 2);
	assert_int_equal(pread(rb, buf, 4, 0), 4);
	assert_memory_equal(buf, "HEad", 4);

	/* The next round brings the same object up to date. */
	assert_int_equal(ftruncate(a, 100), 0);
	assert_int_equal(pwrite(a, "next", 4, 50), 4);
	trip_begin(&t);
	assert_ok(&t, trip_dump(&t, a));
	assert_ok(&t, trip_dump(&t, b));
	assert_ok(&t, trip_carry(&t));
	assert_int_equal(trip_fd(&t, a), ra);
	fstat(ra, &st);
	assert_int_equal(st.st_size, 100);
	assert_int_equal(pread(rb, buf, 4, 50), 4);
	assert_memory_equal(buf, "next", 4);
	assert_ok(&t, kind_finish(t.r, &t.e));
	assert_int_equal(access(path, F_OK), -1);
	trip_end(&t);
	close(a);
	close(b);
}

static void deleted_and_replaced(void **state)
{
	struct trip t = { .opts.ghost_limit = 100 };
	char path[PATH_MAX], buf[4];

	in_dir(state, "old", path);
	write_file(path, "old");
	int fd = open(path, O_RDONLY);
	unlink(path);
	write_file(path, "other");
	assert_ok(&t, trip_check(&t, fd));
	one_dump(&t, fd);
	int r = trip_fd(&t, fd);
	assert_ok(&t, r);
	assert_int_equal(read(r, buf, 4), 3);
	assert_memory_equal(buf, "old", 3);
	assert_ok(&t, kind_finish(t.r, &t.e));
	assert_int_equal(access(path, F_OK), 0);
	trip_end(&t);
	close(fd);
}

static void deleted_directory(void **state)
{
	struct trip t = { 0 };
	char path[PATH_MAX], file[PATH_MAX + 8];
	struct stat st;

	in_dir(state, "dir", path);
	snprintf(file, sizeof(file), "%s/x", path);
	assert_int_equal(mkdir(path, 0711), 0);
	int dir = open(path, O_RDONLY | O_DIRECTORY);
	int fd = open(file, O_RDWR | O_CREAT, 0600);
	unlink(file);
	rmdir(path);
	trip_begin(&t);
	assert_ok(&t, trip_dump(&t, dir));
	assert_ok(&t, trip_dump(&t, fd));
	assert_ok(&t, trip_carry(&t));
	int r = trip_fd(&t, dir);
	assert_ok(&t, r);
	fstat(r, &st);
	assert_int_equal(st.st_mode, S_IFDIR | 0711);
	assert_int_equal(fcntl(r, F_GETFL), fcntl(dir, F_GETFL));
	assert_ok(&t, trip_fd(&t, fd));
	trip_end(&t);
	close(dir);
	close(fd);
}

static void ghost_limit(void **state)
{
	struct trip t = { .opts.ghost_limit = 4096 };
	char path[PATH_MAX], block[8192];

	memset(block, 'x', sizeof(block));
	in_dir(state, "big", path);
	int fd = open(path, O_RDWR | O_CREAT, 0600);
	unlink(path);
	assert_int_equal(write(fd, block, sizeof(block)), sizeof(block));
	assert_true(trip_check(&t, fd) < 0);
	assert_says(&t, "--ghost-limit 8192");
	assert_says(&t, path);
	trip_end(&t);
	close(fd);
}

static void link_remap(void **state)
{
	struct trip t = { 0 };
	char path[PATH_MAX], other[PATH_MAX], buf[4];
	struct stat st;

	in_dir(state, "name1", path);
	in_dir(state, "name2", other);
	write_file(path, "abc");
	assert_int_equal(link(path, other), 0);
	int fd = open(path, O_RDONLY);
	unlink(path);
	assert_true(trip_check(&t, fd) < 0);
	assert_says(&t, "--link-remap");
	trip_end(&t);

	t = (struct trip){ .opts.link_remap = true };
	assert_ok(&t, trip_check(&t, fd));
	fstat(fd, &st);
	assert_int_equal(st.st_nlink, 1);
	one_dump(&t, fd);
	fstat(fd, &st);
	assert_int_equal(st.st_nlink, 2);
	one_dump(&t, fd);
	fstat(fd, &st);
	assert_int_equal(st.st_nlink, 2);
	unlink(other);
	assert_int_equal(trip_verify(&t), 0);
	int r = trip_fd(&t, fd);
	assert_ok(&t, r);
	assert_int_equal(read(r, buf, 4), 3);
	assert_ok(&t, kind_finish(t.r, &t.e));
	fstat(fd, &st);
	assert_int_equal(st.st_nlink, 1);
	kind_restore_done(t.r);
	fstat(fd, &st);
	assert_int_equal(st.st_nlink, 0);
	trip_end(&t);

	t = (struct trip){ .opts.link_remap = true };
	close(fd);
	write_file(path, "abc");
	assert_int_equal(link(path, other), 0);
	fd = open(path, O_RDONLY);
	unlink(path);
	one_dump(&t, fd);
	kind_dump_undo(t.d);
	fstat(fd, &st);
	assert_int_equal(st.st_nlink, 1);
	trip_end(&t);
	close(fd);
}

static void refusals(void **state)
{
	struct trip t = { 0 };
	char ring_params[256] = { 0 };
	struct {
		int fd;
		const char *says;
	} no[] = {
		{ inotify_init1(0), "inotify" },
		{ (int)syscall(SYS_io_uring_setup, 4, ring_params), "io_uring" },
		{ socket(AF_NETLINK, SOCK_RAW, 0), "netlink socket" },
		{ (int)syscall(SYS_pidfd_open, getpid(), 0), "pidfd" },
		{ open("/dev/kvm", O_RDWR), "/dev/kvm" },
		{ open("/dev/fuse", O_RDWR), "/dev/fuse" },
		{ open("/dev/kmsg", O_RDONLY), "/dev/kmsg" },
		{ open("/proc/self/ns/net", O_RDONLY), "namespace" },
	};

	for (size_t i = 0; i < sizeof(no) / sizeof(*no); i++) {
		char where[64];

		if (no[i].fd < 0)
			continue;
		assert_true(trip_check(&t, no[i].fd) < 0);
		assert_says(&t, no[i].says);
		snprintf(where, sizeof(where), "pid %d (kind_reg): fd %d: ", getpid(), no[i].fd);
		assert_says(&t, where);
		assert_true(t.e.remedy[0]);
		close(no[i].fd);
	}
	trip_end(&t);
}

static void hostile(void **state)
{
	struct trip t = { 0 };
	FileEntry fe = FILE_ENTRY__INIT;

	fe.type = FD_TYPES__REG;
	fe.id = 7;
	trip_begin(&t);
	img_put(kind_dump_set(t.d), IMG_FILES, 0, &fe.base);
	assert_true(trip_carry(&t) < 0);
	assert_says(&t, "entry 7 has no");
	assert_true(kind_fd(t.r, 9, &t.e) < 0);
	trip_end(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(offset_and_flags),
		cmocka_unit_test(directory_node_opath_proc),
		cmocka_unit_test(missing_or_different),
		cmocka_unit_test(build_id),
		cmocka_unit_test(file_in_use),
		cmocka_unit_test(deleted),
		cmocka_unit_test(deleted_and_replaced),
		cmocka_unit_test(deleted_directory),
		cmocka_unit_test(ghost_limit),
		cmocka_unit_test(link_remap),
		cmocka_unit_test(refusals),
		cmocka_unit_test(hostile),
	};

	return cmocka_run_group_tests(tests, enter_dir, leave_dir);
}
