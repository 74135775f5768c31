/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What stands behind struct kind_dump and struct kind_restore, for the files of this
 * folder that keep state from one descriptor to the next. Kinds use kind.h.
 */
#pragma once

#include "file-lock.pb-c.h"
#include "ipc-shm.pb-c.h"
#include "kind.h"
#include "kind_shm.h"
#include "kind_util.h"
#include "memfd.pb-c.h"

#define KIND_SPACES (KIND_SPACE_BUILD_ID + 1)

/* kind_dump.c: (space, key) -> number, open addressing */
struct kind_number_slot {
	uint64_t key[3];
	uint32_t space, number;  /* number 0: free */
};

/* kind_pipe.c: which ends of a pipe the tree holds, and which there are */
struct kind_pipe_seen {
	pid_t pid;               /* 0: not seen in this pass */
	int fd;
	bool held[2], open[2];   /* reading, writing */
};

/* kind_locks.c */
struct kind_lock_seen {
	uint64_t owner, dev, ino;
	int64_t start, len;
	uint32_t flag, type;
};

/* kind_shm.c */
struct kind_shm_seen {
	struct shm_object *object;
	uint32_t pass;           /* last seen in */
};

/* kind_slot.c: what a kind keeps for itself */
struct kind_kept {
	const struct kind *kind;
	void (*release)(void *);
	void **slot;             /* in memory of its own: it does not move */
};
typedef VEC(struct kind_kept) kind_kept_vec;

/* kind_ident.c: by number; words 0: the file has none */
#define KIND_BUILD_ID_MAX 64
struct kind_build_id {
	bool known;
	size_t words;
	uint8_t id[KIND_BUILD_ID_MAX];
};

struct kind_dump {
	struct kind_opts opts;
	struct img_set *set;
	uint32_t pass;
	struct kind_number_slot *slot;
	size_t slots, numbers;
	uint32_t last[KIND_SPACES];
	VEC(uint32_t) first[KIND_SPACES];    /* by number: pass that put it */
	VEC(struct kind_pipe_seen) pipe;     /* by pipe number */
	VEC(struct kind_lock_seen) lock;     /* of this pass */
	VEC(struct kind_build_id) build_id;
	VEC(struct kind_shm_seen) shm;
	VEC(struct shm_object *) shm_list;   /* the same, as given out */
	VEC(char *) link;                    /* names made for --link-remap */
	kind_kept_vec kept;
	uint32_t (*identify)(void *arg, pid_t pid, int fd);
	void *identify_arg;
	VEC(int) flight;                     /* copies of descriptors in flight, of this pass */
	bool flight_expected;
	struct net_queue *queue;             /* kind_tcp.h */
};

void kind_flight_close(struct kind_dump *c);
void kind_slots_free(kind_kept_vec *kept);

/* One entry of files.img. */
struct kind_file {
	uint32_t id;
	FileEntry *fe;
	const struct kind *kind;
	int fd;                              /* -1: not made yet */
	bool busy, finished, remapped;
	VEC(struct kind_holder) holder;
};
typedef VEC(struct kind_file) kind_file_vec;

/* kind_remap.c: a file without a name of its own. The base is O_RDWR for a ghost file, O_PATH
 * otherwise; descriptions are made by opening it again. */
struct kind_base {
	uint32_t remap_id;
	bool ghost;
	uint64_t hash;                       /* of the ghost's records */
	int fd;
};
struct kind_remap {
	uint32_t orig_id, remap_id;
	bool ghost;
};

#define KIND_INDEXES (KIND_INDEX_QUEUE + 1)
typedef VEC(struct kind_indexed) kind_indexed_vec;

struct kind_process {
	pid_t pid;
	struct remote *remote;
};

struct kind_restore {
	struct kind_opts opts;
	const struct img_set *set;
	kind_file_vec file;                  /* ascending by id */
	VEC(struct kind_process) process;
	VEC(struct kind_remap) remap;        /* ascending by orig_id */
	VEC(struct kind_base) base;
	VEC(MemfdInodeEntry *) memfd;
	VEC(IpcShmEntry *) sysv;
	VEC(struct shm_object *) shm;
	kind_kept_vec kept;
	kind_indexed_vec index[KIND_INDEXES];
	bool indexed[KIND_INDEXES];
	struct net_queue *queue;             /* kind_tcp.h */
};

void kind_index_free(struct kind_restore *c);
void kind_shm_begin_dump(struct kind_dump *c);
void kind_shm_free_dump(struct kind_dump *c);
int kind_shm_begin(struct kind_restore *c, struct err *e);
int kind_shm_seal(struct kind_restore *c, struct err *e);
void kind_shm_free(struct kind_restore *c);
void kind_shm_done(struct kind_restore *c);

/* kind_shm_sysv.c */
struct shm_object;
int kind_sysv_put(struct kind_dump *c, const struct shm_object *o, struct err *e);
int kind_sysv_load(struct kind_restore *c, struct err *e);
const IpcShmEntry *kind_sysv_of(const struct kind_restore *c, uint32_t id);
/* Our fd of the segment, which is made, or taken over if it was left here by the same guest. */
int kind_sysv_make(const IpcShmEntry *s, bool *made, struct err *e);
/* When the guest has attached it: locked, or to go with the last that detaches it. */
int kind_sysv_finish(const IpcShmEntry *s, struct err *e);
void kind_sysv_forget(struct kind_restore *c);
const MemfdInodeEntry *kind_shm_inode(const struct kind_restore *c, uint32_t inode_id);
