/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Mappings that come, go, move, grow and shrink all the time, checked against a model.
 *
 * Each page of the model holds the seed of what the page must contain, or ZERO or FILE. The
 * arguments: the seed of the sequence, and how many steps between two rests of a millisecond.
 */
#include "victim.h"

#define REGIONS 40
#define MAX_PAGES 64
#define ZERO 0ULL
#define FILE_SEED 7000000ULL

enum sort { NONE, ANON, HUGE, SHARED, PRIVATE_FILE, SHARED_FILE, SORTS };

struct region {
	char *at;
	unsigned int pages;
	enum sort sort;
	/* Of a page: ZERO, the seed of its pattern, or FILE_SEED + page number. */
	uint64_t page[MAX_PAGES];
};

static struct region regions[REGIONS];
static struct region heap = {.sort = ANON};
static uint64_t rng, generation = 1ULL << 32;
static int file_fd;

static unsigned int dice(unsigned int n)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return (rng >> 11) % n;
}

/* For the report: what the page is instead. 1: none of what it could be. */
static uint64_t seed_of(const char *p, unsigned int number)
{
	if (v_page_zero(p))
		return ZERO;
	if (v_page_is(p, FILE_SEED + number))
		return FILE_SEED + number;
	for (uint64_t seed = generation; seed >> 32; seed--)
		if (v_page_is(p, seed))
			return seed;
	return 1;
}

static void check_page(const struct region *r, unsigned int i, const char *when)
{
	const char *p = r->at + i * V_PAGE;
	bool good = r->page[i] == ZERO ? v_page_zero(p) : v_page_is(p, r->page[i]);

	CHECK(good,
	      "%s: sort %d page %u of %u at %p should be %#lx and is %#lx, generation is %#lx",
	      when, r->sort, i, r->pages, (const void *)p, r->page[i], seed_of(p, i), generation);
}

static void check_region(const struct region *r, const char *when)
{
	unsigned int i;

	for (i = 0; i < r->pages; i++)
		check_page(r, i, when);
}

static void check_all(const char *when)
{
	unsigned int i;

	for (i = 0; i < REGIONS; i++)
		check_region(&regions[i], when);
	check_region(&heap, when);
}

static void write_page(struct region *r, unsigned int i)
{
	r->page[i] = ++generation;
	v_page_fill(r->at + i * V_PAGE, r->page[i]);
}

static void drop(struct region *r)
{
	if (r->sort == NONE)
		return;
	SYS(munmap(r->at, r->pages * V_PAGE));
	memset(r, 0, sizeof(*r));
}

static void make(struct region *r)
{
	unsigned int i;
	int flags;

	drop(r);
	r->sort = ANON + dice(SORTS - 1);
	r->pages = 1 + dice(MAX_PAGES);
	flags = r->sort == SHARED || r->sort == SHARED_FILE ? MAP_SHARED : MAP_PRIVATE;
	/* A shared file would be changed by several regions: each has its own memfd instead. */
	if (r->sort == SHARED_FILE) {
		int fd = v_memfd("churn", MFD_CLOEXEC);

		SYS(ftruncate(fd, MAX_PAGES * V_PAGE));
		r->at = v_map(r->pages * V_PAGE, PROT_READ | PROT_WRITE, flags, fd, 0);
		close(fd);
	} else if (r->sort == PRIVATE_FILE) {
		r->at = v_map(r->pages * V_PAGE, PROT_READ | PROT_WRITE, flags, file_fd, 0);
	} else {
		r->at =
		    v_map(r->pages * V_PAGE, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
	}
	if (r->sort == HUGE)
		SYS(madvise(r->at, r->pages * V_PAGE, MADV_HUGEPAGE));
	for (i = 0; i < r->pages; i++)
		r->page[i] = r->sort == PRIVATE_FILE ? FILE_SEED + i : ZERO;
	for (i = dice(r->pages + 1); i; i--)
		write_page(r, dice(r->pages));
}

/* Private anonymous regions grow, shrink and move; the others move only. */
static void remap(struct region *r)
{
	unsigned int pages = r->pages, i;
	char *to = r->at;

	if (r->sort == NONE)
		return;
	if (r->sort == ANON || r->sort == HUGE)
		pages = 1 + dice(MAX_PAGES);
	if (dice(2)) {
		to = v_map(MAX_PAGES * V_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		SYS(munmap(to, MAX_PAGES * V_PAGE));
		to = SYS(mremap(r->at, r->pages * V_PAGE, pages * V_PAGE,
				MREMAP_MAYMOVE | MREMAP_FIXED, to));
	} else {
		to = SYS(mremap(r->at, r->pages * V_PAGE, pages * V_PAGE, MREMAP_MAYMOVE));
	}
	for (i = r->pages; i < pages; i++)
		r->page[i] = ZERO;
	r->at = to;
	r->pages = pages;
}

static void discard(struct region *r)
{
	unsigned int first, n, i;

	if (r->sort == NONE)
		return;
	first = dice(r->pages);
	n = 1 + dice(r->pages - first);
	SYS(madvise(r->at + first * V_PAGE, n * V_PAGE, MADV_DONTNEED));
	for (i = first; i < first + n; i++) {
		if (r->sort == ANON || r->sort == HUGE)
			r->page[i] = ZERO;
		else if (r->sort == PRIVATE_FILE)
			r->page[i] = FILE_SEED + i;
	}
}

static void move_brk(void)
{
	unsigned int pages = dice(MAX_PAGES), i;

	SYS(brk(heap.at + pages * V_PAGE));
	for (i = heap.pages; i < pages; i++)
		heap.page[i] = ZERO;
	heap.pages = pages;
	for (i = 0; i < pages; i += 3)
		write_page(&heap, i);
}

static void fork_and_check(void)
{
	pid_t pid = SYS(fork());

	if (!pid) {
		check_all("in a child");
		_exit(0);
	}
	v_reap(pid, 0);
}

static void reprotect(struct region *r)
{
	if (r->sort == NONE)
		return;
	SYS(mprotect(r->at, r->pages * V_PAGE, dice(2) ? PROT_READ : PROT_NONE));
	if (dice(3))
		v_sleep_ms(dice(4));
	SYS(mprotect(r->at, r->pages * V_PAGE, PROT_READ | PROT_WRITE));
}

static void step(void)
{
	struct region *r = &regions[dice(REGIONS)];
	unsigned int what = dice(1000);

	if (what < 60)
		make(r);
	else if (what < 100)
		drop(r);
	else if (what < 170)
		remap(r);
	else if (what < 250)
		discard(r);
	else if (what < 270)
		move_brk();
	else if (what < 273)
		fork_and_check();
	else if (what < 290)
		reprotect(r);
	else if (r->pages && what < 650)
		write_page(r, dice(r->pages));
	else if (r->pages)
		check_page(r, dice(r->pages), "while working");
}

int main(int argc, char **argv)
{
	unsigned long steps = 0, rest;

	v_init(argc, argv);
	rng = v_mix(v_arg(0, 1));
	rest = v_arg(1, 50);
	file_fd = v_file("file", O_CLOEXEC, MAX_PAGES, FILE_SEED);
	/* Nothing may allocate from the heap that moves: v_ready() has done so before. */
	v_remember();
	heap.at = (char *)(((uintptr_t)SYS(sbrk(MAX_PAGES * V_PAGE)) + V_PAGE - 1) & ~(V_PAGE - 1));
	v_ready();
	for (; steps % 64 || !v_stopping(); steps++) {
		step();
		if (steps % rest == 0)
			v_sleep_ms(1);
	}
	check_all("at the end");
	fork_and_check();
	v_ok();
}
