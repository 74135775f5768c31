/* SPDX-License-Identifier: Apache-2.0 */
/* Entries and records of a set by the object that they belong to, sorted at first use. */
#include <stdlib.h>

#include "cleanup.h"
#include "kind_priv.h"
#include "kind_util.h"
#include "pipe-data.pb-c.h"
#include "sk-packet.pb-c.h"

static int order(const void *a, const void *b)
{
	const struct kind_indexed *x = a, *y = b;

	if (x->key != y->key)
		return x->key < y->key ? -1 : 1;
	return x->i < y->i ? -1 : x->i > y->i;
}

static void index_entries(struct kind_restore *c, enum kind_index which, kind_indexed_vec *v)
{
	const FileEntry *fe;

	for (uint32_t i = 0; (fe = kind_entry_at(c, i)); i++) {
		if (which == KIND_INDEX_PIPE && fe->type == FD_TYPES__PIPE && fe->pipe)
			vec_push(v, (struct kind_indexed){ fe->pipe->pipe_id, i });
		if (which == KIND_INDEX_FIFO && fe->type == FD_TYPES__FIFO && fe->fifo)
			vec_push(v, (struct kind_indexed){ fe->fifo->pipe_id, i });
	}
}

static int index_records(struct kind_restore *c, enum img_type type, kind_indexed_vec *v,
			 struct err *e)
{
	size_t n = img_count(c->set, type, 0);

	for (uint32_t i = 0; i < n; i++) {
		uint32_t key;
		int ret;

		if (type == IMG_SK_QUEUES) {
			_cleanup_msg_ SkPacketEntry *m = NULL;

			ret = img_get(c->set, type, 0, i, &m, e);
			key = ret ? 0 : m->id_for;
		} else {
			_cleanup_msg_ PipeDataEntry *m = NULL;

			ret = img_get(c->set, type, 0, i, &m, e);
			key = ret ? 0 : m->pipe_id;
		}
		if (ret)
			return ret;
		vec_push(v, (struct kind_indexed){ key, i });
	}
	return 0;
}

static int build(struct kind_restore *c, enum kind_index which, kind_indexed_vec *v, struct err *e)
{
	static const enum img_type types[] = {
		[KIND_INDEX_PIPE_DATA] = IMG_PIPES_DATA, [KIND_INDEX_FIFO_DATA] = IMG_FIFO_DATA,
		[KIND_INDEX_QUEUE] = IMG_SK_QUEUES,
	};
	int ret = 0;

	if (which < KIND_INDEX_PIPE_DATA)
		index_entries(c, which, v);
	else
		ret = index_records(c, types[which], v, e);
	if (!ret && v->n)
		qsort(v->at, v->n, sizeof(*v->at), order);
	return ret;
}

void kind_index_free(struct kind_restore *c)
{
	for (size_t i = 0; i < KIND_INDEXES; i++) {
		vec_free(&c->index[i]);
		c->indexed[i] = false;
	}
}

int kind_index(struct kind_restore *c, enum kind_index which, uint32_t key,
	       const struct kind_indexed **at, size_t *n, struct err *e)
{
	kind_indexed_vec *v = &c->index[which];
	size_t low = 0, high;

	if (!c->indexed[which]) {
		v->n = 0;
		int ret = build(c, which, v, e);
		if (ret)
			return ret;
		c->indexed[which] = true;
	}
	for (high = v->n; low < high;) {
		size_t mid = (low + high) / 2;

		if (v->at[mid].key < key)
			low = mid + 1;
		else
			high = mid;
	}
	*at = v->at + low;
	for (*n = 0; low + *n < v->n && v->at[low + *n].key == key;)
		++*n;
	return 0;
}
