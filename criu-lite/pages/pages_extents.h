/* SPDX-License-Identifier: Apache-2.0 */
/* Where a file in memory has data: SEEK_DATA and SEEK_HOLE, for many ranges at a price that does
 * not grow with the data behind them. */
#pragma once

#include "pages_tracker.h"

struct extents {
	int fd;
	uint64_t start, end;         /* the longest extent that is known: SEEK_HOLE was here */
};

/* Data between two offsets (page aligned; beyond the file's end there is none) is added to `out`,
 * moved by `shift`. Of one `x`, ranges ascend. 0 or -errno. */
int extents_add(struct extents *x, uint64_t start, uint64_t end, uint64_t shift, prange_vec *out);
