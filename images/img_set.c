/* SPDX-License-Identifier: Apache-2.0 */
#include "img.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "ghost-file.pb-c.h"
#include "img_check.h"
#include "img_group.h"

struct img_set *img_set_new(void)
{
	return xcalloc(1, sizeof(struct img_set));
}

static void group_free(struct img_group *g)
{
	vec_each(&g->records, r) {
		free(r->data);
		free(r->extra);
	}
	vec_free(&g->records);
}

void img_set_free(struct img_set *s)
{
	if (!s)
		return;
	vec_each(&s->groups, g)
		group_free(g);
	vec_free(&s->groups);
	free(s);
}

/* The place of (type, id) among the groups, whether it is there or not. */
static size_t place_of(const struct img_set *s, enum img_type type, uint64_t id)
{
	size_t low = 0, high = s->groups.n;

	while (low < high) {
		size_t mid = (low + high) / 2;
		const struct img_group *g = &s->groups.at[mid];
		if (g->type < type || (g->type == type && g->id < id))
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

static bool is_at(const struct img_set *s, size_t i, enum img_type type, uint64_t id)
{
	return i < s->groups.n && s->groups.at[i].type == type && s->groups.at[i].id == id;
}

const struct img_group *img_group_find(const struct img_set *s, enum img_type type, uint64_t id)
{
	size_t i = place_of(s, type, id);

	return is_at(s, i, type, id) ? &s->groups.at[i] : NULL;
}

struct img_group *img_group_make(struct img_set *s, enum img_type type, uint64_t id)
{
	size_t i = place_of(s, type, id);

	if (is_at(s, i, type, id))
		return &s->groups.at[i];
	vec_reserve(&s->groups, s->groups.n + 1);
	struct img_group *g = &s->groups.at[i];
	memmove(g + 1, g, (s->groups.n - i) * sizeof(*g));
	s->groups.n++;
	*g = (struct img_group){ .type = type, .id = id };
	return g;
}

const ProtobufCMessageDescriptor *img_record_descriptor(enum img_type type, size_t index)
{
	const struct img_type_info *info = img_type_info(type);

	return index == 0 ? info->first : info->rest;
}

int img_group_check(const struct img_group *g, const uint8_t *p, size_t len, size_t avail,
		    uint64_t *extra, struct err *e)
{
	const ProtobufCMessageDescriptor *d = img_record_descriptor(g->type, g->records.n);
	_cleanup_msg_ ProtobufCMessage *m = NULL;

	if (g->ended)
		return err_say(e, EBADMSG, "follows the last one there can be");
	if (!d) {
		*extra = avail;
		return len == 0 ? 0 : err_say(e, EBADMSG, "message in a raw file");
	}
	int ret = img_unpack(d, p, len, &m, e);
	if (ret < 0)
		return ret;
	return img_extra_size(img_type_info(g->type)->extra, g->records.n, m, p + len, avail,
			      extra, e);
}

/* Raw files are one payload; so are the contents of a ghost file that is not in chunks. */
static bool ends_group(const struct img_group *g)
{
	const struct img_record *r = &g->records.at[g->records.n - 1];

	if (!img_type_info(g->type)->magic)
		return true;
	if (g->type != IMG_GHOST_FILE || g->records.n > 1)
		return false;
	GhostFileEntry *ghost = ghost_file_entry__unpack(NULL, r->len, r->data);
	bool chunks = ghost && ghost->has_chunks && ghost->chunks;
	if (ghost)
		ghost_file_entry__free_unpacked(ghost, NULL);
	return !chunks;
}

void img_group_add(struct img_group *g, const uint8_t *p, size_t len, const uint8_t *extra,
		   size_t extra_len)
{
	assert(len <= UINT32_MAX && extra_len <= UINT32_MAX);
	vec_push(&g->records, (struct img_record){
		.data = xmemdup(p, len), .len = (uint32_t)len,
		.extra = extra_len ? xmemdup(extra, extra_len) : NULL,
		.extra_len = (uint32_t)extra_len });
	g->ended = ends_group(g);
}

void img_put_extra(struct img_set *s, enum img_type type, uint64_t id,
		   const ProtobufCMessage *m, const void *extra, size_t extra_len)
{
	assert(img_type_in_set(type));
	struct img_group *g = img_group_make(s, type, id);
	_cleanup_free_ uint8_t *packed = NULL;
	size_t len = 0;
	uint64_t counted;

	assert(!g->ended);
	if (m) {
		assert(m->descriptor == img_record_descriptor(type, g->records.n));
		len = protobuf_c_message_get_packed_size(m);
		packed = xmalloc(len);
		protobuf_c_message_pack(m, packed);
		struct err e = ERR_INIT;
		int ret = img_extra_size(img_type_info(type)->extra, g->records.n, m, extra,
					 extra_len, &counted, &e);
		assert(ret == 0 && counted == extra_len);
	} else {
		assert(!img_type_info(type)->magic);
	}
	img_group_add(g, packed, len, extra, extra_len);
}

void img_put(struct img_set *s, enum img_type type, uint64_t id, const ProtobufCMessage *m)
{
	img_put_extra(s, type, id, m, NULL, 0);
}

void img_drop(struct img_set *s, enum img_type type, uint64_t id)
{
	size_t i = place_of(s, type, id);

	if (!is_at(s, i, type, id))
		return;
	struct img_group *g = &s->groups.at[i];
	group_free(g);
	memmove(g, g + 1, (s->groups.n - i - 1) * sizeof(*g));
	s->groups.n--;
}

size_t img_count(const struct img_set *s, enum img_type type, uint64_t id)
{
	const struct img_group *g = img_group_find(s, type, id);

	return g ? g->records.n : 0;
}

const struct img_record *img_record(const struct img_set *s, enum img_type type, uint64_t id,
				    size_t i)
{
	const struct img_group *g = img_group_find(s, type, id);

	return g && i < g->records.n ? &g->records.at[i] : NULL;
}

int img_get(const struct img_set *s, enum img_type type, uint64_t id, size_t i, void *out,
	    struct err *e)
{
	const struct img_record *r = img_record(s, type, id, i);
	char name[64];

	img_file_name(type, id, name, sizeof(name));
	if (!r && i == 0)
		return err_say(e, ENOENT, "%s: missing", name);
	if (!r)
		return err_say(e, ENOENT, "%s: has no record %zu", name, i);
	const ProtobufCMessageDescriptor *d = img_record_descriptor(type, i);
	if (!d)
		return err_say(e, ENOENT, "%s: raw file, it holds no messages", name);
	int ret = img_unpack(d, r->data, r->len, (ProtobufCMessage **)out, e);
	if (ret < 0)
		return err_in(e, "%s: record %zu", name, i);
	return 0;
}

bool img_next(const struct img_set *s, size_t *it, enum img_type *type, uint64_t *id)
{
	if (*it >= s->groups.n)
		return false;
	*type = s->groups.at[*it].type;
	*id = s->groups.at[*it].id;
	++*it;
	return true;
}
