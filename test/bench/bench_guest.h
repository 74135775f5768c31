/* SPDX-License-Identifier: Apache-2.0 */
/* What the guests of the benchmarks have in common: PROGRAM MIB RATE STATUS, noise, SIGUSR1. */
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE  4096
#define WORDS (PAGE / sizeof(uint64_t))

struct guest {
	uint64_t *mem;
	size_t pages;
	int64_t rate;                /* pages per s */
	int status;                  /* the file */
};

static volatile sig_atomic_t asked;

static void on_usr1(int sig)
{
	(void)sig;
	asked = 1;
}

static int64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

/* Does not compress. */
static uint64_t noise(uint64_t *x)
{
	*x ^= *x << 13;
	*x ^= *x >> 7;
	*x ^= *x << 17;
	return *x;
}

/* From the command line; memory that nothing is in. Exits if it cannot. */
static struct guest begin(int argc, char **argv)
{
	struct guest g = { .pages = argc > 3 ? strtoul(argv[1], NULL, 0) << 8 : 0 };

	if (!g.pages)
		exit(2);
	g.rate = strtol(argv[2], NULL, 0) * 256;
	g.status = open(argv[3], O_WRONLY | O_CREAT | O_APPEND, 0644);
	g.mem = mmap(NULL, g.pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		     0);
	if (g.status < 0 || g.mem == MAP_FAILED)
		exit(1);
	signal(SIGUSR1, on_usr1);
	return g;
}
