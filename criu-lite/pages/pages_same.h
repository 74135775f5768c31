/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the target holds of pages that were sent again: a 128-bit hash of each, so that a page that
 * was written and yet is the same needs not be sent a third time; and the contents of the hottest,
 * so that only what changed in them needs to be sent. The hash is keyed by random numbers of this
 * process: nobody who feeds data to a guest can make two pages that collide.
 *
 * Hashes are kept in chunks of 64 neighbours (256 KiB of guest, 1.3 KiB here), at most SAME_CHUNKS
 * of them: 61 MiB, for 12 GiB of memory that is written again and again. Contents: at most
 * SAME_COPIES pages, 64 MiB. What does not fit is sent in full. All functions may be called from
 * any thread, but for one page by one thread at a time.
 */
#pragma once

#include <stdbool.h>
#include <xxhash.h>

#include "pages_tracker.h"

#define SAME_CHUNKS 49152u
#define SAME_COPIES 16384u

struct same;

struct same_hash { XXH128_hash_t h; };

int same_new(struct same **s, struct err *e);
void same_free(struct same *s);

struct same_hash same_hash(const struct same *s, const void *page);
struct same_hash same_hash_zero(const struct same *s);

/* A page that is about to be sent, and what is known of it. */
struct same_page {
	uint64_t at;
	struct same_hash hash;
	bool keep;                   /* a copy is of use */
	/* out: */
	bool same;                   /* the target holds it as it is */
	uint8_t *copy;               /* to be filled with the page; NULL: no room */
	bool valid;                  /* until then the copy is what the target holds */
};

/* n pages of one space: looks whether the target holds them, and from now on it does. */
void same_check(struct same *s, int kind, uint32_t id, struct same_page *p, size_t n);
/* The target has all that was sent. Copies of pages that are no longer sent may be replaced. */
void same_round(struct same *s);

/* What the target holds there is no longer known. */
void same_forget(struct same *s, int kind, uint32_t id, const struct prange *r, size_t n);
