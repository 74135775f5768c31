/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shared memory that loses pages without a store: MADV_REMOVE, a punched hole, and a file cut
 * short and made long again. What was removed must read as zero, on the other side too.
 */
#include "victim.h"

#define PAGES 96

static char *map[2];
static int fd[2];
static uint64_t seeds[2][PAGES];

static void check(const char *when)
{
	unsigned int m, i;

	for (m = 0; m < 2; m++)
		for (i = 0; i < PAGES; i++)
			CHECK(seeds[m][i] ? v_page_is(map[m] + i * V_PAGE, seeds[m][i])
					  : v_page_zero(map[m] + i * V_PAGE),
			      "%s: %s page %u should be %s", when, m ? "file" : "memfd", i,
			      seeds[m][i] ? "written" : "zero");
}

static void fill(unsigned int m, unsigned int i, uint64_t seed)
{
	v_page_fill(map[m] + i * V_PAGE, seed);
	seeds[m][i] = seed;
}

static void lose(unsigned int m, uint64_t dice)
{
	unsigned int first = dice % PAGES, n = 1 + dice / PAGES % 8;

	if (first + n > PAGES)
		n = PAGES - first;
	switch (dice / 1024 % 3) {
	case 0:
		SYS(madvise(map[m] + first * V_PAGE, n * V_PAGE, MADV_REMOVE));
		break;
	case 1:
		SYS(fallocate(fd[m], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, first * V_PAGE,
			      n * V_PAGE));
		break;
	default:
		n = PAGES - first;
		SYS(ftruncate(fd[m], first * V_PAGE));
		if (m == 0)             /* to be read while it is short */
			v_sleep_ms(dice >> 20 & 7);
		SYS(ftruncate(fd[m], PAGES * V_PAGE));
	}
	memset(&seeds[m][first], 0, n * sizeof(seeds[m][0]));
}

int main(int argc, char **argv)
{
	uint64_t seed = 1 << 20;
	unsigned int m, i;

	v_init(argc, argv);
	fd[0] = v_memfd("holes", 0);
	fd[1] = v_file("holes", 0, 0, 0);
	for (m = 0; m < 2; m++) {
		SYS(ftruncate(fd[m], PAGES * V_PAGE));
		map[m] = v_map(PAGES * V_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd[m], 0);
		for (i = 0; i < PAGES; i += 1 + i % 3)
			fill(m, i, ++seed);
	}
	if (madvise(map[1], V_PAGE, MADV_REMOVE) < 0)
		v_skip("the state directory's file system has no holes: %s", strerror(errno));
	seeds[1][0] = 0;
	v_ready();
	while (!v_stopping()) {
		for (i = 0; i < 12; i++, seed++)
			fill(seed & 1, v_mix(seed) % PAGES, seed);
		lose(seed / 8 & 1, v_mix(seed));
		check("while working");
		v_sleep_ms(seed % 7);
	}
	check("at the end");
	v_ok();
}
