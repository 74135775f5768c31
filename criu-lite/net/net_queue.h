/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Open connections into the queue of a listening socket, where they wait for accept().
 *
 * No system call does that. But since Linux 6.9 a BPF program may say of a segment that it ends a
 * handshake, and which options the SYN had (made for SYN cookies of one's own): the kernel then
 * makes the connection with the numbers of that segment. So we send the segment ourselves, in the
 * peer's name through `lo`, where such a program waits for nothing else; then what the peer has
 * sent since. Program and maps are gone when this process dies.
 *
 * The network lock lets these segments in, and none of the answers out.
 */
#pragma once

#include "err.h"
#include "net_conn.h"

/* Priority (skb->priority) of our segments: what makes them known. Nobody else has such. */
#define NET_QUEUE_OPENS   0x63726c31u    /* ends a handshake */
#define NET_QUEUE_FOLLOWS 0x63726c32u

struct net_queue;

/* -ENOTSUP: this kernel or this network cannot; e says why, and a remedy. To open and to close it
 * takes the kernel some 20 ms each: not for a switch. */
int net_queue_open(struct net_queue **q, struct err *e);
/* NULL is fine. */
void net_queue_close(struct net_queue *q);

struct net_waiting {
	struct net_conn conn;        /* snd_nxt, has_ts, ts_val; window: of the peer, as in its
				      * header */
	uint32_t first;              /* number of the peer's first byte */
	uint16_t mss;                /* what the peer has said of itself */
	uint8_t snd_wscale, rcv_wscale;
	bool has_wscale, has_sack, has_ecn, has_usec_ts;
	uint32_t rtt;                /* microseconds, 0: unknown */
	const uint8_t *data;         /* received */
	size_t n;
	bool fin;                    /* the peer's came after it */
};

/* The queue of this listening socket of our network, in which there is to be room for so many. Its
 * settings change until net_queue_end(). */
int net_queue_begin(struct net_queue *q, int listener, uint32_t room, struct err *e);
void net_queue_end(struct net_queue *q);

/* At the end of the queue. */
int net_queue_put(struct net_queue *q, const struct net_waiting *w, struct err *e);

/* Whether all of this works here, tried with a connection of our own on 127.0.0.1. */
int net_queue_try(struct net_queue *q, struct err *e);
