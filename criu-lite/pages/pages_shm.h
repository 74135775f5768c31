/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What changed in a shared memory object? Trackers see stores through a mapping; they do not see
 * write(2) to a memfd, holes punched (MADV_REMOVE, fallocate), ftruncate. So:
 *
 *   stores         from the trackers of all mappings, as object offsets
 *   holes          the map of data extents (SEEK_DATA) against that of the last look
 *   write(2)       the inode's times moved: then every page that no tracker reported is compared
 *                  with its hash of the last look (memfds that are not write-sealed only; nothing
 *                  else can be written that way)
 */
#pragma once

#include "kind_shm.h"
#include "pages_tracker.h"

struct shm_track;

struct shm_track *shm_track_new(uint32_t id);
void shm_track_free(struct shm_track *t);
uint32_t shm_track_id(const struct shm_track *t);

/* One look at the object. written: object offsets, ascending. out: reset and dirty as offsets;
 * dirty holds data only. The first look returns all data. */
int shm_track_look(struct shm_track *t, const struct shm_object *o, const prange_vec *written,
		   const prange_vec *unsure, struct scan *out, struct err *e);

/* Data extents of an object (pages that are not holes). */
int shm_extents(int fd, prange_vec *out, struct err *e);
