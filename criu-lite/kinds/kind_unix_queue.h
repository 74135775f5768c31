/* SPDX-License-Identifier: Apache-2.0 */
/* What unix sockets have received and not read yet: IMG_SK_QUEUES, one record a message. */
#pragma once

#include "kind.h"

/* Copies what waits in the socket's queue into the set, as the queue of description `id`, whose
 * peer has inode number `peer` (0: none). Nothing is consumed. -ENOTSUP: something else than
 * bytes, descriptors and credentials is in flight. */
int unix_queue_dump(struct kind_dump *c, int fd, int type, uint32_t id, uint32_t peer,
		    struct err *e);

/* Sends the messages of description `id` into `fd`, a socket connected to it. */
int unix_queue_fill(struct kind_restore *c, uint32_t id, int fd, struct err *e);
/* Does it have any? */
bool unix_queue_any(struct kind_restore *c, uint32_t id);
