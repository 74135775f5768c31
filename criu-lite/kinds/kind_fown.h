/* SPDX-License-Identifier: Apache-2.0 */
/* Owners of open files (F_SETOWN, F_SETSIG): who gets the signal. In every kind's message. */
#pragma once

#include "fown.pb-c.h"
#include "kind.h"

/* The owner of a description; memory from malloc. Never fails: a file without one (O_PATH, no
 * owner, owner gone) has an empty entry. */
FownEntry *kind_fown_dump(int fd);

/* Gives it back. The processes must exist. */
int kind_fown_restore(int fd, const FownEntry *f, struct err *e);

/* Where an entry keeps its owner; NULL: it has none of its own. */
FownEntry **kind_fown_slot(FileEntry *fe);
