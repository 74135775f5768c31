/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory of one sort takes the place of memory of another, always at the same addresses: what was
 * sent of the one must not be taken for the other, nor remain.
 */
#include "victim.h"

#define SLOTS 64
#define PAGES 4
#define ZERO 0ULL
#define FILE_SEED 7000000ULL

enum sort { ANON, FILE_PRIVATE, SHARED, SORTS };

static struct slot {
	char *at;
	enum sort sort;
	uint64_t page[PAGES]; /* ZERO, or the seed of its pattern */
} slots[SLOTS];
static uint64_t seed = 1ULL << 32;
static int file;

static unsigned int dice(unsigned int n)
{
	return v_mix(++seed) % n;
}

static void check(const struct slot *s)
{
	for (unsigned int i = 0; i < PAGES; i++) {
		const char *p = s->at + i * V_PAGE;

		CHECK(s->page[i] == ZERO ? v_page_zero(p) : v_page_is(p, s->page[i]),
		      "slot %zu, now of sort %d: page %u is not what it should be",
		      (size_t)(s - slots), s->sort, i);
	}
}

static void map(struct slot *s, int flags, int fd)
{
	SYS(mmap(s->at, PAGES * V_PAGE, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, 0));
}

static void change(struct slot *s)
{
	s->sort = dice(SORTS);
	if (s->sort == FILE_PRIVATE)
		map(s, MAP_PRIVATE, file);
	else
		map(s, (s->sort == ANON ? MAP_PRIVATE : MAP_SHARED) | MAP_ANONYMOUS, -1);
	for (unsigned int i = 0; i < PAGES; i++) {
		s->page[i] = s->sort == FILE_PRIVATE ? FILE_SEED + i : ZERO;
		switch (dice(3)) {
		case 0:
			s->page[i] = ++seed;
			v_page_fill(s->at + i * V_PAGE, seed);
			break;
		case 1: /* zeros that are written are not those that nobody wrote */
			s->page[i] = ZERO;
			memset(s->at + i * V_PAGE, 0, V_PAGE);
			break;
		}
	}
}

int main(int argc, char **argv)
{
	char *all;

	v_init(argc, argv);
	file = v_file("file", O_CLOEXEC, PAGES, FILE_SEED);
	all = v_map(SLOTS * PAGES * V_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (unsigned int i = 0; i < SLOTS; i++) {
		slots[i].at = all + i * PAGES * V_PAGE;
		change(&slots[i]);
	}
	v_ready();
	while (!v_stopping()) {
		struct slot *s = &slots[dice(SLOTS)];

		check(s);
		change(s);
		check(&slots[dice(SLOTS)]);
		v_sleep_ms(dice(2));
	}
	for (unsigned int i = 0; i < SLOTS; i++)
		check(&slots[i]);
	v_ok();
}
