/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A whole page table takes the place of another: pages that were not written to are elsewhere
 * afterwards, while the mappings look as before. Soft-dirty bits do not tell that.
 */
#include "victim.h"

#define TABLE_PAGES 512
#define TABLE (TABLE_PAGES * V_PAGE)
#define SLOTS 6

static char *slot[SLOTS];
static uint64_t value[SLOTS][TABLE_PAGES];

static void check_slot(unsigned int s)
{
	for (unsigned int i = 0; i < TABLE_PAGES; i++)
		CHECK(v_page_is(slot[s] + i * V_PAGE, value[s][i]), "page %u of table %u is wrong",
		      i, s);
}

static void fill_slot(unsigned int s, uint64_t *seed)
{
	SYS(mmap(slot[s], TABLE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
		 -1, 0));
	SYS(madvise(slot[s], TABLE, MADV_NOHUGEPAGE));
	for (unsigned int i = 0; i < TABLE_PAGES; i++)
		v_page_fill(slot[s] + i * V_PAGE, value[s][i] = ++*seed);
}

int main(int argc, char **argv)
{
	uint64_t seed = 1 << 20;
	unsigned int from, to;
	char *all;

	v_init(argc, argv);
	all = v_map((2 * SLOTS + 1) * TABLE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	all += TABLE - (uintptr_t)all % TABLE;
	/* Never beside each other: they remain mappings of their own. */
	for (to = 0; to < SLOTS; to++) {
		slot[to] = all + 2 * to * TABLE;
		fill_slot(to, &seed);
	}
	v_ready();
	while (!v_stopping()) {
		v_sleep_ms(50 + v_mix(++seed) % 300);
		from = v_mix(++seed) % SLOTS;
		to = (from + 1 + v_mix(++seed) % (SLOTS - 1)) % SLOTS;
		SYS(mremap(slot[from], TABLE, TABLE, MREMAP_MAYMOVE | MREMAP_FIXED, slot[to]));
		memcpy(value[to], value[from], sizeof(value[to]));
		fill_slot(from, &seed);
		check_slot(to);
	}
	for (to = 0; to < SLOTS; to++)
		check_slot(to);
	v_ok();
}
