/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory files: names, seals, sizes, holes, two descriptions with their own positions, one that is
 * only mapped, one that is opened read-only.
 */
#include "victim.h"

#define PAGES 48

static int sealed, two[2], plain, mapped_fd, read_only, sparse;
static char *mapped, *private;

static void note_memfds(void)
{
	int fds[] = {sealed, two[0], two[1], plain, read_only, sparse};
	struct stat st;
	size_t i;

	for (i = 0; i < V_COUNT(fds); i++) {
		SYS(fstat(fds[i], &st));
		v_note("fd %d size %ld at %ld mode %o owner %u seals %#x flags %#x", fds[i],
		       st.st_size, lseek(fds[i], 0, SEEK_CUR), st.st_mode, st.st_uid,
		       SYS(fcntl(fds[i], F_GET_SEALS)), SYS(fcntl(fds[i], F_GETFL)));
	}
	SYS(fstat(sparse, &st));
	v_note("sparse: %s", st.st_blocks < 100 ? "few blocks" : "many blocks");
}

static void fill(int fd, uint64_t seed)
{
	char page[V_PAGE];
	unsigned int i;

	for (i = 0; i < PAGES; i++) {
		v_page_fill(page, seed + i);
		CHECK(pwrite(fd, page, V_PAGE, i * V_PAGE) == (ssize_t)V_PAGE, "write");
	}
}

static void is(int fd, uint64_t seed, const char *name)
{
	char page[V_PAGE];
	unsigned int i;

	for (i = 0; i < PAGES; i++)
		CHECK(pread(fd, page, V_PAGE, i * V_PAGE) == (ssize_t)V_PAGE &&
			  v_page_is(page, seed + i),
		      "%s: page %u", name, i);
}

/* Zeros of our own over what is in the object. */
#define UNDER_PAGES 8
static char *over;

static void make_over(void)
{
	int fd = v_memfd("under", MFD_CLOEXEC);

	SYS(ftruncate(fd, UNDER_PAGES * V_PAGE));
	char *under = v_map(UNDER_PAGES * V_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	for (unsigned int i = 0; i < UNDER_PAGES; i++)
		v_page_fill(under + i * V_PAGE, 500 + i);
	over = v_map(UNDER_PAGES * V_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	memset(over + 2 * V_PAGE, 0, 3 * V_PAGE);
}

static void check_over(void)
{
	for (unsigned int i = 0; i < UNDER_PAGES; i++)
		CHECK(i >= 2 && i < 5 ? v_page_zero(over + i * V_PAGE)
				      : v_page_is(over + i * V_PAGE, 500 + i),
		      "private page %u over a memfd", i);
}

int main(int argc, char **argv)
{
	char path[64], page[V_PAGE];

	v_init(argc, argv);
	sealed = v_memfd("sealed", MFD_ALLOW_SEALING | MFD_CLOEXEC);
	fill(sealed, 100);
	SYS(fcntl(sealed, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_WRITE | F_SEAL_SEAL));
	two[0] = v_memfd("with blanks (in it)", 0);
	fill(two[0], 200);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", two[0]);
	two[1] = SYS(open(path, O_RDWR | O_APPEND));
	SYS(lseek(two[0], 12, SEEK_SET));
	SYS(lseek(two[1], 3456, SEEK_SET));
	plain = v_memfd("", MFD_ALLOW_SEALING);
	fill(plain, 300);
	SYS(fchmod(plain, 0640));
	SYS(ftruncate(plain, PAGES * V_PAGE + 5));
	read_only = SYS(open(path, O_RDONLY));
	mapped_fd = v_memfd("only mapped", 0);
	fill(mapped_fd, 400);
	mapped = v_map(PAGES * V_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, mapped_fd, 0);
	private = v_map(PAGES * V_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, mapped_fd, 0);
	v_page_fill(private, 999);
	close(mapped_fd);
	sparse = v_memfd("sparse", 0);
	SYS(ftruncate(sparse, 1L << 34));
	CHECK(pwrite(sparse, "far", 3, 1L << 33) == 3, "write");
	v_observe(note_memfds, 0);
	make_over();
	v_ready();
	v_wait();
	v_recheck();
	is(sealed, 100, "sealed");
	CHECK(pwrite(sealed, "x", 1, 0) < 0 && errno == EPERM, "seals are not in force");
	is(two[0], 200, "two");
	is(two[1], 200, "two, second");
	CHECK(pwrite(two[0], "@", 1, 0) == 1 && pread(two[1], page, 1, 0) == 1 && page[0] == '@' &&
		  pread(read_only, page + 1, 1, 0) == 1 && page[1] == '@',
	      "what was one memfd is two now");
	CHECK(write(read_only, "x", 1) < 0 && errno == EBADF, "read-only memfd can be written");
	is(plain, 300, "plain");
	CHECK(v_page_is(mapped, 400) && v_page_is(mapped + (PAGES - 1) * V_PAGE, 400 + PAGES - 1),
	      "mapped memfd");
	CHECK(v_page_is(private, 999) && v_page_is(private + V_PAGE, 401), "private mapping");
	v_page_fill(mapped + V_PAGE, 555);
	CHECK(v_page_is(private + V_PAGE, 555), "the two mappings are of two files");
	CHECK(pread(sparse, page, 4, (1L << 33) - 1) == 4 && !memcmp(page, "\0far", 4), "sparse");
	check_over();
	v_ok();
}
