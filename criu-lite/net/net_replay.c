/* SPDX-License-Identifier: Apache-2.0 */
/* Kept packets, into this host's own TCP: a raw socket sends them to a local address, which goes
 * through the loopback device. */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

#include "net_catch.h"
#include "net_nl.h"
#include "net_packet.h"
#include "net_route.h"

struct injector {
	int v4, v6;
	struct mnl_socket *rt;
	/* the last address looked up: packets of a connection come together */
	int family;
	union net_ip ip;
	bool is_local;
};

static bool is_ours(struct injector *in, const struct net_packet *p)
{
	size_t n = p->family == AF_INET ? 4 : 16;

	if (in->family != p->family || memcmp(&in->ip, p->dst, n)) {
		in->family = p->family;
		memcpy(&in->ip, p->dst, n);
		in->is_local = net_route_is_local(in->rt, p->family, &in->ip);
	}
	return in->is_local;
}

static int inject(struct injector *in, const struct net_packet *p)
{
	struct sockaddr_in v4 = { .sin_family = AF_INET };
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6 };
	ssize_t sent;

	memcpy(&v4.sin_addr, p->dst, sizeof(v4.sin_addr));
	if (p->family == AF_INET) {
		sent = sendto(in->v4, p->at, p->n, 0, (struct sockaddr *)&v4, sizeof(v4));
	} else {
		memcpy(&v6.sin6_addr, p->dst, sizeof(v6.sin6_addr));
		sent = sendto(in->v6, p->at, p->n, 0, (struct sockaddr *)&v6, sizeof(v6));
	}
	return sent < 0 ? -errno : 0;
}

static int open_sockets(struct injector *in, int netns, struct err *e)
{
	_cleanup_ns_ int back = -1;
	int ret = net_ns_enter(netns, &back, e), size = 4 << 20;

	if (ret < 0)
		return ret;
	in->v4 = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
	if (in->v4 < 0)
		return err_set(e, errno, "raw socket");
	in->v6 = socket(AF_INET6, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW); /* IPv6 may be off */
	setsockopt(in->v4, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size));
	if (in->v6 >= 0)
		setsockopt(in->v6, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size));
	return net_nl_open(&in->rt, NETLINK_ROUTE, -1, e);
}

static uint32_t get_length(const uint8_t *at)
{
	return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

int net_catch_replay(const void *packets, size_t n, int netns, unsigned *given, struct err *e)
{
	struct injector in = { .v4 = -1, .v6 = -1 };
	_cleanup_free_ uint8_t *copy = xmalloc(NET_PACKET_MAX);
	const uint8_t *at = packets, *end = at + n;
	int ret = open_sockets(&in, netns, e);

	*given = 0;
	while (ret == 0 && at < end) {
		struct net_packet p;
		uint32_t length = end - at < 4 ? UINT32_MAX : get_length(at);

		if (length > (size_t)(end - at) - 4 || length > NET_PACKET_MAX) {
			ret = err_say(e, EBADMSG, "kept packets: one is cut short");
			break;
		}
		memcpy(copy, at + 4, length);
		at += 4 + length;
		if (net_packet_tcp(&p, copy, length) && net_packet_complete(&p) &&
		    is_ours(&in, &p) && inject(&in, &p) == 0)
			++*given;
	}
	if (in.v4 >= 0)
		close(in.v4);
	if (in.v6 >= 0)
		close(in.v6);
	net_nl_close(&in.rt);
	return ret;
}
