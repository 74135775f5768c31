/* SPDX-License-Identifier: Apache-2.0 */
#include "wire_sock.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "cleanup.h"
#include "io.h"

#define CONNECT_NS (10 * 1000000000ull)
#define BACKLOG 64

int wire_wait(int fd, short events, uint64_t deadline)
{
	for (;;) {
		struct pollfd p = { .fd = fd, .events = events };
		int ms = -1;

		if (deadline) {
			uint64_t now = io_now_ns();

			if (now >= deadline)
				return -ETIMEDOUT;
			ms = (int)((deadline - now + 999999) / 1000000);
		}
		int n = poll(&p, 1, ms);
		if (n > 0)
			return 0;
		if (n < 0 && errno != EINTR)
			return -errno;
	}
}

void wire_tune(int fd)
{
	const struct { int level, name, value; } options[] = {
		{ IPPROTO_TCP, TCP_NODELAY, 1 },
		{ SOL_SOCKET, SO_KEEPALIVE, 1 },
		{ IPPROTO_TCP, TCP_KEEPIDLE, 10 },
		{ IPPROTO_TCP, TCP_KEEPINTVL, 5 },
		{ IPPROTO_TCP, TCP_KEEPCNT, 3 },
		{ IPPROTO_TCP, TCP_USER_TIMEOUT, 25000 },
	};

	/* Best effort: on a socketpair none of these exist. */
	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++)
		setsockopt(fd, options[i].level, options[i].name, &options[i].value, sizeof(int));
}

static void name_of(const struct sockaddr *a, socklen_t n, char *out, size_t size)
{
	char host[48], port[8];

	if (getnameinfo(a, n, host, sizeof(host), port, sizeof(port),
			NI_NUMERICHOST | NI_NUMERICSERV) != 0)
		snprintf(out, size, "unknown address");
	else
		snprintf(out, size, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
}

void wire_peer_name(int fd, char *out, size_t size)
{
	struct sockaddr_storage a = { 0 };
	socklen_t n = sizeof(a);

	getpeername(fd, (struct sockaddr *)&a, &n);
	name_of((struct sockaddr *)&a, n, out, size);
}

int wire_write(int fd, const void *head, size_t head_n, const void *p, size_t n)
{
	struct iovec iov[2] = { { (void *)head, head_n }, { (void *)p, n } };
	struct msghdr m = { .msg_iov = iov, .msg_iovlen = n ? 2 : 1 };

	while (m.msg_iovlen > 0) {
		ssize_t put = sendmsg(fd, &m, MSG_NOSIGNAL);

		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return -errno;
		while (m.msg_iovlen > 0 && (size_t)put >= m.msg_iov->iov_len) {
			put -= (ssize_t)m.msg_iov->iov_len;
			m.msg_iov++;
			m.msg_iovlen--;
		}
		if (m.msg_iovlen > 0) {
			m.msg_iov->iov_base = (char *)m.msg_iov->iov_base + put;
			m.msg_iov->iov_len -= (size_t)put;
		}
	}
	return 0;
}

/* ---- addresses ---- */

struct where {
	char host[256], port[16];
};

static int bad_where(const char *text, struct err *e)
{
	err_say(e, EINVAL, "%s: not an address", text);
	return err_remedy(e, "write tcp://HOST:PORT or HOST:PORT, IPv6 as [ADDRESS]:PORT");
}

static int parse_where(const char *text, struct where *w, struct err *e)
{
	const char *at = strncmp(text, "tcp://", 6) == 0 ? text + 6 : text;
	const char *colon = strrchr(at, ':'), *end = colon;
	char *rest;

	if (strstr(at, "://") || !colon)
		return bad_where(text, e);
	if (at[0] == '[') {
		if (end == at || end[-1] != ']')
			return bad_where(text, e);
		at++;
		end--;
	} else if (memchr(at, ':', (size_t)(colon - at))) {
		return bad_where(text, e);
	}
	long port = strtol(colon + 1, &rest, 10);
	if (rest == colon + 1 || *rest || port < 0 || port > 65535 ||
	    (size_t)(end - at) >= sizeof(w->host))
		return bad_where(text, e);
	snprintf(w->host, sizeof(w->host), "%.*s", (int)(end - at), at);
	snprintf(w->port, sizeof(w->port), "%ld", port);
	return 0;
}

static void cleanup_addrinfo(struct addrinfo **a)
{
	if (*a)
		freeaddrinfo(*a);
}
#define _cleanup_addrinfo_ _cleanup_(cleanup_addrinfo)

static int resolve(const char *where, int flags, struct addrinfo **out, struct err *e)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = flags };
	struct where w;
	int ret = parse_where(where, &w, e);

	if (ret < 0)
		return ret;
	if (!w.host[0] && !(flags & AI_PASSIVE))
		return bad_where(where, e);
	ret = getaddrinfo(w.host[0] ? w.host : NULL, w.port, &hints, out);
	if (ret != 0)
		return err_say(e, EHOSTUNREACH, "%s: %s", where, gai_strerror(ret));
	return 0;
}

static int connect_one(const struct addrinfo *a, uint64_t deadline, int *out)
{
	_cleanup_close_ int fd =
		socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int code = 0;
	socklen_t n = sizeof(code);

	if (fd < 0)
		return -errno;
	wire_tune(fd);
	if (connect(fd, a->ai_addr, a->ai_addrlen) < 0) {
		if (errno != EINPROGRESS)
			return -errno;
		int ret = wire_wait(fd, POLLOUT, deadline);
		if (ret < 0)
			return ret;
		getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &n);
		if (code)
			return -code;
	}
	*out = steal_fd(fd);
	return 0;
}

int wire_connect(const char *where, enum wire_role role, const struct wire_id *id, int *out,
		 struct err *e)
{
	_cleanup_addrinfo_ struct addrinfo *list = NULL;
	_cleanup_close_ int fd = -1;
	uint64_t deadline = io_now_ns() + CONNECT_NS;
	int ret = resolve(where, 0, &list, e);

	if (ret < 0)
		return ret;
	for (struct addrinfo *a = list; a && fd < 0; a = a->ai_next)
		ret = connect_one(a, deadline, &fd);
	if (fd < 0) {
		err_set(e, -ret, "%s", where);
		if (ret == -ECONNREFUSED)
			err_remedy(e, "is `criu-lite receive` running there?");
		else if (ret == -ETIMEDOUT)
			err_remedy(e, "is the host up, and the port not firewalled?");
		return ret;
	}
	ret = wire_greet(fd, role, id, deadline, e);
	if (ret < 0)
		return err_in(e, "%s", where);
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
	*out = steal_fd(fd);
	return 0;
}

static int listen_one(const struct addrinfo *a, int *out)
{
	_cleanup_close_ int fd =
		socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	const int on = 1, off = 0;

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (a->ai_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
	if (bind(fd, a->ai_addr, a->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0)
		return -errno;
	*out = steal_fd(fd);
	return 0;
}

int wire_listen(const char *where, int *fd, struct err *e)
{
	_cleanup_addrinfo_ struct addrinfo *list = NULL;
	int ret = resolve(where, AI_PASSIVE, &list, e);

	if (ret < 0)
		return ret;
	/* IPv6 first: an empty host then means both families in one socket. */
	for (int six = 1; six >= 0; six--) {
		for (struct addrinfo *a = list; a; a = a->ai_next) {
			if ((a->ai_family == AF_INET6) != six)
				continue;
			ret = listen_one(a, fd);
			if (ret == 0)
				return 0;
		}
	}
	return err_set(e, -ret, "listen on %s", where);
}
