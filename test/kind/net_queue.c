/* SPDX-License-Identifier: Apache-2.0 */
/* Connections that wait for accept(): out of the queue, and into it again with the same numbers,
 * behind the closed network lock. The peer must not notice. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cleanup.h"
#include "net_lock.h"
#include "net_queue.h"
#include "netlab.h"

#ifndef TCP_TIMESTAMP
#define TCP_TIMESTAMP 24
#endif
#ifndef SO_BUF_LOCK
#define SO_BUF_LOCK 72
#endif
#define DATA_MAX 1000000

static struct err e;

static void ok(int ret)
{
	lab_ok(ret, &e);
}

static void get(int fd, int name, void *value, socklen_t n)
{
	assert_int_equal(getsockopt(fd, IPPROTO_TCP, name, value, &n), 0);
}

static uint32_t get_seq(int fd, int queue)
{
	uint32_t seq;

	assert_int_equal(setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, &queue, sizeof(queue)), 0);
	get(fd, TCP_QUEUE_SEQ, &seq, sizeof(seq));
	return seq;
}

struct taken {
	struct net_waiting w;
	struct tcp_info info;
	uint8_t data[DATA_MAX];
};

static void wait_bytes(int fd, size_t bytes, bool fin)
{
	double end = lab_now_ms() + 5000;
	struct tcp_info info;
	int queued = 0;

	do {
		usleep(1000);
		ioctl(fd, SIOCINQ, &queued);
		get(fd, TCP_INFO, &info, sizeof(info));
	} while (((size_t)queued < bytes || (fin && info.tcpi_state != TCP_CLOSE_WAIT)) &&
		 lab_now_ms() < end);
}

/* The least that is needed of its state; how much has come, is the kernel's to say. */
static void take(int listener, struct taken *t, size_t bytes, bool fin)
{
	struct sockaddr_storage us, them;
	socklen_t n = sizeof(us);
	struct tcp_repair_window window;
	int on = TCP_REPAIR_ON, queued = 0, mss, fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

	assert_true(fd >= 0);
	memset(&t->w, 0, sizeof(t->w));
	wait_bytes(fd, bytes, fin);
	getsockname(fd, (struct sockaddr *)&us, &n);
	n = sizeof(them);
	getpeername(fd, (struct sockaddr *)&them, &n);
	assert_true(net_conn_set(&t->w.conn, (struct sockaddr *)&us, (struct sockaddr *)&them));
	assert_int_equal(setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &on, sizeof(on)), 0);
	get(fd, TCP_INFO, &t->info, sizeof(t->info));
	get(fd, TCP_REPAIR_WINDOW, &window, sizeof(window));
	get(fd, TCP_MAXSEG, &mss, sizeof(mss));
	get(fd, TCP_TIMESTAMP, &t->w.conn.ts_val, sizeof(t->w.conn.ts_val));
	ioctl(fd, SIOCINQ, &queued);
	t->w.fin = t->info.tcpi_state == TCP_CLOSE_WAIT;
	t->w.conn.snd_nxt = get_seq(fd, TCP_SEND_QUEUE);
	t->w.first = get_seq(fd, TCP_RECV_QUEUE) - (uint32_t)queued - t->w.fin;
	t->w.conn.window = (uint16_t)(window.snd_wnd >> t->info.tcpi_snd_wscale);
	t->w.conn.has_ts = t->info.tcpi_options & TCPI_OPT_TIMESTAMPS;
	t->w.has_wscale = t->info.tcpi_options & TCPI_OPT_WSCALE;
	t->w.has_sack = t->info.tcpi_options & TCPI_OPT_SACK;
	t->w.mss = (uint16_t)mss;
	t->w.snd_wscale = t->info.tcpi_snd_wscale;
	t->w.rcv_wscale = t->info.tcpi_rcv_wscale;
	assert_int_equal(recv(fd, t->data, sizeof(t->data), MSG_PEEK | MSG_DONTWAIT),
			 queued || t->w.fin ? queued : -1);
	t->w.data = t->data;
	t->w.n = (size_t)queued;
	close(fd);
}

static uint32_t waiting(int listener)
{
	struct tcp_info info;

	get(listener, TCP_INFO, &info, sizeof(info));
	return info.tcpi_unacked;
}

static void same_options(const struct tcp_info *a, const struct tcp_info *b)
{
	assert_int_equal(a->tcpi_state, b->tcpi_state);
	assert_int_equal(a->tcpi_options, b->tcpi_options);
	assert_int_equal(a->tcpi_snd_wscale, b->tcpi_snd_wscale);
	assert_int_equal(a->tcpi_rcv_wscale, b->tcpi_rcv_wscale);
	assert_int_equal(a->tcpi_snd_mss, b->tcpi_snd_mss);
}

/* A client that nobody accepts. */
static int knock(int family, uint16_t port)
{
	struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = htons(port) };
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	bool six = family == AF_INET6;

	lab_enter(LAB_PEER);
	inet_pton(AF_INET, "10.9.0.1", &v4.sin_addr);
	inet_pton(AF_INET6, "fd09::1", &v6.sin6_addr);
	int fd = socket(six ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(fd, six ? (struct sockaddr *)&v6 : (struct sockaddr *)&v4,
				 six ? sizeof(v6) : sizeof(v4)), 0);
	return fd;
}

static void exchange(int host, int peer, const uint8_t *expected, size_t n, bool shut)
{
	static uint8_t got[DATA_MAX];
	char c;

	for (size_t at = 0; at < n;) {
		ssize_t more = recv(host, got + at, n - at, 0);

		assert_true(more > 0);
		at += (size_t)more;
	}
	assert_memory_equal(got, expected, n);
	assert_int_equal(send(host, "a", 1, MSG_NOSIGNAL), 1);
	assert_true(lab_arrives(peer, 1, 1000));
	if (!shut)
		assert_int_equal(send(peer, "b", 1, MSG_NOSIGNAL), 1);
	assert_int_equal(recv(host, &c, 1, 0), !shut);
}

/* ---- what is tried ---- */

struct plan {
	int family, n;
	size_t bytes[8];             /* received by each; the last one's peer has shut its side */
	bool in_group;               /* others listen, too */
	int receive_buffer, backlog; /* 0: as it comes */
	int mtu;                     /* of lo, 0: as it comes */
};

static uint8_t data[DATA_MAX];

static void knock_all(const struct plan *p, int *peer)
{
	for (int i = 0; i < p->n; i++) {
		peer[i] = knock(p->family, 7300);
		for (size_t at = 0; at < p->bytes[i];) {
			ssize_t sent = send(peer[i], data + at, p->bytes[i] - at, 0);

			assert_true(sent > 0);
			at += (size_t)sent;
		}
		if (i == p->n - 1)
			shutdown(peer[i], SHUT_WR);
	}
	lab_enter(LAB_HOST);
}

/* All bytes and the FIN have come. */
static void take_all(const struct plan *p, int listener, struct taken *t)
{
	for (int i = 0; i < p->n; i++) {
		struct pollfd come = { .fd = listener, .events = POLLIN };

		assert_int_equal(poll(&come, 1, 5000), 1);
		take(listener, &t[i], p->bytes[i], i == p->n - 1);
		assert_int_equal(t[i].w.n, p->bytes[i]);
	}
	assert_int_equal(waiting(listener), 0);
}

static void put_all(const struct plan *p, int listener, struct net_queue *q, struct taken *t)
{
	struct net_lock *lock;

	ok(net_lock_prepare(&lock, "queue", -1, NET_LOCK_NO_GROUP, &e));
	for (int i = 0; i < p->n; i++)
		ok(net_lock_add(lock, &t[i].w.conn, 1, &e));
	ok(net_queue_begin(q, listener, (uint32_t)p->n, &e));
	for (int i = 0; i < p->n; i++)
		ok(net_queue_put(q, &t[i].w, &e));
	net_queue_end(q);
	assert_int_equal(waiting(listener), p->n);
	ok(net_lock_lift(lock, &e));
}

static void accept_all(const struct plan *p, int listener, const struct taken *t, const int *peer)
{
	for (int i = 0; i < p->n; i++) {
		struct tcp_info info;
		uint32_t stamp;
		int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

		assert_true(fd >= 0);
		get(fd, TCP_INFO, &info, sizeof(info));
		same_options(&info, &t[i].info);
		get(fd, TCP_TIMESTAMP, &stamp, sizeof(stamp));
		assert_in_range(stamp - t[i].w.conn.ts_val, 0, 100000);
		exchange(fd, peer[i], data, p->bytes[i], i == p->n - 1);
		close(fd);
		close(peer[i]);
	}
}

static int listen_at(int family, uint16_t port)
{
	struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = htons(port) };
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	bool six = family != AF_INET;
	int on = 1, fd;

	lab_enter(LAB_HOST);
	fd = socket(six ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on));
	assert_int_equal(bind(fd, six ? (struct sockaddr *)&v6 : (struct sockaddr *)&v4,
			      six ? sizeof(v6) : sizeof(v4)), 0);
	assert_int_equal(listen(fd, 10), 0);
	return fd;
}

/* What the queue's filling changes for the moment. */
struct settings {
	int reuseport, receive_buffer, lock, backlog;
};

static struct settings settings_of(int listener)
{
	struct settings s = { 0 };
	struct tcp_info info;
	socklen_t n = sizeof(int);

	get(listener, TCP_INFO, &info, sizeof(info));
	s.backlog = (int)info.tcpi_sacked;
	assert_int_equal(getsockopt(listener, SOL_SOCKET, SO_REUSEPORT, &s.reuseport, &n), 0);
	assert_int_equal(getsockopt(listener, SOL_SOCKET, SO_RCVBUF, &s.receive_buffer, &n), 0);
	assert_int_equal(getsockopt(listener, SOL_SOCKET, SO_BUF_LOCK, &s.lock, &n), 0);
	return s;
}

static void there_and_back(struct plan p)
{
	struct taken *t = calloc((size_t)p.n, sizeof(*t));
	int capture = lab_capture(LAB_PEER), listener = listen_at(p.family, 7300), peer[8],
	    others[3];
	struct settings before, after;
	struct net_queue *q;

	if (p.mtu)
		free(lab_run(LAB_HOST, "ip link set lo mtu %d", p.mtu));
	if (p.receive_buffer)
		setsockopt(listener, SOL_SOCKET, SO_RCVBUFFORCE, &p.receive_buffer, sizeof(int));
	if (net_queue_open(&q, &e) == -ENOTSUP)
		skip();                  /* before Linux 6.9 */
	ok(-e.code);
	ok(net_queue_try(q, &e));
	knock_all(&p, peer);
	take_all(&p, listener, t);
	for (int i = 0; p.in_group && i < 3; i++)
		others[i] = listen_at(p.family, 7300);
	if (p.backlog)
		assert_int_equal(listen(listener, p.backlog), 0);
	before = settings_of(listener);
	put_all(&p, listener, q, t);
	after = settings_of(listener);
	assert_memory_equal(&before, &after, sizeof(before));
	for (int i = 0; p.in_group && i < 3; i++) {
		assert_int_equal(waiting(others[i]), 0);
		close(others[i]);
	}
	accept_all(&p, listener, t, peer);
	net_queue_close(q);
	close(listener);
	assert_int_equal(lab_captured(capture, lab_is_reset, NULL), 0);
	close(capture);
	free(t);
}

static void test_v4(void **state)
{
	there_and_back((struct plan){ AF_INET, 4, { 0, 1, 20000, 300 } });
}

static void test_v6(void **state)
{
	there_and_back((struct plan){ AF_INET6, 4, { 0, 1, 20000, 300 } });
}

static void test_mapped(void **state)
{
	there_and_back((struct plan){ 46, 4, { 0, 1, 20000, 300 } });
}

static void test_group(void **state)
{
	there_and_back((struct plan){ AF_INET, 8, { 1, 2, 3, 4, 5, 6, 7, 8 }, .in_group = true });
	there_and_back((struct plan){ 46, 8, { 1, 2, 3, 4, 5, 6, 7, 8 }, .in_group = true });
}

/* More than a window at the beginning has room for. */
static void test_much(void **state)
{
	there_and_back((struct plan){ AF_INET, 2, { DATA_MAX, 600000 },
				      .receive_buffer = 4 << 20 });
	there_and_back((struct plan){ AF_INET6, 2, { 20000, 60000 }, .mtu = 1500 });
}

/* The program has called listen() once more, with less. */
static void test_shrunk(void **state)
{
	there_and_back((struct plan){ AF_INET, 5, { 0, 0, 10, 0, 0 }, .backlog = 1 });
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_v4),
		cmocka_unit_test(test_v6),
		cmocka_unit_test(test_mapped),
		cmocka_unit_test(test_group),
		cmocka_unit_test(test_much),
		cmocka_unit_test(test_shrunk),
	};

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 7 + i / 251);
	return cmocka_run_group_tests(tests, lab_setup, lab_teardown);
}
