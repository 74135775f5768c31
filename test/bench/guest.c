/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest of the benchmarks: guest MIB RATE STATUS
 *
 * Fills MIB of memory with noise that does not compress, then changes RATE MiB of it each
 * second, page by page in random order, in steps of a millisecond. Writes one line to the
 * file STATUS when it is ready, and one on every SIGUSR1:
 *
 *   ready | gap_us N bad N
 *
 * gap_us: the longest time between two steps since the last line, which is how long it stood
 * still. bad: pages whose content is not what was written.
 */
#include "bench_guest.h"

/* Word 0 of a page is its number, word 1 its version; the last word is made of both. */
static uint64_t seal(const uint64_t *p)
{
	return p[0] * 0x9e3779b97f4a7c15ULL + p[1] + 1;
}

static long count_bad(const uint64_t *mem, size_t pages)
{
	long bad = 0;

	for (size_t i = 0; i < pages; i++) {
		const uint64_t *p = mem + i * WORDS;

		bad += p[0] != i || p[WORDS - 1] != seal(p);
	}
	return bad;
}

int main(int argc, char **argv)
{
	struct guest g = begin(argc, argv);
	uint64_t x = 88172645463325252ULL;
	int64_t last, gap = 0, owed = 0; /* owed: in 1/1000 pages */

	for (size_t i = 0; i < g.pages * WORDS; i++)
		g.mem[i] = noise(&x);
	for (size_t i = 0; i < g.pages; i++) {
		uint64_t *p = g.mem + i * WORDS;

		p[0] = i;
		p[1] = 0;
		p[WORDS - 1] = seal(p);
	}
	dprintf(g.status, "ready\n");
	for (last = now_us();;) {
		int64_t t;

		usleep(1000);
		t = now_us();
		if (t - last > gap)
			gap = t - last;
		/* As much as the time that passed asks for, but no burst after a standstill. */
		owed += g.rate * (t - last > 10000 ? 10000 : t - last) / 1000;
		last = t;
		for (; owed >= 1000; owed -= 1000) {
			uint64_t *p = g.mem + noise(&x) % g.pages * WORDS;

			p[1]++;
			p[WORDS - 1] = seal(p);
		}
		if (asked) {
			asked = 0;
			dprintf(g.status, "gap_us %lld bad %ld\n", (long long)gap,
				count_bad(g.mem, g.pages));
			gap = 0;
			last = now_us();
		}
	}
}
