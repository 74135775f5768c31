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
#include "net_conn.h"

/* The connections and listening sockets of these processes, each socket once (a dual-stack listener
 * twice). Changes nothing, at any time, frozen or not. What closes meanwhile is left out. */
int kind_tcp_conns(const pid_t *pids, size_t n, net_conn_vec *out, struct err *e);

/* Connections that wait in the queues of these processes' listening sockets for accept(). The kernel
 * gives them to nobody else: as long as there are any, dumping fails (without --skip-in-flight). With
 * the door closed for new ones, a guest that runs has soon taken them all. */
int kind_tcp_waiting(const pid_t *pids, size_t n, uint32_t *waiting, struct err *e);

/* The connections and listening sockets of a dumped guest, connections with what a segment of theirs must carry. */
int kind_tcp_conns_in(const struct img_set *set, net_conn_vec *out, struct err *e);

/* A criu-lite that was killed in the wrong microsecond may have left a socket in repair mode, in
 * which it neither sends nor reads: takes it out again. */
int kind_tcp_sweep(pid_t pid, struct err *e);
