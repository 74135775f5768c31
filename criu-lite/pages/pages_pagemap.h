/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the kernel says about pages: the PAGEMAP_SCAN ioctl (Linux 6.7+) and the entries of
 * /proc/PID/pagemap. The constants are the kernel's; distributions' headers lag behind.
 */
#pragma once

#include <linux/ioctl.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "vec.h"

#define PM_CAT_WRITTEN (1u << 1)
#define PM_CAT_FILE    (1u << 2)
#define PM_CAT_PRESENT (1u << 3)
#define PM_CAT_SWAPPED (1u << 4)
#define PM_CAT_ZERO    (1u << 5)
#define PM_CAT_GUARD   (1u << 8) /* 6.15+ */

#define PM_WP_MATCHING   (1u << 0)
#define PM_CHECK_WPASYNC (1u << 1)

/* Entries of /proc/PID/pagemap. The low 55 bits: page frame, or swap type (5 bits) and offset. */
#define PME_FRAME   ((1ull << 55) - 1)
#define PME_SOFT    (1ull << 55)
#define PME_FILE    (1ull << 61)
#define PME_SWAP    (1ull << 62)
#define PME_PRESENT (1ull << 63)

struct pm_region {
	uint64_t start, end, cat;
};
typedef VEC(struct pm_region) pm_regions;

struct pm_query {
	uint64_t flags, mask, inverted, anyof, ret;
};

/* /proc/PID/pagemap of the address space the process has now (exec changes it). fd or -errno;
 * -ESRCH: no such process, or it has no memory any more. */
int pm_open(pid_t pid);

/* Is the ioctl there, does it know guard pages? */
bool pm_scan_works(bool *guards);

/* Appends what matches. 0 or -errno: -EPERM (CHECK_WPASYNC) or -ESRCH. Regions that were protected
 * by a scan that then fails are lost, so never combine PM_WP_MATCHING and PM_CHECK_WPASYNC. */
int pm_scan(int pm, const struct pm_query *q, uint64_t start, uint64_t end, pm_regions *out);

/* Reads entries for n pages from `at` on. 0 or -errno. */
int pm_read(int pm, uint64_t at, uint64_t *pme, size_t n);

/* Not a swapped page but a marker (write-protected hole, guard, poison), which
 * both interfaces show as swapped. */
bool pme_is_marker(uint64_t pme);
bool pme_is_guard(uint64_t pme);

/* The frames of the shared zero pages. 0 or -errno: they cannot be learnt. */
struct pm_zeros {
	uint64_t small;              /* 0: not shown */
	uint64_t huge;               /* the first of HUGE_FRAMES; 0: there is none */
	void *hold;                  /* a mapping of it, so that it stays the same */
};
#define HUGE_FRAMES 512
int pm_zeros_find(struct pm_zeros *z);
void pm_zeros_free(struct pm_zeros *z);
