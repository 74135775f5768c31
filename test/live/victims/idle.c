/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Holds MiB of memory and does nothing. Arguments: MiB (64), 1 to ask for huge pages, percent of
 * each page that is random and does not compress (100).
 */
#include "victim.h"

static void fill(uint64_t *page, uint64_t seed, unsigned int words)
{
	unsigned int i;

	for (i = 0; i < words; i++)
		page[i] = v_mix(seed + i);
}

int main(int argc, char **argv)
{
	size_t size, off;
	unsigned int words, i;
	uint64_t *page;
	char *memory;

	v_init(argc, argv);
	size = v_arg(0, 64) << 20;
	words = v_arg(2, 100) * (V_PAGE / sizeof(uint64_t)) / 100;
	memory = v_map(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (v_arg(1, 0))
		SYS(madvise(memory, size, MADV_HUGEPAGE));
	for (off = 0; off < size; off += V_PAGE) {
		fill((uint64_t *)(memory + off), off, words);
		memory[off + V_PAGE - 1] = 1;
	}
	v_ready();
	v_wait();
	for (off = 0; off < size; off += V_PAGE) {
		page = (uint64_t *)(memory + off);
		for (i = 0; i + 1 < words; i++)
			CHECK(page[i] == v_mix(off + i), "page %zu is wrong", off / V_PAGE);
		CHECK(memory[off + V_PAGE - 1] == 1, "end of page %zu is wrong", off / V_PAGE);
	}
	v_ok();
}
