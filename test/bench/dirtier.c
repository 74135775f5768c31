/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest that sweeps over its memory: dirtier MIB RATE STATUS
 *
 * Fills MIB of memory with noise, then goes over it again and again from its beginning to its end,
 * so that RATE MiB of it are new noise each second: nothing of that compresses, and no page is like
 * it was before. It works only while it runs: time in which it is stopped by SIGSTOP is not made up
 * for, as with a program that computes; time in which other programs have the CPU is, so that RATE
 * is right on a busy machine, too. On every SIGUSR1 it writes one line to the file STATUS:
 *
 *   ready | us N pages N gap_us N bad N
 *
 * us: CLOCK_MONOTONIC. pages: written so far, its loop counter. gap_us: the longest time between
 * two steps since the last line. bad: pages whose content is not what was written.
 */
#include "bench_guest.h"

#define TICK_US 1000
#define LATE_US 50000                /* more than this is not made up for in any case */

static volatile sig_atomic_t continued;

static void on_cont(int sig)
{
	(void)sig;
	continued = 1;
}

/* Word 0 is the seed of all the others: it is made of the page's number and its version. */
static uint64_t seed(size_t page, uint64_t version)
{
	return (page + 1) * 0x9e3779b97f4a7c15ULL + version * 0x632be59bd9b4e019ULL + 1;
}

static void write_page(uint64_t *p, size_t page, uint64_t version)
{
	uint64_t x = p[0] = seed(page, version);

	for (size_t i = 1; i < WORDS; i++)
		p[i] = noise(&x);
}

static int page_is(const uint64_t *p, size_t page, uint64_t version)
{
	uint64_t x = seed(page, version), bad = p[0] ^ x;

	for (size_t i = 1; i < WORDS; i++)
		bad |= p[i] ^ noise(&x);
	return bad == 0;
}

int main(int argc, char **argv)
{
	struct guest g = begin(argc, argv);
	size_t pages = g.pages;
	int64_t last, gap = 0, owed = 0; /* owed: in millionths of a page */
	uint64_t done;

	signal(SIGCONT, on_cont);
	/* The page that is written as number n has the version n / pages. */
	for (done = 0; done < pages; done++)
		write_page(g.mem + done * WORDS, done, 0);
	dprintf(g.status, "ready\n");
	for (last = now_us();;) {
		int64_t t;

		usleep(TICK_US);
		t = now_us();
		if (t - last > gap)
			gap = t - last;
		if (!continued)
			owed += g.rate * (t - last > LATE_US ? LATE_US : t - last);
		continued = 0;
		last = t;
		for (; owed >= 1000000; owed -= 1000000, done++)
			write_page(g.mem + done % pages * WORDS, done % pages, done / pages);
		if (asked) {
			long bad = 0;

			asked = 0;
			dprintf(g.status, "us %lld pages %llu gap_us %lld ", (long long)t,
				(unsigned long long)done, (long long)gap);
			for (size_t i = 0; i < pages; i++)
				bad += !page_is(g.mem + i * WORDS, i,
						done / pages - (i >= done % pages));
			dprintf(g.status, "bad %ld\n", bad);
			gap = 0;
			last = now_us();
		}
	}
}
