/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Regular files and directories: offsets, flags, append, descriptions shared by dup and fork
 * against files opened twice, O_PATH, an offset behind 4 GiB, a directory half read.
 */
#include "victim.h"

#include <dirent.h>

#define ENTRIES 400

static int rw, ro, app, dup_high, again, wo, path_fd, dir_fd, nonblock, big;
static char seen[ENTRIES];

static void note_files(void)
{
	int fds[] = {rw, ro, app, dup_high, again, wo, nonblock, big};
	struct stat st;
	size_t i;

	for (i = 0; i < V_COUNT(fds); i++) {
		SYS(fstat(fds[i], &st));
		v_note("fd %d at %ld size %ld dev %#lx inode %lu links %lu", fds[i],
		       lseek(fds[i], 0, SEEK_CUR), st.st_size, st.st_dev, st.st_ino, st.st_nlink);
	}
}

/* Reads directory entries with a small buffer; returns how many were there. */
static int read_entries(int max)
{
	char buf[512];
	int got = 0, n, off;
	struct dirent64 *e;

	while (got < max && (n = SYS(syscall(SYS_getdents64, dir_fd, buf, sizeof(buf)))) > 0) {
		for (off = 0; off < n; off += e->d_reclen, got++) {
			e = (void *)(buf + off);
			if (e->d_name[0] != 'e')
				continue;
			CHECK(!seen[atoi(e->d_name + 1)]++, "%s was listed twice", e->d_name);
		}
	}
	return got;
}

static void make_directory(void)
{
	char name[32];
	int i;

	SYS(mkdir(v_path("many"), 0755));
	for (i = 0; i < ENTRIES; i++) {
		snprintf(name, sizeof(name), "many/e%d", i);
		close(SYS(open(v_path(name), O_CREAT | O_WRONLY, 0600)));
	}
	dir_fd = SYS(open(v_path("many"), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	CHECK(read_entries(ENTRIES / 3) >= ENTRIES / 3, "too few entries");
}

static void open_all(void)
{
	rw = v_file("rw", 0, 4, 1);
	SYS(lseek(rw, 5000, SEEK_SET));
	ro = SYS(open(v_path("rw"), O_RDONLY | O_CLOEXEC | O_NOATIME | O_NOFOLLOW));
	SYS(lseek(ro, 100, SEEK_SET));
	app = SYS(open(v_path("log file"), O_CREAT | O_WRONLY | O_APPEND, 0600));
	CHECK(write(app, "start\n", 6) == 6, "write");
	dup_high = SYS(fcntl(rw, F_DUPFD_CLOEXEC, 150));
	again = SYS(open(v_path("rw"), O_RDWR));
	wo = SYS(open(v_path("wo"), O_CREAT | O_WRONLY | O_DSYNC, 0600));
	path_fd = SYS(open(v_path("rw"), O_PATH));
	nonblock = SYS(open(v_path("rw"), O_RDWR));
	SYS(fcntl(nonblock, F_SETFL, O_NONBLOCK | O_APPEND));
	/* An offset behind 4 GiB, in a file that is mostly hole. */
	big = SYS(open(v_path("big"), O_CREAT | O_RDWR, 0600));
	SYS(lseek(big, (6L << 30) + 3, SEEK_SET));
	CHECK(write(big, "end", 3) == 3, "write far out");
	make_directory();
}

/* The child shares all descriptions: a step of one is a step of the other. */
static void child(int cmd, int reply)
{
	char c;

	v_remember();
	while (SYS(read(cmd, &c, 1)) == 1) {
		SYS(lseek(rw, 7, SEEK_CUR));
		SYS(fcntl(wo, F_SETFL, fcntl(wo, F_GETFL) ^ O_NONBLOCK));
		CHECK(write(app, "child\n", 6) == 6, "child: append");
		CHECK(write(reply, &c, 1) == 1, "child: reply");
	}
	_exit(0);
}

static void check_sharing(int cmd, int reply)
{
	off_t at = SYS(lseek(rw, 0, SEEK_CUR));
	int flags = SYS(fcntl(wo, F_GETFL)), i;
	char c = 'x', buf[64];

	for (i = 0; i < 3; i++)
		CHECK(write(cmd, &c, 1) == 1 && read(reply, &c, 1) == 1, "the child is gone");
	CHECK(lseek(rw, 0, SEEK_CUR) == at + 21, "offset is not shared with the child");
	CHECK(lseek(dup_high, 0, SEEK_CUR) == at + 21, "offset is not shared by dup");
	CHECK(lseek(again, 0, SEEK_CUR) == 0, "offset is shared that was not");
	CHECK(fcntl(wo, F_GETFL) == (flags ^ O_NONBLOCK), "flags are not shared with the child");
	CHECK(write(app, "last\n", 5) == 5, "append");
	i = SYS(open(v_path("log file"), O_RDONLY));
	CHECK(read(i, buf, sizeof(buf)) == 29 &&
		  !memcmp(buf, "start\nchild\nchild\nchild\nlast\n", 29),
	      "the appended file is wrong");
	close(i);
}

int main(int argc, char **argv)
{
	int cmd[2], reply[2], i;
	char buf[8];
	pid_t pid;

	v_init(argc, argv);
	open_all();
	SYS(pipe(cmd));
	SYS(pipe(reply));
	pid = SYS(fork());
	if (!pid) {
		close(cmd[1]);
		child(cmd[0], reply[1]);
	}
	v_observe(note_files, 0);
	v_ready();
	v_wait();
	v_recheck();
	check_sharing(cmd[1], reply[0]);
	CHECK(read(ro, buf, 1) == 1 && lseek(ro, 0, SEEK_CUR) == 101, "read-only file");
	CHECK(write(ro, buf, 1) < 0 && errno == EBADF, "read-only file can be written");
	CHECK(read(path_fd, buf, 1) < 0 && errno == EBADF, "O_PATH file can be read");
	SYS(lseek(big, -3, SEEK_CUR));
	CHECK(read(big, buf, 3) == 3 && !memcmp(buf, "end", 3), "far end of the big file");
	read_entries(1 << 20);
	for (i = 0; i < ENTRIES; i++)
		CHECK(seen[i], "entry %d of the directory was never listed", i);
	close(cmd[1]);
	v_reap(pid, 0);
	v_ok();
}
