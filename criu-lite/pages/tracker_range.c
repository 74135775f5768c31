/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "pages_tracker.h"

void prange_add(prange_vec *v, uint64_t start, uint64_t end)
{
	if (start >= end)
		return;
	struct prange *last = v->n ? &v->at[v->n - 1] : NULL;
	if (last && start <= last->end) {
		if (end > last->end)
			last->end = end;
	} else {
		vec_push(v, (struct prange){ start, end });
	}
}

uint64_t prange_bytes(const prange_vec *v)
{
	uint64_t sum = 0;

	vec_each(v, r)
		sum += r->end - r->start;
	return sum;
}

void prange_or(const prange_vec *a, const prange_vec *b, prange_vec *out)
{
	size_t i = 0, j = 0;

	while (i < a->n || j < b->n) {
		bool from_a = j >= b->n || (i < a->n && a->at[i].start <= b->at[j].start);
		const struct prange *r = from_a ? &a->at[i++] : &b->at[j++];

		prange_add(out, r->start, r->end);
	}
}

void prange_merge(prange_vec *v, const prange_vec *more)
{
	prange_vec sum = { 0 };

	prange_or(v, more, &sum);
	vec_free(v);
	*v = sum;
}

void prange_and(const prange_vec *a, const prange_vec *b, prange_vec *out)
{
	size_t i = 0, j = 0;

	while (i < a->n && j < b->n) {
		const struct prange *x = &a->at[i], *y = &b->at[j];

		prange_add(out, x->start > y->start ? x->start : y->start,
			   x->end < y->end ? x->end : y->end);
		if (x->end < y->end)
			i++;
		else
			j++;
	}
}

void prange_minus(const prange_vec *a, const prange_vec *b, prange_vec *out)
{
	size_t j = 0;

	vec_each(a, r) {
		uint64_t at = r->start;

		while (j < b->n && b->at[j].end <= at)
			j++;
		/* Not past the last one that reaches beyond r: the next r may need it too. */
		for (size_t k = j; k < b->n && b->at[k].start < r->end; k++) {
			prange_add(out, at, b->at[k].start);
			if (b->at[k].end > at)
				at = b->at[k].end;
		}
		prange_add(out, at, r->end);
	}
}

void prange_clip(const prange_vec *a, uint64_t start, uint64_t end, prange_vec *out)
{
	size_t low = 0, high = a->n;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (a->at[mid].end <= start)
			low = mid + 1;
		else
			high = mid;
	}
	for (; low < a->n && a->at[low].start < end; low++) {
		const struct prange *r = &a->at[low];

		prange_add(out, r->start > start ? r->start : start, r->end < end ? r->end : end);
	}
}

void scan_free(struct scan *s)
{
	vec_free(&s->reset);
	vec_free(&s->dirty);
	vec_free(&s->guard);
	vec_free(&s->unsure);
}
