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
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define WORDS (PAGE / sizeof(uint64_t))

static volatile sig_atomic_t asked;

static void on_usr1(int sig)
{
	(void)sig;
	asked = 1;
}

static uint64_t noise(uint64_t *x)
{
	*x ^= *x << 13;
	*x ^= *x >> 7;
	*x ^= *x << 17;
	return *x;
}

static int64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

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
	size_t pages = argc > 3 ? strtoul(argv[1], NULL, 0) << 8 : 0;
	long per_tick = argc > 3 ? strtol(argv[2], NULL, 0) * 256 : 0; /* in 1/1000 pages */
	uint64_t x = 88172645463325252ULL, *mem;
	int64_t last, gap = 0, owed = 0;
	int fd;

	if (!pages)
		return 2;
	fd = open(argv[3], O_WRONLY | O_CREAT | O_APPEND, 0644);
	mem = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (fd < 0 || mem == MAP_FAILED)
		return 1;
	signal(SIGUSR1, on_usr1);
	for (size_t i = 0; i < pages * WORDS; i++)
		mem[i] = noise(&x);
	for (size_t i = 0; i < pages; i++) {
		uint64_t *p = mem + i * WORDS;

		p[0] = i;
		p[1] = 0;
		p[WORDS - 1] = seal(p);
	}
	dprintf(fd, "ready\n");
	for (last = now_us();;) {
		int64_t t;

		usleep(1000);
		t = now_us();
		if (t - last > gap)
			gap = t - last;
		/* As much as the time that passed asks for, but no burst after a standstill. */
		owed += per_tick * (t - last > 10000 ? 10000 : t - last) / 1000;
		last = t;
		for (; owed >= 1000; owed -= 1000) {
			uint64_t *p = mem + noise(&x) % pages * WORDS;

			p[1]++;
			p[WORDS - 1] = seal(p);
		}
		if (asked) {
			asked = 0;
			dprintf(fd, "gap_us %lld bad %ld\n", (long long)gap, count_bad(mem, pages));
			gap = 0;
			last = now_us();
		}
	}
}
