/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Mappings of the shells: what differs from the guest's is unmapped, made, or changed; what is
 * the same keeps its pages.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/syscall.h>

#include "io.h"
#include "kind_shm.h"
#include "log.h"
#include "task_mm.h"
#include "task_shape_priv.h"

#define FDS_MAX  200
#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

#define MADV_POPULATE_READ_  22
#define MADV_POPULATE_WRITE_ 23

#define SPECIAL SHAPE_SPECIAL
/* Two mappings with these in common can be one piece of memory. */
#define BACKING_STATUS (VMA_FILE_PRIVATE | VMA_FILE_SHARED | VMA_ANON_SHARED | VMA_ANON_PRIVATE | \
			VMA_SYSVIPC | VMA_MEMFD | SPECIAL)
#define BACKING_FLAGS (MAP_SHARED | MAP_PRIVATE | MAP_DROPPABLE | MAP_ANONYMOUS | MAP_GROWSDOWN | \
		       MAP_NORESERVE)

/* ---- reading what is wanted ---- */

static int bad(const struct task *t, size_t i, const char *what, struct err *e)
{
	return err_say(e, EBADMSG, "mm-%d.img: mapping %zu: %s", t->pid, i, what);
}

static int check_wanted(const struct task *t, const shape_vma_vec *want, struct err *e)
{
	struct grange stub = remote_stub(t->remote);
	uint64_t at = 0;

	for (size_t i = 0; i < want->n; i++) {
		const struct shape_vma *v = &want->at[i];

		if (v->status & VMA_VSYSCALL)
			continue;
		if ((v->start | v->end | v->pgoff) & (PAGE_SIZE - 1))
			return bad(t, i, "not page aligned", e);
		if (v->start < at || v->end <= v->start || v->end > SHAPE_USER_END)
			return bad(t, i, "out of order or out of range", e);
		if (v->start < stub.end && stub.start < v->end)
			return err_say(e, ENOMEM,
				       "mapping %lx-%lx of pid %d lies where the stub is", v->start,
				       v->end, t->pid);
		if (!(v->status & (SPECIAL | BACKING_STATUS)))
			return bad(t, i, "of no kind that is known", e);
		at = v->end;
	}
	return 0;
}

static int read_wanted(struct shape_task *st, const struct img_set *set, shape_vma_vec *want,
		       struct err *e)
{
	const struct task *t = &st->task;
	_cleanup_msg_ MmEntry *mm = NULL;
	int ret = img_get(set, IMG_MM, (uint64_t)t->pid, 0, &mm, e);

	if (ret < 0)
		return ret;
	for (size_t i = 0; i < mm->n_vmas; i++) {
		const VmaEntry *v = mm->vmas[i];

		vec_push(want, (struct shape_vma){
			.start = v->start, .end = v->end, .pgoff = v->pgoff, .id = v->shmid,
			.madv = v->madv, .prot = v->prot, .flags = v->flags, .status = v->status });
	}
	ret = check_wanted(t, want, e);
	return ret < 0 ? ret : shape_vdso_want(st, mm, want, e);
}

/* ---- what differs ---- */

static bool same_backing(const struct shape_vma *a, const struct shape_vma *b)
{
	if ((a->status ^ b->status) & BACKING_STATUS || (a->flags ^ b->flags) & BACKING_FLAGS)
		return false;
	if (a->status & (VMA_ANON_PRIVATE | SPECIAL))
		return true;
	return a->id == b->id && a->pgoff - a->start == b->pgoff - b->start;
}

static struct shape_vma cut(const struct shape_vma *v, uint64_t start, uint64_t end)
{
	struct shape_vma c = *v;

	c.start = start;
	c.end = end;
	if (v->status & (VMA_FILE_PRIVATE | VMA_FILE_SHARED | VMA_ANON_SHARED))
		c.pgoff = v->pgoff + (start - v->start);
	return c;
}

struct kept {
	struct shape_vma old, new;
};

struct diff {
	shape_vma_vec gone, fresh;          /* to unmap; to make */
	VEC(struct kept) kept;        /* to change, pages stay */
	shape_vma_vec pieced;               /* wanted as one, made of several pieces */
};

static uint64_t min64(uint64_t a, uint64_t b) { return a < b ? a : b; }

/* Both lists ascend: one walk over the pieces that their boundaries cut. */
static void compare(const shape_vma_vec *have, const shape_vma_vec *want, struct diff *d)
{
	size_t h = 0, w = 0, pieces = 0;
	uint64_t at = 0;

	while (h < have->n || w < want->n) {
		const struct shape_vma *o = h < have->n ? &have->at[h] : NULL;
		const struct shape_vma *n = w < want->n ? &want->at[w] : NULL;
		uint64_t os = o ? (o->start > at ? o->start : at) : UINT64_MAX;
		uint64_t ns = n ? (n->start > at ? n->start : at) : UINT64_MAX;
		uint64_t start = min64(os, ns);
		uint64_t end = min64(os == start ? o->end : os, ns == start ? n->end : ns);

		if (os == start && ns == start && same_backing(o, n)) {
			vec_push(&d->kept, (struct kept){ cut(o, start, end), cut(n, start, end) });
		} else {
			if (os == start)
				vec_push(&d->gone, cut(o, start, end));
			if (ns == start)
				vec_push(&d->fresh, cut(n, start, end));
		}
		at = end;
		pieces += ns == start;
		if (o && at >= o->end)
			h++;
		if (n && at >= n->end) {
			if (pieces > 1 && !(n->status & (SPECIAL | VMA_SYSVIPC)))
				vec_push(&d->pieced, *n);
			pieces = 0;
			w++;
		}
	}
}

/* ---- making it so ---- */

static void advise(struct pump *p, const struct shape_vma *v, uint64_t old)
{
	static const struct {
		int on, off;
	} advice[] = {
		{ MADV_RANDOM, MADV_NORMAL }, { MADV_SEQUENTIAL, MADV_NORMAL },
		{ MADV_DONTFORK, MADV_DOFORK }, { MADV_MERGEABLE, MADV_UNMERGEABLE },
		{ MADV_HUGEPAGE, MADV_NOHUGEPAGE }, { MADV_NOHUGEPAGE, MADV_HUGEPAGE },
		{ MADV_DONTDUMP, MADV_DODUMP }, { MADV_WIPEONFORK, MADV_KEEPONFORK },
	};

	for (int pass = 0; pass < 2; pass++) /* what goes off before what comes on */
		for (size_t i = 0; i < sizeof(advice) / sizeof(advice[0]); i++) {
			bool was = old >> advice[i].on & 1, is = v->madv >> advice[i].on & 1;

			if (pass == 0 && was && !is)
				pump_call(p, "madvise", SYS_madvise, v->start, v->end - v->start,
					  advice[i].off);
			if (pass == 1 && is && !was)
				pump_call(p, "madvise", SYS_madvise, v->start, v->end - v->start,
					  advice[i].on);
		}
}

/* A segment is attached as a whole; what of it has got flags of its own is the same attachment. */
static void attach(struct pump *p, const struct shape_vma *v, int shmid)
{
	bool writable = !(v->madv & VMA_MADV_RDONLY);

	if (v->pgoff == 0)
		pump_call(p, "shmat", SYS_shmat, shmid, v->start, writable ? 0 : SHM_RDONLY);
	if (v->pgoff > 0 || v->prot != (writable ? PROT_READ | PROT_WRITE : PROT_READ))
		pump_call(p, "mprotect", SYS_mprotect, v->start, v->end - v->start, v->prot);
	advise(p, v, 0);
}

static void make(struct pump *p, const struct shape_vma *v, int fd)
{
	uint32_t flags = v->flags & BACKING_FLAGS;
	/* accounted is what is or was writable: mapped so, or it would not be */
	bool was_writable = v->madv & VMA_MADV_ACCOUNTED && !(v->prot & PROT_WRITE) &&
			    !(v->flags & MAP_SHARED);
	uint32_t prot = v->prot | (was_writable ? PROT_WRITE : 0);

	if (v->status & VMA_ANON_SHARED)
		flags &= ~(uint32_t)MAP_ANONYMOUS;
	pump_call(p, "mmap", SYS_mmap, v->start, v->end - v->start, prot,
		  flags | MAP_FIXED_NOREPLACE, fd, v->pgoff);
	if (was_writable) {
		/* one page written, if only for a moment: without it the kernel takes the
		 * accounting back (6.7+) */
		pump_call(p, "?madvise", SYS_madvise, v->start, PAGE_SIZE, MADV_POPULATE_WRITE_);
		pump_call(p, "?madvise", SYS_madvise, v->start, PAGE_SIZE, MADV_DONTNEED);
	}
	if (prot != v->prot)
		pump_call(p, "mprotect", SYS_mprotect, v->start, v->end - v->start, v->prot);
	advise(p, v, 0);
	/* Locking would do it, but it comes last, when the guest stands still. */
	if (v->flags & MAP_LOCKED && !(v->madv & VMA_MADV_ONFAULT))
		pump_call(p, "?madvise", SYS_madvise, v->start, v->end - v->start,
			  v->prot & PROT_WRITE && !(v->flags & MAP_SHARED) ? MADV_POPULATE_WRITE_
									   : MADV_POPULATE_READ_);
}

static bool has_file(const struct shape_vma *v)
{
	return v->status & (VMA_FILE_PRIVATE | VMA_FILE_SHARED | VMA_ANON_SHARED);
}

/* Our fd for what is behind a mapping; the number of a System V segment. */
static int backing_fd(struct kind_restore *c, const struct shape_vma *v, struct err *e)
{
	struct shm_object *o;

	if (!(v->status & VMA_ANON_SHARED))
		return kind_fd(c, (uint32_t)v->id, e);
	int ret = shm_get(c, (uint32_t)v->id, &o, e);
	if (ret == 0 && v->status & VMA_SYSVIPC)
		return o->sysv ? o->shmid : err_say(e, EBADMSG, "segment %lu", v->id);
	return ret < 0 ? ret : o->fd;
}

/* Mappings [from, to) of d->fresh: their files go into the shell for the while. */
static int make_some(struct task *t, struct kind_restore *c, const shape_vma_vec *fresh,
		     size_t from, size_t *to, struct err *e)
{
	struct remote_fd fds[FDS_MAX];
	uint64_t ids[FDS_MAX];
	size_t n = 0, i;
	_cleanup_free_ int *at = xcalloc(fresh->n, sizeof(int));
	int ret;

	for (i = from; i < fresh->n; i++) {
		const struct shape_vma *v = &fresh->at[i];
		uint64_t key = v->id << 1 | !!(v->status & VMA_ANON_SHARED);
		size_t k = 0;

		at[i] = -1;
		if (v->status & VMA_SYSVIPC && (at[i] = backing_fd(c, v, e)) < 0)
			return at[i];
		if (!has_file(v) || v->status & VMA_SYSVIPC)
			continue;
		while (k < n && ids[k] != key)
			k++;
		if (k == n) {
			if (n == FDS_MAX)
				break;
			int fd = backing_fd(c, v, e);
			if (fd < 0)
				return fd;
			ids[n] = key;
			fds[n] = (struct remote_fd){ fd, (int)n, 0 };
			n++;
		}
		at[i] = (int)k;
	}
	*to = i;
	if ((ret = remote_fd_put(t->remote, fds, n, e)) < 0)
		return ret;
	struct pump p = PUMP(t->remote, e);
	for (i = from; i < *to; i++)
		if (fresh->at[i].status & VMA_SYSVIPC)
			attach(&p, &fresh->at[i], at[i]);
		else if (!(fresh->at[i].status & SPECIAL))
			make(&p, &fresh->at[i], at[i]);
	if (n)
		pump_call(&p, "close_range", SYS_close_range, 0, n - 1, 0);
	return pump_end(&p);
}

static int unmap(struct task *t, const shape_vma_vec *gone, struct err *e)
{
	struct pump p = PUMP(t->remote, e);

	vec_each(gone, v)
		if (!(v->status & SPECIAL))
			pump_call(&p, "munmap", SYS_munmap, v->start, v->end - v->start);
	return pump_end(&p);
}

static int apply(struct shape_task *st, struct kind_restore *c, const struct diff *d,
		 struct err *e)
{
	struct task *t = &st->task;
	struct pump p = PUMP(t->remote, e);
	int ret;

	for (size_t i = 0; i < d->kept.n; i++) {
		const struct shape_vma *o = &d->kept.at[i].old, *n = &d->kept.at[i].new;

		if (n->status & SPECIAL)
			continue;
		if (o->prot != n->prot)
			pump_call(&p, "mprotect", SYS_mprotect, n->start, n->end - n->start,
				  n->prot);
		advise(&p, n, o->madv);
	}
	if ((ret = pump_end(&p)) < 0)
		return ret;
	for (size_t i = 0; i < d->fresh.n;)
		if ((ret = make_some(t, c, &d->fresh, i, &i, e)) < 0)
			return ret;
	return 0;
}

/* Pieces that the kernel did not merge would be seen by the guest: mremap fails across them. Such a
 * mapping is made anew and gets its pages back. */
static int merge_pieces(struct shape_task *st, struct kind_restore *c, const shape_vma_vec *pieced,
			struct err *e)
{
	struct proc_maps maps = { 0 };
	int ret = pieced->n ? shape_read_maps(&st->task, &maps, e) : 0;

	for (size_t i = 0; ret == 0 && i < pieced->n; i++) {
		const struct shape_vma *w = &pieced->at[i];
		struct shape_saved saved = { 0 };
		struct diff one = { 0 };

		if (shape_is_single(&maps, w))
			continue;
		log_debug("task %d: %lx-%lx is made anew", st->task.pid, w->start, w->end);
		ret = shape_save_pages(&st->task, w, &saved, e);
		vec_push(&one.gone, *w);
		vec_push(&one.fresh, *w);
		if (ret == 0 && (ret = unmap(&st->task, &one.gone, e)) == 0 &&
		    (ret = apply(st, c, &one, e)) == 0)
			ret = shape_put_pages(&st->task, &saved, e);
		shape_saved_free(&saved);
		vec_free(&one.gone);
		vec_free(&one.fresh);
	}
	proc_maps_free(&maps);
	return ret;
}

static int shape_one(struct shape *s, struct shape_task *st, struct kind_restore *c,
		     const struct img_set *set, struct err *e)
{
	shape_vma_vec want = { 0 };
	struct diff d = { 0 };
	bool moved = false;
	int ret = read_wanted(st, set, &want, e);

	if (ret == 0) {
		compare(&st->vma, &want, &d);
		ret = unmap(&st->task, &d.gone, e);
	}
	if (ret == 0)
		ret = shape_vdso_place(st, &want, &moved, e);
	if (moved)
		shape_vdso_moved(s, st);
	if (ret == 0)
		ret = apply(st, c, &d, e);
	if (ret == 0)
		ret = merge_pieces(st, c, &d.pieced, e);
	vec_free(&d.pieced);
	vec_free(&d.gone);
	vec_free(&d.fresh);
	vec_free(&d.kept);
	if (ret < 0) {
		vec_free(&want);
		return err_in(e, "shell %d", st->task.pid);
	}
	vec_free(&st->vma);
	st->vma = want;
	return 0;
}

int shape_memory(struct shape *s, struct kind_restore *c, const struct img_set *set,
		 struct err *e)
{
	vec_each(&s->task, st) {
		if (!shape_is_first(s, &(*st)->task, KCMP_VM))
			continue;
		int ret = shape_one(s, *st, c, set, e);
		if (ret < 0)
			return ret;
	}
	return 0;
}

int shape_drop(struct task *t, const struct grange *r, size_t n, struct err *e)
{
	struct shape_task *st = (struct shape_task *)t; /* task is its first member */
	struct pump p = PUMP(t->remote, e);

	_Static_assert(offsetof(struct shape_task, task) == 0, "task comes first");
	for (size_t i = 0; i < n; i++)
		vec_each(&st->vma, v) {
			uint64_t start = r[i].start > v->start ? r[i].start : v->start;
			uint64_t end = min64(r[i].end, v->end);

			if (start < end && !(v->status & SPECIAL) && !(v->flags & MAP_SHARED))
				pump_call(&p, "madvise", SYS_madvise, start, end - start,
					  MADV_DONTNEED);
		}
	return pump_end(&p);
}

int shape_finish(struct shape *s, struct task *t, const struct img_set *set, struct err *e)
{
	struct shape_task *st = (struct shape_task *)t;
	_cleanup_msg_ MmEntry *mm = NULL;
	bool moved = false;
	int ret = img_get(set, IMG_MM, (uint64_t)t->pid, 0, &mm, e);
	struct pump p = PUMP(t->remote, e);

	if (ret == 0)
		ret = shape_vdso_finish(st, set, mm, &moved, e);
	if (moved)
		shape_vdso_moved(s, st);
	if (ret < 0)
		return ret;
	for (size_t i = 0; i + 1 < mm->n_cl_guard; i += 2)
		pump_call(&p, "madvise(MADV_GUARD_INSTALL)", SYS_madvise, mm->cl_guard[i],
			  mm->cl_guard[i + 1] - mm->cl_guard[i], MADV_GUARD_INSTALL);
	for (size_t i = 0; i < mm->n_vmas; i++) {
		const VmaEntry *v = mm->vmas[i];

		if (!(v->flags & MAP_LOCKED) || v->status & SPECIAL)
			continue;
		/* mlockall(2) also locks what no page can come to (PROT_NONE, guard pages, beyond a
		 * file's end): mlock(2) sets the flag and says ENOMEM. What else may be wrong with
		 * it is wrong with MLOCK_ONFAULT, too. */
		pump_call(&p, "mlock2", SYS_mlock2, v->start, v->end - v->start, MLOCK_ONFAULT);
		if (!(v->madv & VMA_MADV_ONFAULT))
			pump_call(&p, "?mlock2", SYS_mlock2, v->start, v->end - v->start, 0);
	}
	return pump_end(&p);
}
