/* SPDX-License-Identifier: Apache-2.0 */
#include "outlet.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* A pipe that is ready takes PIPE_BUF bytes without waiting; a terminal takes what it can. */
static bool drain(struct outlet *o, int wait_ms)
{
	while (o->held.n > 0) {
		struct pollfd p = { o->fd, POLLOUT, 0 };
		size_t n = o->held.n < PIPE_BUF ? o->held.n : PIPE_BUF;

		if (poll(&p, 1, wait_ms) != 1 || !(p.revents & POLLOUT))
			return p.revents == 0; /* else nobody will ever read it */
		ssize_t done = write(o->fd, o->held.at, n);
		if (done < 0)
			return errno == EINTR || errno == EAGAIN;
		o->held.n -= (size_t)done;
		memmove(o->held.at, o->held.at + done, o->held.n);
	}
	return true;
}

void outlet_put(struct outlet *o, const void *text, size_t n)
{
	if (o->held.n + n > OUTLET_MAX)
		o->lost += n;
	else
		buf_put(&o->held, text, n);
	if (!drain(o, 0))
		o->held.n = 0;
}

void outlet_end(struct outlet *o)
{
	while (o->held.n > 0 && drain(o, -1))
		;
	buf_free(&o->held);
	o->lost = 0;
}
