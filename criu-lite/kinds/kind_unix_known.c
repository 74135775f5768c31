/* SPDX-License-Identifier: Apache-2.0 */
/* The unix sockets of the set by inode number, and the files that some are bound to. */
#include "cleanup.h"
#include "kind_unix.h"

extern const struct kind kind_unix;

struct by_ino {
	uint32_t ino;
	const UnixSkEntry *m;
};
struct known {
	VEC(struct by_ino) entry;            /* ascending */
	VEC(struct unix_aside) aside;
};

static void free_known(void *p)
{
	struct known *k = p;

	vec_each(&k->aside, a)
		unix_aside_free(a);
	vec_free(&k->aside);
	vec_free(&k->entry);
	free(k);
}

static int order(const void *a, const void *b)
{
	const struct by_ino *x = a, *y = b;

	return x->ino < y->ino ? -1 : x->ino > y->ino;
}

static struct known *known_of(struct kind_restore *c)
{
	void **slot = kind_restore_slot(c, &kind_unix, free_known);
	const FileEntry *fe;

	if (*slot)
		return *slot;
	struct known *k = *slot = xcalloc(1, sizeof(*k));
	for (size_t i = 0; (fe = kind_entry_at(c, i)); i++)
		if (fe->type == FD_TYPES__UNIXSK && fe->usk)
			vec_push(&k->entry, (struct by_ino){ fe->usk->ino, fe->usk });
	if (k->entry.n)
		qsort(k->entry.at, k->entry.n, sizeof(*k->entry.at), order);
	return k;
}

const UnixSkEntry *unix_by_ino(struct kind_restore *c, uint32_t ino)
{
	const struct known *k = known_of(c);
	struct by_ino want = { .ino = ino }, *found;

	if (!ino || !k->entry.n)
		return NULL;
	found = bsearch(&want, k->entry.at, k->entry.n, sizeof(want), order);
	return found ? found->m : NULL;
}

struct unix_aside *unix_aside_of(struct kind_restore *c, uint32_t ino)
{
	vec_each(&known_of(c)->aside, a)
		if (a->ino == ino)
			return a;
	return NULL;
}

void unix_aside_add(struct kind_restore *c, struct unix_aside a)
{
	vec_push(&known_of(c)->aside, a);
}
