/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A mapped memfd, changed by write(2), by another description, through a second mapping and by
 * a sibling process: no page table that a tracker watches sees all of it.
 */
#include "victim.h"

#define PAGES 128

static char *one, *two;
static int fd, fd_elsewhere;
/* What each page must be; shared with the sibling. */
static uint64_t *seeds;

static void check(const char *when)
{
	uint64_t buf[V_PAGE / sizeof(uint64_t)];
	unsigned int i;

	for (i = 0; i < PAGES; i++) {
		CHECK(v_page_is(one + i * V_PAGE, seeds[i]), "%s: page %u by mapping", when, i);
		CHECK(v_page_is(two + i * V_PAGE, seeds[i]), "%s: page %u by second mapping", when,
		      i);
		CHECK(pread(fd, buf, V_PAGE, i * V_PAGE) == (ssize_t)V_PAGE, "%s: pread", when);
		CHECK(v_page_is(buf, seeds[i]), "%s: page %u by read", when, i);
	}
}

static void change(unsigned int i, uint64_t seed)
{
	uint64_t buf[V_PAGE / sizeof(uint64_t)];

	v_page_fill(buf, seed);
	switch (seed % 3) {
	case 0:
		CHECK(pwrite(fd, buf, V_PAGE, i * V_PAGE) == (ssize_t)V_PAGE, "pwrite");
		break;
	case 1:
		memcpy(two + i * V_PAGE, buf, V_PAGE);
		break;
	default:
		CHECK(pwrite(fd_elsewhere, buf, V_PAGE, i * V_PAGE) == (ssize_t)V_PAGE, "pwrite");
	}
	seeds[i] = seed;
}

/* Changes one page each time it is asked by a byte, and answers by one. */
static void sibling(int in, int out)
{
	char c = 0;
	unsigned int i;

	while (SYS(read(in, &c, 1)) == 1) {
		for (i = 0; i < 4; i++)
			change(v_mix(seeds[0] + i) % PAGES, v_mix(seeds[1] + i) >> 8);
		CHECK(write(out, &c, 1) == 1, "sibling: write");
	}
	_exit(0);
}

int main(int argc, char **argv)
{
	uint64_t seed = 1 << 20;
	int to[2], from[2];
	unsigned int i;
	pid_t pid;
	char name[32], c = 0;

	v_init(argc, argv);
	fd = v_memfd("watched", 0);
	SYS(ftruncate(fd, PAGES * V_PAGE));
	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	fd_elsewhere = SYS(open(name, O_RDWR));
	seeds = v_map(PAGES * 8, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	one = v_map(PAGES * V_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	two = v_map(PAGES * V_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	for (i = 0; i < PAGES; i++)
		change(i, ++seed);
	SYS(pipe(to));
	SYS(pipe(from));
	pid = SYS(fork());
	if (!pid) {
		close(to[1]);
		sibling(to[0], from[1]);
	}
	close(to[0]);
	v_ready();
	while (!v_stopping()) {
		for (i = 0; i < 10; i++, seed++)
			change(v_mix(seed) % PAGES, seed);
		CHECK(write(to[1], &c, 1) == 1 && read(from[0], &c, 1) == 1, "the sibling is gone");
		check("while working");
		v_sleep_ms(seed % 5);
	}
	check("at the end");
	v_recheck();
	close(to[1]);
	v_reap(pid, 0);
	v_ok();
}
