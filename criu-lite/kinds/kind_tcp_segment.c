/* SPDX-License-Identifier: Apache-2.0 */
#include "kind_tcp_segment.h"

#include <errno.h>
#include <libnet.h>
#include <string.h>

#define TS_OPTION_LEN 12         /* two bytes of padding before it, as everybody does */

void tcp_sender_free(struct tcp_sender *by)
{
	for (int i = 0; i < 2; i++)
		if (by->raw[i])
			libnet_destroy(by->raw[i]);
}

/* To make one costs libnet almost a millisecond. */
static libnet_t *raw_of(struct tcp_sender *by, int family, struct err *e)
{
	libnet_t **l = &by->raw[family == AF_INET6];
	char text[LIBNET_ERRBUF_SIZE] = "";

	if (*l)
		libnet_clear_packet(*l);
	else
		*l = libnet_init(family == AF_INET ? LIBNET_RAW4 : LIBNET_RAW6, NULL, text);
	if (!*l)
		err_say(e, EIO, "raw socket: %s", text);
	return *l;
}

static int failed(libnet_t *l, const char *what, struct err *e)
{
	return err_say(e, EIO, "%s: %s", what, libnet_geterror(l));
}

static int build_ts(libnet_t *l, const struct tcp_segment *s, struct err *e)
{
	uint32_t val = htonl(s->ts_val), ecr = htonl(s->ts_ecr);
	uint8_t option[TS_OPTION_LEN] = { 1, 1, 8, 10 };

	memcpy(option + 4, &val, 4);
	memcpy(option + 8, &ecr, 4);
	return libnet_build_tcp_options(option, sizeof(option), l, 0) < 0 ?
		       failed(l, "TCP options", e) : 0;
}

static int build_ip(libnet_t *l, const struct net_conn *c, const struct net_end *from,
		    const struct net_end *to, uint16_t len, struct err *e)
{
	struct libnet_in6_addr src, dst;

	if (c->family == AF_INET)
		return libnet_build_ipv4((uint16_t)(LIBNET_IPV4_H + len), 0, 0, 0x4000, 64,
					 IPPROTO_TCP, 0, from->v4.s_addr, to->v4.s_addr, NULL, 0,
					 l, 0) < 0 ?
			       failed(l, "IP header", e) : 0;
	memcpy(&src, &from->v6, sizeof(src));
	memcpy(&dst, &to->v6, sizeof(dst));
	return libnet_build_ipv6(0, 0, len, IPPROTO_TCP, 64, src, dst, NULL, 0, l, 0) < 0 ?
		       failed(l, "IPv6 header", e) : 0;
}

int tcp_segment_send(struct tcp_sender *by, const struct tcp_segment *s, struct err *e)
{
	const struct net_conn *c = s->conn;
	const struct net_end *from = s->to_us ? &c->remote : &c->local;
	const struct net_end *to = s->to_us ? &c->local : &c->remote;
	uint16_t len = (uint16_t)(LIBNET_TCP_H + (s->has_ts ? TS_OPTION_LEN : 0));
	libnet_t *l = raw_of(by, c->family, e);

	if (!l)
		return -e->code;
	if (s->has_ts && build_ts(l, s, e) < 0)
		return -e->code;
	if (libnet_build_tcp(from->port, to->port, s->seq, s->ack, s->flags, s->window, 0, 0, len,
			     NULL, 0, l, 0) < 0)
		return failed(l, "TCP header", e);
	if (build_ip(l, c, from, to, len, e) < 0)
		return -e->code;
	return libnet_write(l) < 0 ? failed(l, "sending a segment", e) : 0;
}
