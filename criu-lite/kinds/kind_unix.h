/* SPDX-License-Identifier: Apache-2.0 */
/* Unix sockets: the two halves of one kind. */
#pragma once

#include "kind.h"

/* UnixSkEntry.uflags: an entry without a descriptor, for a peer outside of the guest. */
#define UNIX_EXTERN 1u

int unix_create(struct kind_restore *c, const FileEntry *fe, int *out, struct err *e);
int unix_finish(struct kind_restore *c, const FileEntry *fe, int fd, struct err *e);
