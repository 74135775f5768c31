/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TCP streams with a peer on another host: both directions at full speed, each byte told by its
 * place. `tcp_pump DIR 0 FAMILY BUFFER` is the server, which moves; `tcp_pump DIR COUNT FAMILY
 * BUFFER ADDRESS [PACE]` the peer, which connects COUNT times to it and waits PACE ms after each
 * turn.
 *
 * The peer is told to stop first: it ends its halves of the streams, the server, which has read
 * them to their ends, its own. Both write DIR/totals: what each stream has sent and got. The peer
 * writes times without a byte to DIR/gaps: stream, beginning and end in ns of CLOCK_MONOTONIC.
 */
#include "victim.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

enum { MAX = 512, CHUNK = 16000, PORT = 7000 };

struct stream {
	int fd;
	uint32_t id;
	uint64_t sent, got, last;
	bool sends, over;
};

static struct stream streams[MAX];
static int n, buffer, family;
static bool is_peer;
static FILE *gaps;
static uint64_t shortest_gap;

static void set_buffers(int fd)
{
	if (!buffer)
		return;
	/* beyond the limit for all, where we may */
	if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &buffer, sizeof(buffer)) < 0)
		SYS(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof(buffer)));
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof(buffer)) < 0)
		SYS(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof(buffer)));
}

static int make_listener(void)
{
	struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(PORT)};
	struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(PORT)};
	int one = 1,
	    fd = SYS(socket(family == 6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));

	set_buffers(fd);
	SYS(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)));
	if (family == 6)
		SYS(bind(fd, (void *)&v6, sizeof(v6)));
	else
		SYS(bind(fd, (void *)&v4, sizeof(v4)));
	SYS(listen(fd, MAX));
	return fd;
}

static int connect_to(const char *address)
{
	struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(PORT)};
	struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(PORT)};
	int fd = SYS(socket(family == 6 ? AF_INET6 : AF_INET, SOCK_STREAM, 0));

	set_buffers(fd);
	if (family == 6) {
		CHECK(inet_pton(AF_INET6, address, &v6.sin6_addr) == 1, "%s", address);
		SYS(connect(fd, (void *)&v6, sizeof(v6)));
	} else {
		CHECK(inet_pton(AF_INET, address, &v4.sin_addr) == 1, "%s", address);
		SYS(connect(fd, (void *)&v4, sizeof(v4)));
	}
	return fd;
}

/* The peer says which stream this is. */
static void take(int listener)
{
	int fd = accept(listener, NULL, NULL);
	struct stream *s = &streams[n];

	if (fd < 0)
		return;
	CHECK(n < MAX, "too many streams");
	CHECK(recv(fd, &s->id, sizeof(s->id), MSG_WAITALL) == sizeof(s->id), "no id");
	s->fd = fd;
	s->sends = true;
	n++;
}

static void meet(const char *address, int count)
{
	char byte;

	for (; n < count; n++) {
		streams[n] = (struct stream){ .fd = connect_to(address),
					      .id = (uint32_t)n,
					      .sends = true };
		CHECK(write(streams[n].fd, &streams[n].id, 4) == 4, "stream %d: no id sent", n);
		CHECK(recv(streams[n].fd, &byte, 1, MSG_PEEK) == 1, "stream %d: not accepted", n);
		streams[n].last = v_now();
	}
}

static unsigned char byte_of(bool from_peer, uint32_t id, uint64_t pos)
{
	return (unsigned char)(v_mix(pos / 8 + (id * 2ULL + from_peer) * 1000003) >> pos % 8 * 8);
}

static void push(struct stream *s)
{
	static unsigned char buf[CHUNK];

	for (int k = 0; k < CHUNK; k++)
		buf[k] = byte_of(is_peer, s->id, s->sent + (uint64_t)k);
	ssize_t got = send(s->fd, buf, CHUNK, MSG_DONTWAIT | MSG_NOSIGNAL);
	CHECK(got > 0 || errno == EAGAIN, "stream %u: send after %lu: %s", s->id, s->sent,
	      strerror(errno));
	if (got > 0)
		s->sent += (uint64_t)got;
}

static void note_gap(struct stream *s)
{
	uint64_t now = v_now();

	if (gaps && now - s->last > shortest_gap) {
		fprintf(gaps, "%u %lu %lu\n", s->id, s->last, now);
		fflush(gaps);
	}
	s->last = now;
}

static void pull(struct stream *s)
{
	static unsigned char buf[CHUNK * 2];
	ssize_t got = recv(s->fd, buf, sizeof(buf), MSG_DONTWAIT);

	CHECK(got >= 0 || errno == EAGAIN, "stream %u: recv after %lu: %s", s->id, s->got,
	      strerror(errno));
	for (ssize_t k = 0; k < got; k++)
		CHECK(buf[k] == byte_of(!is_peer, s->id, s->got + (uint64_t)k),
		      "stream %u: byte %lu is wrong", s->id, s->got + (uint64_t)k);
	if (got > 0) {
		s->got += (uint64_t)got;
		note_gap(s);
	}
	if (got == 0)
		s->over = true;
}

static void end_half(struct stream *s)
{
	if (s->sends)
		SYS(shutdown(s->fd, SHUT_WR));
	s->sends = false;
}

/* One look at all of them; true: all have ended. */
static bool turn(int listener)
{
	static struct pollfd p[MAX + 1];
	int count = n;
	bool over = true;

	for (int i = 0; i < count; i++)
		p[i] = (struct pollfd){streams[i].over && !streams[i].sends ? -1 : streams[i].fd,
				       (short)((streams[i].over ? 0 : POLLIN) |
					       (streams[i].sends ? POLLOUT : 0)), 0};
	p[count] = (struct pollfd){listener, POLLIN, 0};
	SYS(poll(p, (nfds_t)count + 1, 100));
	for (int i = 0; i < count; i++) {
		if (p[i].revents & POLLOUT && streams[i].sends)
			push(&streams[i]);
		if (p[i].revents & (POLLIN | POLLHUP | POLLERR) && !streams[i].over)
			pull(&streams[i]);
		if (streams[i].over)
			end_half(&streams[i]);
		over &= streams[i].over;
	}
	if (p[count].revents)
		take(listener);
	return over;
}

static void write_totals(void)
{
	FILE *f = fopen(v_path("totals"), "w");

	CHECK(f, "totals: %s", strerror(errno));
	for (int i = 0; i < n; i++)
		fprintf(f, "%u %lu %lu\n", streams[i].id, streams[i].sent, streams[i].got);
	fclose(f);
}

int main(int argc, char **argv)
{
	int count, pace, listener = -1;

	v_init(argc, argv);
	count = (int)v_arg(0, 0);
	family = (int)v_arg(1, 4);
	buffer = (int)v_arg(2, 0);
	pace = (int)v_arg(4, 0);
	is_peer = count > 0;
	CHECK(count <= MAX && (!is_peer || argc > 5), "wrong arguments");
	if (is_peer) {
		gaps = fopen(v_path("gaps"), "w");
		CHECK(gaps, "gaps: %s", strerror(errno));
		shortest_gap = V_MSEC * (uint64_t)(2 + count);
		meet(argv[5], count);
	} else {
		listener = make_listener();
	}
	v_observe(NULL, V_NO_FDS);
	v_ready();
	for (bool told = false; !turn(listener) || !v_stopping();) {
		if (is_peer && !told && v_stopping()) {
			for (int i = 0; i < n; i++)
				end_half(&streams[i]);
			told = true;
		}
		if (pace)
			v_sleep_ms((unsigned)pace);
	}
	write_totals();
	v_ok();
}
