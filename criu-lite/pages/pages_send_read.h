/* SPDX-License-Identifier: Apache-2.0 */
/* Reads a frame's worth of pages out of a guest (part of the sender). */
#pragma once

#include "pages_frame.h"
#include "pages_same.h"
#include "pages_send.h"

/* Part of what was queued: at most FRAME_PAGES pages of one space. */
struct pages_slice {
	struct pages_space from;
	bool fresh, live;
	size_t n;
	struct prange r[FRAME_PAGES];
};

struct slice_stats {
	size_t gone;                 /* pages that are no longer there (live only) */
	size_t same;                 /* pages that the target holds already */
};

/* What may be left out of a slice. */
struct slice_known {
	struct same *same;           /* NULL: nothing is known */
	bool delta;                  /* what only changed a little may be sent as the difference */
};

/* Fills head and ranges (not payload, method, sum) and puts the pages that are neither zero nor
 * known to the target into buf (FRAME_BYTES), one after the other.
 * f->head.ranges is 0 if nothing is left to send. */
int pages_slice_read(const struct pages_slice *s, const struct slice_known *known,
		     struct frame *f, uint8_t *buf, struct slice_stats *st, struct err *e);

bool pages_is_zero(const void *page);
void pages_xor(uint8_t *to, const uint8_t *with, size_t n);
