/* SPDX-License-Identifier: Apache-2.0 */
/* A connection as its images tell it. For the files kind_tcp_*.c. */
#pragma once

#include "img.h"
#include "net_conn.h"
#include "sk-inet.pb-c.h"
#include "tcp-stream.pb-c.h"

struct tcp_image {
	int state;
	TcpStreamEntry *m;
	const uint8_t *received; /* inq_len bytes, in the set */
	const uint8_t *unacked;  /* outq_len bytes, the last unsent_len of them not sent yet */
	uint32_t unsent_len;
	/* ours has a number; but waits in the queue; the peer's */
	bool fin_sent, fin_unsent, fin_came;
	uint32_t data_end;       /* after our last byte */
	uint32_t rcv_end;        /* after the peer's last byte */
	uint32_t snd_nxt;
	/* Something waits for the peer's acknowledgement. A new socket would send it again only
	 * after three seconds, as it knows nothing of the peer's distance; it learns that from the
	 * acknowledgement of one byte before the first, which is said in the peer's name. */
	bool seed;
};

int tcp_image_get(const struct img_set *set, const InetSkEntry *m, struct tcp_image *t,
		  struct err *e);
static inline void tcp_image_free(struct tcp_image *t)
{
	if (t->m)
		tcp_stream_entry__free_unpacked(t->m, NULL);
}

/* The window of both sides; rcv_nxt: of the socket as it is now. */
int tcp_set_window(int fd, const struct tcp_image *t, uint32_t rcv_nxt, struct err *e);

/* What the network has to know of it. */
int tcp_image_conn(const InetSkEntry *m, const struct tcp_image *t, struct net_conn *c,
		   struct err *e);
