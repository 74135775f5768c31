/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A set as bytes, for the stream. Little endian:
 *
 *   set    := u32 0x53494c43 ("CLIS"), u32 version 1, group*
 *   group  := u32 length of name, name of the image file, u32 number of records, record*
 *   record := u32 length of message, u32 length of payload, message, payload
 *
 * Groups go by file name, which means the same to every version of this program.
 */
#include <errno.h>
#include <string.h>

#include "img.h"
#include "img_group.h"

#define SET_MAGIC   0x53494c43u
#define SET_VERSION 1u
#define NAME_MAX_LEN 63

static void put_u32(struct buf *out, uint32_t v)
{
	buf_put(out, &v, sizeof(v));
}

void img_set_encode(const struct img_set *s, struct buf *out)
{
	put_u32(out, SET_MAGIC);
	put_u32(out, SET_VERSION);
	vec_each(&s->groups, g) {
		char name[NAME_MAX_LEN + 1];

		img_file_name(g->type, g->id, name, sizeof(name));
		put_u32(out, (uint32_t)strlen(name));
		buf_put(out, name, strlen(name));
		put_u32(out, (uint32_t)g->records.n);
		vec_each(&g->records, r) {
			put_u32(out, r->len);
			put_u32(out, r->extra_len);
			buf_put(out, r->data, r->len);
			buf_put(out, r->extra, r->extra_len);
		}
	}
}

struct reader {
	const uint8_t *at, *end;
};

static size_t left(const struct reader *r)
{
	return (size_t)(r->end - r->at);
}

static int take(struct reader *r, size_t n, const uint8_t **p, struct err *e)
{
	*p = r->at;
	if (n > left(r))
		return err_say(e, EBADMSG, "truncated (needs %zu bytes, %zu left)", n, left(r));
	r->at += n;
	return 0;
}

static int take_u32(struct reader *r, uint32_t *v, struct err *e)
{
	const uint8_t *p;
	int ret = take(r, sizeof(*v), &p, e);

	*v = 0;
	if (ret == 0)
		memcpy(v, p, sizeof(*v));
	return ret;
}

static int decode_record(struct img_group *g, struct reader *r, struct err *e)
{
	const uint8_t *data, *extra;
	uint32_t len, extra_len;
	uint64_t counted = 0;
	int ret;

	if ((ret = take_u32(r, &len, e)) < 0 || (ret = take_u32(r, &extra_len, e)) < 0 ||
	    (ret = take(r, len, &data, e)) < 0 || (ret = take(r, extra_len, &extra, e)) < 0 ||
	    (ret = img_group_check(g, data, len, extra_len, &counted, e)) < 0)
		return ret;
	if (counted != extra_len)
		return err_say(e, EBADMSG, "payload has %u bytes, its message says %zu", extra_len,
			       (size_t)counted);
	img_group_add(g, data, len, extra, extra_len);
	return 0;
}

static int decode_name(struct img_set *s, struct reader *r, struct img_group **g, struct err *e)
{
	char name[NAME_MAX_LEN + 1];
	enum img_type type;
	const uint8_t *p;
	uint64_t id;
	uint32_t len;
	int ret;

	if ((ret = take_u32(r, &len, e)) < 0)
		return ret;
	if (len > NAME_MAX_LEN)
		return err_say(e, EBADMSG, "file name of %u bytes", len);
	if ((ret = take(r, len, &p, e)) < 0)
		return ret;
	memcpy(name, p, len);
	name[len] = '\0';
	if (strlen(name) != len || !img_type_of_name(name, &type, &id) || !img_type_in_set(type))
		return err_say(e, EBADMSG, "unknown file name");
	if (img_group_find(s, type, id))
		return err_say(e, EBADMSG, "%s: comes twice", name);
	*g = img_group_make(s, type, id);
	return 0;
}

static int decode_group(struct img_set *s, struct reader *r, struct err *e)
{
	char name[NAME_MAX_LEN + 1];
	struct img_group *g = NULL;
	uint32_t n;
	int ret = decode_name(s, r, &g, e);

	if (ret < 0)
		return ret;
	img_file_name(g->type, g->id, name, sizeof(name));
	if ((ret = take_u32(r, &n, e)) < 0)
		return err_in(e, "%s", name);
	if (n == 0)
		return err_say(e, EBADMSG, "%s: has no records", name);
	for (uint32_t i = 0; i < n; i++) {
		ret = decode_record(g, r, e);
		if (ret < 0)
			return err_in(e, "%s: record %u", name, i);
	}
	return 0;
}

int img_set_decode(struct img_set **out, const uint8_t *p, size_t n, struct err *e)
{
	_cleanup_img_set_ struct img_set *s = img_set_new();
	struct reader r = { p, p + n };
	uint32_t magic, version;
	int ret;

	if ((ret = take_u32(&r, &magic, e)) < 0 || (ret = take_u32(&r, &version, e)) < 0)
		return err_in(e, "image set");
	if (magic != SET_MAGIC)
		return err_say(e, EBADMSG, "image set: wrong magic %#x", magic);
	if (version != SET_VERSION)
		return err_say(e, EBADMSG, "image set: version %u is not supported", version);
	while (left(&r) > 0) {
		ret = decode_group(s, &r, e);
		if (ret < 0)
			return err_in(e, "image set");
	}
	*out = steal_ptr(s);
	return 0;
}
