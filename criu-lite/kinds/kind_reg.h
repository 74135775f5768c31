/* SPDX-License-Identifier: Apache-2.0 */
/* Files with a name: the part of kind_reg.c that other kinds use, too. */
#pragma once

#include "kind.h"
#include "regfile.pb-c.h"

struct kind_source {
	uint32_t id;
	int local;
	const char *path;        /* as the guest sees it, without " (deleted)" */
	const struct stat *st;
	uint32_t flags;
	int64_t pos;
};

/* Builds the message and puts what else belongs to it (remaps). */
int kind_reg_build(struct kind_dump *c, const struct kind_source *s, RegFileEntry **out,
		   struct err *e);
/* Puts it as an entry of its own; once per pass. */
int kind_reg_put(struct kind_dump *c, const struct kind_source *s, struct err *e);

/* An O_PATH descriptor of the file, verified to be the same. fd or -errno. */
int kind_reg_find(struct kind_restore *c, const RegFileEntry *r, bool now, struct err *e);
/* A description with the entry's flags and position. fd or -errno. */
int kind_reg_open(struct kind_restore *c, const RegFileEntry *r, struct err *e);
