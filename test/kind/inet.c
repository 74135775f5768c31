/* SPDX-License-Identifier: Apache-2.0 */
#include "kind_test.h"
#include "sockopt_test.h"

#include <arpa/inet.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>

#define PORT 47311

static struct sockaddr_in v4(const char *host, int port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };

	inet_pton(AF_INET, host, &a.sin_addr);
	return a;
}

static void bind4(int fd, const char *host, int port)
{
	struct sockaddr_in a = v4(host, port);

	assert_return_code(bind(fd, (struct sockaddr *)&a, sizeof(a)), errno);
}

/* The old one is closed before the new one is made. */
static int moved(struct trip *t, int fd)
{
	int flags = fcntl(fd, F_GETFL);

	assert_ok(t, trip_check(t, fd));
	trip_begin(t);
	assert_ok(t, trip_dump(t, fd));
	close(fd);
	assert_ok(t, trip_carry(t));
	int r = trip_fd(t, fd);
	assert_ok(t, r);
	assert_ok(t, kind_finish(t->r, &t->e));
	assert_int_equal(fcntl(r, F_GETFL), flags);
	return r;
}

/* A conflict is told beforehand; the look at it leaves nothing behind. */
static void port_checked(void **state)
{
	struct sockaddr_in a = v4("127.0.0.1", PORT);

	for (int udp = 0; udp < 2; udp++) {
		struct trip t = { 0 };
		int type = udp ? SOCK_DGRAM : SOCK_STREAM, fd = socket(AF_INET, type, 0);

		set(fd, SOL_SOCKET, SO_REUSEADDR, !udp);
		bind4(fd, "0.0.0.0", PORT);
		if (!udp)
			listen(fd, 3);
		trip_begin(&t);
		assert_ok(&t, trip_dump(&t, fd));
		assert_ok(&t, trip_carry(&t));
		assert_int_equal(trip_verify(&t), 1);
		assert_says(&t, "another program on this host uses port 47311");
		close(fd);
		assert_int_equal(trip_verify(&t), 0);
		fd = socket(AF_INET, type, 0);
		set(fd, SOL_SOCKET, SO_REUSEADDR, !udp);
		assert_return_code(bind(fd, (struct sockaddr *)&a, sizeof(a)), errno);
		close(fd);
		trip_end(&t);
	}
}

static void listening(void **state)
{
	struct trip t = { 0 };
	struct tcp_info info;
	socklen_t len = sizeof(info);
	struct sockaddr_in a = v4("127.0.0.1", PORT);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);

	set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	set(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, 5);
	set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	set(fd, IPPROTO_TCP, TCP_KEEPIDLE, 77);
	set(fd, IPPROTO_IP, IP_TTL, 33);
	assert_return_code(setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4), errno);
	bind4(fd, "127.0.0.1", PORT);
	assert_return_code(listen(fd, 17), errno);
	int defer = get(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT), rcv = get(fd, SOL_SOCKET, SO_RCVBUF);
	int r = moved(&t, fd);
	assert_int_equal(getsockopt(r, IPPROTO_TCP, TCP_INFO, &info, &len), 0);
	assert_int_equal(info.tcpi_state, TCP_LISTEN);
	assert_int_equal(info.tcpi_sacked, 17);
	char cc[16] = "";
	assert_return_code(getsockopt(r, IPPROTO_TCP, TCP_CONGESTION, cc, &(socklen_t){ 16 }),
			   errno);
	assert_string_equal(cc, "reno");
	assert_int_equal(get(r, SOL_SOCKET, SO_REUSEADDR), 1);
	assert_int_equal(get(r, SOL_SOCKET, SO_RCVBUF), rcv);
	assert_int_equal(get(r, IPPROTO_TCP, TCP_DEFER_ACCEPT), defer);
	assert_int_equal(get(r, IPPROTO_TCP, TCP_NODELAY), 1);
	assert_int_equal(get(r, IPPROTO_TCP, TCP_KEEPIDLE), 77);
	assert_int_equal(get(r, IPPROTO_IP, IP_TTL), 33);
	set(r, IPPROTO_TCP, TCP_DEFER_ACCEPT, 0);
	int client = socket(AF_INET, SOCK_STREAM, 0);
	assert_return_code(connect(client, (struct sockaddr *)&a, sizeof(a)), errno);
	int server = accept(r, NULL, NULL);
	assert_true(server >= 0);
	close(server);
	close(client);
	trip_end(&t);
}

/* A port in TIME_WAIT is no obstacle, and SO_REUSEADDR stays what it was; a listener is one. */
static void port_taken(void **state)
{
	struct trip t = { 0 };
	struct sockaddr_in a = v4("127.0.0.1", PORT + 1);
	int fd = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0);

	set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	bind4(fd, "127.0.0.1", PORT + 1);
	listen(fd, 5);
	assert_return_code(connect(client, (struct sockaddr *)&a, sizeof(a)), errno);
	int server = accept(fd, NULL, NULL);
	close(server);
	close(client);
	usleep(10000);
	set(fd, SOL_SOCKET, SO_REUSEADDR, 0);
	int r = moved(&t, fd);
	assert_int_equal(get(r, SOL_SOCKET, SO_REUSEADDR), 0);

	assert_ok(&t, kind_restore_begin(t.r, t.set, &t.e));
	int other = socket(AF_INET, SOCK_STREAM, 0);
	set(other, SOL_SOCKET, SO_REUSEADDR, 1);
	bind4(other, "0.0.0.0", PORT + 1);
	listen(other, 1);
	assert_true(trip_fd(&t, fd) < 0);
	assert_int_equal(t.e.code, EADDRINUSE);
	assert_says(&t, "127.0.0.1:47312");
	assert_says(&t, "port 47312");
	close(other);
	trip_end(&t);
}

static void reuseport_group_and_v6(void **state)
{
	struct trip t = { 0 };
	struct sockaddr_in6 a = { .sin6_family = AF_INET6, .sin6_port = htons(PORT + 2) }, got;
	socklen_t len = sizeof(got);
	int fd[2], r[2];

	for (int i = 0; i < 2; i++) {
		fd[i] = socket(AF_INET6, SOCK_STREAM, 0);
		set(fd[i], SOL_SOCKET, SO_REUSEPORT, 1);
		set(fd[i], IPPROTO_IPV6, IPV6_V6ONLY, 1);
		assert_return_code(bind(fd[i], (struct sockaddr *)&a, sizeof(a)), errno);
		listen(fd[i], 5);
	}
	trip_begin(&t);
	assert_ok(&t, trip_dump(&t, fd[0]));
	assert_ok(&t, trip_dump(&t, fd[1]));
	close(fd[0]);
	close(fd[1]);
	assert_ok(&t, trip_carry(&t));
	for (int i = 0; i < 2; i++) {
		r[i] = trip_fd(&t, fd[i]);
		assert_ok(&t, r[i]);
		assert_int_equal(get(r[i], SOL_SOCKET, SO_REUSEPORT), 1);
		assert_int_equal(get(r[i], IPPROTO_IPV6, IPV6_V6ONLY), 1);
		assert_return_code(getsockname(r[i], (struct sockaddr *)&got, &len), errno);
		assert_true(got.sin6_port == a.sin6_port &&
			    !memcmp(&got.sin6_addr, &in6addr_any, 16));
	}
	trip_end(&t);
}

static void generic_options(void **state)
{
	struct trip t = { 0 };
	struct timeval tv = { 3, 250000 }, got = { 0 };
	struct linger li = { 1, 9 };
	struct sock_filter code[] = { BPF_STMT(BPF_RET | BPF_K, 0x12345) };
	struct sock_fprog prog = { 1, code };
	socklen_t len = sizeof(got);
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	set(fd, SOL_SOCKET, SO_SNDBUF, 50000);
	set(fd, SOL_SOCKET, SO_PRIORITY, 3);
	set(fd, SOL_SOCKET, SO_BROADCAST, 1);
	set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
	set(fd, SOL_SOCKET, SO_RCVLOWAT, 2);
	set(fd, SOL_SOCKET, SO_TIMESTAMPNS, 1);
	set(fd, IPPROTO_IP, IP_PKTINFO, 1);
	set(fd, IPPROTO_IP, IP_RECVERR, 1);
	set(fd, IPPROTO_IP, IP_MULTICAST_TTL, 5);
	setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "lo", 2);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &li, sizeof(li));
	assert_return_code(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog)),
			   errno);
	/* as the kernel rounds it */
	getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, &len);
	int rcv = get(fd, SOL_SOCKET, SO_RCVBUF), lock = get(fd, SOL_SOCKET, 72);
	int r = moved(&t, fd);
	assert_int_equal(get(r, SOL_SOCKET, SO_SNDBUF), 100000);
	assert_int_equal(get(r, SOL_SOCKET, SO_RCVBUF), rcv);
	assert_int_equal(get(r, SOL_SOCKET, 72), lock);
	assert_int_equal(get(r, SOL_SOCKET, SO_PRIORITY), 3);
	assert_int_equal(get(r, SOL_SOCKET, SO_BROADCAST), 1);
	assert_int_equal(get(r, SOL_SOCKET, SO_KEEPALIVE), 1);
	assert_int_equal(get(r, SOL_SOCKET, SO_RCVLOWAT), 2);
	assert_int_equal(get(r, SOL_SOCKET, SO_TIMESTAMPNS), 1);
	assert_int_equal(get(r, IPPROTO_IP, IP_PKTINFO), 1);
	assert_int_equal(get(r, IPPROTO_IP, IP_RECVERR), 1);
	assert_int_equal(get(r, IPPROTO_IP, IP_MULTICAST_TTL), 5);
	getsockopt(r, SOL_SOCKET, SO_RCVTIMEO, &got, &len);
	assert_true(got.tv_sec == tv.tv_sec && got.tv_usec == tv.tv_usec);
	len = sizeof(li);
	getsockopt(r, SOL_SOCKET, SO_LINGER, &li, &len);
	assert_true(li.l_onoff && li.l_linger == 9);
	char dev[16] = "";
	len = sizeof(dev);
	getsockopt(r, SOL_SOCKET, SO_BINDTODEVICE, dev, &len);
	assert_string_equal(dev, "lo");
	len = 1;
	code[0].k = 0;
	assert_return_code(getsockopt(r, SOL_SOCKET, SO_GET_FILTER, code, &len), errno);
	assert_true(code[0].code == (BPF_RET | BPF_K) && code[0].k == 0x12345);
	trip_end(&t);
}

static void udp_bound_and_connected(void **state)
{
	struct trip t = { 0 };
	struct sockaddr_in to = v4("127.0.0.1", PORT + 4), got;
	socklen_t len = sizeof(got);
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	bind4(fd, "127.0.0.1", PORT + 3);
	assert_return_code(connect(fd, (struct sockaddr *)&to, sizeof(to)), errno);
	int r = moved(&t, fd);
	assert_return_code(getsockname(r, (struct sockaddr *)&got, &len), errno);
	assert_int_equal(ntohs(got.sin_port), PORT + 3);
	assert_return_code(getpeername(r, (struct sockaddr *)&got, &len), errno);
	assert_true(got.sin_port == to.sin_port && got.sin_addr.s_addr == to.sin_addr.s_addr);
	trip_end(&t);
}

static void tcp_not_connected(void **state)
{
	struct trip t = { 0 }, t2 = { 0 };
	struct sockaddr_in got;
	socklen_t len = sizeof(got);
	int fd = socket(AF_INET, SOCK_STREAM, 0), fresh = socket(AF_INET6, SOCK_STREAM, 0);

	bind4(fd, "127.0.0.1", PORT + 5);
	int r = moved(&t, fd);
	assert_return_code(getsockname(r, (struct sockaddr *)&got, &len), errno);
	assert_int_equal(ntohs(got.sin_port), PORT + 5);
	char c;
	assert_true(recv(moved(&t2, fresh), &c, 1, MSG_DONTWAIT) < 0 && errno == ENOTCONN);
	trip_end(&t);
	trip_end(&t2);
}

static void connections(void **state)
{
	struct trip t = { 0 }, closing = { .opts.tcp_close = true };
	struct sockaddr_in a = v4("127.0.0.1", PORT + 6);
	int l = socket(AF_INET, SOCK_STREAM, 0), fd = socket(AF_INET, SOCK_STREAM, 0);
	char c;

	set(l, SOL_SOCKET, SO_REUSEADDR, 1);
	bind4(l, "127.0.0.1", PORT + 6);
	listen(l, 5);
	assert_return_code(connect(fd, (struct sockaddr *)&a, sizeof(a)), errno);
	assert_true(trip_check(&t, fd) < 0);
	assert_says(&t, "127.0.0.1:47317");
	assert_says(&t, "--tcp-close");
	int r = moved(&closing, fd);
	struct pollfd p = { r, POLLIN | POLLRDHUP, 0 };
	assert_int_equal(poll(&p, 1, 0), 1);
	assert_true(p.revents & POLLRDHUP);
	assert_int_equal(recv(r, &c, 1, MSG_DONTWAIT), 0);
	assert_true(send(r, &c, 1, MSG_NOSIGNAL) < 0 && errno == EPIPE);
	/* and so it goes on, to the next host */
	fd = moved(&closing, r);
	assert_int_equal(recv(fd, &c, 1, MSG_DONTWAIT), 0);
	close(l);
	trip_end(&t);
	trip_end(&closing);
}

static void refused(void **state)
{
	static const struct { int domain, type, proto; const char *says; } cases[] = {
		{ AF_INET, SOCK_RAW, IPPROTO_ICMP, "raw socket" },
		{ AF_INET, SOCK_STREAM, 262, "MPTCP" },
		{ AF_INET, SOCK_STREAM, IPPROTO_SCTP, "SCTP" },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct trip t = { 0 };
		int fd = socket(cases[i].domain, cases[i].type, cases[i].proto);

		if (fd < 0)
			continue; /* not in this kernel */
		assert_true(trip_check(&t, fd) < 0);
		assert_says(&t, cases[i].says);
		close(fd);
		trip_end(&t);
	}
}

static void address_not_here(void **state)
{
	struct trip t = { 0 };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	set(fd, IPPROTO_IP, IP_FREEBIND, 1);
	bind4(fd, "203.0.113.9", PORT + 7);
	set(fd, IPPROTO_IP, IP_FREEBIND, 0);
	trip_begin(&t);
	assert_ok(&t, trip_dump(&t, fd));
	close(fd);
	assert_ok(&t, trip_carry(&t));
	assert_true(trip_fd(&t, fd) < 0);
	assert_says(&t, "203.0.113.9:47318");
	assert_says(&t, "give this host the address");
	trip_end(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(listening), cmocka_unit_test(port_checked),
		cmocka_unit_test(port_taken),
		cmocka_unit_test(reuseport_group_and_v6), cmocka_unit_test(generic_options),
		cmocka_unit_test(udp_bound_and_connected), cmocka_unit_test(tcp_not_connected),
		cmocka_unit_test(connections), cmocka_unit_test(refused),
		cmocka_unit_test(address_not_here),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
