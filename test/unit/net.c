/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses as text, connections, packets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "cleanup.h"
#include "net_addr.h"
#include "net_conn.h"
#include "net_packet.h"
#include "net_record.h"

static struct err e;

/* ---- ADDR/LEN[@DEV[=TARGETDEV]] ---- */

static void test_parse(void **state)
{
	struct net_addr a;
	char text[INET6_ADDRSTRLEN + 4];

	assert_int_equal(net_addr_parse(&a, "10.0.0.5/24", &e), 0);
	assert_int_equal(a.family, AF_INET);
	assert_int_equal(a.prefix, 24);
	assert_string_equal(a.dev, "");
	assert_string_equal(net_addr_text(&a, text), "10.0.0.5/24");
	assert_int_equal(net_addr_parse(&a, "2001:db8::1/128@eth0.7", &e), 0);
	assert_int_equal(a.family, AF_INET6);
	assert_string_equal(a.dev, "eth0.7");
	assert_string_equal(a.target, "");
	assert_string_equal(net_addr_text(&a, text), "2001:db8::1/128");
	assert_int_equal(net_addr_parse(&a, "10.0.0.5/32@eth0=br-lan", &e), 0);
	assert_string_equal(a.dev, "eth0");
	assert_string_equal(a.target, "br-lan");
}

static void test_parse_errors(void **state)
{
	static const struct {
		const char *text, *says;
	} wrong[] = {
		{"10.0.0.5", "length of its prefix is missing"},
		{"10.0.0.5@eth0", "is missing"},
		{"10.0.0/24", "not an IPv4 or IPv6 address"},
		{"/24", "not an IPv4"},
		{"", "missing"},
		{"10.0.0.5/33", "1 to 32"},
		{"10.0.0.5/0", "1 to 32"},
		{"10.0.0.5/", "1 to 32"},
		{"10.0.0.5/-1", "1 to 32"},
		{"10.0.0.5/2x", "1 to 32"},
		{"::1/129", "1 to 128"},
		{"10.0.0.5/24@", "not a name of a device"},
		{"10.0.0.5/24@=b", "not a name of a device"},
		{"10.0.0.5/24@a=", "not a name of a target device"},
		{"10.0.0.5/24@a/b", "not a name"},
		{"10.0.0.5/24@fifteen.letters", NULL},
		{"10.0.0.5/24@sixteen.letters.", "not a name"},
	};

	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
		struct net_addr a;
		int ret = net_addr_parse(&a, wrong[i].text, &e);

		assert_int_equal(ret, wrong[i].says ? -EINVAL : 0);
		if (!wrong[i].says)
			continue;
		if (!strstr(e.text, wrong[i].says))
			fail_msg("%s: %s", wrong[i].text, e.text);
		assert_non_null(strstr(e.remedy, "ADDRESS/LENGTH"));
		err_clear(&e);
	}
}

static void test_pack(void **state)
{
	struct net_addr a, b;

	assert_int_equal(net_addr_parse(&a, "10.0.0.5/24@eth0=lan0", &e), 0);
	a.scope = 253;
	a.flags = 0x200;
	a.valid = 100;
	a.preferred = 50;
	a.metric = 7;
	a.has_broadcast = a.has_peer = true;
	inet_pton(AF_INET, "10.0.0.255", &a.broadcast);
	inet_pton(AF_INET, "10.0.0.6", &a.peer.v4);
	strcpy(a.label, "eth0:db");
	_cleanup_free_ char *line = net_addr_pack(&a);
	assert_int_equal(net_addr_unpack(&b, line, &e), 0);
	assert_memory_equal(&a, &b, sizeof(a));
	net_addr_land(&b);
	assert_string_equal(b.dev, "lan0");
	assert_string_equal(b.label, "lan0:db");
	assert_string_equal(b.target, "");
	assert_int_equal(net_addr_unpack(&b, "1 10.0.0.5/24", &e), -EBADMSG);
	assert_int_equal(net_addr_unpack(&b, "2 10.0.0.5/24 0 0 0 0 0 - - - - -", &e), -EBADMSG);
	assert_int_equal(net_addr_unpack(&b, "1 10.0.0.5/24 0 0 0 0 0 - - - ::1 -", &e), -EBADMSG);
	assert_int_equal(net_addr_unpack(&b, "1 10.0.0.5/24 0 0 0 0 0 - - - - - x", &e), -EBADMSG);
	err_clear(&e);
	assert_int_equal(net_addr_unpack(&b, "1 10.0.0.5/24 0 0 0 0 0 - - - - -", &e), 0);
	assert_string_equal(b.dev, "");
}

/* ---- connections ---- */

static void test_conn(void **state)
{
	struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = htons(80) };
	struct sockaddr_in6 v6 = {
		.sin6_family = AF_INET6, .sin6_port = htons(81), .sin6_scope_id = 5};
	struct sockaddr_in6 mapped = { .sin6_family = AF_INET6, .sin6_port = htons(82) };
	struct net_conn c;
	char text[NET_CONN_TEXT];

	inet_pton(AF_INET, "10.0.0.1", &v4.sin_addr);
	inet_pton(AF_INET6, "fe80::1", &v6.sin6_addr);
	inet_pton(AF_INET6, "::ffff:10.0.0.2", &mapped.sin6_addr);
	assert_true(net_conn_set(&c, (struct sockaddr *)&v4, (struct sockaddr *)&v4));
	assert_string_equal(net_conn_text(&c, text), "10.0.0.1:80 - 10.0.0.1:80");
	assert_true(net_conn_set(&c, (struct sockaddr *)&v6, NULL));
	assert_true(net_conn_is_listener(&c));
	assert_int_equal(c.ifindex, 5);
	assert_string_equal(net_conn_text(&c, text), "[fe80::1]:81 (listening)");
	assert_true(net_conn_set(&c, (struct sockaddr *)&mapped, (struct sockaddr *)&mapped));
	assert_int_equal(c.family, AF_INET);
	assert_string_equal(net_conn_text(&c, text), "10.0.0.2:82 - 10.0.0.2:82");
	assert_false(net_conn_set(&c, (struct sockaddr *)&v4, (struct sockaddr *)&v6));
	assert_false(net_conn_set(&c, (struct sockaddr *)&mapped, (struct sockaddr *)&v6));
	v4.sin_family = AF_UNIX;
	assert_false(net_conn_set(&c, (struct sockaddr *)&v4, NULL));
}

/* ---- packets ---- */

/* 10.9.0.3:1 > 10.9.0.1:2, "hi!". */
static const uint8_t packet[] = {
	0x45, 0, 0, 43, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 9, 0, 3, 10, 9, 0, 1,
	0, 1, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x18, 0, 10, 0, 0, 0, 0, 'h', 'i', '!',
};

static void test_packet(void **state)
{
	uint8_t copy[sizeof(packet)];
	struct net_packet p;

	memcpy(copy, packet, sizeof(copy));
	assert_true(net_packet_tcp(&p, copy, sizeof(copy)));
	assert_int_equal(p.family, AF_INET);
	assert_int_equal(p.tcp_n, 23);
	/* only the pseudo header is summed up, as on a device that does the rest: it is completed
	 */
	uint32_t sum = 0x0a09 + 3 + 0x0a09 + 1 + 6 + 23;
	p.tcp[16] = (uint8_t)(sum >> 8);
	p.tcp[17] = (uint8_t)sum;
	assert_true(net_packet_complete(&p));
	assert_true(net_packet_complete(&p));
	uint16_t right = (uint16_t)(p.tcp[16] << 8 | p.tcp[17]);
	assert_int_not_equal(right, sum);
	/* damaged ones are not */
	p.tcp[22] ^= 0x40;
	assert_false(net_packet_complete(&p));
	p.tcp[22] ^= 0x40;
	assert_true(net_packet_complete(&p));
	/* cut at every place */
	for (size_t n = 0; n < sizeof(copy); n++)
		assert_false(net_packet_tcp(&p, copy, n));
	copy[6] = 0x20; /* a fragment */
	assert_false(net_packet_tcp(&p, copy, sizeof(copy)));
	copy[6] = 0x40;
	copy[9] = 17;
	assert_false(net_packet_tcp(&p, copy, sizeof(copy)));
	copy[9] = 6;
	copy[0] = 0x44;
	assert_false(net_packet_tcp(&p, copy, sizeof(copy)));
	copy[0] = 0x45;
	copy[32] = 0xf0; /* options that are longer than the segment */
	assert_false(net_packet_tcp(&p, copy, sizeof(copy)));
}

static void test_id(void **state)
{
	char id[NET_ID_MAX + 2];

	memset(id, 'a', sizeof(id));
	id[NET_ID_MAX + 1] = '\0';
	assert_int_equal(net_id_check(id, &e), -EINVAL);
	id[NET_ID_MAX] = '\0';
	assert_int_equal(net_id_check(id, &e), 0);
	assert_int_equal(net_id_check("", &e), -EINVAL);
	assert_int_equal(net_id_check("../x", &e), -EINVAL);
	assert_int_equal(net_id_check("a b", &e), -EINVAL);
	assert_int_equal(net_id_check("0aF-_", &e), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_parse),
		cmocka_unit_test(test_parse_errors),
		cmocka_unit_test(test_pack),
		cmocka_unit_test(test_conn),
		cmocka_unit_test(test_packet),
		cmocka_unit_test(test_id),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
