/* SPDX-License-Identifier: Apache-2.0 */
/* Pages to and from an image directory. */
#pragma once

#include "img_pages.h"
#include "pages_send.h"

/* Writes the dirty ranges of a space as pagemap + pages file. `parent`: whether the previous
 * directory (link `parent` of dirfd) holds this space: then `clean` ranges (present, not
 * dirty) are entered as in-parent; otherwise everything present must be in `dirty`.
 * known: gets the sum of the pages file, for img_dir_seal().
 * Reads with process_vm_readv (or pread) in big pieces, two threads deep: reading and writing
 * overlap. */
int pages_dump(const struct pages_space *from, const struct scan *s, const prange_vec *clean,
	       int dirfd, uint32_t pages_id, struct img_known *known, struct pages_stats *stats,
	       struct err *e);

/* Places all pages of a space found in the directory (and its parents). */
int pages_load(int dirfd, const struct pages_space *what, const struct pages_place *to,
	       struct pages_stats *stats, struct err *e);
