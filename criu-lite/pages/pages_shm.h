/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What changed in a shared memory object? Trackers see stores through a mapping; they do not see
 * write(2) to a memfd, holes punched (MADV_REMOVE, fallocate), ftruncate. So:
 *
 *   stores         from the trackers of all mappings, as object offsets
 *   the rest       a tripwire (pages_tripwire.h) tells whether there was any. Then holes are the
 *                  map of data extents (SEEK_DATA) against that of the last look, and every page
 *                  that no tracker reported is compared with its hash of the last look
 *   brief children stores of processes that came and went between two looks: compared, too, if the
 *                  inode's times moved and such a process may have had a mapping
 *   tasks that end what they stored since the last look their trackers tell no more: compared, too,
 *                  if the times moved
 *   hidden stores  of which soft-dirty bits are lost (tracker_soft.c): compared, too, if the times
 *                  moved
 *
 * Where the tripwire does not work (no capability to set it, no attributes in tmpfs), pages are
 * compared whenever the inode's times moved, as they do by stores, too.
 */
#pragma once

#include "kind_shm.h"
#include "pages_tracker.h"

struct shm_track;

struct shm_track *shm_track_new(uint32_t id);
void shm_track_free(struct shm_track *t);
uint32_t shm_track_id(const struct shm_track *t);
/* Until the next look: for pages_space.sums. What a look reports must be read with them. */
uint64_t *shm_track_sums(struct shm_track *t, size_t *n);

struct shm_look {
	const struct shm_object *object;
	const prange_vec *written, *unsure;  /* object offsets, ascending, by all trackers */
	bool hidden;                 /* trackers may have missed stores: soft-dirty */
	bool forks;                  /* processes were made on this host since the last look */
	bool inherited;              /* they would have a mapping: not all are MADV_DONTFORK */
	bool strangers;              /* at the last look somebody may have mapped it untracked */
	bool lost;                   /* trackers have ended since, and told nothing any more, */
	bool lost_new;               /* some of them with mappings that were not tracked yet */
	bool last;                   /* no other look follows, unless the guest goes on after all */
};

/* One look at the object. out: reset and dirty as offsets; dirty holds data only. The first
 * look returns all data. */
int shm_track_look(struct shm_track *t, const struct shm_look *l, struct scan *out, struct err *e);
