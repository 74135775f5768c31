/* SPDX-License-Identifier: Apache-2.0 */
/* UDP sockets that are bound or connected or neither, with options, at work. */
#include "victim.h"

#include <netinet/in.h>
#include <sys/socket.h>

static int bound, connected, v6, unbound;
static struct sockaddr_in addr;

static void note_sockets(void)
{
	static const int names[] = {SO_REUSEADDR, SO_BROADCAST, SO_RCVBUF, SO_SNDBUF,
				    SO_PRIORITY,  SO_TIMESTAMP, SO_MARK,   SO_NO_CHECK};
	int fds[] = {bound, connected, v6, unbound}, value;
	struct sockaddr_in6 sa;
	struct timeval tv;
	socklen_t len;
	size_t i, j;

	for (i = 0; i < V_COUNT(fds); i++) {
		for (j = 0; j < V_COUNT(names); j++) {
			len = sizeof(value);
			SYS(getsockopt(fds[i], SOL_SOCKET, names[j], &value, &len));
			v_note("socket %zu option %d: %d", i, names[j], value);
		}
		len = sizeof(tv);
		SYS(getsockopt(fds[i], SOL_SOCKET, SO_RCVTIMEO, &tv, &len));
		v_note("socket %zu timeout %ld.%06ld", i, tv.tv_sec, tv.tv_usec);
		len = sizeof(sa);
		SYS(getsockname(fds[i], (void *)&sa, &len));
		v_note("socket %zu family %d port %d", i, sa.sin6_family, ntohs(sa.sin6_port));
		len = sizeof(sa);
		if (getpeername(fds[i], (void *)&sa, &len) == 0)
			v_note("socket %zu peer port %d", i, ntohs(sa.sin6_port));
	}
}

static int bind_loopback(int family, void *where)
{
	struct sockaddr_in a4 = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	struct sockaddr_in6 a6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	socklen_t len = family == AF_INET ? sizeof(a4) : sizeof(a6);
	int fd = SYS(socket(family, SOCK_DGRAM, 0));

	SYS(bind(fd, family == AF_INET ? (void *)&a4 : (void *)&a6, len));
	if (where)
		SYS(getsockname(fd, where, &len));
	return fd;
}

static void ping(int from, int to, const char *text)
{
	char buf[64];
	ssize_t len = strlen(text), got = -1;

	/* What lies in the queue when we are moved is lost, as datagrams may be: not twice. */
	for (int tries = 0; got < 0 && tries < 2; tries++) {
		CHECK(sendto(from, text, len, 0, from == connected ? NULL : (void *)&addr,
			     from == connected ? 0 : sizeof(addr)) == len,
		      "%s: send: %s", text, strerror(errno));
		got = recv(to, buf, sizeof(buf), 0);
		CHECK(got >= 0 || errno == EAGAIN, "%s: receive: %s", text, strerror(errno));
	}
	CHECK(got == len && !memcmp(buf, text, len), "%s: receive", text);
}

int main(int argc, char **argv)
{
	struct timeval tv = {3, 250000};
	int one = 1, size = 50000, other;

	v_init(argc, argv);
	bound = bind_loopback(AF_INET, &addr);
	SYS(setsockopt(bound, SOL_SOCKET, SO_BROADCAST, &one, sizeof(one)));
	SYS(setsockopt(bound, SOL_SOCKET, SO_TIMESTAMP, &one, sizeof(one)));
	SYS(setsockopt(bound, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size)));
	SYS(setsockopt(bound, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)));
	connected = bind_loopback(AF_INET, NULL);
	SYS(connect(connected, (void *)&addr, sizeof(addr)));
	v6 = bind_loopback(AF_INET6, NULL);
	SYS(setsockopt(v6, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)));
	unbound = SYS(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
	ping(connected, bound, "before");
	v_observe(note_sockets, 0);
	v_ready();
	while (!v_stopping()) {
		ping(connected, bound, "while working");
		v_sleep_ms(5);
	}
	v_recheck();
	ping(connected, bound, "after");
	other = SYS(socket(AF_INET, SOCK_DGRAM, 0));
	ping(other, bound, "from another socket");
	v_ok();
}
