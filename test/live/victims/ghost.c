/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files that are open and have no name any more: one deleted, one deleted and opened twice, one
 * mapped, one that another name took the place of, one made by O_TMPFILE.
 */
#include "victim.h"

#define PAGES 40

static int once, twice[2], replaced, tmpfile_fd;
static char *mapped, *private;

static void note_ghosts(void)
{
	int fds[] = {once, twice[0], twice[1], replaced, tmpfile_fd};
	struct stat st;
	size_t i;

	for (i = 0; i < V_COUNT(fds); i++) {
		SYS(fstat(fds[i], &st));
		v_note("fd %d at %ld size %ld mode %o owner %u:%u links %lu mtime %ld.%06ld",
		       fds[i], lseek(fds[i], 0, SEEK_CUR), st.st_size, st.st_mode, st.st_uid,
		       st.st_gid, st.st_nlink, st.st_mtim.tv_sec, st.st_mtim.tv_nsec / 1000);
	}
}

static void file_is(int fd, unsigned int pages, uint64_t seed, const char *name)
{
	uint64_t buf[V_PAGE / sizeof(uint64_t)];
	unsigned int i;

	for (i = 0; i < pages; i++)
		CHECK(pread(fd, buf, V_PAGE, i * V_PAGE) == (ssize_t)V_PAGE &&
			  v_page_is(buf, seed + i),
		      "%s: page %u of the file", name, i);
}

int main(int argc, char **argv)
{
	char name[32], buf[8], c;
	unsigned int i;
	int fd;

	v_init(argc, argv);
	once = v_file("once", 0, PAGES, 100);
	SYS(fchmod(once, 0640));
	SYS(fchown(once, 12, 34));
	SYS(lseek(once, 777, SEEK_SET));
	SYS(unlink(v_path("once")));
	twice[0] = v_file("twice", O_CLOEXEC, 3, 200);
	twice[1] = SYS(open(v_path("twice"), O_RDONLY));
	SYS(lseek(twice[1], 5, SEEK_SET));
	SYS(unlink(v_path("twice")));
	replaced = v_file("replaced", 0, 2, 300);
	SYS(unlink(v_path("replaced")));
	close(v_file("replaced", 0, 1, 400));
	fd = SYS(open(v_path("."), O_TMPFILE | O_RDWR, 0600));
	/* Without the flag: a file made again is opened in another way. */
	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	tmpfile_fd = SYS(open(name, O_RDWR));
	close(fd);
	CHECK(write(tmpfile_fd, "nameless", 8) == 8, "write");
	fd = v_file("mapped", 0, PAGES, 500);
	mapped = v_map(PAGES * V_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	private = v_map(PAGES * V_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	v_page_fill(private, 999);
	SYS(unlink(v_path("mapped")));
	close(fd);
	v_observe(note_ghosts, 0);
	v_ready();
	for (i = 0; !v_stopping(); i++) {
		v_page_fill(mapped + V_PAGE * (i % (PAGES / 2)), 600 + i % (PAGES / 2));
		v_sleep_ms(2);
	}
	v_recheck();
	file_is(once, PAGES, 100, "once");
	file_is(twice[0], 3, 200, "twice");
	file_is(twice[1], 3, 200, "twice again");
	CHECK(pwrite(twice[0], "@", 1, 0) == 1 && pread(twice[1], &c, 1, 0) == 1 && c == '@',
	      "what was one deleted file is two now");
	file_is(replaced, 2, 300, "replaced");
	CHECK(pread(tmpfile_fd, buf, 8, 0) == 8 && !memcmp(buf, "nameless", 8), "O_TMPFILE");
	CHECK(v_page_is(private, 999) && v_page_is(private + (PAGES - 1) * V_PAGE, 500 + PAGES - 1),
	      "private mapping of a deleted file");
	for (i = PAGES / 2; i < PAGES; i++)
		CHECK(v_page_is(mapped + i * V_PAGE, 500 + i), "mapped deleted file: page %u", i);
	CHECK(access(v_path("once"), F_OK) && access(v_path("mapped"), F_OK) &&
		  access(v_path("twice"), F_OK),
	      "a deleted file has its name again");
	fd = SYS(open(v_path("replaced"), O_RDONLY));
	file_is(fd, 1, 400, "the file that took the name");
	close(fd);
	v_ok();
}
