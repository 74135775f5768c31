/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the trackers; for tracker*.c and their tests only. */
#pragma once

#include "pages_pagemap.h"
#include "pages_tracker.h"

/* A mapping that userfaultfd refuses. */
struct quirk {
	uint64_t start, end, pgoff, ino;
	/* SKIP: cannot be written, nothing to do; FULL: all of it */
	enum { QUIRK_SKIP, QUIRK_FULL } what;
};

/* A mapping of the list of the last look at the running guest. */
struct seen {
	uint64_t start, end, offset, ino;
	uint64_t name;               /* of the file of a private mapping, as a hash */
	uint32_t major, minor, flags;
	bool shared;
};

/* Some of the pages with content that one page table held, as numbers that tell page and frame
 * (tracker_moved.c). 0: none. */
#define TABLE_SAMPLES 4
struct soft_table {
	uint64_t at;              /* the first address that it maps */
	uint64_t sample[TABLE_SAMPLES];
};
typedef VEC(struct soft_table) soft_tables;

struct device {
	uint32_t major, minor;
	long fs_type;
};

struct tracker {
	enum tracker_kind kind;
	pid_t pid;
	uint64_t born;            /* see tracker_born() */
	bool scanned;             /* the first look is done */
	prange_vec known;         /* see tracker_known() */
	VEC(struct device) device;
	VEC(struct seen) seen;

	int uffd;                 /* uffd-wp, else -1 */
	bool guards;              /* uffd-wp: the kernel tells guard pages */
	bool old_marks;           /* uffd-wp: as uffd_old_marks() */
	VEC(struct quirk) quirk;
	prange_vec fresh;         /* uffd-wp: registered since the last look */
	bool uncovered;           /* uffd-wp: the last look met mappings that are not registered */

	struct pm_zeros zeros;    /* soft-dirty */
	soft_tables tables;       /* soft-dirty: as the last look saw them */
	bool merging;             /* soft-dirty: pages were being merged (KSM) at the last look */
};

/* As tracker_start(), without injection: takes the uffd (fresh, of that process), or -1. */
int tracker_start_with_fd(struct tracker **t, enum tracker_kind k, pid_t pid, int uffd,
			  struct err *e);

/* One scan while it runs. */
struct look {
	struct tracker *t;
	int pm;
	bool frozen;
	struct scan *out;
	prange_vec known;         /* becomes t->known */
	prange_vec remade;        /* not what it was in the list of the last look */
	bool merging;             /* KSM is or was at work */
};

/* Against the list that was remembered: what is another mapping now, and with soft-dirty what was
 * none. Nothing, if there is no such list. */
void tracker_remade(const struct tracker *t, const struct proc_vma *vmas, size_t n,
		    prange_vec *out);
void tracker_remember(struct tracker *t, const struct proc_vma *vmas, size_t n);

/* Kernel's own mappings (vdso...), and shared mappings of files that live elsewhere. */
bool tracker_leaves_out(struct tracker *t, const struct proc_vma *vma);
/* Pages of hugetlbfs. */
bool tracker_huge(struct tracker *t, const struct proc_vma *vma);
static inline bool tracker_file_backed(const struct proc_vma *vma) { return vma->ino != 0; }

/* The parts of `want`, ranges of a shared mapping, behind which the object has data.
 * -errno if that cannot be told (the mapping changed meanwhile). */
int tracker_data(pid_t pid, const struct proc_vma *vma, const prange_vec *want, prange_vec *out);

/* Can it be done here; how it begins; one look. */
int uffd_probe(struct err *e);
int soft_probe(struct err *e);
/* Makes a userfaultfd in the held process and takes it out. fd or -errno. */
int uffd_inject(struct remote *held, struct err *e);
int uffd_begin(struct tracker *t, struct err *e);
/* Does mremap() leave the marks of pages that it takes out of sight (before Linux 6.13)? Pages with
 * such marks would never be marked again. */
bool uffd_old_marks(void);
int soft_begin(struct tracker *t, struct err *e);
int uffd_cover(struct tracker *t, int pm, const struct proc_vma *vmas, size_t n, struct err *e);
int uffd_scan(struct look *l, const struct proc_vma *vmas, size_t n, struct err *e);
int soft_scan(struct look *l, const struct proc_vma *vmas, size_t n, struct err *e);

/* Private content in [start, end) as PAGEMAP_SCAN tells: appends to `content`, guard pages to
 * `guard` (may be NULL). `q` must ask for CONTENT_ANYOF and return CONTENT_RET. */
#define CONTENT_ANYOF (PM_CAT_PRESENT | PM_CAT_SWAPPED)
int uffd_content(int pm, const struct pm_query *q, uint64_t start, uint64_t end,
		 prange_vec *content, prange_vec *guard);
/* The query for it. FILE makes the kernel look at each struct page, which is slow. */
struct pm_query uffd_query(bool file_backed, bool guards);

/* What is WRITTEN within one range (flags: PM_...), and in n mappings that follow each other, where
 * all are ours; `fast`: by as many threads as there are CPUs. 0 or -errno: -EPERM not ours. */
int tracker_written(int pm, uint64_t flags, uint64_t start, uint64_t end, prange_vec *out);
int tracker_pass(int pm, const struct proc_vma *vma, size_t n, bool fast, prange_vec *out);

/* ---- the pure part of soft-dirty ---- */

struct soft_pages {
	prange_vec content, dirty, guard, unsure;
};
void soft_pages_free(struct soft_pages *p);
/* Sorts n pagemap entries of one mapping, the first at address `at`. */
void soft_sort(const uint64_t *pme, size_t n, uint64_t at, bool shared,
	       const struct pm_zeros *zeros, struct soft_pages *out);
/* Settles one private mapping: what was known there before against what is there now. What is
 * there but was not known is dirty, whatever the kernel says. */
void soft_settle(const prange_vec *known, const struct soft_pages *now, prange_vec *reset,
		 prange_vec *dirty);
/* All of a mapping, for one look without what came before. */
int soft_read(int pm, const struct proc_vma *vma, const struct pm_zeros *zeros,
	      struct soft_pages *out);
bool soft_has_content(uint64_t pme, const struct pm_zeros *zeros);

/* Page tables that came from elsewhere. Zeroed, with `before`; looked at with entries of private
 * mappings in ascending order, and ended. */
struct soft_moves {
	const soft_tables *before;
	soft_tables now;             /* for the next look */
	prange_vec moved;            /* what is known there may be something else, clean as it is */
	size_t next;                 /* of before */
	bool open, compared, differs;/* of the last table of now */
	uint32_t clean;              /* its samples that are of clean pages, as bits */
};
void soft_moves_look(struct soft_moves *m, const uint64_t *pme, size_t n, uint64_t at,
		     const struct pm_zeros *zeros);
void soft_moves_end(struct soft_moves *m);
void soft_moves_free(struct soft_moves *m);

/* ---- as bytes, for parking ---- */

void tracker_encode(const struct tracker *t, struct buf *out);
/* Takes the uffd. -EBADMSG. */
int tracker_decode(struct tracker **t, const uint8_t *p, size_t n, int uffd, struct err *e);
