/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What changed in a shared memory object? Trackers see stores through a mapping; they do not see
 * write(2) to a memfd, holes punched (MADV_REMOVE, fallocate), ftruncate. So:
 *
 *   stores         from the trackers of all mappings, as object offsets
 *   holes          the map of data extents (SEEK_DATA) against that of the last look
 *   write(2)       to a memfd, and stores of children that lived too briefly to be tracked: the
 *                  inode's times moved, and one of both was possible: then every page that no
 *                  tracker reported is compared with its hash of the last look
 */
#pragma once

#include "kind_shm.h"
#include "pages_tracker.h"

struct shm_track;

struct shm_track *shm_track_new(uint32_t id);
void shm_track_free(struct shm_track *t);
uint32_t shm_track_id(const struct shm_track *t);

struct shm_look {
	const struct shm_object *object;
	const prange_vec *written, *unsure;  /* object offsets, ascending, by all trackers */
	bool forks;                  /* processes were made on this host since the last look */
	bool last;                   /* no other look will follow */
};

/* One look at the object. out: reset and dirty as offsets; dirty holds data only. The first
 * look returns all data. */
int shm_track_look(struct shm_track *t, const struct shm_look *l, struct scan *out, struct err *e);

/* Data extents of an object (pages that are not holes). */
int shm_extents(int fd, prange_vec *out, struct err *e);
