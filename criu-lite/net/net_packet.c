/* SPDX-License-Identifier: Apache-2.0 */
#include "net_packet.h"

#include <arpa/inet.h>
#include <string.h>
#include <sys/socket.h>

#define IP4_HEADER 20
#define IP6_HEADER 40
#define TCP_HEADER 20
#define TCP_CHECK  16            /* where the checksum stands */
#define TCP_PROTO  6

static uint32_t get16(const uint8_t *at) { return (uint32_t)at[0] << 8 | at[1]; }

static bool split4(struct net_packet *p)
{
	size_t header = (size_t)(p->at[0] & 15) * 4, total = get16(p->at + 2);

	/* no fragment: neither "more" nor an offset */
	if (header < IP4_HEADER || total < header || total > p->n || (get16(p->at + 6) & 0x3fff) ||
	    p->at[9] != TCP_PROTO)
		return false;
	p->family = AF_INET;
	p->n = total;
	p->src = p->at + 12;
	p->dst = p->at + 16;
	p->tcp = p->at + header;
	p->tcp_n = total - header;
	return true;
}

static bool split6(struct net_packet *p)
{
	size_t payload = get16(p->at + 4);

	if (p->n < IP6_HEADER || payload > p->n - IP6_HEADER || p->at[6] != TCP_PROTO)
		return false;
	p->family = AF_INET6;
	p->n = IP6_HEADER + payload;
	p->src = p->at + 8;
	p->dst = p->at + 24;
	p->tcp = p->at + IP6_HEADER;
	p->tcp_n = payload;
	return true;
}

bool net_packet_tcp(struct net_packet *p, uint8_t *at, size_t n)
{
	*p = (struct net_packet){ .at = at, .n = n };
	if (n < IP4_HEADER || !(at[0] >> 4 == 4 ? split4(p) : at[0] >> 4 == 6 && split6(p)))
		return false;
	return p->tcp_n >= TCP_HEADER && (size_t)(p->tcp[12] >> 4) * 4 >= TCP_HEADER &&
	       (size_t)(p->tcp[12] >> 4) * 4 <= p->tcp_n;
}

static uint32_t sum(const uint8_t *at, size_t n)
{
	uint32_t s = 0;

	for (; n > 1; at += 2, n -= 2)
		s += get16(at);
	return n ? s + ((uint32_t)at[0] << 8) : s;
}

static uint16_t fold(uint32_t s)
{
	while (s >> 16)
		s = (s & 0xffff) + (s >> 16);
	return (uint16_t)s;
}

bool net_packet_complete(struct net_packet *p)
{
	size_t n = p->family == AF_INET ? 4 : 16;
	uint32_t pseudo = sum(p->src, n) + sum(p->dst, n) + TCP_PROTO + (uint32_t)p->tcp_n;

	if (fold(pseudo + sum(p->tcp, p->tcp_n)) == 0xffff)
		return true;
	/* only the pseudo header was summed up */
	if (get16(p->tcp + TCP_CHECK) != fold(pseudo))
		return false;
	p->tcp[TCP_CHECK] = p->tcp[TCP_CHECK + 1] = 0;
	uint16_t check = (uint16_t)~fold(pseudo + sum(p->tcp, p->tcp_n));
	p->tcp[TCP_CHECK] = (uint8_t)(check >> 8);
	p->tcp[TCP_CHECK + 1] = (uint8_t)check;
	return true;
}
