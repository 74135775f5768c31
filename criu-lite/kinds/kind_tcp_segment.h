/* SPDX-License-Identifier: Apache-2.0 */
/* TCP segments without data, built by hand: to a socket here in its peer's name, or to the peer.
 * For the files kind_tcp_*.c. */
#pragma once

#include "err.h"
#include "net_conn.h"

struct tcp_segment {
	const struct net_conn *conn;
	bool to_us;              /* from the peer; else from us to it */
	uint8_t flags;           /* TH_FIN, ... */
	uint32_t seq, ack;
	uint16_t window;         /* as it stands in the header */
	bool has_ts;
	uint32_t ts_val, ts_ecr;
};

/* What sends them: a raw socket of each family, made at its first use. All zero at first. */
struct tcp_sender {
	struct libnet_context *raw[2];
};
void tcp_sender_free(struct tcp_sender *by);

/* A segment to us is delivered through `lo`; our address must be on this host. */
int tcp_segment_send(struct tcp_sender *by, const struct tcp_segment *s, struct err *e);
