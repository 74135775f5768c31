/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which pages of one address space changed since the last look?
 * Two trackers, one interface: soft-dirty (needs the guest frozen for each scan) and uffd-wp
 * (kernel 6.7+, scans while the guest runs). A page is never assumed clean.
 */
#pragma once

#include <sys/types.h>

#include "err.h"
#include "proc_maps.h"
#include "remote.h"
#include "vec.h"

enum tracker_kind { TRACKER_AUTO, TRACKER_SOFT_DIRTY, TRACKER_UFFD_WP };

const char *tracker_name(enum tracker_kind k);
/* Can this kernel do it? 0, or -ENOTSUP with why not (for `check`). AUTO becomes the best in *k. */
int tracker_probe(enum tracker_kind *k, struct err *e);

struct prange { uint64_t start, end; };     /* page aligned guest addresses or object offsets */
typedef VEC(struct prange) prange_vec;
void prange_add(prange_vec *v, uint64_t start, uint64_t end);  /* ascending; merges neighbours */
uint64_t prange_bytes(const prange_vec *v);
/* Sets of ranges: appended to `out` (which must lie before them), in linear time. */
void prange_or(const prange_vec *a, const prange_vec *b, prange_vec *out);
void prange_and(const prange_vec *a, const prange_vec *b, prange_vec *out);
void prange_minus(const prange_vec *a, const prange_vec *b, prange_vec *out);
void prange_clip(const prange_vec *a, uint64_t start, uint64_t end, prange_vec *out);
/* Takes `more` in, wherever it lies. */
void prange_merge(prange_vec *v, const prange_vec *more);

/* What one scan found. Ascending, not overlapping within a list. */
struct scan {
	prange_vec reset;    /* what the other side holds here is void: drop it first (tracking
	                        broke; mapping gone, new or re-made; page dropped ...) */
	prange_vec dirty;    /* present pages to read and send */
	prange_vec guard;    /* MADV_GUARD_INSTALL in private mappings; only of frozen scans */
	prange_vec unsure;   /* soft-dirty only: pages of shared mappings that are not mapped now,
	                        so the kernel cannot say whether they were written meanwhile */
};
void scan_free(struct scan *s);

struct tracker;

/* Starts tracking of a held process (injects for uffd-wp) and protects all given VMAs. The first
 * scan after it returns every present private page. Call again (new tracker) after exec. */
int tracker_start(struct tracker **t, enum tracker_kind k, struct remote *held,
		  struct err *e);
void tracker_free(struct tracker *t);       /* stops tracking, guest untouched */
pid_t tracker_pid(const struct tracker *t);
/* Whose memory it is: the start time, which tells one owner of a pid from the next. Kept for the
 * caller. */
void tracker_set_born(struct tracker *t, uint64_t start_time);
uint64_t tracker_born(const struct tracker *t);
/* The private pages that the other side holds once the last scan is applied:
 * those not in its `dirty` are clean. */
const prange_vec *tracker_known(const struct tracker *t);

/* The process stands still: takes mappings under tracking that are not yet. To be called right
 * after tracker_start(), and when tracker_uncovered() says that the last scan met new ones (which
 * were, and will be, reported in full until then). vmas: as they are at this moment. -ESRCH:
 * exec'ed (start again). */
int tracker_cover(struct tracker *t, const struct proc_vma *vmas, size_t n, struct err *e);
bool tracker_uncovered(const struct tracker *t);

/* One look. vmas: the address space now (maps order), complete. `frozen`: the guest stands still
 * (last scan, or dump): need not protect again. soft-dirty: the guest must be frozen by the caller
 * each time. Private mappings: anonymous pages only (a page still equal to its file is not
 * listed). Shared mappings (vma.shared): dirty lists what was written through this mapping, present
 * or not; contents are the object's business (pages_shm.h). Shared mappings of files that are not
 * in memory (tmpfs, hugetlbfs) are left out.
 * -ESRCH: process gone or exec'ed (start again). */
int tracker_scan(struct tracker *t, const struct proc_vma *vmas, size_t n, bool frozen,
		 struct scan *out, struct err *e);

/* All present anonymous pages of the private mappings, no tracking at all (plain dump). */
int tracker_scan_once(pid_t pid, const struct proc_vma *vmas, size_t n, struct scan *out,
		      struct err *e);

/* ---- keeping a tracker between two runs of the program (pre-dump --track-mem) ---- */

/* Hands the trackers of a guest to a small process of their own (uffd-wp; soft-dirty needs none)
 * that keeps them until they are claimed, the guest exits or a day has passed.
 * `cookie`: identifies the image directory that the next dump must name as its parent. */
int tracker_park(struct tracker *const *t, size_t n, pid_t root, const char *cookie, struct err *e);
/* Claims them again: fills t[0..*n). -ENOENT: nobody keeps any for this cookie (then a full dump
 * is due); trackers kept for another cookie (or any, with NULL) are given up: they would be in
 * the way of new ones. */
int tracker_claim(struct tracker ***t, size_t *n, pid_t root, const char *cookie, struct err *e);
