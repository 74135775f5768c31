/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tracking by the kernel's soft-dirty bits (CONFIG_MEM_SOFT_DIRTY).
 *
 * Writing 4 to /proc/PID/clear_refs clears them all and makes the next write to each page set its
 * bit (55 of its pagemap entry) again. Between reading and clearing a write would be lost, so the
 * guest stands still for both.
 *
 * New and grown mappings have all bits set, holes included. But a dropped page (MADV_DONTNEED,
 * re-made mapping) that nobody wrote again leaves no bit: so each look compares all pages that
 * have content with those known from before. Pages of shared mappings lose their bits when they
 * are unmapped (reclaim, MADV_DONTNEED). Those that are not mapped now are reported as unsure; one
 * that was read since is there again, clean: of an object that was stored to, all pages are
 * compared (pages_shm.h). Pages that move with their page table keep their bits (tracker_moved.c).
 * Pages that the kernel merges (KSM) lose them: where it may, all are dirty while it does. And
 * pages of hugetlbfs have no such bit: they are dirty each time.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cleanup.h"
#include "io.h"
#include "pages_tracker_int.h"

#define ENTRIES 65536 /* of 8 bytes: 256 MiB of guest memory per read */

void soft_pages_free(struct soft_pages *p)
{
	vec_free(&p->content);
	vec_free(&p->dirty);
	vec_free(&p->guard);
	vec_free(&p->unsure);
}

static bool is_zeros(const struct pm_zeros *z, uint64_t frame)
{
	return frame == z->small || (z->huge && frame - z->huge < HUGE_FRAMES);
}

bool soft_has_content(uint64_t pme, const struct pm_zeros *zeros)
{
	if (pme & PME_FILE)
		return false;
	if (pme & PME_PRESENT)
		return !is_zeros(zeros, pme & PME_FRAME);
	return (pme & PME_SWAP) && !pme_is_marker(pme);
}

void soft_sort(const uint64_t *pme, size_t n, uint64_t at, bool shared,
	       const struct pm_zeros *zeros, struct soft_pages *out)
{
	for (size_t i = 0; i < n; i++, at += PAGE_SIZE) {
		uint64_t end = at + PAGE_SIZE;

		if (shared) {
			if (pme[i] & PME_SOFT)
				prange_add(&out->dirty, at, end);
			else if (!(pme[i] & PME_PRESENT))
				prange_add(&out->unsure, at, end);
		} else if (soft_has_content(pme[i], zeros)) {
			prange_add(&out->content, at, end);
			if (pme[i] & PME_SOFT)
				prange_add(&out->dirty, at, end);
		} else if (pme_is_guard(pme[i])) {
			prange_add(&out->guard, at, end);
		}
	}
}

void soft_settle(const prange_vec *known, const struct soft_pages *now, prange_vec *reset,
		 prange_vec *dirty)
{
	prange_vec fresh = { 0 };

	prange_minus(known, &now->content, reset);
	prange_minus(&now->content, known, &fresh);
	prange_or(&now->dirty, &fresh, dirty);
	vec_free(&fresh);
}

/* Reads and sorts all of a mapping. `moves` may be NULL. */
static int read_mapping(int pm, const struct proc_vma *vma, const struct pm_zeros *zeros,
			struct soft_moves *moves, struct soft_pages *out)
{
	_cleanup_free_ uint64_t *pme = xmalloc(ENTRIES * sizeof(*pme));

	for (uint64_t at = vma->start; at < vma->end;) {
		size_t n = (vma->end - at) / PAGE_SIZE;

		if (n > ENTRIES)
			n = ENTRIES;
		int ret = pm_read(pm, at, pme, n);
		if (ret < 0)
			return ret;
		soft_sort(pme, n, at, vma->shared, zeros, out);
		if (moves && !vma->shared)
			soft_moves_look(moves, pme, n, at, zeros);
		at += n * PAGE_SIZE;
	}
	return 0;
}

int soft_read(int pm, const struct proc_vma *vma, const struct pm_zeros *zeros,
	      struct soft_pages *out)
{
	return read_mapping(pm, vma, zeros, NULL, out);
}

static int clear_bits(pid_t pid, struct err *e)
{
	char path[40];

	snprintf(path, sizeof(path), "/proc/%d/clear_refs", pid);
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return err_set(e, errno == ENOENT ? ESRCH : errno, "%s", path);
	int ret = io_write(fd, "4", 1);
	return ret < 0 ? err_set(e, -ret, "%s", path) : 0;
}

/* Only an experiment tells: without CONFIG_MEM_SOFT_DIRTY clearing succeeds as well, and
 * the bit stays clear. */
int soft_probe(struct err *e)
{
	uint64_t before = 0, cleared = 0, after = 0;
	_cleanup_close_ int pm = pm_open(getpid());

	if (pm < 0)
		return err_set(e, -pm, "/proc/self/pagemap");
	volatile uint8_t *page = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE,
				      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED)
		return err_set(e, errno, "mmap");
	uint64_t at = (uintptr_t)page;
	*page = 1;
	int ret = pm_read(pm, at, &before, 1);
	if (ret == 0)
		ret = clear_bits(getpid(), e);
	if (ret == 0)
		ret = pm_read(pm, at, &cleared, 1);
	*page = 2;
	if (ret == 0)
		ret = pm_read(pm, at, &after, 1);
	munmap((void *)page, PAGE_SIZE);
	if (ret < 0)
		return e->code == -ret ? ret : err_set(e, -ret, "/proc/self/pagemap");
	if (!(before & PME_SOFT) || !(after & PME_SOFT))
		return err_say(e, ENOTSUP, "kernel built without CONFIG_MEM_SOFT_DIRTY (bit 55 of "
			       "pagemap stays clear)");
	if (cleared & PME_SOFT)
		return err_say(e, ENOTSUP, "soft-dirty bits cannot be cleared "
			       "(/proc/PID/clear_refs has no effect)");
	return 0;
}

int soft_begin(struct tracker *t, struct err *e)
{
	/* Without frame numbers a dropped page that was read since would look like content. */
	if (pm_zeros_find(&t->zeros) < 0) {
		err_set(e, EPERM, "/proc/self/pagemap shows no page frames");
		return err_remedy(e, "run as root with CAP_SYS_ADMIN");
	}
	return 0;
}

/* A new mapping has the bit everywhere, also where its object has nothing. */
static void only_data(pid_t pid, const struct proc_vma *vma, const prange_vec *want,
		      prange_vec *out)
{
	prange_vec data = { 0 };
	bool told = tracker_data(pid, vma, want, &data) == 0;

	prange_or(told ? &data : want, &(prange_vec){ 0 }, out);
	vec_free(&data);
}

/* What the other side holds of a private mapping that it need not make anew; the rest is void. */
static void still_known(const struct look *l, const struct proc_vma *vma, const prange_vec *remade,
			prange_vec *known, prange_vec *reset)
{
	prange_vec all = { 0 };

	prange_clip(&l->t->known, vma->start, vma->end, &all);
	prange_minus(&all, remade, known);
	prange_and(&all, remade, reset);
	vec_free(&all);
}

static bool is_merging(void)
{
	char run = '0';
	_cleanup_close_ int fd = open("/sys/kernel/mm/ksm/run", O_RDONLY | O_CLOEXEC);

	return fd >= 0 && read(fd, &run, 1) == 1 && run != '0';
}

static void look_private(struct look *l, const struct proc_vma *vma, struct soft_pages *now,
			 const prange_vec *remade)
{
	prange_vec known = { 0 }, reset = { 0 }, gone = { 0 };
	prange_vec whole = { 0 };

	if (l->merging && (vma->vmflags & PROC_VF_MG)) {
		now->dirty.n = 0;
		prange_or(&now->content, &(prange_vec){ 0 }, &now->dirty);
	}

	/* pages of hugetlbfs: as if they were new each time */
	prange_add(&whole, vma->start, vma->end);
	still_known(l, vma, tracker_huge(l->t, vma) ? &whole : remade, &known, &reset);
	soft_settle(&known, now, &gone, &l->out->dirty);
	prange_merge(&reset, &gone);
	prange_or(l->t->scanned ? &reset : &whole, &(prange_vec){ 0 }, &l->out->reset);
	prange_or(&now->content, &(prange_vec){ 0 }, &l->known);
	if (l->frozen)
		prange_or(&now->guard, &(prange_vec){ 0 }, &l->out->guard);
	vec_free(&known);
	vec_free(&reset);
	vec_free(&gone);
	vec_free(&whole);
}

static int look_at(struct look *l, const struct proc_vma *vma, struct soft_moves *moves)
{
	struct soft_pages now = { 0 };
	prange_vec remade = { 0 };
	int ret = read_mapping(l->pm, vma, &l->t->zeros, moves, &now);

	prange_clip(&l->remade, vma->start, vma->end, &remade);
	if (ret == 0 && vma->shared) {
		if (!l->t->scanned || tracker_huge(l->t, vma)) { /* bits from before mean nothing */
			now.unsure.n = 0;
			prange_add(&now.unsure, vma->start, vma->end);
		}
		/* what bits it had before it was in the list was not seen, but is cleared */
		prange_merge(&now.dirty, &remade);
		only_data(l->t->pid, vma, &now.dirty, &l->out->dirty);
		only_data(l->t->pid, vma, &now.unsure, &l->out->unsure);
	} else if (ret == 0) {
		look_private(l, vma, &now, &remade);
	}
	vec_free(&remade);
	soft_pages_free(&now);
	return ret;
}

static void add_moved(struct look *l, struct soft_moves *m)
{
	prange_vec held = { 0 };

	soft_moves_end(m);
	prange_and(&m->moved, &l->known, &held);
	prange_merge(&l->out->dirty, &held);
	vec_free(&held);
	vec_free(&l->t->tables);
	memcpy(&l->t->tables, &m->now, sizeof(m->now));
	m->now = (soft_tables){ 0 };
}

int soft_scan(struct look *l, const struct proc_vma *vmas, size_t n, struct err *e)
{
	struct soft_moves moves = { .before = &l->t->tables };
	bool merging = is_merging();
	int ret = 0;

	l->merging = merging || l->t->merging;
	l->t->merging = merging;

	for (size_t i = 0; i < n && ret == 0; i++)
		if (!tracker_leaves_out(l->t, &vmas[i]))
			ret = look_at(l, &vmas[i], &moves);
	if (ret == 0)
		add_moved(l, &moves);
	soft_moves_free(&moves);
	if (ret < 0)
		return err_set(e, -ret, "/proc/%d/pagemap", l->t->pid);
	return l->frozen ? 0 : clear_bits(l->t->pid, e);
}
