/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TCP connections that live through the move (--tcp-established). The sockets themselves are
 * ordinary rows of the table of kinds; this is what the network's part of the story needs.
 *
 * Order on the source: freeze, lock, kind_dump_fd() ..., kind_dump_leave(), kill. On the target:
 * kind_fd() under the lock, unlock, kind_restore_done(), which sends each peer a window probe.
 */
#pragma once

#include "img.h"
#include "kind.h"
#include "net_conn.h"

/* The connections and listening sockets of these processes, each socket once (a dual-stack listener
 * twice). Changes nothing, at any time, frozen or not. What closes meanwhile is left out. */
int kind_tcp_conns(const pid_t *pids, size_t n, net_conn_vec *out, struct err *e);

/* Who has knocked at these listening sockets: connections that nobody has accepted yet, and
 * handshakes under way, of which *half counts the number. As long as there are handshakes, more
 * connections may come, also when new ones are held. */
int kind_tcp_arrivals(const net_conn_vec *listeners, net_conn_vec *out, size_t *half,
		      struct err *e);

/* What puts those into a queue who wait for accept(); stays the caller's. Without it one is opened
 * where it is needed, which takes too long for a switch. */
struct net_queue;
void kind_dump_use_queue(struct kind_dump *c, struct net_queue *q);
void kind_restore_use_queue(struct kind_restore *c, struct net_queue *q);

/* The connections and listening sockets of a dumped guest, connections with what a segment of
 * theirs must carry. */
int kind_tcp_conns_in(const struct img_set *set, net_conn_vec *out, struct err *e);

/* A criu-lite that was killed in the wrong microsecond may have left a socket in repair mode, in
 * which it neither sends nor reads: takes it out again. */
int kind_tcp_sweep(pid_t pid, struct err *e);
