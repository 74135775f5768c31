/* SPDX-License-Identifier: Apache-2.0 */
/* Unix sockets: the two halves of one kind. */
#pragma once

#include "kind.h"

/* UnixSkEntry.uflags: an entry without a descriptor, for a peer outside of the guest. */
#define UNIX_EXTERN 1u

int unix_create(struct kind_restore *c, const FileEntry *fe, int *out, struct err *e);
int unix_finish(struct kind_restore *c, const FileEntry *fe, int fd, struct err *e);

/* A socket bound to a file that is not in its place yet (kind_unix_bind.c). */
struct unix_aside {
	uint32_t ino;            /* of the entry */
	char *dir;               /* made for it; NULL: it needs none any more */
	char *to;                /* its place */
	int file;                /* O_PATH: to connect through */
};
struct unix_aside *unix_aside_of(struct kind_restore *c, uint32_t ino);   /* NULL: none */
void unix_aside_add(struct kind_restore *c, struct unix_aside a);
void unix_aside_free(struct unix_aside *a);
/* The entry of a socket; NULL: none. */
const UnixSkEntry *unix_by_ino(struct kind_restore *c, uint32_t ino);
