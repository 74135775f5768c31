/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pages of a private file mapping are written and dropped in turn: a dropped one is the file's
 * again, and a tracker by write protection does not hear of that. Also anonymous memory, dropped
 * by MADV_DONTNEED and by mapping over it.
 */
#include "victim.h"

#define PAGES 256

static bool written[PAGES];
static uint64_t value[PAGES];
static char *file, *anon;

static void check(unsigned int i)
{
	CHECK(v_page_is(file + i * V_PAGE, written[i] ? value[i] : i), "file page %u: %s is lost",
	      i, written[i] ? "the write" : "the drop");
	CHECK(written[i] ? v_page_is(anon + i * V_PAGE, value[i]) : v_page_zero(anon + i * V_PAGE),
	      "anonymous page %u: %s is lost", i, written[i] ? "the write" : "the drop");
}

static void change(unsigned int i, uint64_t seed)
{
	written[i] = !written[i];
	if (written[i]) {
		value[i] = seed;
		v_page_fill(file + i * V_PAGE, seed);
		v_page_fill(anon + i * V_PAGE, seed);
		return;
	}
	SYS(madvise(file + i * V_PAGE, V_PAGE, MADV_DONTNEED));
	if (seed & 1)
		SYS(madvise(anon + i * V_PAGE, V_PAGE, MADV_DONTNEED));
	else
		SYS(mmap(anon + i * V_PAGE, V_PAGE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
}

int main(int argc, char **argv)
{
	uint64_t seed = 1 << 20;
	unsigned int i;
	int fd;

	v_init(argc, argv);
	fd = v_file("file", 0, PAGES, 0);
	file = v_map(PAGES * V_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	anon = v_map(PAGES * V_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	close(fd);
	for (i = 0; i < PAGES; i++)
		change(i, ++seed);
	v_ready();
	while (!v_stopping()) {
		/* Rests of different length, so that rounds end between a write and its drop. */
		for (i = 0; i < 20; i++, seed++)
			change(v_mix(seed) % PAGES, seed);
		for (i = 0; i < PAGES; i++)
			check(i);
		v_sleep_ms(seed % 7);
	}
	v_ok();
}
