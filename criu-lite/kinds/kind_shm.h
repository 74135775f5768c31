/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shared memory objects: anonymous shared mappings and memfds. Their contents belong
 * to the object, not to any mapping: they are read, tracked, sent and placed once.
 */
#pragma once

#include "img.h"
#include "kind.h"

struct shm_object {
	uint32_t id;             /* shmid in VmaEntry, pagemap-shmem-ID.img, MemfdInodeEntry */
	uint64_t dev, ino;
	uint64_t size;           /* bytes, as at the start of the last pass */
	int fd;                  /* ours, readable (and writable on the target) */
	bool memfd;              /* else: anonymous shared, or System V's */
	bool sysv;
	int shmid;               /* System V's number */
	bool made;               /* System V, target: by us; ours to remove until the guest runs */
};

/* ---- source ---- */
/* Finds or adds the object behind `fd` (from pidfd_getfd or /proc/PID/map_files; duplicated). */
struct shm_object *shm_seen(struct kind_dump *c, int fd, bool memfd, struct err *e);
/* The same of a System V segment. */
struct shm_object *shm_seen_sysv(struct kind_dump *c, int fd, int shmid, struct err *e);
/* The guest is no more here: its System V segments go as well. */
void shm_sysv_remove(struct kind_dump *c);
struct shm_object *const *shm_seen_all(struct kind_dump *c, size_t *n);

/* ---- target ---- */
/* The object with that id, made at first use: a memfd as its MemfdInodeEntry says, a System V
 * segment as its IpcShmEntry does (the same key and number), or (anonymous) as given by
 * shm_offer(). -ENOENT for an anonymous one not offered yet. */
int shm_get(struct kind_restore *c, uint32_t id, struct shm_object **out, struct err *e);
/* An anonymous object made by the first mapping in a shell; fd is duplicated. */
int shm_offer(struct kind_restore *c, uint32_t id, int fd, struct err *e);
struct shm_object *const *shm_got_all(struct kind_restore *c, size_t *n);
