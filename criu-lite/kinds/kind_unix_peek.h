/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Looks at what waits in a unix socket, message by message, with what came along: descriptors
 * and the credentials of the sender. Nothing is consumed.
 */
#pragma once

#include <sys/socket.h>

#include "cleanup.h"
#include "err.h"
#include "vec.h"

struct unix_peek {
	int fd, type;
	int before;              /* SO_PEEK_OFF as the guest has it */
	int offset;              /* bytes seen so far */
	struct buf buf;          /* at[0..got): the message; of a stream: a piece */
	size_t got;
	VEC(int) rights;         /* that came with it: ours, the caller may take them out */
	bool has_cred;
	struct ucred cred;
};

int unix_peek_begin(struct unix_peek *p, int fd, int type, struct err *e);
/* 1: got one, 0: no more. -ENOTSUP: it has something that cannot be kept. */
int unix_peek_next(struct unix_peek *p, struct err *e);
void unix_peek_end(struct unix_peek *p);
