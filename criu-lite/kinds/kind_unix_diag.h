/* SPDX-License-Identifier: Apache-2.0 */
/* What the kernel tells about unix sockets (sock_diag), in our network namespace. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "err.h"

struct unix_diag {
	int type;
	int state;               /* TCP_LISTEN, TCP_ESTABLISHED, TCP_CLOSE */
	bool has_peer;
	uint32_t peer;           /* its inode number; 0: none, closed, or not accepted yet */
	uint32_t queued;         /* listening: connections not accepted, else bytes to read */
	uint32_t backlog;        /* listening only */
	uint32_t sent;           /* memory that its messages take which were not read yet */
	uint32_t shutdown;       /* 1: reading, 2: writing */
	bool has_file;           /* bound to a path: that socket file */
	uint32_t file_dev, file_ino;  /* dev as the kernel has it: major << 20 | minor */
	size_t name_len;         /* as bound: "\0abstract", "/path\0" */
	uint8_t name[128];
};

/* -ENOENT: not in this network namespace (or gone). */
int unix_diag_get(uint32_t ino, struct unix_diag *out, struct err *e);

/* In the queue of which listening socket does this one wait? *listener is 0 if in none. */
int unix_diag_waits_at(uint32_t ino, uint32_t *listener, struct err *e);
