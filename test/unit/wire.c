/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "io.h"
#include "wire_conn.h"
#include "wire_sock.h"

static const struct wire_id id_a = { { 'a' } }, id_b = { { 'b' } };

static void make_pair(int fds[2])
{
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
}

static void close_pair(const int fds[2])
{
	for (int i = 0; i < 2; i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

/* ---- frames ---- */

/* The bytes of one frame as they go over the line. */
static size_t frame_bytes(uint32_t type, const void *p, size_t n, uint8_t *out, size_t size)
{
	struct err e = ERR_INIT;
	int fds[2];

	make_pair(fds);
	assert_int_equal(wire_send(fds[0], type, p, n, &e), 0);
	ssize_t got = read(fds[1], out, size);
	close_pair(fds);
	assert_true(got > 0);
	return (size_t)got;
}

/* What a reader says to these bytes when the line ends after them. */
static int read_bytes(const uint8_t *p, size_t n, struct err *e)
{
	struct buf b = { 0 };
	uint32_t type;
	int fds[2];

	make_pair(fds);
	assert_int_equal(io_write(fds[0], p, n), 0);
	close(fds[0]);
	fds[0] = -1;
	int ret = wire_recv(fds[1], &type, &b, 1000, e);
	close_pair(fds);
	buf_free(&b);
	return ret;
}

static void test_frames(void **state)
{
	struct err e = ERR_INIT;
	struct buf b = { 0 };
	uint32_t type;
	int fds[2];

	make_pair(fds);
	assert_int_equal(wire_send(fds[0], 7, "hello", 5, &e), 0);
	assert_int_equal(wire_send(fds[0], 8, NULL, 0, &e), 0);
	assert_int_equal(wire_recv(fds[1], &type, &b, -1, &e), 0);
	assert_int_equal(type, 7);
	assert_int_equal(b.n, 5);
	assert_memory_equal(b.at, "hello", 5);
	assert_int_equal(wire_recv(fds[1], &type, &b, 0, &e), 0);
	assert_int_equal(type, 8);
	assert_int_equal(b.n, 0);
	/* Nothing there: and nothing lost by asking. */
	assert_int_equal(wire_recv(fds[1], &type, &b, 20, &e), -ETIMEDOUT);
	assert_int_equal(wire_send(fds[0], 9, "x", 1, &e), 0);
	assert_int_equal(wire_recv(fds[1], &type, &b, 20, &e), 0);
	assert_int_equal(type, 9);
	close(fds[0]);
	fds[0] = -1;
	assert_int_equal(wire_recv(fds[1], &type, &b, -1, &e), -ENODATA);
	assert_int_equal(wire_send(fds[1], 1, "x", 1, &e), -EPIPE);
	close_pair(fds);
	buf_free(&b);
}

struct big { int fd; uint8_t *p; size_t n; };

static void *send_big(void *arg)
{
	struct big *big = arg;
	struct err e = ERR_INIT;

	return wire_send(big->fd, 1, big->p, big->n, &e) == 0 ? arg : NULL;
}

static void test_big_frame(void **state)
{
	struct big big = { .n = (5u << 20) + 3 };
	struct err e = ERR_INIT;
	struct buf b = { 0 };
	pthread_t thread;
	uint32_t type;
	void *ok;
	int fds[2];

	make_pair(fds);
	big.fd = fds[0];
	big.p = malloc(big.n);
	memset(big.p, 0x5a, big.n);
	pthread_create(&thread, NULL, send_big, &big);
	assert_int_equal(wire_recv(fds[1], &type, &b, -1, &e), 0);
	pthread_join(thread, &ok);
	assert_non_null(ok);
	assert_int_equal(b.n, big.n);
	assert_memory_equal(b.at, big.p, big.n);
	assert_int_equal(wire_send(fds[0], 1, big.p, (size_t)WIRE_FRAME_MAX + 1, &e), -EMSGSIZE);
	close_pair(fds);
	buf_free(&b);
	free(big.p);
}

static void test_frame_flips(void **state)
{
	uint8_t bytes[256];
	size_t n = frame_bytes(3, "the quick brown fox", 19, bytes, sizeof(bytes));
	struct err e = ERR_INIT;

	assert_int_equal(read_bytes(bytes, n, &e), 0);
	for (size_t bit = 0; bit < n * 8; bit++) {
		bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_int_equal(read_bytes(bytes, n, &e), -EBADMSG);
		bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
}

static void test_frame_cuts(void **state)
{
	uint8_t bytes[256];
	size_t n = frame_bytes(3, "the quick brown fox", 19, bytes, sizeof(bytes));
	struct err e = ERR_INIT;

	assert_int_equal(read_bytes(bytes, 0, &e), -ENODATA);
	for (size_t cut = 1; cut < n; cut++)
		assert_int_equal(read_bytes(bytes, cut, &e), -EBADMSG);
}

static void test_refuse(void **state)
{
	struct err e = ERR_INIT;
	struct buf b = { 0 };
	uint32_t type;
	int fds[2];

	make_pair(fds);
	wire_refuse(fds[0], "no room for %d", 5);
	fds[0] = -1;
	assert_int_equal(wire_recv(fds[1], &type, &b, -1, &e), -ECONNREFUSED);
	assert_non_null(strstr(e.text, "no room for 5"));
	close_pair(fds);

	/* A peer that is about to speak hears it too. */
	make_pair(fds);
	wire_refuse(fds[0], "go away");
	fds[0] = -1;
	assert_int_equal(wire_send(fds[1], 1, "hello", 5, &e), -ECONNREFUSED);
	assert_non_null(strstr(e.text, "go away"));
	close_pair(fds);
	buf_free(&b);
}

/* ---- the hello ---- */

/* A listener in a thread of its own; connections it took are told in order. */
struct server {
	char where[32];
	int port;
	struct wire_listener *l;
	const struct wire_id *expect;
	pthread_t thread;
	struct wire_peer peer;
	int ret;
	int timeout_ms;
};

static int free_port(void)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	socklen_t n = sizeof(at);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&at, n), 0);
	getsockname(fd, (struct sockaddr *)&at, &n);
	close(fd);
	return ntohs(at.sin_port);
}

static void *serve(void *arg)
{
	struct server *s = arg;
	struct err e = ERR_INIT;

	s->ret = wire_listener_accept(s->l, &s->peer, s->timeout_ms, &e);
	return NULL;
}

static void start_server(struct server *s, const char *host, const struct wire_id *expect,
			 int timeout_ms)
{
	struct err e = ERR_INIT;

	*s = (struct server){ .port = free_port(), .timeout_ms = timeout_ms };
	snprintf(s->where, sizeof(s->where), "%s:%d", host, s->port);
	assert_int_equal(wire_listener_new(&s->l, s->where, &e), 0);
	wire_listener_expect(s->l, expect);
	pthread_create(&s->thread, NULL, serve, s);
}

static int end_server(struct server *s)
{
	pthread_join(s->thread, NULL);
	wire_listener_free(s->l);
	if (s->ret == 0)
		close(s->peer.fd);
	return s->ret;
}

static int raw_connect(int port)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port),
				  .sin_addr = { htonl(INADDR_LOOPBACK) } };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof(at)), 0);
	return fd;
}

static bool have_ipv6(void)
{
	struct err e = ERR_INIT;
	int fd;

	if (wire_listen("[::1]:0", &fd, &e) < 0)
		return false;
	close(fd);
	return true;
}

static void test_connect(void **state)
{
	static const char *const hosts[] = { "127.0.0.1", "tcp://127.0.0.1", "[::1]", "localhost" };
	struct err e = ERR_INIT;
	struct server s;
	struct buf b = { 0 };
	uint32_t type;
	int fd;

	for (size_t i = 0; i < sizeof(hosts) / sizeof(hosts[0]); i++) {
		if (hosts[i][0] == '[' && !have_ipv6())
			continue;
		start_server(&s, hosts[i], NULL, 5000);
		int ret = wire_connect(s.where, WIRE_CONTROL, &id_a, &fd, &e);
		if (ret)
			fail_msg("%s", e.text);
		pthread_join(s.thread, NULL);
		assert_int_equal(s.ret, 0);
		assert_int_equal(s.peer.role, WIRE_CONTROL);
		assert_memory_equal(&s.peer.id, &id_a, sizeof(id_a));
		assert_non_null(strchr(s.peer.name, ':'));
		assert_int_equal(wire_send(s.peer.fd, 5, "abc", 3, &e), 0);
		assert_int_equal(wire_recv(fd, &type, &b, 1000, &e), 0);
		assert_int_equal(type, 5);
		close(s.peer.fd);
		close(fd);
		wire_listener_free(s.l);
	}
	/* No host: every address, of both families. */
	start_server(&s, "", NULL, 5000);
	char where[32];
	snprintf(where, sizeof(where), "127.0.0.1:%d", s.port);
	assert_int_equal(wire_connect(where, WIRE_CONTROL, &id_a, &fd, &e), 0);
	close(fd);
	assert_int_equal(end_server(&s), 0);
	buf_free(&b);
}

static void test_addresses(void **state)
{
	static const char *const bad[] = { "", "host", "host:", ":1", "host:99999", "host:12x",
					   "ftp://host:1", "::1:5", "[::1:5", "host:-4" };
	struct err e = ERR_INIT;
	int fd;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(wire_connect(bad[i], WIRE_DATA, &id_a, &fd, &e), -EINVAL);
		assert_non_null(strstr(e.remedy, "HOST:PORT"));
	}
	char where[32];
	snprintf(where, sizeof(where), "127.0.0.1:%d", free_port());
	assert_int_equal(wire_connect(where, WIRE_DATA, &id_a, &fd, &e), -ECONNREFUSED);
	assert_non_null(strstr(e.remedy, "criu-lite receive"));
}

static void test_expectations(void **state)
{
	static const struct {
		const struct wire_id *expect, *id;
		enum wire_role role;
		const char *refusal;
	} row[] = {
		{ NULL, &id_a, WIRE_CONTROL, NULL },
		{ NULL, &id_a, WIRE_DATA, "unknown migration" },
		{ &id_a, &id_a, WIRE_CONTROL, NULL },
		{ &id_a, &id_a, WIRE_DATA, NULL },
		{ &id_a, &id_b, WIRE_DATA, "unknown migration" },
		{ &id_a, &id_b, WIRE_CONTROL, "busy" },
		{ &id_a, &id_a, 3, "unknown role" },
	};
	struct err e = ERR_INIT;
	struct server s;
	int fd;

	for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++) {
		start_server(&s, "127.0.0.1", row[i].expect, row[i].refusal ? 100 : 5000);
		int ret = wire_connect(s.where, row[i].role, row[i].id, &fd, &e);
		if (row[i].refusal) {
			assert_int_equal(ret, -ECONNREFUSED);
			assert_non_null(strstr(e.text, row[i].refusal));
			assert_int_equal(end_server(&s), -ETIMEDOUT);
		} else {
			assert_int_equal(ret, 0);
			close(fd);
			assert_int_equal(end_server(&s), 0);
		}
	}
}

/* Sends bytes, reads what comes back until the end. */
static size_t poke(int port, const void *p, size_t n, uint8_t *out, size_t size)
{
	int fd = raw_connect(port);
	size_t got = 0;

	assert_int_equal(io_write(fd, p, n), 0);
	for (;;) {
		ssize_t r = read(fd, out + got, size - got);
		if (r <= 0)
			break;
		got += (size_t)r;
	}
	close(fd);
	return got;
}

static void test_bad_hellos(void **state)
{
	struct wire_hello old = { .magic = "CRLT", .version = 999, .role = WIRE_CONTROL };
	struct wire_hello flipped = { .magic = "CRLT", .version = WIRE_VERSION, .sum = 1 };
	uint8_t junk[10000], out[1024];
	struct err e = ERR_INIT;
	struct server s;
	int fd;

	memset(junk, 'G', sizeof(junk));
	start_server(&s, "127.0.0.1", NULL, 8000);
	size_t n = poke(s.port, &old, sizeof(old), out, sizeof(out) - 1);
	assert_true(n > sizeof(old));
	out[n] = '\0';
	assert_non_null(strstr((char *)out + sizeof(old), "speaks version 999"));
	n = poke(s.port, &flipped, sizeof(flipped), out, sizeof(out) - 1);
	assert_true(n > sizeof(old));
	poke(s.port, junk, sizeof(junk), out, sizeof(out));
	poke(s.port, "GET / HTTP/1.0\r\n\r\n", 18, out, sizeof(out));
	/* One that leaves, one that is silent, one that stops half-way: none holds up the next. */
	close(raw_connect(s.port));
	int silent = raw_connect(s.port), half = raw_connect(s.port);
	assert_int_equal(io_write(half, &old, 6), 0);
	uint64_t t = io_now_ns();
	assert_int_equal(wire_connect(s.where, WIRE_CONTROL, &id_a, &fd, &e), 0);
	assert_true(io_now_ns() - t < 2000000000ull);
	assert_int_equal(end_server(&s), 0);
	close(fd);
	close(silent);
	close(half);
}

static void test_many_silent(void **state)
{
	struct err e = ERR_INIT;
	struct server s;
	int fd, silent[50];

	start_server(&s, "127.0.0.1", NULL, 8000);
	for (int i = 0; i < 50; i++)
		silent[i] = raw_connect(s.port);
	assert_int_equal(wire_connect(s.where, WIRE_CONTROL, &id_a, &fd, &e), 0);
	assert_int_equal(end_server(&s), 0);
	close(fd);
	for (int i = 0; i < 50; i++)
		close(silent[i]);
}

/* The simple accept: bad hellos are its error, and the next call works. */
static void test_accept(void **state)
{
	struct err e = ERR_INIT;
	enum wire_role role;
	struct wire_id id;
	char where[32], peer[64];
	int port = free_port(), l, fd;

	snprintf(where, sizeof(where), "127.0.0.1:%d", port);
	assert_int_equal(wire_listen(where, &l, &e), 0);
	int bad = raw_connect(port);
	assert_int_equal(io_write(bad, "rubbish", 7), 0);
	assert_int_equal(wire_accept(l, &role, &id, peer, sizeof(peer), &fd, &e), -EBADMSG);
	close(bad);
	bad = raw_connect(port);
	close(bad);
	assert_int_equal(wire_accept(l, &role, &id, peer, sizeof(peer), &fd, &e), -ENODATA);
	assert_true(wire_listen(where, &fd, &e) == -EADDRINUSE);
	close(l);
}

/* Something else listens there. */
static void *be_http(void *arg)
{
	int l = *(int *)arg, fd = accept(l, NULL, NULL);
	char c[64];

	if (read(fd, c, sizeof(c)) > 0)
		io_write(fd, "HTTP/1.0 400 Bad Request\r\n\r\n", 28);
	close(fd);
	return NULL;
}

static void test_not_ours(void **state)
{
	struct err e = ERR_INIT;
	pthread_t thread;
	char where[32];
	int port = free_port(), l, fd;

	snprintf(where, sizeof(where), "127.0.0.1:%d", port);
	assert_int_equal(wire_listen(where, &l, &e), 0);
	fcntl(l, F_SETFL, 0);
	pthread_create(&thread, NULL, be_http, &l);
	assert_int_equal(wire_connect(where, WIRE_CONTROL, &id_a, &fd, &e), -EPROTO);
	assert_non_null(strstr(e.text, "not criu-lite"));
	pthread_join(thread, NULL);
	close(l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_frames),
		cmocka_unit_test(test_big_frame),
		cmocka_unit_test(test_frame_flips),
		cmocka_unit_test(test_frame_cuts),
		cmocka_unit_test(test_refuse),
		cmocka_unit_test(test_connect),
		cmocka_unit_test(test_addresses),
		cmocka_unit_test(test_expectations),
		cmocka_unit_test(test_bad_hellos),
		cmocka_unit_test(test_many_silent),
		cmocka_unit_test(test_accept),
		cmocka_unit_test(test_not_ours),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
