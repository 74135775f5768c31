/* SPDX-License-Identifier: Apache-2.0 */
/* What several kinds need. */
#pragma once

#include "kind.h"

/* A new message of a generated type, from malloc, initialised:
 * PipeEntry *p = kind_msg(PipeEntry, pipe_entry__init); */
#define kind_msg(type, init) ({ type *_msg = xmalloc(sizeof(type)); init(_msg); _msg; })

/* What F_SETFL can change. */
#define KIND_SETFL (O_APPEND | O_ASYNC | O_DIRECT | O_NOATIME | O_NONBLOCK)

/* Sets those of `flags` that F_SETFL can change, if they differ. */
int kind_set_flags(int fd, uint32_t flags, struct err *e);

/* A new description of the file behind fd, through /proc/self/fd. fd or -errno. */
int kind_reopen(int fd, int flags);

/* Was `path` cut off from " (deleted)"? True if it ends so and the file is not really called so. */
bool kind_cut_deleted(char *path, const struct stat *st);

/* The kind of an entry by its type; NULL: not supported. */
const struct kind *kind_of_type(FdTypes type);
/* The first kind that matches; NULL: none. */
const struct kind *kind_match(const struct fd_view *v);
/* The message of an entry that belongs to its type; NULL: missing. */
ProtobufCMessage *kind_message(const FileEntry *fe);

/* Is the file on a file system that makes up its contents (proc, sysfs, ...)? */
bool kind_on_pseudo_fs(int fd);

/* Dumps a descriptor in flight, our copy of it, which is taken over; its id. */
int kind_flight_put(struct kind_dump *c, int fd, uint32_t *id, struct err *e);

/* Preflight sees no descriptors in flight: what is missing may be among them. */
void kind_flight_expect(struct kind_dump *c);
bool kind_flight_expected(const struct kind_dump *c);

/* What belongs to an object: entries of a pipe or FIFO by pipe_id, records of contents by pipe_id
 * or id_for. In the order of the set; `i` is for kind_entry_at() or img_record(). */
enum kind_index {
	KIND_INDEX_PIPE, KIND_INDEX_FIFO,
	KIND_INDEX_PIPE_DATA, KIND_INDEX_FIFO_DATA, KIND_INDEX_QUEUE
};
struct kind_indexed {
	uint32_t key, i;
};
int kind_index(struct kind_restore *c, enum kind_index which, uint32_t key,
	       const struct kind_indexed **at, size_t *n, struct err *e);

/* Says why a descriptor that no kind matches cannot be moved, and what to do about it. */
int kind_refuse(const struct fd_view *v, struct err *e);
