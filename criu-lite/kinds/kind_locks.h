/* SPDX-License-Identifier: Apache-2.0 */
/* File locks (--file-locks): POSIX, OFD and flock, in filelocks.img. */
#pragma once

#include "kind.h"

/* Refuses locks that cannot be moved: leases, and any without --file-locks. */
int kind_locks_check(const struct kind_dump *c, const struct fd_view *v, struct err *e);
/* Puts the locks that show in this descriptor, each once. */
int kind_locks_dump(struct kind_dump *c, const struct fd_view *v, struct err *e);
/* Takes them all, when every descriptor is in its place. -EAGAIN: held by somebody else. */
int kind_locks_restore(struct kind_restore *c, struct err *e);
