/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TCP sockets that listen or are only bound, with their options: they take connections after the
 * move, as they did before, on IPv4 and IPv6. One is shared with a child, one in an epoll set.
 */
#include "victim.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

enum { V4, V6, SHARED, BOUND, SOCKETS };

static int fds[SOCKETS], fresh;
static struct sockaddr_in6 addr[SOCKETS];

struct option {
	int level, name;
	const char *text;
};

#define O(level, name)             \
	{                          \
		level, name, #name \
	}
static const struct option options[] = {
    O(SOL_SOCKET, SO_REUSEADDR),
    O(SOL_SOCKET, SO_REUSEPORT),
    O(SOL_SOCKET, SO_KEEPALIVE),
    O(SOL_SOCKET, SO_RCVBUF),
    O(SOL_SOCKET, SO_SNDBUF),
    O(SOL_SOCKET, SO_PRIORITY),
    O(SOL_SOCKET, SO_RCVLOWAT),
    O(SOL_SOCKET, SO_MARK),
    O(SOL_SOCKET, SO_OOBINLINE),
    O(SOL_SOCKET, SO_ACCEPTCONN),
    O(SOL_SOCKET, SO_DONTROUTE),
    O(SOL_SOCKET, SO_TYPE),
    O(SOL_SOCKET, SO_DOMAIN),
    O(SOL_SOCKET, SO_PROTOCOL),
    O(IPPROTO_TCP, TCP_NODELAY),
    O(IPPROTO_TCP, TCP_KEEPIDLE),
    O(IPPROTO_TCP, TCP_KEEPINTVL),
    O(IPPROTO_TCP, TCP_KEEPCNT),
    O(IPPROTO_TCP, TCP_DEFER_ACCEPT),
    O(IPPROTO_TCP, TCP_USER_TIMEOUT),
    O(IPPROTO_TCP, TCP_MAXSEG),
    O(IPPROTO_TCP, TCP_SYNCNT),
    O(IPPROTO_TCP, TCP_LINGER2),
    O(IPPROTO_IP, IP_TTL),
    O(IPPROTO_IP, IP_TOS),
    O(IPPROTO_IP, IP_FREEBIND),
    O(IPPROTO_IPV6, IPV6_V6ONLY),
};

static void set(int fd, int level, int name, int value)
{
	SYS(setsockopt(fd, level, name, &value, sizeof(value)));
}

static void note_sockets(void)
{
	struct sockaddr_in6 sa;
	struct linger l = {0};
	struct tcp_info ti;
	socklen_t len;
	int value;
	size_t i, j;

	for (i = 0; i < SOCKETS; i++) {
		for (j = 0; j < V_COUNT(options); j++) {
			len = sizeof(value);
			value = -1;
			if (getsockopt(fds[i], options[j].level, options[j].name, &value, &len) < 0)
				value = -errno;
			v_note("socket %zu %s %d", i, options[j].text, value);
		}
		len = sizeof(l);
		SYS(getsockopt(fds[i], SOL_SOCKET, SO_LINGER, &l, &len));
		len = sizeof(ti);
		SYS(getsockopt(fds[i], IPPROTO_TCP, TCP_INFO, &ti, &len));
		len = sizeof(sa);
		SYS(getsockname(fds[i], (void *)&sa, &len));
		/* Of a listener, sacked is its backlog. */
		v_note("socket %zu linger %d %d state %u backlog %u port %u len %u", i, l.l_onoff,
		       l.l_linger, ti.tcpi_state, ti.tcpi_state == TCP_LISTEN ? ti.tcpi_sacked : 0,
		       ntohs(sa.sin6_port), len);
	}
}

static void bind_any(int i, int family)
{
	socklen_t len = sizeof(addr[i]);
	struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};

	fds[i] = SYS(socket(family, SOCK_STREAM | (i % 2 ? SOCK_CLOEXEC : 0), 0));
	if (family == AF_INET6) {
		set(fds[i], IPPROTO_IPV6, IPV6_V6ONLY, 1);
		SYS(bind(fds[i], (void *)&v6, sizeof(v6)));
	} else {
		SYS(bind(fds[i], (void *)&v4, sizeof(v4)));
	}
	SYS(getsockname(fds[i], (void *)&addr[i], &len));
}

static void set_options(int fd)
{
	struct linger l = {1, 33};

	set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
	set(fd, SOL_SOCKET, SO_RCVBUF, 30000);
	set(fd, SOL_SOCKET, SO_SNDBUF, 40000);
	set(fd, SOL_SOCKET, SO_PRIORITY, 3);
	set(fd, SOL_SOCKET, SO_OOBINLINE, 1);
	set(fd, SOL_SOCKET, SO_MARK, 77);
	set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	set(fd, IPPROTO_TCP, TCP_KEEPIDLE, 111);
	set(fd, IPPROTO_TCP, TCP_KEEPINTVL, 22);
	set(fd, IPPROTO_TCP, TCP_KEEPCNT, 3);
	set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, 12345);
	set(fd, IPPROTO_IP, IP_TTL, 42);
	set(fd, IPPROTO_IP, IP_TOS, 0x10);
	SYS(setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l)));
}

/* A connection to the listener works from end to end. */
static void try_connection(int i, const char *when)
{
	socklen_t len =
	    addr[i].sin6_family == AF_INET6 ? sizeof(addr[i]) : sizeof(struct sockaddr_in);
	int c = SYS(socket(addr[i].sin6_family, SOCK_STREAM, 0)), s;
	char buf[8] = "";

	CHECK(!connect(c, (void *)&addr[i], len), "%s: connect to socket %d: %s", when, i,
	      strerror(errno));
	s = SYS(accept(fds[i], NULL, NULL));
	CHECK(write(c, "ping", 4) == 4 && read(s, buf, 4) == 4 && !memcmp(buf, "ping", 4),
	      "%s: socket %d: no data", when, i);
	close(c);
	close(s);
}

int main(int argc, char **argv)
{
	struct epoll_event ev = {.events = EPOLLIN};
	int ep, i;
	pid_t pid;

	v_init(argc, argv);
	bind_any(V4, AF_INET);
	set_options(fds[V4]);
	SYS(listen(fds[V4], 17));
	bind_any(V6, AF_INET6);
	set(fds[V6], SOL_SOCKET, SO_REUSEADDR, 1);
	SYS(listen(fds[V6], 300));
	bind_any(SHARED, AF_INET);
	SYS(listen(fds[SHARED], 1));
	bind_any(BOUND, AF_INET);
	set(fds[BOUND], IPPROTO_TCP, TCP_MAXSEG, 1000);
	fresh = SYS(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
	ep = SYS(epoll_create1(0));
	SYS(epoll_ctl(ep, EPOLL_CTL_ADD, fds[V4], &ev));
	pid = SYS(fork());
	if (!pid) {
		/* The child takes the one connection that comes after the move. */
		i = SYS(accept(fds[SHARED], NULL, NULL));
		CHECK(write(i, "child", 5) == 5, "child: write");
		_exit(3);
	}
	try_connection(V4, "before");
	v_observe(note_sockets, 0);
	v_ready();
	v_wait();
	v_recheck();
	CHECK(epoll_wait(ep, &ev, 1, 0) == 0, "a listener is ready that should not be");
	try_connection(V4, "after");
	try_connection(V6, "after");
	SYS(listen(fds[BOUND], 5));
	try_connection(BOUND, "after");
	i = SYS(socket(AF_INET, SOCK_STREAM, 0));
	SYS(connect(i, (void *)&addr[SHARED], sizeof(struct sockaddr_in)));
	v_reap(pid, 3 << 8);
	CHECK(connect(fresh, (void *)&addr[V4], sizeof(struct sockaddr_in)) == 0 ||
		  errno == EINPROGRESS,
	      "the fresh socket does not connect: %s", strerror(errno));
	CHECK(epoll_wait(ep, &ev, 1, 1000) == 1,
	      "the listener is not ready for the last connection");
	v_ok();
}
