/* SPDX-License-Identifier: Apache-2.0 */
#include "pages_frame.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "io.h"
#include "pages_send.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "formats are little-endian");

/* Five levels of page tables: 57 bits of addresses, half of them the user's. */
#define USER_END (1ull << 56)

static int damaged(struct err *e, const char *what)
{
	return err_say(e, EBADMSG, "page frame damaged (%s)", what);
}

static uint64_t head_check(const struct frame_head *h)
{
	return XXH3_64bits(h, offsetof(struct frame_head, check));
}

static uint64_t frame_sum(const struct frame *f, const void *payload)
{
	uint64_t seed = XXH3_64bits(payload, f->head.payload);

	return XXH3_64bits_withSeed(f->ranges, f->head.ranges * sizeof(f->ranges[0]), seed);
}

static int check_end(const struct frame_head *h, struct err *e)
{
	if (h->kind || h->method || h->space || h->flags != FRAME_END || h->ranges || h->payload ||
	    h->limit || h->pages)
		return damaged(e, "end mark");
	return 0;
}

int frame_check_head(const struct frame_head *h, struct err *e)
{
	if (h->magic != FRAME_MAGIC)
		return damaged(e, "magic");
	if (h->check != head_check(h))
		return damaged(e, "checksum of the head");
	if (h->flags & FRAME_END)
		return check_end(h, e);
	if (h->flags & ~(uint32_t)FRAME_FRESH)
		return damaged(e, "flags");
	if (h->kind != PAGES_TASK && h->kind != PAGES_SHM)
		return damaged(e, "kind of space");
	if (h->method != COMP_NONE && h->method != COMP_ZSTD)
		return damaged(e, "method of compression");
	if (h->ranges == 0 || h->ranges > FRAME_PAGES)
		return damaged(e, "number of ranges");
	if (h->payload > FRAME_BYTES)
		return damaged(e, "size of payload");
	if (h->kind == PAGES_TASK && h->limit)
		return damaged(e, "limit");
	return 0;
}

static int check_ranges(const struct frame *f, struct err *e)
{
	uint64_t at = 0, limit = USER_END;
	uint32_t pages = 0;

	if (f->head.kind == PAGES_SHM)
		limit = f->head.limit;
	if (limit > INT64_MAX - PAGE_SIZE)
		return damaged(e, "limit");
	for (uint32_t i = 0; i < f->head.ranges; i++) {
		const struct frame_range *r = &f->ranges[i];

		if (r->start % PAGE_SIZE || r->type > FRAME_DELTA)
			return damaged(e, "range");
		if (r->pages == 0 || r->pages > FRAME_PAGES - pages)
			return damaged(e, "size of ranges");
		if (r->start < at || r->start >= limit)
			return damaged(e, "order of ranges");
		at = r->start + r->pages * PAGE_SIZE;
		if (at > limit + PAGE_SIZE - 1)
			return damaged(e, "end of ranges");
		pages += r->pages;
	}
	return 0;
}

int frame_check(const struct frame *f, const void *payload, struct err *e)
{
	if (frame_sum(f, payload) != f->head.sum)
		return damaged(e, "checksum");
	int ret = check_ranges(f, e);
	if (ret < 0)
		return ret;
	uint64_t raw = frame_raw(f);
	if (f->head.pages && !frame_pages(f, FRAME_DELTA))
		return damaged(e, "checksum of pages");
	if (f->head.method == COMP_NONE ? f->head.payload != raw
					: !f->head.payload || f->head.payload >= raw)
		return damaged(e, "size of payload");
	return 0;
}

void frame_seal(struct frame *f, const void *payload)
{
	f->head.sum = frame_sum(f, payload);
	f->head.check = head_check(&f->head);
}

size_t frame_size(const struct frame_head *h)
{
	return sizeof(*h) + h->ranges * sizeof(struct frame_range);
}

uint32_t frame_pages(const struct frame *f, enum frame_type type)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < f->head.ranges; i++)
		if (f->ranges[i].type == type)
			n += f->ranges[i].pages;
	return n;
}

size_t frame_raw(const struct frame *f)
{
	return (frame_pages(f, FRAME_DATA) + frame_pages(f, FRAME_DELTA)) * PAGE_SIZE;
}

size_t frame_ranges(const struct frame *f, bool payload, struct prange *out)
{
	size_t n = 0;

	for (uint32_t i = 0; i < f->head.ranges; i++) {
		const struct frame_range *r = &f->ranges[i];

		if ((r->type != FRAME_ZERO) == payload)
			out[n++] = (struct prange){ r->start, r->start + r->pages * PAGE_SIZE };
	}
	return n;
}

size_t frame_iov(const struct prange *r, size_t n, size_t skip, struct iovec *out)
{
	size_t count = 0;

	for (size_t i = 0; i < n; i++) {
		uint64_t len = r[i].end - r[i].start;

		if (skip >= len) {
			skip -= len;
			continue;
		}
		out[count++] = (struct iovec){ (void *)(r[i].start + skip), len - skip };
		skip = 0;
	}
	return count;
}
