/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Mappings that are not what they were in the list of the last look.
 *
 * The list is older than what was read by it: a running guest may have put another mapping at the
 * same address in between. Its pages were then taken for those of the mapping that was in the list,
 * sent, and their marks cleared. The other side had the old mapping as well, and makes the new one
 * when it is told of it, without these pages.
 */
#include <string.h>
#include <xxhash.h>

#include "pages_tracker_int.h"

#define KIND_FLAGS (PROC_VF_GD | PROC_VF_NR | PROC_VF_DP)

/* The other side knows a file by its name, and one that has been renamed for another. */
static uint64_t name_of(const struct proc_vma *v)
{
	return v->ino && !v->shared ? XXH3_64bits(v->path, strlen(v->path)) : 0;
}

/* As the other side decides whether one can become the other and keep its pages. */
static bool is_like(const struct seen *s, const struct proc_vma *v)
{
	if (s->shared != v->shared || s->ino != v->ino || s->major != v->dev_major ||
	    s->minor != v->dev_minor || s->flags != (v->vmflags & KIND_FLAGS))
		return false;
	return !v->ino || (s->offset == v->pgoff - v->start && s->name == name_of(v));
}

void tracker_remade(const struct tracker *t, const struct proc_vma *vmas, size_t n, prange_vec *out)
{
	/* uffd-wp knows by itself what is new */
	bool soft = t->kind == TRACKER_SOFT_DIRTY;
	size_t s = 0;

	if (!t->seen.n)
		return;
	for (size_t i = 0; i < n; i++) {
		uint64_t at = vmas[i].start;

		while (s < t->seen.n && t->seen.at[s].end <= at)
			s++;
		/* The last one may reach into the next mapping, too. */
		for (size_t k = s; k < t->seen.n && t->seen.at[k].start < vmas[i].end; k++) {
			const struct seen *o = &t->seen.at[k];
			uint64_t start = o->start > at ? o->start : at;
			uint64_t end = o->end < vmas[i].end ? o->end : vmas[i].end;

			if (soft)
				prange_add(out, at, start);
			if (!is_like(o, &vmas[i]))
				prange_add(out, start, end);
			at = end;
		}
		if (soft)
			prange_add(out, at, vmas[i].end);
	}
}

void tracker_remember(struct tracker *t, const struct proc_vma *vmas, size_t n)
{
	t->seen.n = 0;
	for (size_t i = 0; i < n; i++)
		vec_push(&t->seen, (struct seen){
			.start = vmas[i].start, .end = vmas[i].end,
			.offset = vmas[i].pgoff - vmas[i].start, .ino = vmas[i].ino,
			.name = name_of(&vmas[i]),
			.major = vmas[i].dev_major, .minor = vmas[i].dev_minor,
			.flags = vmas[i].vmflags & KIND_FLAGS, .shared = vmas[i].shared });
}
