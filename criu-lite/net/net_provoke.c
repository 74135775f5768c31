/* SPDX-License-Identifier: Apache-2.0 */
#include "net_provoke.h"

#include <errno.h>
#include <libnet.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

#include "cleanup.h"
#include "log.h"
#include "net_nl.h"

#define HOPS 64

static void put32(uint8_t *at, uint32_t value)
{
	value = htonl(value);
	memcpy(at, &value, sizeof(value));
}

static bool build_tcp(libnet_t *l, const struct net_conn *c, size_t *size)
{
	uint8_t options[12] = { TCPOPT_NOP, TCPOPT_NOP, TCPOPT_TIMESTAMP, TCPOLEN_TIMESTAMP };

	*size = LIBNET_TCP_H + (c->has_ts ? sizeof(options) : 0);
	put32(options + 4, c->ts_val);
	put32(options + 8, c->ts_ecr);
	if (c->has_ts && libnet_build_tcp_options(options, sizeof(options), l, 0) < 0)
		return false;
	return libnet_build_tcp(c->local.port, c->remote.port, c->snd_nxt, c->rcv_nxt, TH_ACK,
				c->window, 0, 0, (uint16_t)*size, NULL, 0, l, 0) >= 0;
}

static bool build_ip(libnet_t *l, const struct net_conn *c, size_t size)
{
	struct libnet_in6_addr src, dst;

	if (c->family == AF_INET)
		return libnet_build_ipv4((uint16_t)(LIBNET_IPV4_H + size), 0, 0, IP_DF, HOPS,
					 IPPROTO_TCP, 0, c->local.v4.s_addr, c->remote.v4.s_addr,
					 NULL, 0, l, 0) >= 0;
	memcpy(&src, &c->local.v6, sizeof(src));
	memcpy(&dst, &c->remote.v6, sizeof(dst));
	return libnet_build_ipv6(0, 0, (uint16_t)size, IPPROTO_TCP, HOPS, src, dst, NULL, 0, l,
				 0) >= 0;
}

/* Link-local addresses mean something only with their device. */
static void bind_device(libnet_t *l, uint32_t ifindex)
{
	char name[IFNAMSIZ] = "";

	if (ifindex && !if_indextoname(ifindex, name))
		name[0] = '\0';
	setsockopt(libnet_getfd(l), SOL_SOCKET, SO_BINDTODEVICE, name, (socklen_t)strlen(name));
}

static bool provoke(libnet_t *l, const struct net_conn *c, unsigned acks, uint32_t *bound)
{
	size_t size;
	bool sent = true;

	if (c->ifindex != *bound) {
		bind_device(l, c->ifindex);
		*bound = c->ifindex;
	}
	libnet_clear_packet(l);
	if (!build_tcp(l, c, &size) || !build_ip(l, c, size))
		return false;
	for (unsigned i = 0; sent && i < acks; i++)
		sent = libnet_write(l) > 0;
	return sent;
}

static int open_both(libnet_t *l[2], int netns, struct err *e)
{
	_cleanup_ns_ int back = -1;
	char why[LIBNET_ERRBUF_SIZE] = "";
	int ret = net_ns_enter(netns, &back, e);

	if (ret < 0)
		return ret;
	l[0] = libnet_init(LIBNET_RAW4, NULL, why);
	l[1] = libnet_init(LIBNET_RAW6, NULL, why); /* IPv6 may be off */
	return l[0] || l[1] ? 0 : err_say(e, EPERM, "raw sockets: %s", why);
}

int net_provoke(const struct net_conn *conns, size_t n, unsigned acks, int netns, struct err *e)
{
	libnet_t *l[2] = { NULL, NULL };
	uint32_t bound[2] = { 0, 0 };
	int ret = open_both(l, netns, e), served = 0;

	for (size_t i = 0; ret == 0 && i < n; i++) {
		int six = conns[i].family == AF_INET6;
		char text[NET_CONN_TEXT];

		if (!conns[i].has_seq || net_conn_is_listener(&conns[i]) || !l[six])
			continue;
		if (provoke(l[six], &conns[i], acks, &bound[six]))
			served++;
		else
			log_debug("%s: %s", net_conn_text(&conns[i], text),
				  libnet_geterror(l[six]));
	}
	for (int i = 0; i < 2; i++)
		if (l[i])
			libnet_destroy(l[i]);
	return ret < 0 ? ret : served;
}
