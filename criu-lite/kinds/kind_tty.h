/* SPDX-License-Identifier: Apache-2.0 */
/* Terminals: the two halves of one kind. */
#pragma once

#include <sys/sysmacros.h>

#include "kind.h"

#define TTY_MAJOR_VT     4       /* consoles, from 64 on serial lines */
#define TTY_MAJOR_AUX    5       /* 1: /dev/console, 2: /dev/ptmx */
#define TTY_MAJOR_PTS    136     /* to 143: slaves of pseudo terminals */
#define TTY_NCC          19      /* control characters that the kernel knows */

static inline bool tty_is_master(dev_t rdev)
{
	return rdev == makedev(TTY_MAJOR_AUX, 2);
}

static inline bool tty_is_slave(dev_t rdev)
{
	return major(rdev) >= TTY_MAJOR_PTS && major(rdev) < TTY_MAJOR_PTS + 8;
}

int tty_create(struct kind_restore *c, const FileEntry *fe, int *out, struct err *e);
int tty_finish(struct kind_restore *c, const FileEntry *fe, int fd, struct err *e);
