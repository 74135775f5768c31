/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One mapping of each sort. The whole list of mappings with its VmFlags must be the same after,
 * each mapping must hold what it held, and each must still behave as its sort does.
 */
#include "victim.h"

#define PAGES 16
#define LEN (PAGES * V_PAGE)

static char *anon, *shared, *readonly, *none, *fpriv, *fpriv_clean, *fshared, *exec_only, *reserve;
static char *hole, *brk_at, *dontneeded, *grow, *huge, *tail_file;
static char *advised[6];
static char *locked, *onfault;
static char smaps_before[262144], smaps_after[262144];

static void fill(char *p, unsigned int pages, uint64_t seed)
{
	unsigned int i;

	for (i = 0; i < pages; i++)
		v_page_fill(p + i * V_PAGE, seed + i);
}

static void is(const char *name, const char *p, unsigned int pages, uint64_t seed)
{
	unsigned int i;

	for (i = 0; i < pages; i++)
		CHECK(v_page_is(p + i * V_PAGE, seed + i), "%s: page %u is wrong", name, i);
}

/* "start-end perms offset dev inode path" and "VmFlags: ..." of every mapping. */
static void read_layout(char *out, size_t size)
{
	static char raw[1 << 20];
	size_t len = 0, n = 0;
	char *line, *save;
	ssize_t got;
	int fd = SYS(open("/proc/self/smaps", O_RDONLY));

	while ((got = SYS(read(fd, raw + len, sizeof(raw) - 1 - len))) > 0)
		len += got;
	close(fd);
	raw[len] = 0;
	for (line = strtok_r(raw, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		if (!strncmp(line, "VmFlags:", 8)) {
			/* Only this one is the tracker's: sd, soft-dirty. */
			char *sd = strstr(line, " sd");

			if (sd)
				memmove(sd, sd + 3, strlen(sd + 3) + 1);
		} else if (line[0] >= 'A' && line[0] <= 'Z') {
			continue;
		} else if (strstr(line, "/dev/zero (deleted)")) {
			/* Shared anonymous memory; its inode number is not part of it. */
			*strstr(line, " 00:") = 0;
		}
		n += snprintf(out + n, size - n, "%s\n", line);
		CHECK(n < size, "too many mappings");
	}
}

static void compare_layout(void)
{
	char *a = smaps_before, *b = smaps_after, *x = a, *y = b;

	read_layout(smaps_after, sizeof(smaps_after));
	for (; *a && *a == *b; a++, b++) {
		/* From the head line of a mapping on, to say which one it is. */
		if (*a == '\n' && a[1] != 'V') {
			x = a + 1;
			y = b + 1;
		}
	}
	if (*a != *b)
		v_fail("mapping was \"%.*s\" now \"%.*s\"",
		       (int)strcspn(strchr(x, '\n') + 1, "\n") + (int)strcspn(x, "\n") + 1, x,
		       (int)strcspn(y, "\n") + 120, y);
}

static void make_files(void)
{
	int fd = v_file("private", 0, PAGES, 1000), i;

	fpriv = v_map(LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	for (i = 0; i < PAGES; i += 2)
		v_page_fill(fpriv + i * V_PAGE, 2000 + i);
	fpriv_clean = v_map(LEN / 2, PROT_READ, MAP_PRIVATE, fd, LEN / 2);
	close(fd);
	fd = v_file("shared", 0, PAGES, 3000);
	fshared = v_map(LEN, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	fill(fshared + LEN / 2, PAGES / 2, 3500);
	close(fd);
	/* A mapping that goes on behind the end of its file. */
	fd = v_file("tail", 0, 1, 3600);
	SYS(ftruncate(fd, 1000));
	tail_file = v_map(4 * V_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	tail_file[1500] = 'x';
	close(fd);
}

static void make_anon(void)
{
	anon = v_map(LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	fill(anon, PAGES, 100);
	shared = v_map(LEN, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	fill(shared, PAGES - 4, 200);
	readonly = v_map(LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	fill(readonly, PAGES, 300);
	SYS(mprotect(readonly, LEN, PROT_READ));
	none = v_map(LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	fill(none, PAGES, 400);
	SYS(mprotect(none, LEN, PROT_NONE));
	exec_only = v_map(V_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memcpy(exec_only, "\xb8\x2a\x00\x00\x00\xc3", 6);
	SYS(mprotect(exec_only, V_PAGE, PROT_READ | PROT_EXEC));
	reserve = v_map(1UL << 36, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	v_page_fill(reserve + (1UL << 35), 500);
	hole = v_map(3 * LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	fill(hole, 3 * PAGES, 600);
	SYS(munmap(hole + LEN, LEN));
	dontneeded = v_map(LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	fill(dontneeded, PAGES, 700);
	SYS(madvise(dontneeded, LEN / 2, MADV_DONTNEED));
}

/* Comes last: room is left below for it to grow into, which later mappings would take. */
static void make_growing(void)
{
	grow = v_map(2 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	SYS(munmap(grow, 2 << 20));
	grow = SYS(mmap(grow + (2 << 20) - LEN, LEN, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED, -1, 0));
	fill(grow, PAGES, 800);
}

static void make_heap(void)
{
	brk_at = (char *)(((uintptr_t)SYS(sbrk(LEN + V_PAGE)) + V_PAGE - 1) & ~(V_PAGE - 1));
	fill(brk_at, PAGES, 900);
}

static void make_advised(void)
{
	static const int advice[] = {MADV_DONTFORK,  MADV_DONTDUMP, MADV_WIPEONFORK,
				     MADV_MERGEABLE, MADV_HUGEPAGE, MADV_NOHUGEPAGE};
	size_t i;

	for (i = 0; i < V_COUNT(advice); i++) {
		/* Guards keep them apart, so that each stays a mapping of its own. */
		advised[i] = v_map(LEN + V_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		SYS(mprotect(advised[i], LEN, PROT_READ | PROT_WRITE));
		SYS(madvise(advised[i], LEN, advice[i]));
		fill(advised[i], PAGES, 5000 + i * 100);
	}
	huge = v_map(6 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	SYS(madvise(huge, 6 << 20, MADV_HUGEPAGE));
	fill(huge, (6 << 20) / V_PAGE, 6000);
	locked = v_map(LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	fill(locked, PAGES, 9000);
	SYS(mlock(locked, LEN));
	onfault = v_map(LEN, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	SYS(mlock2(onfault, LEN, MLOCK_ONFAULT));
}

static void check_anon(void)
{
	unsigned int i;

	is("anon", anon, PAGES, 100);
	is("shared", shared, PAGES - 4, 200);
	for (i = PAGES - 4; i < PAGES; i++)
		CHECK(v_page_zero(shared + i * V_PAGE), "shared: page %u is not zero", i);
	is("read-only", readonly, PAGES, 300);
	SYS(mprotect(none, LEN, PROT_READ));
	is("PROT_NONE", none, PAGES, 400);
	CHECK(((int (*)(void))exec_only)() == 42, "code in memory is wrong");
	CHECK(v_page_is(reserve + (1UL << 35), 500), "sparse page is wrong");
	CHECK(v_page_zero(reserve + (1UL << 34)), "sparse mapping has a page too many");
	is("around a hole", hole, PAGES, 600);
	is("around a hole", hole + 2 * LEN, PAGES, 600 + 2 * PAGES);
	is("after DONTNEED", dontneeded + LEN / 2, PAGES / 2, 700 + PAGES / 2);
	for (i = 0; i < PAGES / 2; i++)
		CHECK(v_page_zero(dontneeded + i * V_PAGE), "page %u came back", i);
	is("growsdown", grow, PAGES, 800);
	v_page_fill(grow - V_PAGE, 799);
	is("growsdown grown", grow - V_PAGE, PAGES + 1, 799);
	is("brk", brk_at, PAGES, 900);
	v_page_fill((char *)SYS(sbrk(2 * V_PAGE)) + V_PAGE / 2, 1);
}

static void check_files(void)
{
	unsigned int i;
	char buf[V_PAGE];
	int fd;

	for (i = 0; i < PAGES; i++)
		CHECK(v_page_is(fpriv + i * V_PAGE, (i & 1 ? 1000 : 2000) + i),
		      "private file page %u", i);
	is("clean private file", fpriv_clean, PAGES / 2, 1000 + PAGES / 2);
	is("shared file", fshared, PAGES / 2, 3000);
	is("shared file", fshared + LEN / 2, PAGES / 2, 3500);
	v_page_fill(fshared, 4000);
	fd = SYS(open(v_path("shared"), O_RDONLY));
	CHECK(read(fd, buf, V_PAGE) == (ssize_t)V_PAGE && v_page_is(buf, 4000),
	      "a store into the shared file does not reach it");
	close(fd);
	CHECK(tail_file[1500] == 'x' && !tail_file[1501], "tail page of a file is wrong");
	/* New pages of the private mapping come from the file still. */
	SYS(madvise(fpriv, LEN, MADV_DONTNEED));
	is("private file, dropped", fpriv, PAGES, 1000);
}

static void check_fork(void)
{
	unsigned char vec;
	pid_t pid = SYS(fork());

	if (!pid) {
		CHECK(mincore(advised[0], V_PAGE, &vec) < 0 && errno == ENOMEM, "DONTFORK is lost");
		CHECK(v_page_zero(advised[2]), "WIPEONFORK is lost");
		is("in a child", anon, PAGES, 100);
		_exit(0);
	}
	v_reap(pid, 0);
}

static int deep(int n)
{
	volatile char frame[8192];

	frame[0] = n;
	frame[8191] = 1;
	return n ? deep(n - 1) + frame[8191] : 0;
}

int main(int argc, char **argv)
{
	size_t i;

	v_init(argc, argv);
	make_anon();
	make_files();
	make_advised();
	make_heap();
	make_growing();
	/* The heap is as large as it will be before the list is taken. */
	v_remember();
	read_layout(smaps_before, sizeof(smaps_before));
	v_ready();
	v_wait();
	compare_layout();
	v_recheck();
	for (i = 0; i < V_COUNT(advised); i++)
		is("advised", advised[i], PAGES, 5000 + i * 100);
	is("huge", huge, (6 << 20) / V_PAGE, 6000);
	is("locked", locked, PAGES, 9000);
	CHECK(v_page_zero(onfault), "locked on fault: not zero");
	check_anon();
	check_files();
	check_fork();
	CHECK(deep(300) == 300, "the stack does not grow");
	v_ok();
}
