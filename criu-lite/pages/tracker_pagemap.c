/* SPDX-License-Identifier: Apache-2.0 */
#include "pages_pagemap.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cleanup.h"
#include "io.h"

struct pm_scan_arg {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
#define PAGEMAP_SCAN_IOCTL _IOWR('f', 16, struct pm_scan_arg)

#define REGIONS_ROOM 4096

int pm_open(pid_t pid)
{
	char path[32], byte[8];

	snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? -ESRCH : -errno;
	/* A zombie's file opens but has nothing to read. */
	if (pread(fd, byte, sizeof(byte), 0) == (ssize_t)sizeof(byte))
		return fd;
	close(fd);
	return -ESRCH;
}

int pm_scan(int pm, const struct pm_query *q, uint64_t start, uint64_t end, pm_regions *out)
{
	while (start < end) {
		vec_reserve(out, out->n + REGIONS_ROOM);
		struct pm_scan_arg arg = {
			.size = sizeof(arg), .flags = q->flags, .start = start, .end = end,
			.vec = (uintptr_t)(out->at + out->n), .vec_len = out->cap - out->n,
			.category_mask = q->mask, .category_inverted = q->inverted,
			.category_anyof_mask = q->anyof, .return_mask = q->ret,
		};
		int got = ioctl(pm, PAGEMAP_SCAN_IOCTL, &arg);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		out->n += (size_t)got;
		/* walk_end may stop short of the end after a complete scan: only a full
		 * vector means that there is more. */
		if ((uint64_t)got < arg.vec_len)
			break;
		start = arg.walk_end;
	}
	return 0;
}

bool pm_scan_works(bool *guards)
{
	_cleanup_close_ int pm = pm_open(getpid());
	struct pm_query q = { .anyof = PM_CAT_PRESENT, .ret = PM_CAT_PRESENT };
	pm_regions got = { 0 };
	uint64_t here = (uintptr_t)&got & ~(PAGE_SIZE - 1);

	*guards = false;
	if (pm < 0)
		return false;
	bool works = pm_scan(pm, &q, here, here + PAGE_SIZE, &got) == 0;
	q.ret |= PM_CAT_GUARD;
	*guards = works && pm_scan(pm, &q, here, here + PAGE_SIZE, &got) == 0;
	vec_free(&got);
	return works;
}

int pm_read(int pm, uint64_t at, uint64_t *pme, size_t n)
{
	int ret = io_pread(pm, pme, n * sizeof(*pme), (off_t)(at / PAGE_SIZE * sizeof(*pme)));

	return ret == -ENODATA ? -ESRCH : ret;
}

#define SWAP_TYPE_BITS   5
#define SWAP_TYPE_MARKER 31u /* the last one: SWP_PTE_MARKER */
#define MARKER_GUARD     (1u << 2)

bool pme_is_marker(uint64_t pme)
{
	return (pme & PME_SWAP) && (pme & ((1u << SWAP_TYPE_BITS) - 1)) == SWAP_TYPE_MARKER;
}

bool pme_is_guard(uint64_t pme)
{
	return pme_is_marker(pme) && ((pme & PME_FRAME) >> SWAP_TYPE_BITS & MARKER_GUARD);
}

/* A read of untouched anonymous memory maps the zero page. 0: none was shown. */
static uint64_t frame_by_reading(int pm, volatile uint8_t *p)
{
	uint64_t pme = 0;

	(void)*p;
	return pm_read(pm, (uintptr_t)p, &pme, 1) == 0 && (pme & PME_PRESENT) ? pme & PME_FRAME : 0;
}

/* Where huge pages are in use it maps the huge zero page, whose frames are its own. It goes when
 * nobody has it any more, and the next one may be elsewhere. */
static void find_huge(int pm, struct pm_zeros *z)
{
	const size_t huge = HUGE_FRAMES * PAGE_SIZE;
	uint8_t *p = mmap(NULL, 2 * huge, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
			  -1, 0);

	if (p == MAP_FAILED)
		return;
	z->hold = p;
	p += huge - (uintptr_t)p % huge;
	if (madvise(p, huge, MADV_HUGEPAGE) < 0)
		return;
	uint64_t first = frame_by_reading(pm, p);
	uint64_t next = frame_by_reading(pm, p + PAGE_SIZE);
	if (first != z->small && next == first + 1)
		z->huge = first;
}

int pm_zeros_find(struct pm_zeros *z)
{
	_cleanup_close_ int pm = pm_open(getpid());

	*z = (struct pm_zeros){ 0 };
	if (pm < 0)
		return pm;
	void *p = mmap(NULL, PAGE_SIZE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return -errno;
	z->small = frame_by_reading(pm, p);
	munmap(p, PAGE_SIZE);
	if (!z->small)
		return -EPERM;
	find_huge(pm, z);
	return 0;
}

void pm_zeros_free(struct pm_zeros *z)
{
	if (z->hold)
		munmap(z->hold, 2 * HUGE_FRAMES * PAGE_SIZE);
	z->hold = NULL;
}
