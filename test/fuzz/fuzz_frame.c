/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The stream of a data connection, into a receiver that knows one shared memory object. Checksums
 * are set right first, else nothing behind them would ever be reached. What the checks let pass
 * must stay within the object.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
#include <xxhash.h>

#include "io.h"
#include "pages_frame.h"
#include "pages_send.h"

#define STREAM_MAX 65536u
#define SPACE 1
#define OBJECT (1u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Walks the stream as the receiver will, and seals each frame. */
static void seal(uint8_t *p, size_t size)
{
	struct frame f;

	while (size >= sizeof(f.head)) {
		memcpy(&f.head, p, sizeof(f.head));
		f.head.limit = f.head.limit < OBJECT ? f.head.limit : OBJECT;
		size_t head = frame_size(&f.head), all = head + f.head.payload;
		bool whole = f.head.ranges <= FRAME_PAGES && all <= size;
		if (whole) {
			memcpy(&f, p, head);
			frame_seal(&f, p + head);
		}
		f.head.check = XXH3_64bits(&f.head, offsetof(struct frame_head, check));
		memcpy(p, &f.head, sizeof(f.head));
		if (!whole)
			return;
		p += all;
		size -= all;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct pages_receiver *r;
	struct err e = ERR_INIT;
	int fds[2], object = memfd_create("fuzz", MFD_CLOEXEC);
	uint8_t *copy = malloc(STREAM_MAX);

	if (size > STREAM_MAX)
		size = STREAM_MAX;
	memcpy(copy, data, size);
	seal(copy, size);
	if (object < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0 ||
	    pages_receiver_new(&r, &e) < 0)
		abort();
	pages_receiver_space(r, PAGES_SHM, SPACE, (struct pages_place){ .fd = object });
	if (pages_receiver_add(r, fds[1], &e) < 0)
		abort();
	send(fds[0], copy, size, MSG_NOSIGNAL);
	shutdown(fds[0], SHUT_WR);
	/* Until it is through: acknowledgements or a complaint, then the end. */
	while (read(fds[0], copy, STREAM_MAX) > 0)
		;
	close(fds[0]);
	pages_receiver_free(r);
	if (lseek(object, 0, SEEK_END) > OBJECT)
		abort();
	close(object);
	free(copy);
	return 0;
}
