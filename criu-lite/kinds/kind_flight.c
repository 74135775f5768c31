/* SPDX-License-Identifier: Apache-2.0 */
/* Descriptors in flight: sent through a unix socket and not received yet. */
#include <errno.h>
#include <unistd.h>

#include "kind_priv.h"
#include "kind_util.h"

void kind_dump_identify(struct kind_dump *c, uint32_t (*id)(void *arg, pid_t pid, int fd),
			void *arg)
{
	c->identify = id;
	c->identify_arg = arg;
}

void kind_flight_close(struct kind_dump *c)
{
	vec_each(&c->flight, fd)
		close(*fd);
	c->flight.n = 0;
	c->flight_expected = false;
}

void kind_flight_expect(struct kind_dump *c)
{
	c->flight_expected = !c->set;
}

bool kind_flight_expected(const struct kind_dump *c)
{
	return c->flight_expected;
}

static int refuse(const char *what, struct err *e)
{
	err_say(e, ENOTSUP, "%s in flight cannot be kept", what);
	return err_remedy(e, "try again, when the receiver has read its messages");
}

/* What belongs to a process that holds it has none here. */
static int check(const struct fd_view *v, struct err *e)
{
	FdTypes type;

	if (kind_type(v, &type) < 0)
		return kind_refuse(v, e);
	if (type == FD_TYPES__EVENTPOLL)
		return refuse("epoll descriptors", e);
	return v->info.locks.n ? refuse("descriptors with file locks", e) : 0;
}

int kind_flight_put(struct kind_dump *c, int fd, uint32_t *id, struct err *e)
{
	struct fd_view v;

	vec_push(&c->flight, fd);
	if (!c->identify)
		return refuse("descriptors", e);
	int ret = kind_view(getpid(), fd, fd, &v, e);
	if (ret)
		return ret;
	ret = check(&v, e);
	if (!ret) {
		v.id = *id = c->identify(c->identify_arg, v.pid, fd);
		ret = kind_dump_fd(c, &v, e);
	}
	kind_view_free(&v);
	return ret ? err_in(e, "in flight") : 0;
}
