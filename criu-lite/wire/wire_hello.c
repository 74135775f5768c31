/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <xxhash.h>

#include "cleanup.h"
#include "io.h"
#include "log.h"
#include "wire_sock.h"

#define HELLO_NS (5 * 1000000000ull)
#define PENDING_MAX 32

static uint64_t hello_sum(const struct wire_hello *h)
{
	return XXH3_64bits(h, offsetof(struct wire_hello, sum));
}

/* ---- the server's half ---- */

int wire_pending_take(struct wire_pending *p, int listen_fd)
{
	int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0)
		return errno == EINTR || errno == ECONNABORTED ? -EAGAIN : -errno;
	*p = (struct wire_pending){ .fd = fd, .deadline = io_now_ns() + HELLO_NS };
	wire_tune(fd);
	wire_peer_name(fd, p->name, sizeof(p->name));
	return 0;
}

static int check_hello(const struct wire_pending *p, struct err *e)
{
	const struct wire_hello *h = &p->hello;

	if (memcmp(h->magic, WIRE_MAGIC, 4) != 0)
		return err_say(e, EBADMSG, "that is not criu-lite's protocol");
	if (p->got >= 8 && h->version != WIRE_VERSION)
		return err_say(e, EPROTO,
			       "protocol version %u is spoken here, the peer speaks version %u",
			       WIRE_VERSION, h->version);
	if (p->got < sizeof(*h))
		return -EAGAIN;
	if (h->sum != hello_sum(h))
		return err_say(e, EBADMSG, "greeting damaged (wrong checksum)");
	if (h->role != WIRE_CONTROL && h->role != WIRE_DATA)
		return err_say(e, EBADMSG, "unknown role %u of a connection", h->role);
	return 0;
}

int wire_pending_read(struct wire_pending *p, struct err *e)
{
	ssize_t n = recv(p->fd, (char *)&p->hello + p->got, sizeof(p->hello) - p->got,
			 MSG_DONTWAIT);

	if (n < 0 && errno != EAGAIN && errno != EINTR)
		return err_set(e, errno, "read greeting");
	if (n == 0)
		return err_say(e, ENODATA, "peer closed the connection without a greeting");
	if (n > 0)
		p->got += (size_t)n;
	if (p->got >= 4) {
		int ret = check_hello(p, e);
		if (ret != -EAGAIN)
			return ret;
	}
	if (io_now_ns() >= p->deadline)
		return err_say(e, ETIMEDOUT, "no greeting within 5 s");
	return -EAGAIN;
}

/* The socket is new, so an answer always fits into its buffer: never blocks. */
static int answer(struct wire_pending *p, int code, const char *text)
{
	struct wire_hello a = {
		.version = WIRE_VERSION,
		.role = p->hello.role,
		.code = (uint32_t)code,
		.id = p->hello.id,
		.length = (uint32_t)strnlen(text, WIRE_TEXT_MAX),
	};
	char bytes[sizeof(a) + WIRE_TEXT_MAX];

	memcpy(a.magic, WIRE_MAGIC, 4);
	a.sum = hello_sum(&a);
	memcpy(bytes, &a, sizeof(a));
	memcpy(bytes + sizeof(a), text, a.length);
	ssize_t n = send(p->fd, bytes, sizeof(a) + a.length, MSG_NOSIGNAL | MSG_DONTWAIT);
	return n < 0 ? -errno : 0;
}

int wire_pending_admit(struct wire_pending *p, struct err *e)
{
	int ret = answer(p, 0, "");

	if (ret < 0) {
		close(p->fd);
		return err_set(e, -ret, "answer greeting");
	}
	fcntl(p->fd, F_SETFL, fcntl(p->fd, F_GETFL) & ~O_NONBLOCK);
	return 0;
}

void wire_pending_refuse(struct wire_pending *p, const struct err *e)
{
	char junk[4096];

	answer(p, e->code ? e->code : EPROTO, e->text);
	/* Unread bytes at close() would make it a reset that overtakes the answer. */
	shutdown(p->fd, SHUT_WR);
	for (int i = 0; i < 16 && recv(p->fd, junk, sizeof(junk), MSG_DONTWAIT) > 0; i++)
		;
	close(p->fd);
}

int wire_accept(int listen_fd, enum wire_role *role, struct wire_id *id, char *peer, size_t size,
		int *fd, struct err *e)
{
	struct wire_pending p;
	int ret;

	while ((ret = wire_pending_take(&p, listen_fd)) == -EAGAIN) {
		ret = wire_wait(listen_fd, POLLIN, 0);
		if (ret < 0)
			break;
	}
	if (ret < 0)
		return err_set(e, -ret, "accept");
	while ((ret = wire_pending_read(&p, e)) == -EAGAIN)
		wire_wait(p.fd, POLLIN, p.deadline);
	if (ret < 0) {
		wire_pending_refuse(&p, e);
		return err_in(e, "%s", p.name);
	}
	ret = wire_pending_admit(&p, e);
	if (ret < 0)
		return err_in(e, "%s", p.name);
	*role = p.hello.role;
	*id = p.hello.id;
	snprintf(peer, size, "%s", p.name);
	*fd = p.fd;
	return 0;
}

/* ---- the listener ---- */

struct wire_listener {
	int fd;
	bool expecting;
	struct wire_id expected;
	VEC(struct wire_pending) pending;
};

int wire_listener_new(struct wire_listener **out, const char *where, struct err *e)
{
	int fd, ret = wire_listen(where, &fd, e);

	if (ret < 0)
		return ret;
	struct wire_listener *l = xcalloc(1, sizeof(*l));
	l->fd = fd;
	*out = l;
	return 0;
}

void wire_listener_free(struct wire_listener *l)
{
	if (!l)
		return;
	vec_each(&l->pending, p)
		close(p->fd);
	vec_free(&l->pending);
	close(l->fd);
	free(l);
}

void wire_listener_expect(struct wire_listener *l, const struct wire_id *id)
{
	l->expecting = id != NULL;
	if (id)
		l->expected = *id;
}

static int check_expected(const struct wire_listener *l, const struct wire_hello *h, struct err *e)
{
	bool same = l->expecting && memcmp(&h->id, &l->expected, sizeof(h->id)) == 0;

	if (h->role == WIRE_DATA && !same)
		return err_say(e, ENOENT, "unknown migration");
	if (h->role == WIRE_CONTROL && l->expecting && !same)
		return err_say(e, EBUSY, "busy with another migration");
	return 0;
}

static void drop_pending(struct wire_listener *l, size_t i)
{
	l->pending.n--;
	memmove(&l->pending.at[i], &l->pending.at[i + 1],
		(l->pending.n - i) * sizeof(l->pending.at[0]));
}

static void refuse_pending(struct wire_listener *l, size_t i, const struct err *e)
{
	log_warn("%s: connection refused: %s", l->pending.at[i].name, e->text);
	wire_pending_refuse(&l->pending.at[i], e);
	drop_pending(l, i);
}

/* 1: out is filled. Otherwise the pending ones that are left are still waiting. */
static int try_pending(struct wire_listener *l, struct wire_peer *out)
{
	for (size_t i = 0; i < l->pending.n;) {
		struct wire_pending *p = &l->pending.at[i];
		struct err e = ERR_INIT;
		int ret = wire_pending_read(p, &e);

		if (ret == -EAGAIN) {
			i++;
			continue;
		}
		if (ret == 0)
			ret = check_expected(l, &p->hello, &e);
		if (ret < 0) {
			refuse_pending(l, i, &e);
			continue;
		}
		*out = (struct wire_peer){ .fd = p->fd, .role = p->hello.role, .id = p->hello.id };
		memcpy(out->name, p->name, sizeof(out->name));
		ret = wire_pending_admit(p, &e);
		drop_pending(l, i);
		if (ret == 0)
			return 1;
		log_warn("%s: %s", out->name, e.text);
	}
	return 0;
}

static int take_new(struct wire_listener *l, struct err *e)
{
	struct wire_pending p;
	int ret;

	while ((ret = wire_pending_take(&p, l->fd)) == 0) {
		if (l->pending.n == PENDING_MAX) {
			struct err full = ERR_INIT;

			err_say(&full, EBUSY, "too many connections without a greeting");
			refuse_pending(l, 0, &full);
		}
		vec_push(&l->pending, p);
	}
	return ret == -EAGAIN ? 0 : err_set(e, -ret, "accept");
}

/* Sleeps until something comes or the first pending hello is overdue. */
static int wait_any(struct wire_listener *l, uint64_t deadline)
{
	struct pollfd fds[PENDING_MAX + 1] = { { .fd = l->fd, .events = POLLIN } };
	uint64_t now = io_now_ns(), until = deadline;
	nfds_t n = 1;

	vec_each(&l->pending, p) {
		fds[n++] = (struct pollfd){ .fd = p->fd, .events = POLLIN };
		if (!until || p->deadline < until)
			until = p->deadline;
	}
	if (deadline && now >= deadline)
		return -ETIMEDOUT;
	int ms = !until ? -1 : until <= now ? 0 : (int)((until - now) / 1000000 + 1);
	if (poll(fds, n, ms) < 0 && errno != EINTR)
		return -errno;
	return 0;
}

int wire_listener_accept(struct wire_listener *l, struct wire_peer *out, int timeout_ms,
			 struct err *e)
{
	uint64_t deadline = timeout_ms < 0 ? 0 : io_now_ns() + (uint64_t)timeout_ms * 1000000u;

	for (;;) {
		int ret = take_new(l, e);

		if (ret < 0)
			return ret;
		if (try_pending(l, out))
			return 0;
		ret = wait_any(l, deadline);
		if (ret == -ETIMEDOUT)
			return err_say(e, ETIMEDOUT, "no connection within %.1f s",
				       timeout_ms / 1000.0);
		if (ret < 0)
			return err_set(e, -ret, "accept");
	}
}

/* ---- the client's half ---- */

static int read_until(int fd, void *p, size_t n, uint64_t deadline, struct err *e)
{
	for (char *at = p; n > 0;) {
		ssize_t got = recv(fd, at, n, MSG_DONTWAIT);

		if (got == 0)
			return err_say(e, ECONNRESET, "the other side closed the connection");
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0 && errno != EAGAIN)
			return err_set(e, errno, "read answer");
		if (got < 0) {
			int ret = wire_wait(fd, POLLIN, deadline);
			if (ret == -ETIMEDOUT)
				return err_say(e, ETIMEDOUT, "connected, but no answer in time");
			if (ret < 0)
				return err_set(e, -ret, "read answer");
			continue;
		}
		at += got;
		n -= (size_t)got;
	}
	return 0;
}

int wire_greet(int fd, enum wire_role role, const struct wire_id *id, uint64_t deadline,
	       struct err *e)
{
	struct wire_hello a, h = { .version = WIRE_VERSION, .role = role, .id = *id };
	char text[WIRE_TEXT_MAX + 1] = "";

	memcpy(h.magic, WIRE_MAGIC, 4);
	h.sum = hello_sum(&h);
	if (send(fd, &h, sizeof(h), MSG_NOSIGNAL) != (ssize_t)sizeof(h))
		return err_set(e, errno, "send greeting");
	int ret = read_until(fd, &a, 4, deadline, e);
	if (ret < 0)
		return ret;
	if (memcmp(a.magic, WIRE_MAGIC, 4) != 0)
		return err_say(e, EPROTO, "what answers there is not criu-lite");
	ret = read_until(fd, (char *)&a + 4, sizeof(a) - 4, deadline, e);
	if (ret < 0)
		return ret;
	if (a.sum != hello_sum(&a) || a.length > WIRE_TEXT_MAX)
		return err_say(e, EBADMSG, "answer damaged");
	ret = read_until(fd, text, a.length, deadline, e);
	if (ret < 0)
		return ret;
	if (a.code)
		return err_say(e, ECONNREFUSED, "refused by the other side: %s", text);
	if (a.version != WIRE_VERSION)
		return err_say(e, EPROTO, "the other side speaks protocol version %u, not %u",
			       a.version, WIRE_VERSION);
	return 0;
}
