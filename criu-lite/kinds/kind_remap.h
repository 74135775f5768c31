/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Open files whose name is gone. One that has no name left travels with its contents
 * (a ghost file, up to --ghost-limit); one that has other names gets a new one beside
 * the old (--link-remap), which is removed after the restore.
 */
#pragma once

#include "kind.h"
#include "regfile.pb-c.h"

/* Does `path` lead to another file than `local` (of `st`), or to none? */
bool kind_remap_gone(const char *path, int local, const struct stat *st);
/* Can it be moved nevertheless? */
int kind_remap_check(const struct kind_dump *c, const char *path, const struct stat *st,
		     struct err *e);
/* Puts the records that say how entry `id` is found. */
int kind_remap_dump(struct kind_dump *c, uint32_t id, int local, const char *path,
		    const struct stat *st, struct err *e);

/* Reads the set's remaps; contents of ghosts that are open already are brought up to date. */
int kind_remap_begin(struct kind_restore *c, struct err *e);
/* Is entry `id` one of them, and a ghost? */
bool kind_remap_is(const struct kind_restore *c, uint32_t id, bool *ghost);
/* Is what it needs there? Creates nothing. */
int kind_remap_verify(const struct kind_restore *c, const RegFileEntry *r, struct err *e);
/* The file to open again with kind_reopen(); stays ours. fd or -errno. */
int kind_remap_base(struct kind_restore *c, const RegFileEntry *r, struct err *e);
/* Removes the names that --link-remap made. */
void kind_remap_done(struct kind_restore *c);
void kind_remap_free(struct kind_restore *c);
