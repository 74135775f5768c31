/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The format of a data connection, source to target:
 *
 *   stream := frame* end
 *   frame  := head range[ranges] payload
 *   range  := start:u64 pages:u32 type:u32           type: 0 data, 1 zero, 2 delta
 *
 * head is struct frame_head below. The payload holds the pages of the data and delta ranges, in
 * order, raw or as one zstd frame; zero ranges have none. A page of a delta range is to be XORed
 * with what the target holds there. Ranges ascend and do not overlap; a frame covers at most
 * FRAME_PAGES pages. `end` is a head with flag FRAME_END and nothing else in it: a stream that
 * stops without it was cut. Numbers are little-endian. sum is XXH3-64 of the ranges, seeded with
 * XXH3-64 of the payload as sent; pages is XXH3-64 of all data and delta pages as they will be, if
 * there are delta ranges, so that a target which holds something else says so; check is XXH3-64 of
 * what stands before it in the head, so that no length is believed that was damaged on the way.
 *
 * Target to source go control frames (wire_conn.h): FRAME_ACK with a struct frame_ack, cumulative;
 * or FRAME_FAILED with a text, after which the connection is closed.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "err.h"
#include "pages_tracker.h"

#define FRAME_MAGIC 0x32544c43u      /* "CLT2": version 2 */
#define FRAME_PAGES 256u
#define FRAME_BYTES (FRAME_PAGES * 4096u)

enum frame_flag {
	FRAME_FRESH = 1,             /* the target holds nothing there: zeros are likely zero */
	FRAME_END = 2,
};

enum frame_type { FRAME_DATA, FRAME_ZERO, FRAME_DELTA };
enum frame_answer { FRAME_ACK = 1, FRAME_FAILED = 2 };

struct frame_head {
	uint32_t magic;
	uint16_t kind;               /* PAGES_TASK, PAGES_SHM */
	uint16_t method;             /* COMP_NONE, COMP_ZSTD */
	uint32_t space;              /* pid or object id */
	uint32_t flags;
	uint32_t ranges;
	uint32_t payload;            /* bytes as sent */
	uint64_t limit;              /* SHM: size of the object; what lies beyond is not of it */
	uint64_t pages;              /* checksum if there are delta ranges, else 0 */
	uint64_t sum, check;
};
_Static_assert(sizeof(struct frame_head) == 56, "format");

struct frame_range {
	uint64_t start;
	uint32_t pages;
	uint32_t type;
};
_Static_assert(sizeof(struct frame_range) == 16, "format");

/* Head and ranges as they stand on the wire. */
struct frame {
	struct frame_head head;
	struct frame_range ranges[FRAME_PAGES];
};

struct frame_ack {
	uint64_t frames, bytes;      /* placed since the connection began; bytes as sent */
	uint64_t placed;             /* bytes of guest memory, with zero pages */
};

/* Checks of a head as it came: bounded sizes, known values. -EBADMSG. */
int frame_check_head(const struct frame_head *h, struct err *e);
/* Checks of the whole: ranges against the head and against each other, checksum. -EBADMSG. */
int frame_check(const struct frame *f, const void *payload, struct err *e);

void frame_seal(struct frame *f, const void *payload);       /* sets sum and check */
size_t frame_size(const struct frame_head *h);               /* head and ranges, bytes */
uint32_t frame_pages(const struct frame *f, enum frame_type type);
size_t frame_raw(const struct frame *f);                     /* bytes of the payload, unpacked */

/* The frame's ranges with payload, or those without. Returns how many. */
size_t frame_ranges(const struct frame *f, bool payload, struct prange *out);
/* Ranges as an I/O vector that leaves out the first `skip` bytes. Returns its length. */
size_t frame_iov(const struct prange *r, size_t n, size_t skip, struct iovec *out);
