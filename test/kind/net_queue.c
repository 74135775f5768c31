/* SPDX-License-Identifier: Apache-2.0 */
/* Connections that wait for accept(): out of the queue, and into it again with the same numbers, behind
 * the closed network lock. The peer must not notice. */
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
#define DATA_MAX 40000

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

/* The least that is needed of its state; how much has come, is the kernel's to say. */
static void take(int listener, struct taken *t)
{
	struct sockaddr_storage us, them;
	socklen_t n = sizeof(us);
	struct tcp_repair_window window;
	int on = TCP_REPAIR_ON, queued = 0, mss, fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

	assert_true(fd >= 0);
	memset(&t->w, 0, sizeof(t->w));
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
	assert_int_equal(recv(fd, t->data, sizeof(t->data), MSG_PEEK | MSG_DONTWAIT), queued ? queued : -1);
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

static void exchange(int host, int peer, const uint8_t *expected, size_t n)
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
	if (send(peer, "b", 1, MSG_NOSIGNAL) == 1)
		assert_int_equal(recv(host, &c, 1, 0), 1);
}

/* Connections with so many bytes received; the last one's peer has shut its side. */
static void there_and_back(int family, const size_t *bytes, int n, bool group)
{
	static struct taken t[8];
	static uint8_t data[DATA_MAX];
	int capture = lab_capture(LAB_PEER), on = 1, peer[8];
	struct net_queue *q;
	struct net_lock *lock;
	struct lab_tcp first;

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 7 + i / 251);
	lab_connect(&first, family, 7300);
	if (group)
		setsockopt(first.listener, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on));
	for (int i = 0; i < n; i++) {
		peer[i] = knock(family, 7300);
		for (size_t at = 0; at < bytes[i];) {
			ssize_t sent = send(peer[i], data + at, bytes[i] - at, 0);

			assert_true(sent > 0);
			at += (size_t)sent;
		}
		if (i == n - 1)
			shutdown(peer[i], SHUT_WR);
	}
	usleep(100000);
	lab_enter(LAB_HOST);
	ok(net_queue_open(&q, &e));
	ok(net_lock_prepare(&lock, "queue", -1, NET_LOCK_NO_GROUP, &e));
	assert_int_equal(waiting(first.listener), n);
	for (int i = 0; i < n; i++) {
		take(first.listener, &t[i]);
		assert_int_equal(t[i].w.n, bytes[i]);
	}
	assert_int_equal(waiting(first.listener), 0);
	for (int i = 0; i < n; i++)
		ok(net_lock_add(lock, &t[i].w.conn, 1, &e));
	ok(net_queue_begin(q, first.listener, (uint32_t)n, &e));
	for (int i = 0; i < n; i++)
		ok(net_queue_put(q, &t[i].w, &e));
	net_queue_end(q);
	assert_int_equal(waiting(first.listener), n);
	ok(net_lock_lift(lock, &e));
	for (int i = 0; i < n; i++) {
		struct tcp_info info;
		int fd = accept4(first.listener, NULL, NULL, SOCK_CLOEXEC);

		assert_true(fd >= 0);
		get(fd, TCP_INFO, &info, sizeof(info));
		same_options(&info, &t[i].info);
		exchange(fd, peer[i], data, bytes[i]);
		close(fd);
		close(peer[i]);
	}
	net_queue_close(q);
	lab_disconnect(&first);
	assert_int_equal(lab_captured(capture, lab_is_reset, NULL), 0);
	close(capture);
}

static const size_t SIZES[] = { 0, 1, 20000, 300 };

static void test_v4(void **state) { there_and_back(AF_INET, SIZES, 4, false); }

static void test_v6(void **state) { there_and_back(AF_INET6, SIZES, 4, false); }

static void test_mapped(void **state) { there_and_back(46, SIZES, 4, false); }

static void test_group(void **state) { there_and_back(AF_INET, SIZES, 4, true); }

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_v4),
		cmocka_unit_test(test_v6),
		cmocka_unit_test(test_mapped),
		cmocka_unit_test(test_group),
	};

	return cmocka_run_group_tests(tests, lab_setup, lab_teardown);
}
