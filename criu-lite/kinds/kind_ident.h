/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Is the file on the target the one that the guest had open? An ELF file that is not
 * open for writing: size and build-id. Any other regular file: size and mtime. Files of
 * /proc and the like, directories and devices: their type.
 */
#pragma once

#include "kind.h"
#include "regfile.pb-c.h"

/* Fills mode, size, build_id and mtime. */
void kind_ident_fill(struct kind_dump *c, RegFileEntry *r, int local, const struct stat *st);

/* Compares. `now`: the guest stands still; otherwise size and mtime of files that are being
 * written to may differ, as storage may be shared with the running guest. */
int kind_ident_verify(const RegFileEntry *r, int fd, bool now, struct err *e);

/* Device nodes without state. NULL: it has one. */
const char *kind_stateless_node(dev_t rdev);
