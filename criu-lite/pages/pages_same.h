/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the target holds, as one 128-bit hash for each page that was sent again: a page that was
 * written and yet is the same needs not be sent a third time. The hash is keyed by random numbers
 * of this process, so that nobody who feeds data to a guest can make two pages that collide.
 *
 * Pages are kept in chunks of 64 neighbours (256 KiB of guest, 1 KiB here), at most SAME_CHUNKS of
 * them: 64 MiB, for 16 GiB of memory that is written again and again. What does not fit is sent.
 * All functions may be called from any thread.
 */
#pragma once

#include <stdbool.h>
#include <xxhash.h>

#include "pages_tracker.h"

#define SAME_CHUNKS 65536u

struct same;

struct same_hash { XXH128_hash_t h; };

int same_new(struct same **s, struct err *e);
void same_free(struct same *s);

struct same_hash same_hash(const struct same *s, const void *page);
struct same_hash same_hash_zero(const struct same *s);

/* Whether the target holds this page already; else it is about to be sent and will. at[], hash[]:
 * n pages of one space; same[] is the answer. */
void same_check(struct same *s, int kind, uint32_t id, const uint64_t *at,
		const struct same_hash *hash, size_t n, bool *same);

/* What the target holds there is no longer known. */
void same_forget(struct same *s, int kind, uint32_t id, const struct prange *r, size_t n);
/* Bytes in use. */
size_t same_size(struct same *s);
