/* SPDX-License-Identifier: Apache-2.0 */
/* Puts a frame's worth of pages where they will live (part of the receiver). */
#pragma once

#include "pages_frame.h"
#include "pages_send.h"

struct placing {
	const struct frame *frame;   /* checked */
	struct pages_place to;
	uint8_t *raw;                /* the payload, unpacked; room for FRAME_BYTES, overwritten */
	uint8_t *scratch;            /* FRAME_BYTES */
	const uint8_t *zeros;        /* FRAME_BYTES of zeros */
};

/* Pages of a task for which it has no memory are left out and added to `missing`: the list of its
 * mappings was read from a running guest, which may have changed them before the pages were. The
 * source sees that in the next list, and sends them again. */
int pages_place(const struct placing *p, prange_vec *missing, struct err *e);
