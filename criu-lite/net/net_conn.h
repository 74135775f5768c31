/* SPDX-License-Identifier: Apache-2.0 */
/* A TCP connection (or listening socket) as the network sees it. Filled in by those who capture
 * sockets, read by the lock, the announcement and whoever injects segments. */
#pragma once

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "vec.h"

struct net_end {
	union {
		struct in_addr v4;
		struct in6_addr v6;
	};
	uint16_t port;               /* host byte order */
};

struct net_conn {
	uint8_t family;              /* on the wire: AF_INET also for v4-mapped addresses */
	struct net_end local;        /* listening: may be any address */
	struct net_end remote;       /* listening: all zero */
	uint32_t ifindex;            /* of link-local addresses and bound sockets; 0: by route */

	/* What a segment of this connection must carry. Only net_provoke() reads it. */
	bool has_seq;
	uint32_t snd_nxt;            /* next byte to the peer: the end of what was sent */
	uint32_t rcv_nxt;            /* next byte expected from it */
	uint16_t window;             /* as it stands in the header: shifted already */
	bool has_ts;                 /* timestamps were negotiated */
	uint32_t ts_val, ts_ecr;     /* ours (with the socket's offset), the last one of the peer */
};

typedef VEC(struct net_conn) net_conn_vec;

/* Takes addresses and ports from getsockname() and getpeername(); v4-mapped become AF_INET.
 * `remote` NULL: a listening socket. A dual-stack listener (:: without IPV6_V6ONLY) is two: pass
 * it twice, the second time as 0.0.0.0. False: not an IP socket, or its two ends differ. */
bool net_conn_set(struct net_conn *c, const struct sockaddr *local, const struct sockaddr *remote);

static inline bool net_conn_is_listener(const struct net_conn *c) { return !c->remote.port; }

/* "10.0.0.1:80 - 10.0.0.2:4711", "[::1]:80 (listening)" into buf, for messages. */
#define NET_CONN_TEXT 128
const char *net_conn_text(const struct net_conn *c, char buf[NET_CONN_TEXT]);
