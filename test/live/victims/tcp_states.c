/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A process whose TCP sockets are brought into any state by its peer: it does what lines on a
 * connection say (port 7001), one command a line, answered by one number or several, or by a
 * negative errno. That connection moves with it, as do the others. FD is a descriptor here.
 *
 *   listen 4|6 PORT BACKLOG           a descriptor
 *   accept FD                         "
 *   connect 4|6 OWN-ADDRESS ADDRESS PORT    ", of a socket that is being connected
 *   send FD FROM COUNT                sends bytes FROM .. of the pattern, as many as fit
 *   recv FD FROM COUNT                waits for so many, all right; 0 or less than that: the end
 *   shutdown FD HOW, close FD
 *   set FD LEVEL NAME VALUE, get FD LEVEL NAME
 *   state FD                          TCP state, bytes to be read, bytes not acknowledged
 */
#include "victim.h"

#include <arpa/inet.h>
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

enum { PORT = 7001, WAIT_MS = 5000, PIECE = 4096 };

static int make_address(struct sockaddr_storage *sa, const char *kind, const char *ip, int port)
{
	struct sockaddr_in6 *v6 = (void *)sa;
	struct sockaddr_in *v4 = (void *)sa;

	memset(sa, 0, sizeof(*sa));
	if (*kind == '6') {
		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons((uint16_t)port);
		CHECK(inet_pton(AF_INET6, ip, &v6->sin6_addr) == 1, "%s", ip);
		return sizeof(*v6);
	}
	v4->sin_family = AF_INET;
	v4->sin_port = htons((uint16_t)port);
	CHECK(inet_pton(AF_INET, ip, &v4->sin_addr) == 1, "%s", ip);
	return sizeof(*v4);
}

static int make_listener(const char *kind, int port, int backlog)
{
	struct sockaddr_storage sa;
	int one = 1, fd = SYS(socket(*kind == '6' ? AF_INET6 : AF_INET, SOCK_STREAM, 0));

	SYS(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)));
	int len = make_address(&sa, kind, *kind == '6' ? "::" : "0.0.0.0", port);
	SYS(bind(fd, (void *)&sa, (socklen_t)len));
	SYS(listen(fd, backlog));
	return fd;
}

static int ready(int fd, short what)
{
	struct pollfd p = {fd, what, 0};

	return poll(&p, 1, WAIT_MS) > 0 ? 0 : -ETIMEDOUT;
}

static int do_connect(const char *kind, const char *own, const char *ip, int port)
{
	struct sockaddr_storage sa;
	int fd = SYS(socket(*kind == '6' ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
	int len = make_address(&sa, kind, own, 0);

	SYS(bind(fd, (void *)&sa, (socklen_t)len));
	len = make_address(&sa, kind, ip, port);
	return connect(fd, (void *)&sa, (socklen_t)len) < 0 && errno != EINPROGRESS ? -errno : fd;
}

static int do_accept(int listener)
{
	if (ready(listener, POLLIN) < 0)
		return -ETIMEDOUT;
	int fd = accept(listener, NULL, NULL);

	return fd < 0 ? -errno : fd;
}

static unsigned char byte_of(uint64_t pos)
{
	return (unsigned char)(v_mix(pos / 8 + 77) >> pos % 8 * 8);
}

static long do_send(int fd, uint64_t from, long count)
{
	unsigned char buf[PIECE];
	long done = 0;

	while (done < count) {
		size_t want = count - done < PIECE ? (size_t)(count - done) : PIECE;

		for (size_t k = 0; k < want; k++)
			buf[k] = byte_of(from + (uint64_t)done + k);
		ssize_t n = send(fd, buf, want, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0)
			return done ? done : -errno;
		done += n;
	}
	return done;
}

static long do_recv(int fd, uint64_t from, long count)
{
	unsigned char buf[PIECE];
	long done = 0;

	while (done < count) {
		size_t want = count - done < PIECE ? (size_t)(count - done) : PIECE;

		if (ready(fd, POLLIN) < 0)
			return done ? done : -ETIMEDOUT;
		ssize_t n = recv(fd, buf, want, MSG_DONTWAIT);
		if (n < 0)
			return done ? done : -errno;
		for (ssize_t k = 0; k < n; k++)
			if (buf[k] != byte_of(from + (uint64_t)(done + k)))
				return -EBADMSG;
		done += n;
		if (!n)
			break;
	}
	return done;
}

static void say_state(FILE *out, int fd)
{
	struct tcp_info ti = {0};
	socklen_t len = sizeof(ti);
	int in = 0, sent = 0;

	SYS(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &ti, &len));
	if (ti.tcpi_state != TCP_LISTEN) {
		SYS(ioctl(fd, SIOCINQ, &in));
		SYS(ioctl(fd, SIOCOUTQ, &sent));
	}
	fprintf(out, "%u %d %d\n", ti.tcpi_state, in, sent);
}

static long do_option(int fd, bool set, int level, int name, int value)
{
	socklen_t len = sizeof(value);

	if (set)
		return setsockopt(fd, level, name, &value, len) < 0 ? -errno : 0;
	return getsockopt(fd, level, name, &value, &len) < 0 ? -errno : value;
}

static void obey(char *line, FILE *out)
{
	char *arg[6] = {0}, *next = line;
	long ret, num[6] = {0};
	int fd;

	for (int i = 0; i < 6 && (arg[i] = strsep(&next, " \n")) && *arg[i]; i++)
		num[i] = atol(arg[i]);
	fd = (int)num[1];
	if (!strcmp(arg[0], "state")) {
		say_state(out, fd);
		return;
	}
	if (!strcmp(arg[0], "listen"))
		ret = make_listener(arg[1], (int)num[2], (int)num[3]);
	else if (!strcmp(arg[0], "connect"))
		ret = do_connect(arg[1], arg[2], arg[3], (int)num[4]);
	else if (!strcmp(arg[0], "send"))
		ret = do_send(fd, (uint64_t)num[2], num[3]);
	else if (!strcmp(arg[0], "recv"))
		ret = do_recv(fd, (uint64_t)num[2], num[3]);
	else if (!strcmp(arg[0], "set") || !strcmp(arg[0], "get"))
		ret = do_option(fd, *arg[0] == 's', (int)num[2], (int)num[3], (int)num[4]);
	else if (!strcmp(arg[0], "accept"))
		ret = do_accept(fd);
	else if (!strcmp(arg[0], "shutdown"))
		ret = shutdown(fd, (int)num[2]) < 0 ? -errno : 0;
	else if (!strcmp(arg[0], "close"))
		ret = close(fd) < 0 ? -errno : 0;
	else
		ret = -ENOSYS;
	fprintf(out, "%ld\n", ret);
}

static void control(int fd)
{
	struct pollfd p = {fd, POLLIN, 0};
	FILE *in = fdopen(fd, "r"), *out = fdopen(dup(fd), "w");
	char line[256];

	CHECK(in && out, "fdopen");
	while (!v_stopping()) {
		if (poll(&p, 1, 50) <= 0)
			continue;
		CHECK(fgets(line, sizeof(line), in), "the peer that commands is gone: %s",
		      ferror(in) ? strerror(errno) : "end");
		obey(line, out);
		fflush(out);
	}
}

int main(int argc, char **argv)
{
	int listener;

	v_init(argc, argv);
	listener = make_listener("6", PORT, 5);
	v_observe(NULL, V_NO_FDS);
	v_ready();
	control(SYS(accept(listener, NULL, NULL)));
	v_ok();
}
