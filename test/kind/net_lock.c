/* SPDX-License-Identifier: Apache-2.0 */
/* The network lock on live connections between network namespaces. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cleanup.h"
#include "io.h"
#include "net_catch.h"
#include "net_lock.h"
#include "netlab.h"

#define STALL_MS 50              /* so long nothing may come through a lock */
#define FLOW_MS  5000            /* within this something must come without one */

static const int families[] = { AF_INET, AF_INET6, 46 };

static struct err e;

static void ok(int ret)
{
	lab_ok(ret, &e);
}

static struct net_conn conn_of(const struct lab_tcp *t)
{
	struct sockaddr_storage local, remote;
	socklen_t n = sizeof(local), m = sizeof(remote);
	struct net_conn c;

	assert_int_equal(getsockname(t->host, (struct sockaddr *)&local, &n), 0);
	assert_int_equal(getpeername(t->host, (struct sockaddr *)&remote, &m), 0);
	assert_true(net_conn_set(&c, (struct sockaddr *)&local, (struct sockaddr *)&remote));
	return c;
}

static bool flows(const struct lab_tcp *t, int ms)
{
	assert_int_equal(send(t->peer, "to host", 7, MSG_DONTWAIT | MSG_NOSIGNAL), 7);
	assert_int_equal(send(t->host, "to peer", 7, MSG_DONTWAIT | MSG_NOSIGNAL), 7);
	bool in = lab_arrives(t->host, 7, ms), out = lab_arrives(t->peer, 7, ms);

	assert_true(in == out);
	return in;
}

static bool has_table(int host)
{
	char *all = lab_run(host, "nft list tables");
	bool has = strstr(all, "criu-lite-") != NULL;

	free(all);
	return has;
}

static bool has_record(void)
{
	return !system("ls /run/criu-lite/locks/* >/dev/null 2>&1");
}

/* ---- the table ---- */

/* The lock's table in the language of nft(8); some connection in each set. */
static const char same[] =
	"table inet same {\n"
	"	set c4 { type ipv4_addr . inet_service . ipv4_addr . inet_service;\n"
	"		elements = { 10.9.0.3 . 50000 . 10.9.0.1 . 80 }; }\n"
	"	set c6 { type ipv6_addr . inet_service . ipv6_addr . inet_service;\n"
	"		elements = { fd09::3 . 50000 . fd09::1 . 80 }; }\n"
	"	set l4 { type ipv4_addr . inet_service; elements = { 10.9.0.1 . 80 }; }\n"
	"	set l6 { type ipv6_addr . inet_service; elements = { fd09::1 . 80 }; }\n"
	"	set a4 { type inet_service; elements = { 80 }; }\n"
	"	set a6 { type inet_service; elements = { 80 }; }\n"
	"	chain take { %s drop; }\n"
	"	chain in {\n"
	"		meta priority 6372:6c31 return\n"
	"		meta priority 6372:6c32 return\n"
	"		ip saddr . tcp sport . ip daddr . tcp dport @c4 goto take\n"
	"		ip6 saddr . tcp sport . ip6 daddr . tcp dport @c6 goto take\n"
	"		tcp flags & (syn|ack) == syn ip daddr . tcp dport @l4 goto take\n"
	"		tcp flags & (syn|ack) == syn ip6 daddr . tcp dport @l6 goto take\n"
	"	}\n"
	"	chain pre { type filter hook prerouting priority -300;\n"
	"		meta l4proto tcp jump in\n"
	"	}\n"
	"	chain input { type filter hook input priority -300;\n"
	"		meta l4proto tcp jump in\n"
	"		tcp flags & (syn|ack) == syn meta nfproto ipv4 tcp dport @a4 goto take\n"
	"		tcp flags & (syn|ack) == syn meta nfproto ipv6 tcp dport @a6 goto take\n"
	"	}\n"
	"	chain out { type filter hook output priority -300;\n"
	"		ip daddr . tcp dport . ip saddr . tcp sport @c4 drop\n"
	"		ip6 daddr . tcp dport . ip6 saddr . tcp sport @c6 drop\n"
	"	}\n"
	"}\n";

static struct net_conn conn(const char *local, const char *remote, uint16_t port)
{
	struct net_conn c = { .family = strchr(local, ':') ? AF_INET6 : AF_INET,
			      .local.port = 80, .remote.port = port };

	assert_int_equal(inet_pton(c.family, local, &c.local.v6), 1);
	if (port)
		assert_int_equal(inet_pton(c.family, remote, &c.remote.v6), 1);
	return c;
}

/* As nft(8) shows it, expressions included, under one name, without the numbers of rules, which it
 * writes as "TABLE CHAIN NUMBER [NUMBER BEFORE]" */
static char *show(const char *table)
{
	return lab_run(LAB_HOST, "nft --debug=netlink list table inet %s 2>&1 | "
		       "sed -E 's/%s/NAME/; s/^(inet NAME [a-z]+) [0-9 ]+$/\\1/'", table, table);
}

static void test_table(void **state)
{
	const struct net_conn c[] = {
		conn("10.9.0.1", "10.9.0.3", 50000), conn("fd09::1", "fd09::3", 50000),
		conn("10.9.0.1", "", 0), conn("fd09::1", "", 0),
		conn("0.0.0.0", "", 0), conn("::", "", 0),
	};

	for (int i = 0; i < 2; i++) {
		int group = i ? 24100 : NET_LOCK_NO_GROUP;
		_cleanup_free_ char *rules =
			xasprintf(same, i ? "log group 24100 queue-threshold 1" : "");
		struct net_lock *l;

		lab_enter(LAB_HOST);
		ok(net_lock_prepare(&l, "shown", -1, group, &e));
		ok(net_lock_add(l, c, sizeof(c) / sizeof(*c), &e));
		free(lab_run(LAB_HOST, "nft -f - <<'END'\n%s\nEND", rules));
		_cleanup_free_ char *ours = show("criu-lite-shown"), *theirs = show("same");
		assert_non_null(strstr(ours, "fd09::3 . 50000 . fd09::1 . 80"));
		assert_string_equal(ours, theirs);
		free(lab_run(LAB_HOST, "nft delete table inet same"));
		ok(net_lock_lift(l, &e));
	}
}

/* ---- tests ---- */

static void test_both_ways(void **state)
{
	for (int i = 0; i < 3; i++) {
		struct lab_tcp locked, other;
		struct net_lock *l;

		lab_connect(&locked, families[i], (uint16_t)(5000 + i));
		lab_connect(&other, families[i], (uint16_t)(5010 + i));
		assert_true(flows(&locked, FLOW_MS));
		struct net_conn c = conn_of(&locked);
		assert_int_equal(c.family, families[i] == AF_INET6 ? AF_INET6 : AF_INET);
		int seen = lab_capture(LAB_PEER);
		lab_enter(LAB_HOST);
		ok(net_lock_prepare(&l, "both", -1, NET_LOCK_NO_GROUP, &e));
		assert_true(flows(&locked, FLOW_MS)); /* prepared is not closed yet */
		ok(net_lock_add(l, &c, 1, &e));
		assert_false(flows(&locked, STALL_MS));
		/* neighbours are asked anew, other connections go on */
		free(lab_run(LAB_PEER, "ip neigh flush all"));
		assert_true(flows(&other, FLOW_MS));
		lab_enter(LAB_HOST);
		ok(net_lock_open(l, &e));
		assert_true(lab_arrives(locked.host, 7, FLOW_MS));
		assert_true(lab_arrives(locked.peer, 7, FLOW_MS));
		assert_true(flows(&locked, FLOW_MS));
		ok(net_lock_lift(l, &e));
		assert_false(has_table(LAB_HOST));
		assert_false(has_record());
		assert_int_equal(lab_captured(seen, lab_is_reset, NULL), 0);
		close(seen);
		lab_disconnect(&locked);
		lab_disconnect(&other);
	}
}

/* The socket goes by force while the lock is closed: no reset for that, none in answer to what the
 * peer sends to nobody. When the lock is open there is one, so that it would have been seen. */
static void test_no_reset(void **state)
{
	for (int i = 0; i < 2; i++) {
		struct linger now = { .l_onoff = 1 };
		struct lab_tcp t;
		struct net_lock *l;

		lab_connect(&t, families[i], (uint16_t)(5100 + i));
		assert_true(flows(&t, FLOW_MS));
		struct net_conn c = conn_of(&t);
		int seen = lab_capture(LAB_PEER);
		lab_enter(LAB_HOST);
		ok(net_lock_prepare(&l, "reset", -1, NET_LOCK_NO_GROUP, &e));
		ok(net_lock_add(l, &c, 1, &e));
		setsockopt(t.host, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
		close(t.host);
		close(t.listener);
		assert_int_equal(send(t.peer, "anybody?", 8, MSG_NOSIGNAL), 8);
		usleep(500000); /* it repeats that */
		assert_int_equal(lab_captured(seen, lab_is_reset, NULL), 0);
		ok(net_lock_lift(l, &e));
		for (int ms = 0; ms < FLOW_MS && !lab_captured(seen, lab_is_reset, NULL); ms += 10)
			usleep(10000);
		assert_int_equal(send(t.peer, "x", 1, MSG_NOSIGNAL), -1);
		close(seen);
		close(t.peer);
	}
}

static void test_caught(void **state)
{
	for (int i = 0; i < 3; i++) {
		_cleanup_(buf_free) struct buf packets = { 0 };
		struct lab_tcp t;
		struct net_lock *l;
		struct net_catch *kept;
		unsigned given;

		lab_connect(&t, families[i], (uint16_t)(5200 + i));
		assert_true(flows(&t, FLOW_MS));
		struct net_conn c = conn_of(&t);
		ok(net_catch_new(&kept, -1, &e));
		ok(net_lock_prepare(&l, "caught", -1, net_catch_group(kept), &e));
		ok(net_lock_add(l, &c, 1, &e));
		assert_int_equal(send(t.peer, "1234567", 7, MSG_DONTWAIT), 7);
		assert_false(lab_arrives(t.host, 1, STALL_MS));
		ok(net_catch_take(kept, &packets, &e));
		assert_true(packets.n > 0);
		ok(net_lock_open(l, &e));
		ok(net_catch_replay(packets.at, packets.n, -1, &given, &e));
		assert_true(given > 0);
		/* long before the peer would repeat it (200 ms) if this machine is not stalled */
		double before = lab_now_ms();
		assert_true(lab_arrives(t.host, 7, FLOW_MS));
		print_message("family %d: %u packets given back, there after %.2f ms\n",
			      families[i], given, lab_now_ms() - before);
		/* once more: TCP knows them already */
		ok(net_catch_replay(packets.at, packets.n, -1, &given, &e));
		assert_true(flows(&t, FLOW_MS));
		/* damaged ones are left out, cut ones are an error */
		packets.at[packets.n - 1] ^= 1;
		packets.at[packets.n - 9] ^= 1;
		ok(net_catch_replay(packets.at, packets.n, -1, &given, &e));
		assert_int_equal(net_catch_replay(packets.at, packets.n - 1, -1, &given, &e),
				 -EBADMSG);
		ok(net_lock_lift(l, &e));
		net_catch_free(kept);
		lab_disconnect(&t);
	}
}

static void test_listener(void **state)
{
	for (int i = 0; i < 2; i++) {
		_cleanup_(buf_free) struct buf packets = { 0 };
		struct lab_tcp t;
		struct net_lock *l;
		struct net_catch *kept;
		struct sockaddr_storage sa;
		socklen_t n = sizeof(sa);
		struct net_conn c;
		unsigned given;

		lab_connect(&t, families[i], (uint16_t)(5300 + i));
		assert_int_equal(getsockname(t.listener, (struct sockaddr *)&sa, &n), 0);
		assert_true(net_conn_set(&c, (struct sockaddr *)&sa, NULL));
		assert_true(net_conn_is_listener(&c));
		ok(net_catch_new(&kept, -1, &e));
		ok(net_lock_prepare(&l, "listener", -1, net_catch_group(kept), &e));
		ok(net_lock_add(l, &c, 1, &e));
		assert_true(flows(&t, FLOW_MS)); /* what is connected is not meant */
		lab_enter(LAB_PEER);
		int fd = socket(families[i], SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		n = sizeof(sa);
		assert_int_equal(getpeername(t.peer, (struct sockaddr *)&sa, &n), 0);
		assert_int_equal(connect(fd, (struct sockaddr *)&sa, n), -1);
		usleep(STALL_MS * 1000);
		assert_int_equal(send(fd, "x", 1, 0), -1);
		assert_int_equal(errno, EAGAIN); /* still connecting */
		lab_enter(LAB_HOST);
		ok(net_catch_take(kept, &packets, &e));
		ok(net_lock_open(l, &e));
		ok(net_catch_replay(packets.at, packets.n, -1, &given, &e));
		int host = accept(t.listener, NULL, NULL);
		assert_true(host >= 0);
		ok(net_lock_lift(l, &e));
		net_catch_free(kept);
		close(host);
		close(fd);
		lab_disconnect(&t);
	}
}

/* A process that closes connections, says so, and waits to be killed. */
static pid_t locker(const struct net_conn *c, const char *id)
{
	int line[2];
	char byte;

	assert_int_equal(pipe(line), 0);
	pid_t pid = fork();
	if (pid == 0) {
		struct net_lock *l;

		if (net_lock_prepare(&l, id, -1, NET_LOCK_NO_GROUP, &e) < 0 ||
		    net_lock_add(l, c, 1, &e) < 0 || write(line[1], "", 1) != 1)
			_exit(1);
		pause();
	}
	close(line[1]);
	assert_int_equal(read(line[0], &byte, 1), 1);
	close(line[0]);
	return pid;
}

static void test_sweep(void **state)
{
	struct lab_tcp t;

	lab_connect(&t, AF_INET, 5400);
	assert_true(flows(&t, FLOW_MS));
	struct net_conn c = conn_of(&t);
	/* somebody lives in that network, so that it can be found from another */
	pid_t resident = fork();
	if (resident == 0) {
		pause();
		_exit(0);
	}
	pid_t pid = locker(&c, "swept");
	assert_false(flows(&t, STALL_MS));
	ok(net_lock_sweep(&e)); /* its owner lives */
	assert_true(has_record());
	assert_false(lab_arrives(t.host, 7, STALL_MS));
	kill(pid, SIGKILL);
	siginfo_t info;
	assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
	/* a zombie still; and we are in another network */
	lab_enter(LAB_TARGET);
	ok(net_lock_sweep(&e));
	assert_false(has_record());
	assert_false(has_table(LAB_HOST));
	assert_true(lab_arrives(t.host, 7, FLOW_MS));
	assert_true(lab_arrives(t.peer, 7, FLOW_MS));
	assert_true(flows(&t, FLOW_MS));
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	kill(resident, SIGKILL);
	assert_int_equal(waitpid(resident, NULL, 0), resident);
	lab_disconnect(&t);
}

static void test_kept(void **state)
{
	struct lab_tcp t;
	struct net_lock *l;

	lab_connect(&t, AF_INET6, 5500);
	struct net_conn c = conn_of(&t);
	ok(net_lock_prepare(&l, "kept", -1, NET_LOCK_NO_GROUP, &e));
	assert_int_equal(
		net_lock_prepare(&(struct net_lock *){NULL}, "kept", -1, NET_LOCK_NO_GROUP, &e),
		-EEXIST);
	err_clear(&e);
	ok(net_lock_add(l, &c, 1, &e));
	ok(net_lock_keep(l, &e));
	ok(net_lock_sweep(&e));
	assert_true(has_table(LAB_HOST));
	assert_false(flows(&t, STALL_MS));
	ok(net_lock_lift_id("kept", true, &e));
	assert_false(has_table(LAB_HOST));
	assert_true(flows(&t, FLOW_MS));
	assert_int_equal(net_lock_lift_id("kept", true, &e), -ENOENT);
	assert_int_equal(net_lock_lift_id("../kept", true, &e), -EINVAL);
	lab_disconnect(&t);
}

static void test_many(void **state)
{
	static const size_t counts[] = { 1, 50, 500, 3000 };
	struct lab_tcp t;

	lab_connect(&t, AF_INET, 5600);
	for (size_t k = 0; k < 4; k++) {
		_cleanup_free_ struct net_conn *c = xcalloc(counts[k], sizeof(*c));
		struct net_lock *l;

		for (size_t i = 1; i < counts[k]; i++) {
			c[i].family = i % 2 ? AF_INET : AF_INET6;
			c[i].local = (struct net_end){ .v4.s_addr = htonl(0x0a090001), .port = 80 };
			c[i].remote = (struct net_end){.v4.s_addr = htonl(0x0a090003),
						       .port = (uint16_t)i};
		}
		c[0] = conn_of(&t);
		uint64_t start = io_now_ns();
		ok(net_lock_prepare(&l, "many", -1, NET_LOCK_NO_GROUP, &e));
		uint64_t prepared = io_now_ns();
		ok(net_lock_add(l, c, counts[k], &e));
		uint64_t added = io_now_ns();
		assert_false(flows(&t, STALL_MS));
		uint64_t before = io_now_ns();
		ok(net_lock_open(l, &e));
		uint64_t opened = io_now_ns();
		assert_true(lab_arrives(t.host, 7, FLOW_MS));
		assert_true(lab_arrives(t.peer, 7, FLOW_MS));
		assert_true(flows(&t, FLOW_MS));
		ok(net_lock_lift(l, &e));
		print_message("%zu connections: prepare %lu, close %lu, open %lu us\n", counts[k],
			      (prepared - start) / 1000, (added - prepared) / 1000,
			      (opened - before) / 1000);
	}
	lab_disconnect(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_table),
		cmocka_unit_test(test_both_ways),
		cmocka_unit_test(test_no_reset),
		cmocka_unit_test(test_caught),
		cmocka_unit_test(test_listener),
		cmocka_unit_test(test_sweep),
		cmocka_unit_test(test_kept),
		cmocka_unit_test(test_many),
	};

	return cmocka_run_group_tests(tests, lab_setup, lab_teardown);
}
