/* SPDX-License-Identifier: Apache-2.0 */
/* What kinds keep from one descriptor to the next, and what they say at the end of a pass. */
#include "cleanup.h"
#include "kind_priv.h"

static void **slot_of(kind_kept_vec *kept, const struct kind *k, void (*release)(void *))
{
	vec_each(kept, s)
		if (s->kind == k)
			return s->slot;

	struct kind_kept *s = vec_new(kept);
	s->kind = k;
	s->release = release;
	s->slot = xcalloc(1, sizeof(*s->slot));
	return s->slot;
}

void **kind_dump_slot(struct kind_dump *c, const struct kind *k, void (*release)(void *))
{
	return slot_of(&c->kept, k, release);
}

typedef VEC(uint8_t) any_vec;

static void free_list(void *p)
{
	any_vec *v = p;

	vec_free(v);
	free(v);
}

void *kind_dump_list(struct kind_dump *c, const struct kind *k)
{
	void **slot = kind_dump_slot(c, k, free_list);

	return *slot ?: (*slot = xcalloc(1, sizeof(any_vec)));
}

void **kind_restore_slot(struct kind_restore *c, const struct kind *k, void (*release)(void *))
{
	return slot_of(&c->kept, k, release);
}

void kind_slots_free(kind_kept_vec *kept)
{
	vec_each(kept, s) {
		if (*s->slot)
			s->release(*s->slot);
		free(s->slot);
	}
	vec_free(kept);
}

int kind_dump_end(struct kind_dump *c, struct err *e)
{
	int ret = 0;

	for (const struct kind *const *k = kind_table; *k && !ret; k++)
		if ((*k)->end)
			ret = (*k)->end(c, e);
	return ret;
}

int kind_dump_leave(struct kind_dump *c, struct err *e)
{
	int ret = 0;

	for (const struct kind *const *k = kind_table; *k && !ret; k++)
		if ((*k)->leave)
			ret = (*k)->leave(c, e);
	return ret;
}
