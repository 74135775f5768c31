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

/* Fills head and ranges (not payload, method, sum) and puts the pages that are neither zero nor
 * known to the target (`same`, may be NULL) into buf (FRAME_BYTES), one after the other.
 * f->head.ranges is 0 if nothing is left to send. */
int pages_slice_read(const struct pages_slice *s, struct same *same, struct frame *f, uint8_t *buf,
		     struct slice_stats *st, struct err *e);

bool pages_is_zero(const void *page);
