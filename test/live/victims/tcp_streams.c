/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Open TCP connections between a process and its child, of IPv4, IPv6 and mapped addresses, with
 * small and large buffers: both directions at full speed, each byte told by its place. Some more
 * are half closed, with bytes that are read only at the end.
 */
#include "victim.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

enum { STREAMS = 24, HALVES = 6, CHUNK = 30000, UNREAD = 5000 };

static const int families[] = {AF_INET, AF_INET6, AF_INET6};

/* Shared by both: what was sent on each, when it is over. */
static struct totals {
	uint64_t sent[2][STREAMS];
} *totals;

struct end {
	int fd;
	uint64_t sent, got;
	bool over;
};
static struct end ends[STREAMS];
static int halves[HALVES];
static int me; /* 0: the process, 1: its child */

static void make_address(struct sockaddr_in6 *sa, socklen_t *len, int kind)
{
	struct sockaddr_in *v4 = (void *)sa;

	memset(sa, 0, sizeof(*sa));
	*len = kind ? sizeof(*sa) : sizeof(*v4);
	if (!kind) {
		v4->sin_family = AF_INET;
		v4->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		return;
	}
	sa->sin6_family = AF_INET6;
	sa->sin6_addr = in6addr_loopback;
	if (kind == 2) {
		memset(&sa->sin6_addr, 0, 16);
		sa->sin6_addr.s6_addr[10] = sa->sin6_addr.s6_addr[11] = 0xff;
		sa->sin6_addr.s6_addr[12] = 127;
		sa->sin6_addr.s6_addr[15] = 1;
	}
}

static void connect_pair(int kind, int buffer, int fd[2])
{
	struct sockaddr_in6 sa;
	socklen_t len;
	int l = SYS(socket(families[kind], SOCK_STREAM, 0));

	make_address(&sa, &len, kind);
	SYS(bind(l, (void *)&sa, len));
	if (buffer) {
		SYS(setsockopt(l, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof(buffer)));
		SYS(setsockopt(l, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof(buffer)));
	}
	SYS(listen(l, 5));
	SYS(getsockname(l, (void *)&sa, &len));
	fd[0] = SYS(socket(families[kind], SOCK_STREAM, 0));
	SYS(connect(fd[0], (void *)&sa, len));
	fd[1] = SYS(accept(l, NULL, NULL));
	close(l);
}

static unsigned char byte_of(int from, int stream, uint64_t pos)
{
	return (unsigned char)(v_mix(pos / 8 + (uint64_t)(stream * 2 + from) * 1000003) >>
			       pos % 8 * 8);
}

static void push(int i)
{
	static unsigned char buf[CHUNK];
	struct end *e = &ends[i];

	for (int k = 0; k < CHUNK; k++)
		buf[k] = byte_of(me, i, e->sent + (uint64_t)k);
	ssize_t n = send(e->fd, buf, CHUNK, MSG_DONTWAIT | MSG_NOSIGNAL);
	CHECK(n > 0 || errno == EAGAIN, "stream %d: send: %s", i, strerror(errno));
	if (n > 0)
		e->sent += (uint64_t)n;
}

static void pull(int i)
{
	static unsigned char buf[CHUNK];
	struct end *e = &ends[i];
	ssize_t n = recv(e->fd, buf, CHUNK, MSG_DONTWAIT);

	CHECK(n >= 0 || errno == EAGAIN, "stream %d: recv: %s", i, strerror(errno));
	for (ssize_t k = 0; k < n; k++)
		CHECK(buf[k] == byte_of(!me, i, e->got + (uint64_t)k),
		      "stream %d: byte %lu is wrong", i, e->got + (uint64_t)k);
	if (n > 0)
		e->got += (uint64_t)n;
	if (n == 0)
		e->over = true;
}

/* One look at all of them; true: all have ended. */
static bool turn(bool send_too)
{
	struct pollfd p[STREAMS];
	bool over = true;

	for (int i = 0; i < STREAMS; i++)
		p[i] = (struct pollfd){ends[i].over ? -1 : ends[i].fd,
				       (short)(POLLIN | (send_too ? POLLOUT : 0)), 0};
	SYS(poll(p, STREAMS, 100));
	for (int i = 0; i < STREAMS; i++) {
		if (p[i].revents & POLLOUT)
			push(i);
		if (p[i].revents & (POLLIN | POLLHUP | POLLERR))
			pull(i);
		over &= ends[i].over;
	}
	return over;
}

/* Says how much was sent, and reads what the other side has sent. */
static void finish(void)
{
	for (int i = 0; i < STREAMS; i++) {
		totals->sent[me][i] = ends[i].sent;
		SYS(shutdown(ends[i].fd, SHUT_WR));
	}
	while (!turn(false))
		;
	for (int i = 0; i < STREAMS; i++)
		CHECK(ends[i].got == totals->sent[!me][i] && ends[i].got,
		      "stream %d: %lu bytes of %lu", i, ends[i].got, totals->sent[!me][i]);
}

/* The process has said its last word on those, the child still speaks. */
static void make_half(int i, int *other)
{
	char unread[UNREAD];
	int fd[2];

	connect_pair(i % 3, 0, fd);
	memset(unread, 'a' + i, sizeof(unread));
	CHECK(write(fd[0], unread, UNREAD) == UNREAD && write(fd[1], unread, UNREAD) == UNREAD,
	      "write");
	SYS(shutdown(fd[0], SHUT_WR));
	halves[i] = fd[0];
	*other = fd[1];
}

static void read_half(int i, bool to_end)
{
	char buf[UNREAD];

	CHECK(recv(halves[i], buf, UNREAD, MSG_WAITALL) == UNREAD && buf[0] == 'a' + i &&
		  buf[UNREAD - 1] == 'a' + i, "half %d: what was not read is not there", i);
	if (to_end)
		CHECK(recv(halves[i], buf, 1, 0) == 0, "half %d: no end", i);
}

static void note_states(void)
{
	for (int i = 0; i < HALVES; i++) {
		struct tcp_info ti;
		socklen_t len = sizeof(ti);

		SYS(getsockopt(halves[i], IPPROTO_TCP, TCP_INFO, &ti, &len));
		v_note("half %d: state %u", i, ti.tcpi_state);
	}
}

static void child(const int *other)
{
	me = 1;
	for (int i = 0; i < HALVES; i++)
		halves[i] = other[i];
	while (!v_stopping())
		turn(true);
	for (int i = 0; i < HALVES; i++) {
		CHECK(write(halves[i], "z", 1) == 1, "half %d", i);
		read_half(i, true);
	}
	finish();
	_exit(0);
}

int main(int argc, char **argv)
{
	int pair[STREAMS][2], other[HALVES];
	static const int buffers[] = {0, 0, 20000, 2000000};

	v_init(argc, argv);
	totals = v_map(sizeof(*totals), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	for (int i = 0; i < STREAMS; i++)
		connect_pair(i % 3, buffers[i % 4], pair[i]);
	for (int i = 0; i < HALVES; i++)
		make_half(i, &other[i]);
	v_sleep_ms(50); /* until the other side has its FIN */
	pid_t pid = SYS(fork());
	for (int i = 0; i < STREAMS; i++) {
		ends[i].fd = pair[i][!pid];
		close(pair[i][!!pid]);
	}
	for (int i = 0; i < HALVES; i++)
		close(pid ? other[i] : halves[i]);
	if (!pid)
		child(other);
	v_observe(note_states, 0);
	v_ready();
	while (!v_stopping())
		turn(true);
	v_recheck();
	finish();
	for (int i = 0; i < HALVES; i++)
		read_half(i, false);
	v_reap(pid, 0);
	v_ok();
}
