/* SPDX-License-Identifier: Apache-2.0 */
/* A TCP segment in its IP packet. Pure. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NET_PACKET_MAX 65535

struct net_packet {
	int family;
	uint8_t *at;                 /* the IP header; all of it n bytes */
	size_t n;
	const uint8_t *src, *dst;
	uint8_t *tcp;
	size_t tcp_n;
};

/* False: not a whole TCP segment (a fragment, damaged, with extension headers of IPv6). */
bool net_packet_tcp(struct net_packet *p, uint8_t *at, size_t n);

/* The checksum is right, or was left to the network card by a sender on this machine (veth, or
 * merged by the receiving driver): then it is completed. False: damaged. */
bool net_packet_complete(struct net_packet *p);
