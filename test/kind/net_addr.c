/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses move between network namespaces and back, are announced, and peers are told to go on.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <linux/netlink.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cleanup.h"
#include "net_addr.h"
#include "net_announce.h"
#include "net_lock.h"
#include "net_nl.h"
#include "net_packet.h"
#include "net_provoke.h"
#include "netlab.h"

static struct err e;

static void ok(int ret)
{
	lab_ok(ret, &e);
}

static struct mnl_socket *route_socket(int host)
{
	struct mnl_socket *rt;

	ok(net_nl_open(&rt, NETLINK_ROUTE, lab_ns(host), &e));
	return rt;
}

/* Fails with this code, this in its text, and a remedy. */
static void refused(int ret, int code, const char *text)
{
	assert_int_equal(ret, -code);
	if (!strstr(e.text, text))
		fail_msg("\"%s\" is not in \"%s\"", text, e.text);
	assert_true(e.remedy[0] != '\0');
	err_clear(&e);
}

static char *shown(int host, const char *dev)
{
	return lab_run(host, "ip -o addr show dev %s | grep -v fe80:", dev);
}

/* ---- moving ---- */

static void test_there_and_back(void **state)
{
	static const char *const args[] = {"10.9.1.5/24@eth0", "10.9.0.77/24", "fd09::55/64",
					   "10.9.2.1/32"};
	_cleanup_nl_ struct mnl_socket *here = route_socket(LAB_HOST),
				       *there = route_socket(LAB_TARGET);

	free(lab_run(LAB_HOST,
		     "ip addr add 10.9.1.5/24 brd 10.9.1.250 scope link label eth0:db dev eth0;"
		     "ip addr add 10.9.0.77/24 dev eth0; ip addr add fd09::55/64 dev eth0 nodad;"
		     "ip addr add 10.9.2.1 peer 10.9.2.2/32 dev eth0"));
	_cleanup_free_ char *before = shown(LAB_HOST, "eth0"),
			    *target_before = shown(LAB_TARGET, "eth0");
	for (int i = 0; i < 4; i++) {
		struct net_addr a, b;
		char ip[INET6_ADDRSTRLEN + 4];

		ok(net_addr_parse(&a, args[i], &e));
		ok(net_addr_look(here, &a, &e));
		assert_string_equal(a.dev, "eth0");
		_cleanup_free_ char *line = net_addr_pack(&a);
		ok(net_addr_unpack(&b, line, &e));
		net_addr_land(&b);
		ok(net_addr_room(there, &b, &e));
		ok(net_addr_take(here, &a, &e));
		_cleanup_free_ char *gone = shown(LAB_HOST, "eth0");
		assert_null(strstr(gone, net_addr_text(&a, ip)));
		ok(net_addr_put(there, &b, false, &e));
		refused(net_addr_room(there, &b, &e), EADDRINUSE, "the target has it already");
		assert_int_equal(net_addr_put(there, &b, false, &e), -EEXIST);
		err_clear(&e);
		ok(net_addr_take(there, &b, &e));
		ok(net_addr_put(here, &a, true, &e));
		ok(net_addr_put(here, &a, true, &e)); /* it is there: fine when it comes back */
		_cleanup_free_ char *text = shown(LAB_HOST, "eth0"),
				    *target = shown(LAB_TARGET, "eth0");
		assert_string_equal(target, target_before);
		assert_int_equal(strlen(text),
				 strlen(before)); /* the same lines, if in another order */
		net_addr_free(&a);
		net_addr_free(&b);
	}
	free(lab_run(LAB_HOST,
		     "ip -o addr show label eth0:db | grep '10.9.1.5/24 brd 10.9.1.250 "
		     "scope link eth0:db' && ip -o addr | grep '10.9.2.1 peer 10.9.2.2/32' && "
		     "ip addr del 10.9.1.5/24 dev eth0 && ip addr del 10.9.0.77/24 dev eth0 && "
		     "ip addr del 10.9.2.1 peer 10.9.2.2/32 dev eth0 && ip addr del fd09::55/64 "
		     "dev eth0"));
}

static void test_other_device(void **state)
{
	_cleanup_nl_ struct mnl_socket *here = route_socket(LAB_HOST),
				       *there = route_socket(LAB_TARGET);
	struct net_addr a, b;

	free(lab_run(LAB_HOST, "ip addr add 10.9.3.1/24 label eth0:vip dev eth0"));
	free(lab_run(LAB_TARGET, "ip link add lan0 type bridge && ip link set lan0 up"));
	ok(net_addr_parse(&a, "10.9.3.1/24@eth0=lan0", &e));
	ok(net_addr_look(here, &a, &e));
	_cleanup_free_ char *line = net_addr_pack(&a);
	ok(net_addr_unpack(&b, line, &e));
	net_addr_land(&b);
	ok(net_addr_room(there, &b, &e));
	ok(net_addr_take(here, &a, &e));
	ok(net_addr_put(there, &b, false, &e));
	free(lab_run(LAB_TARGET,
		     "ip -o addr show dev lan0 | grep '10.9.3.1/24 scope global lan0:vip'"));
	free(lab_run(LAB_TARGET, "ip link set lan0 down"));
	strcpy(b.dev, "lan0");
	refused(net_addr_room(there, &b, &e), ENETDOWN, "lan0 is down");
	free(lab_run(LAB_TARGET, "ip link del lan0"));
	refused(net_addr_room(there, &b, &e), ENODEV, "there is no device lan0");
	net_addr_free(&a);
	net_addr_free(&b);
}

/* An IPv6 address can be bound to and reached as soon as it is put. */
static void test_no_dad(void **state)
{
	_cleanup_nl_ struct mnl_socket *there = route_socket(LAB_TARGET);
	struct sockaddr_in6 sa = { .sin6_family = AF_INET6, .sin6_port = htons(5000) };
	struct net_addr a;

	for (int i = 0; i < 20; i++) {
		ok(net_addr_parse(&a, "fd09::77/64@eth0", &e));
		ok(net_addr_put(there, &a, false, &e));
		lab_enter(LAB_TARGET);
		_cleanup_close_ int fd = socket(AF_INET6, SOCK_STREAM, 0),
				    c = socket(AF_INET6, SOCK_STREAM, 0);
		sa.sin6_addr = a.ip.v6;
		assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int)),
				 0);
		assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
		assert_int_equal(listen(fd, 1), 0);
		assert_int_equal(connect(c, (struct sockaddr *)&sa, sizeof(sa)), 0);
		ok(net_addr_look(there, &a, &e));
		ok(net_addr_take(there, &a, &e));
		net_addr_free(&a);
	}
}

static void test_secondary_stays(void **state)
{
	_cleanup_nl_ struct mnl_socket *here = route_socket(LAB_HOST);
	struct net_addr a;

	free(lab_run(LAB_HOST,
		     "echo 0 >/proc/sys/net/ipv4/conf/all/promote_secondaries;"
		     "echo 0 >/proc/sys/net/ipv4/conf/eth0/promote_secondaries;"
		     "ip addr add 10.8.0.1/24 dev eth0; ip addr add 10.8.0.2/24 dev eth0;"
		     "ip addr add 10.8.0.3/24 dev eth0; ip addr show dev eth0 | grep '10.8.0.2.* "
		     "secondary'"));
	ok(net_addr_parse(&a, "10.8.0.1/24", &e));
	ok(net_addr_look(here, &a, &e));
	assert_true(a.promote);
	ok(net_addr_take(here, &a, &e));
	free(lab_run(LAB_HOST,
		     "ip -o addr | grep 10.8.0.2/24 && ip -o addr | grep 10.8.0.3/24 &&"
		     "! ip -o addr | grep 10.8.0.1/24 && grep -qx 0 "
		     "/proc/sys/net/ipv4/conf/eth0/promote_secondaries"));
	ok(net_addr_put(here, &a, true, &e));
	free(lab_run(LAB_HOST, "ip -o addr | grep 10.8.0.1/24; for i in 1 2 3; do "
		     "ip addr del 10.8.0.$i/24 dev eth0 2>/dev/null; done; true"));
	net_addr_free(&a);
}

static void test_routes(void **state)
{
	_cleanup_nl_ struct mnl_socket *here = route_socket(LAB_HOST);
	struct net_addr a;

	free(lab_run(
		LAB_HOST,
		"ip link add dum0 type veth peer name dum1; ip link set dum0 up; ip link set dum1 "
		"up;"
		"ip addr add 10.7.0.1/24 dev dum0; ip route add 10.70.0.0/16 via 10.7.0.9 src "
		"10.7.0.1 metric 7;"
		"ip route add default via 10.7.0.9; ip route add 10.71.0.0/16 dev dum0 table 100;"
		"ip route add 10.72.0.0/16 nexthop via 10.7.0.8 weight 2 nexthop via 10.7.0.9"));
	char *before = lab_run(LAB_HOST, "ip route show table all | grep -v eth0 | sort");
	ok(net_addr_parse(&a, "10.7.0.1/24", &e));
	ok(net_addr_look(here, &a, &e));
	ok(net_addr_take(here, &a, &e));
	char *without = lab_run(LAB_HOST, "ip route show table all | grep -v eth0 | sort");
	assert_null(strstr(without, "default"));
	ok(net_addr_put(here, &a, true, &e));
	char *after = lab_run(LAB_HOST, "ip route show table all | grep -v eth0 | sort");
	assert_string_equal(after, before);
	free(lab_run(LAB_HOST, "ip link del dum0"));
	free(before);
	free(without);
	free(after);
	net_addr_free(&a);
}

static void test_refusals(void **state)
{
	_cleanup_nl_ struct mnl_socket *here = route_socket(LAB_HOST);
	struct net_addr a;
	char ip[INET6_ADDRSTRLEN + 4];

	ok(net_addr_parse(&a, "10.1.1.1/24", &e));
	refused(net_addr_look(here, &a, &e), EADDRNOTAVAIL,
		"10.1.1.1/24: this host does not have it");
	ok(net_addr_parse(&a, "10.9.0.1/24@eth7", &e));
	refused(net_addr_look(here, &a, &e), ENODEV, "there is no device eth7");
	ok(net_addr_parse(&a, "10.9.0.1/16", &e));
	refused(net_addr_look(here, &a, &e), EADDRNOTAVAIL, "another length of prefix, /24");
	ok(net_addr_parse(&a, "10.9.0.1/24@lo", &e));
	refused(net_addr_look(here, &a, &e), EADDRNOTAVAIL, "device lo does not have it");
	free(lab_run(LAB_HOST, "ip addr add 10.9.0.1/24 dev lo"));
	ok(net_addr_parse(&a, "10.9.0.1/24", &e));
	refused(net_addr_look(here, &a, &e), ENOTUNIQ, "2 devices have it");
	free(lab_run(LAB_HOST, "ip addr del 10.9.0.1/24 dev lo"));
	assert_string_equal(net_addr_text(&a, ip), "10.9.0.1/24");
}

/* ---- crashes ---- */

static pid_t crash(enum net_undo how, const char *arg, int host)
{
	pid_t pid = fork();

	if (pid == 0) {
		struct net_addr a;
		struct net_lock *l;
		_cleanup_nl_ struct mnl_socket *rt = NULL;

		if (net_nl_open(&rt, NETLINK_ROUTE, lab_ns(host), &e) < 0 ||
		    net_addr_parse(&a, arg, &e) < 0 ||
		    (how == NET_UNDO_PUT ? net_addr_look : net_addr_room)(rt, &a, &e) < 0 ||
		    net_lock_prepare(&l, "crash", lab_ns(host), NET_LOCK_NO_GROUP, &e) < 0 ||
		    net_lock_note(l, how, &a, 1, &e) < 0 ||
		    (how == NET_UNDO_PUT ? net_addr_take(rt, &a, &e)
					 : net_addr_put(rt, &a, false, &e)) < 0)
			_exit(1);
		kill(getpid(), SIGKILL);
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	return pid;
}

static void test_crashes(void **state)
{
	free(lab_run(LAB_HOST,
		     "ip addr add 10.6.0.1/24 dev eth0; ip addr add 10.6.0.2/24 dev eth0;"
		     "ip route add 10.60.0.0/16 via 10.6.0.9 src 10.6.0.1"));
	crash(NET_UNDO_PUT, "10.6.0.1/24", LAB_HOST);
	free(lab_run(LAB_HOST,
		     "! ip -o addr | grep 10.6.0.1/24; ! ip route | grep 10.60.0.0"));
	ok(net_lock_sweep(&e));
	free(lab_run(LAB_HOST, "ip -o addr | grep 10.6.0.1/24 && ip route | grep 10.60.0.0"));
	lab_enter(LAB_TARGET);
	crash(NET_UNDO_TAKE, "10.6.0.7/24@eth0", LAB_TARGET);
	free(lab_run(LAB_TARGET, "ip -o addr | grep 10.6.0.7/24"));
	ok(net_lock_sweep(&e));
	free(lab_run(LAB_TARGET, "! ip -o addr | grep 10.6.0.7/24"));
	free(lab_run(LAB_HOST,
		     "ip addr del 10.6.0.1/24 dev eth0; ip addr del 10.6.0.2/24 dev eth0; "
		     "! ls /run/criu-lite/locks/* 2>/dev/null"));
}

/* ---- announcing ---- */

struct heard {
	uint8_t mac[6];
	unsigned requests, replies, advertisements;
};

static bool hear(const uint8_t *f, size_t n, void *data)
{
	static const uint8_t ip4[] = { 10, 9, 0, 88 }, all_nodes[] = { 0x33, 0x33, 0, 0, 0, 1 };
	struct heard *h = data;
	struct in6_addr ip6;

	inet_pton(AF_INET6, "fd09::88", &ip6);
	if (f[12] == 0x08 && f[13] == 0x06 && !memcmp(f + 28, ip4, 4) && !memcmp(f + 38, ip4, 4)) {
		assert_memory_equal(f, "\xff\xff\xff\xff\xff\xff", 6);
		assert_memory_equal(f + 6, h->mac, 6);
		assert_memory_equal(f + 22, h->mac, 6);
		assert_true(f[21] == 1 || f[21] == 2);
		h->requests += f[21] == 1;
		h->replies += f[21] == 2;
	}
	if (n >= 86 && f[12] == 0x86 && f[13] == 0xdd && f[20] == IPPROTO_ICMPV6 && f[54] == 136 &&
	    !memcmp(f + 62, &ip6, 16)) {
		uint32_t sum = IPPROTO_ICMPV6 + 32;

		assert_memory_equal(f, all_nodes, 6);
		assert_memory_equal(f + 22, &ip6, 16);  /* source */
		assert_int_equal(f[21], 255);           /* hop limit, or nobody believes it */
		assert_int_equal(f[58], 0x20);          /* override, not solicited */
		assert_int_equal(f[78], 2);             /* target link-layer address */
		assert_int_equal(f[79], 1);
		assert_memory_equal(f + 80, h->mac, 6);
		for (int i = 22; i < 86; i += 2)
			sum += (uint32_t)(f[i] << 8 | f[i + 1]);
		assert_int_equal(((sum & 0xffff) + (sum >> 16)) % 0xffff, 0);
		h->advertisements++;
	}
	return false;
}

static void read_mac(int host, uint8_t mac[6])
{
	_cleanup_free_ char *text = lab_run(host, "ip -o link show eth0 | "
					    "sed 's/.*ether \\([^ ]*\\).*/\\1/'");
	unsigned m[6];

	assert_int_equal(
		sscanf(text, "%x:%x:%x:%x:%x:%x", &m[0], &m[1], &m[2], &m[3], &m[4], &m[5]), 6);
	for (int i = 0; i < 6; i++)
		mac[i] = (uint8_t)m[i];
}

static void test_announce(void **state)
{
	_cleanup_nl_ struct mnl_socket *here = route_socket(LAB_HOST),
				       *there = route_socket(LAB_TARGET);
	struct net_addr a[2], none;
	struct net_announcer *n;
	struct heard h = { 0 };

	free(lab_run(LAB_HOST,
		     "ip addr add 10.9.0.88/24 dev eth0; ip addr add fd09::88/64 dev eth0 nodad"));
	free(lab_run(LAB_PEER,
		     "for a in 10.9.0.88 fd09::88; do bash -c \"exec 2>/dev/null; echo "
		     ">/dev/tcp/$a/1\"; done; ip neigh show 10.9.0.88 | grep lladdr && ip neigh "
		     "show fd09::88 | grep lladdr"));
	read_mac(LAB_TARGET, h.mac);
	ok(net_addr_parse(&a[0], "10.9.0.88/24", &e));
	ok(net_addr_parse(&a[1], "fd09::88/64", &e));
	for (int i = 0; i < 2; i++) {
		ok(net_addr_look(here, &a[i], &e));
		ok(net_addr_take(here, &a[i], &e));
		a[i].index = 0;
		ok(net_addr_put(there, &a[i], false, &e));
	}
	int seen = lab_capture(LAB_PEER);
	ok(net_announcer_new(&n, lab_ns(LAB_TARGET), a, 2, &e));
	usleep(50000);
	lab_captured(seen, hear, &h);
	assert_int_equal(h.requests + h.advertisements, 0); /* not before the word */
	net_announcer_go(n);
	for (int ms = 0; ms < 5000 && (h.advertisements < NET_ANNOUNCE_ROUNDS ||
				       h.replies < NET_ANNOUNCE_ROUNDS); ms += 10) {
		lab_captured(seen, hear, &h);
		usleep(10000);
	}
	assert_int_equal(h.requests, NET_ANNOUNCE_ROUNDS);
	assert_int_equal(h.replies, NET_ANNOUNCE_ROUNDS);
	assert_int_equal(h.advertisements, NET_ANNOUNCE_ROUNDS);
	_cleanup_free_ char *mac = lab_run(
		LAB_TARGET,
		"ip -o link show eth0 | sed 's/.*ether \\([^ ]*\\).*/\\1/' | "
		"tr -d '\\n'");
	free(lab_run(LAB_PEER,
		     "ip neigh show 10.9.0.88 | grep %s && ip neigh show fd09::88 | grep %s", mac,
		     mac));
	/* no neighbours there, nobody to tell; and an end without the word */
	ok(net_addr_parse(&none, "127.0.0.2/8@lo", &e));
	net_announcer_free(n);
	ok(net_announcer_new(&n, -1, &none, 1, &e));
	net_announcer_go(n);
	net_announcer_free(n);
	ok(net_announcer_new(&n, -1, a, 2, &e));
	net_announcer_free(n);
	net_announcer_go(NULL);
	net_announcer_free(NULL);
	for (int i = 0; i < 2; i++)
		net_addr_free(&a[i]);
	close(seen);
}

/* ---- provoking ---- */

static bool is_ack(const uint8_t *f, size_t n, void *data)
{
	const struct net_conn *c = data;
	static uint8_t copy[2000];
	struct net_packet p;

	if (n < 34 || n > sizeof(copy))
		return false;
	memcpy(copy, f, n);
	if (!net_packet_tcp(&p, copy + 14, n - 14) || p.family != c->family ||
	    (p.tcp[0] << 8 | p.tcp[1]) != c->local.port)
		return false;
	assert_true(net_packet_complete(&p));
	assert_int_equal(p.tcp[2] << 8 | p.tcp[3], c->remote.port);
	assert_memory_equal(p.tcp + 4, "\x01\x02\x03\x04\x05\x06\x07\x08", 8);
	assert_int_equal(p.tcp[13], 0x10);
	assert_int_equal(p.tcp[14] << 8 | p.tcp[15], 0x1234);
	assert_int_equal(p.tcp_n, c->has_ts ? 32 : 20);
	if (c->has_ts)
		assert_memory_equal(p.tcp + 20, "\x01\x01\x08\x0a\0\0\0\x09\0\0\0\x08", 12);
	return true;
}

static void test_provoke(void **state)
{
	struct net_conn c[3] = {
		{ .family = AF_INET, .local.port = 4000, .remote.port = 4001, .has_ts = true },
		{ .family = AF_INET6, .local.port = 4002, .remote.port = 4003 },
		{ .family = AF_INET, .local.port = 4004, .remote.port = 4005 },
	};

	for (int i = 0; i < 3; i++) {
		c[i].local.v4.s_addr = htonl(0x0a090001);
		c[i].remote.v4.s_addr = htonl(0x0a090003);
		c[i].has_seq = i < 2;
		c[i].snd_nxt = 0x01020304;
		c[i].rcv_nxt = 0x05060708;
		c[i].window = 0x1234;
		c[i].ts_val = 9;
		c[i].ts_ecr = 8;
	}
	inet_pton(AF_INET6, "fd09::1", &c[1].local.v6);
	inet_pton(AF_INET6, "fd09::3", &c[1].remote.v6);
	int seen[2] = { lab_capture(LAB_PEER), lab_capture(LAB_PEER) };
	assert_int_equal(net_provoke(c, 3, NET_PROVOKE_REPEAT, lab_ns(LAB_HOST), &e), 2);
	for (int i = 0; i < 2; i++) {
		unsigned got = 0;

		for (int ms = 0; ms < 5000 && got < NET_PROVOKE_REPEAT; ms += 10) {
			got += lab_captured(seen[i], is_ack, &c[i]);
			usleep(10000);
		}
		assert_int_equal(got, NET_PROVOKE_REPEAT);
		close(seen[i]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_there_and_back),
		cmocka_unit_test(test_other_device),
		cmocka_unit_test(test_no_dad),
		cmocka_unit_test(test_secondary_stays),
		cmocka_unit_test(test_routes),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_crashes),
		cmocka_unit_test(test_announce),
		cmocka_unit_test(test_provoke),
	};

	return cmocka_run_group_tests(tests, lab_setup, lab_teardown);
}
