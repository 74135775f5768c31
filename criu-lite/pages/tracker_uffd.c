/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tracking by asynchronous userfaultfd write-protection and PAGEMAP_SCAN (Linux 6.7+).
 *
 * A page is WRITTEN unless it carries a write-protect mark, which we set when we report it
 * and the kernel takes away at the next write. Pages that were never there are WRITTEN too.
 * So the pages that changed are among the WRITTEN ones, and a look takes two passes:
 *
 * 1. Ask for WRITTEN and nothing else: the kernel's fast path, 0.3 ms per GiB, no marks made.
 *    CHECK_WPASYNC makes it fail for mappings that are not ours (new, moved, re-made):
 *    they are reported in full, and registered when the guest next stands still.
 * 2. Within those ranges, what is there? Only pages that exist are marked: marks on the
 *    others would fill page tables (200 MB for a sparse 100 GiB).
 *
 * What was known and is WRITTEN but has no page any more was dropped (MADV_DONTNEED). In
 * private mappings of files the kernel keeps the mark over that (as a marker entry), so there
 * the known pages are looked at once more.
 *
 * Linux 6.15 to (at least) 6.18: MADV_GUARD_INSTALL over marked pages of a file mapping loops in
 * the kernel, as zapping them leaves markers that it zaps again. It can be interrupted, so the
 * guest can be frozen and killed, and goes on when the uffd is closed.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "cleanup.h"
#include "io.h"
#include "pages_tracker_int.h"

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#define FEATURE_WP_UNPOPULATED (1ull << 13) /* 6.4 */
#define FEATURE_WP_ASYNC       (1ull << 15) /* 6.7 */
#define FEATURES_WANTED (UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM | \
			 FEATURE_WP_UNPOPULATED | FEATURE_WP_ASYNC)

/* Faults are never handled by anyone, so the kernel's own need not be allowed: that would take
 * privilege inside the guest. */
#define UFFD_FLAGS (O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY)

/* Candidates closer than this are looked at in one go: a page costs some 25 ns in the
 * precise pass, an ioctl over a microsecond. */
#define GAP_MAX (64 * PAGE_SIZE)

/* ---- begin ---- */

static int shake_hands(int uffd, struct err *e)
{
	struct uffdio_api api = { .api = UFFD_API, .features = FEATURES_WANTED };

	if (ioctl(uffd, UFFDIO_API, &api) == 0)
		return 0;
	if (errno != EINVAL)
		return err_set(e, errno, "UFFDIO_API");
	return err_say(e, ENOTSUP, "kernel without asynchronous write-protection (Linux 6.7, "
		       "CONFIG_PTE_MARKER_UFFD_WP)");
}

int uffd_probe(struct err *e)
{
	_cleanup_close_ int fd = (int)syscall(__NR_userfaultfd, UFFD_FLAGS);
	bool guards;

	if (fd < 0 && errno == ENOSYS)
		return err_say(e, ENOTSUP, "kernel built without CONFIG_USERFAULTFD");
	if (fd < 0)
		return err_set(e, errno, "userfaultfd");
	int ret = shake_hands(fd, e);
	if (ret == 0 && !pm_scan_works(&guards))
		ret = err_say(e, ENOTSUP, "kernel without the PAGEMAP_SCAN ioctl (Linux 6.7)");
	return ret;
}

int uffd_inject(struct remote *held, struct err *e)
{
	_cleanup_batch_ struct batch make = BATCH(remote_leader(held));
	_cleanup_batch_ struct batch drop = BATCH(remote_leader(held));
	size_t i = batch_call(&make, "userfaultfd", __NR_userfaultfd, UFFD_FLAGS);
	int ret = batch_run(&make, e);

	if (ret == -EMFILE)
		return err_remedy(e, "raise its limit of open files by one (prlimit --nofile)");
	if (ret < 0)
		return ret;
	int guest_fd = (int)make.call.at[i].ret;
	ret = remote_fd_get(held, guest_fd, e);
	struct err ignored = ERR_INIT;
	batch_call(&drop, "close", __NR_close, guest_fd);
	int closed = batch_run(&drop, ret < 0 ? &ignored : e);
	if (closed < 0 && ret >= 0) {
		close(ret);
		return closed;
	}
	return ret;
}

bool uffd_old_marks(void)
{
	struct utsname u;
	int major = 0, minor = 0;

	return uname(&u) < 0 || sscanf(u.release, "%d.%d", &major, &minor) != 2 || major < 6 ||
	       (major == 6 && minor < 13);
}

int uffd_begin(struct tracker *t, struct err *e)
{
	t->old_marks = uffd_old_marks();
	pm_scan_works(&t->guards);
	return shake_hands(t->uffd, e);
}

/* ---- what is there ---- */

struct pm_query uffd_query(bool file_backed, bool guards)
{
	return (struct pm_query){
		.anyof = CONTENT_ANYOF,
		.ret = CONTENT_ANYOF | PM_CAT_ZERO | (file_backed ? PM_CAT_FILE : 0) |
		       (guards ? PM_CAT_GUARD : 0),
	};
}

/* "Swapped" is said of markers too; only pagemap tells them apart. */
static int sort_swapped(int pm, const struct pm_region *r, prange_vec *content, prange_vec *guard)
{
	uint64_t pme[512];

	for (uint64_t at = r->start; at < r->end;) {
		size_t n = (r->end - at) / PAGE_SIZE;

		if (n > sizeof(pme) / sizeof(*pme))
			n = sizeof(pme) / sizeof(*pme);
		int ret = pm_read(pm, at, pme, n);
		if (ret < 0)
			return ret;
		for (size_t i = 0; i < n; i++, at += PAGE_SIZE) {
			if (pme_is_guard(pme[i]) && guard)
				prange_add(guard, at, at + PAGE_SIZE);
			/* Swapped in since the scan, or a real swap entry; nothing: dropped. */
			if ((pme[i] & (PME_SWAP | PME_PRESENT)) && !(pme[i] & PME_FILE) &&
			    !pme_is_marker(pme[i]))
				prange_add(content, at, at + PAGE_SIZE);
		}
	}
	return 0;
}

int uffd_content(int pm, const struct pm_query *q, uint64_t start, uint64_t end,
		 prange_vec *content, prange_vec *guard)
{
	pm_regions found = { 0 };
	int ret = pm_scan(pm, q, start, end, &found);

	for (size_t i = 0; i < found.n && ret == 0; i++) {
		const struct pm_region *r = &found.at[i];

		if (r->cat & PM_CAT_GUARD) {
			if (guard)
				prange_add(guard, r->start, r->end);
		} else if (r->cat & (PM_CAT_FILE | PM_CAT_ZERO)) {
			continue; /* as if nothing had ever been written */
		} else if (r->cat & PM_CAT_PRESENT) {
			prange_add(content, r->start, r->end);
		} else {
			ret = sort_swapped(pm, r, content, guard);
		}
	}
	vec_free(&found);
	return ret;
}

/* Content within `in`, spans closer than GAP_MAX taken together. */
static int content_in(struct look *l, const struct pm_query *q, const prange_vec *in,
		      prange_vec *content, prange_vec *guard)
{
	int ret = 0;

	for (size_t i = 0; i < in->n && ret == 0;) {
		uint64_t start = in->at[i].start, end = in->at[i].end;

		while (++i < in->n && in->at[i].start - end <= GAP_MAX)
			end = in->at[i].end;
		ret = uffd_content(l->pm, q, start, end, content, guard);
	}
	return ret;
}

/* The second pass: pages that match `mask`; marked, if the guest runs on. */
static int read_and_mark(struct look *l, const struct proc_vma *vma, const prange_vec *in,
			 uint64_t mask, bool mark, prange_vec *content)
{
	struct pm_query q = uffd_query(tracker_file_backed(vma), l->t->guards);

	q.mask = mask;
	if (mark) {
		/* The zero page gets no mark, as it is not reported: it may have taken the place of
		 * a known page after the first pass, and must be found by the next look. */
		q.flags = PM_WP_MATCHING;
		q.inverted = PM_CAT_ZERO | (l->t->guards ? PM_CAT_GUARD : 0);
		q.mask |= q.inverted;
	}
	return content_in(l, &q, in, content, l->frozen ? &l->out->guard : NULL);
}

/* ---- mappings that are tracked ---- */

/* Known pages of a private file mapping that turned back into the file's. */
static int turned_back(struct look *l, const struct proc_vma *vma, const prange_vec *known,
		       prange_vec *dropped)
{
	struct pm_query q = uffd_query(true, l->t->guards);
	prange_vec now = { 0 };
	int ret = content_in(l, &q, known, &now, NULL);

	if (ret == 0)
		prange_minus(known, &now, dropped);
	vec_free(&now);
	return ret;
}

static int look_private(struct look *l, const struct proc_vma *vma, const prange_vec *candidates)
{
	prange_vec known = { 0 }, dirty = { 0 }, gone = { 0 }, dropped = { 0 }, kept = { 0 };

	prange_clip(&l->t->known, vma->start, vma->end, &known);
	int ret = read_and_mark(l, vma, candidates, PM_CAT_WRITTEN, !l->frozen, &dirty);
	if (ret == 0 && tracker_file_backed(vma)) {
		ret = turned_back(l, vma, &known, &dropped);
	} else if (ret == 0) {
		prange_and(&known, candidates, &gone);
		prange_minus(&gone, &dirty, &dropped);
	}
	if (ret == 0) {
		prange_or(&dropped, &(prange_vec){ 0 }, &l->out->reset);
		prange_or(&dirty, &(prange_vec){ 0 }, &l->out->dirty);
		prange_minus(&known, &dropped, &kept);
		prange_or(&kept, &dirty, &l->known);
	}
	vec_free(&known);
	vec_free(&dirty);
	vec_free(&gone);
	vec_free(&dropped);
	vec_free(&kept);
	return ret;
}

/* Written through this mapping, or never touched through it: the mark can also stand
 * where no page is mapped, so here holes are marked as well, but only where the object has data. */
static int look_shared(struct look *l, const struct proc_vma *vma, const prange_vec *candidates)
{
	prange_vec data = { 0 };
	int ret = 0;

	if (candidates->n == 0)
		return 0;
	bool known = tracker_data(l->t->pid, vma, candidates, &data) == 0;
	if (l->frozen || !known)
		prange_or(known ? &data : candidates, &(prange_vec){ 0 }, &l->out->dirty);
	else
		for (size_t i = 0; i < data.n && ret == 0; i++)
			ret = tracker_written(l->pm, PM_WP_MATCHING, data.at[i].start,
					      data.at[i].end, &l->out->dirty);
	vec_free(&data);
	return ret;
}

static int look_at(struct look *l, const struct proc_vma *vma, const prange_vec *all)
{
	prange_vec candidates = { 0 };

	prange_clip(all, vma->start, vma->end, &candidates);
	int ret = vma->shared ? look_shared(l, vma, &candidates)
			      : look_private(l, vma, &candidates);
	vec_free(&candidates);
	return ret;
}

/* ---- mappings that are not (yet) ---- */

/* Everything in a private mapping, and the other side starts afresh. `mark` passes over
 * mappings that are not registered. */
static int look_fresh(struct look *l, const struct proc_vma *vma, bool mark)
{
	prange_vec whole = { 0 }, dirty = { 0 };

	prange_add(&whole, vma->start, vma->end);
	int ret = read_and_mark(l, vma, &whole, 0, mark, &dirty);
	if (ret == 0) {
		prange_add(&l->out->reset, vma->start, vma->end);
		prange_or(&dirty, &(prange_vec){ 0 }, &l->out->dirty);
		prange_or(&dirty, &(prange_vec){ 0 }, &l->known);
	}
	vec_free(&whole);
	vec_free(&dirty);
	return ret;
}

static bool can_be_written(const struct proc_vma *vma)
{
	return vma->prot & PROT_WRITE || vma->vmflags & PROC_VF_MW;
}

static struct quirk *find_quirk(struct tracker *t, const struct proc_vma *vma)
{
	vec_each(&t->quirk, q)
		if (q->start == vma->start && q->end == vma->end && q->pgoff == vma->pgoff &&
		    q->ino == vma->ino &&
		    (q->what != QUIRK_SKIP || !can_be_written(vma)))
			return q;
	return NULL;
}

static int look_quirk(struct look *l, const struct proc_vma *vma, const struct quirk *q)
{
	if (q->what == QUIRK_SKIP)
		return 0;
	if (!vma->shared)
		return look_fresh(l, vma, false);
	prange_add(&l->out->dirty, vma->start, vma->end);
	return 0;
}

/* 0; 1: this mapping cannot be registered (now a quirk); -errno. */
static int register_vma(struct tracker *t, const struct proc_vma *vma, struct err *e)
{
	struct uffdio_register r = {
		.range = { vma->start, vma->end - vma->start },
		.mode = UFFDIO_REGISTER_MODE_WP,
	};

	if (ioctl(t->uffd, UFFDIO_REGISTER, &r) == 0)
		return 0;
	if (errno == EBUSY) {
		err_set(e, EBUSY, "mapping %lx-%lx (%s) already has a userfaultfd",
			(long)vma->start, (long)vma->end, *vma->path ? vma->path : "anonymous");
		return err_remedy(e, "stop the program that watches this memory, or what the "
				     "process itself does with userfaultfd");
	}
	if (errno != EPERM && errno != EINVAL)
		return -errno;
	/* EPERM: a shared mapping that can never be written (file opened read-only). EINVAL:
	 * memory that the kernel may drop by itself (MAP_DROPPABLE). */
	vec_push(&t->quirk, (struct quirk){
		.start = vma->start, .end = vma->end, .pgoff = vma->pgoff, .ino = vma->ino,
		.what = errno == EPERM && vma->shared ? QUIRK_SKIP : QUIRK_FULL });
	return 1;
}

/* 0: this mapping is ours; -EPERM: not (yet); looks at one page at most. */
static int check_ours(int pm, const struct proc_vma *vma)
{
	prange_vec ignored = { 0 };
	int ret = tracker_written(pm, PM_CHECK_WPASYNC, vma->start, vma->start + PAGE_SIZE,
				  &ignored);

	vec_free(&ignored);
	return ret;
}

static int lift_marks(struct tracker *t, const struct proc_vma *vma, struct err *e)
{
	struct uffdio_writeprotect w = { .range = { vma->start, vma->end - vma->start } };

	if (!t->old_marks || ioctl(t->uffd, UFFDIO_WRITEPROTECT, &w) == 0)
		return 0;
	return err_set(e, errno, "UFFDIO_WRITEPROTECT of %lx-%lx", vma->start, vma->end);
}

/* One mapping of a process that stands still: registering what is no longer a mapping, but part
 * of a bigger one, would cut that in two, and the guest's mremap() across both would fail. */
static int cover_one(struct tracker *t, int pm, const struct proc_vma *vma, prange_vec *fresh,
		     struct err *e)
{
	int ret = check_ours(pm, vma);

	if (ret != -EPERM)
		return ret;
	ret = register_vma(t, vma, e);
	if (ret == 1 || ret == -EBUSY)
		return ret < 0 ? ret : 0;
	/* not in the memory that our uffd belongs to, that is before an exec: stays EPERM */
	if (ret < 0 && (ret == -ESRCH || check_ours(pm, vma) == -EPERM))
		return err_set(e, ESRCH, "the process is gone or runs another program");
	prange_add(fresh, vma->start, vma->end);
	return lift_marks(t, vma, e);
}

int uffd_cover(struct tracker *t, int pm, const struct proc_vma *vmas, size_t n, struct err *e)
{
	prange_vec fresh = { 0 };
	int ret = 0;

	for (size_t i = 0; i < n && ret == 0; i++)
		if (!tracker_leaves_out(t, &vmas[i]) && !find_quirk(t, &vmas[i]))
			ret = cover_one(t, pm, &vmas[i], &fresh, e);
	prange_merge(&t->fresh, &fresh);
	vec_free(&fresh);
	t->uncovered = false;
	return ret;
}

/* The first look at a mapping that was covered since the last one. */
static int look_first(struct look *l, const struct proc_vma *vma)
{
	if (!vma->shared)
		return look_fresh(l, vma, !l->frozen);
	prange_vec written_now = { 0 }, remade = { 0 };
	int ret = tracker_written(l->pm, 0, vma->start, vma->end, &written_now);
	prange_clip(&l->remade, vma->start, vma->end, &remade);
	/* marks of a time when it was taken for another mapping mean nothing */
	if (ret == 0 && remade.n)
		prange_add(&l->out->dirty, vma->start, vma->end);
	else if (ret == 0)
		ret = look_shared(l, vma, &written_now);
	vec_free(&remade);
	vec_free(&written_now);
	return ret;
}

/* A mapping that is new, moved or re-made: all of it, now and by the next look again, until
 * tracker_cover() was called. */
static int look_uncovered(struct look *l, const struct proc_vma *vma)
{
	l->t->uncovered = true;
	if (!vma->shared)
		return look_fresh(l, vma, false);
	prange_add(&l->out->dirty, vma->start, vma->end);
	return 0;
}

/* ---- one look ---- */

static bool is_ours(struct tracker *t, const struct proc_vma *vma)
{
	return !tracker_leaves_out(t, vma) && !find_quirk(t, vma);
}

static bool is_fresh(const struct tracker *t, uint64_t start, uint64_t end)
{
	vec_each(&t->fresh, r)
		if (r->start < end && start < r->end)
			return true;
	return false;
}

/* Tracked mappings that follow each other, with one ioctl for the first pass. */
static int look_group(struct look *l, const struct proc_vma *vma, size_t n, struct err *e)
{
	bool fresh = is_fresh(l->t, vma->start, vma[n - 1].end);
	prange_vec all = { 0 };
	int ret = fresh ? -EPERM
			: tracker_pass(l->pm, vma, n, l->frozen, &all);

	if (ret == -EPERM && n > 1) {
		ret = 0;
		for (size_t i = 0; i < n && ret == 0; i++)
			ret = look_group(l, &vma[i], 1, e);
	} else if (ret == -EPERM && fresh && check_ours(l->pm, vma) == 0) {
		ret = look_first(l, vma);
	} else if (ret == -EPERM) {
		ret = look_uncovered(l, vma);
	} else {
		for (size_t i = 0; i < n && ret == 0; i++)
			ret = look_at(l, &vma[i], &all);
	}
	vec_free(&all);
	return ret;
}

/* Forgets what is said of mappings that are not there any more. */
static void forget_quirks(struct tracker *t, const struct proc_vma *vmas, size_t n)
{
	size_t keep = 0;

	vec_each(&t->quirk, q)
		for (size_t i = 0; i < n; i++)
			if (vmas[i].start == q->start && vmas[i].end == q->end) {
				t->quirk.at[keep++] = *q;
				break;
			}
	t->quirk.n = keep;
}

/* The list of mappings may be older than the registration of some. */
static void keep_unseen(struct tracker *t, const struct proc_vma *vmas, size_t n)
{
	prange_vec seen = { 0 }, rest = { 0 };

	for (size_t i = 0; i < n; i++)
		prange_add(&seen, vmas[i].start, vmas[i].end);
	prange_minus(&t->fresh, &seen, &rest);
	vec_free(&seen);
	vec_free(&t->fresh);
	t->fresh = rest;
}

int uffd_scan(struct look *l, const struct proc_vma *vmas, size_t n, struct err *e)
{
	struct tracker *t = l->t;
	int ret = 0;

	forget_quirks(t, vmas, n);
	prange_merge(&t->fresh, &l->remade);
	for (size_t i = 0; i < n && ret == 0;) {
		struct quirk *q = find_quirk(t, &vmas[i]);
		size_t end = i + 1;

		if (tracker_leaves_out(t, &vmas[i])) {
			/* nothing of it is ours to send */
		} else if (q) {
			ret = look_quirk(l, &vmas[i], q);
		} else {
			while (end < n && is_ours(t, &vmas[end]))
				end++;
			ret = look_group(l, &vmas[i], end - i, e);
		}
		i = end;
	}
	if (ret == 0)
		keep_unseen(t, vmas, n);
	if (ret < 0 && e->code != -ret)
		return err_set(e, -ret, "scan of memory");
	return ret;
}
