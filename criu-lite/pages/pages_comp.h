/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Compression of one connection. With COMP_AUTO it looks for the level at which guest memory moves
 * fastest: every few frames it compares what a page cost (reading, compressing, waiting for the
 * line or for the bandwidth limit) with what it would cost at other levels, by what was measured
 * there, or as long as nothing was, by what is to be expected.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <zstd.h>

#include "err.h"
#include "pages_send.h"

#define COMP_LEVELS 7

struct comp_level {
	double total;                /* ns per byte of guest memory, all in all; 0: not measured */
	double pack;                 /* ns per byte for compression alone */
	double size;                 /* bytes sent per byte */
	uint64_t when;               /* of the last measurement */
	uint64_t trust;              /* ns for which that counts */
};

struct comp {
	ZSTD_CCtx *zstd;
	int set;                     /* level that is set in zstd */
	enum comp_method method;     /* of the last frame */
	int level;
	unsigned int bad, rest;      /* fixed level: frames that were not worth it */
	size_t now;                  /* auto: index of the level in use */
	struct comp_level at[COMP_LEVELS];
	double line;                 /* ns per byte sent when last the line was the limit */
	uint64_t line_when;
	struct comp_sum {            /* since the last decision */
		uint64_t ns, pack, wait, frames, busy;
		uint64_t raw, wire;
	} sum;
	unsigned int skip;           /* frames that still show what was before the last change */
	uint64_t packed;             /* ns that the last frame took to compress */
};

int comp_init(struct comp *c, struct err *e);
void comp_free(struct comp *c);

/* Whether the next frame will be sent as it is. */
bool comp_is_plain(const struct comp *c, const struct pages_opts *o);

/* Compresses n bytes as the options say into out (n bytes). Returns the bytes there; 0: better sent
 * as they are. */
size_t comp_pack(struct comp *c, const struct pages_opts *o, const void *raw, size_t n, void *out);

/* A frame with payload that was sent. */
struct comp_frame {
	uint64_t ns, wait;           /* in all, of which in the send */
	bool busy;                   /* the frame before was not through when this one came */
	size_t raw, wire;            /* bytes */
};
void comp_note(struct comp *c, const struct comp_frame *f, uint64_t now);
