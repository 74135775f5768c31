/* SPDX-License-Identifier: Apache-2.0 */
/* Open TCP connections, for kind_inet.c and among the files kind_tcp_*.c. */
#pragma once

#include <netinet/in.h>
#include <netinet/tcp.h>

#include "kind.h"
#include "net_conn.h"
#include "sk-inet.pb-c.h"

#ifndef TCP_TIMESTAMP
#define TCP_TIMESTAMP 24
#endif
#ifndef TCPI_OPT_USEC_TS
#define TCPI_OPT_USEC_TS 64  /* since Linux 6.8 */
#endif

/* Sets of states. */
#define TCP_BIT(state)  (1u << (state))
/* ... in which our FIN is in the send queue, */
#define TCP_FIN_QUEUED  (TCP_BIT(TCP_FIN_WAIT1) | TCP_BIT(TCP_CLOSING) | TCP_BIT(TCP_LAST_ACK))
/* ... our FIN has a sequence number, */
#define TCP_FIN_SENT    (TCP_FIN_QUEUED | TCP_BIT(TCP_FIN_WAIT2))
/* ... the peer's has come. */
#define TCP_FIN_CAME    (TCP_BIT(TCP_CLOSE_WAIT) | TCP_BIT(TCP_CLOSING) | TCP_BIT(TCP_LAST_ACK))
#define TCP_IN(state, set) (!!(TCP_BIT(state) & (set)))

bool tcp_is_open(int state);

/* As kind_tcp_conns() gives it. */
void tcp_add_listener(int fd, net_conn_vec *out);

/* ---- source ---- */

int tcp_check(struct kind_dump *c, int fd, int state, struct err *e);
/* Has a connection or listening socket keys (TCP-MD5, TCP-AO)? */
bool tcp_is_signed(int fd);
SkShutdown tcp_shutdown_of(int fd, int state);
/* Puts the queues; m is complete but for what only connections have. */
int tcp_dump(struct kind_dump *c, const struct fd_view *v, InetSkEntry *m, struct err *e);
/* Until the guest is gone or goes on (tcp_leave(), tcp_undo()). */
int tcp_hold(struct kind_dump *c, int fd, int reuse, struct err *e);
int tcp_leave(struct kind_dump *c, struct err *e);
void tcp_undo(struct kind_dump *c);

/* A listening socket, whose queue tcp_end() saves; kind_tcp_queue.c. */
struct tcp_listener {
	int fd;                      /* our duplicate */
	uint32_t id;                 /* its description's */
	pid_t holder;
	int number;                  /* there */
};
struct tcp_queues {
	uint32_t pass;
	VEC(struct tcp_listener) at;
};
struct tcp_queues *tcp_queues(struct kind_dump *c);
void tcp_queues_clear(struct tcp_queues *q);
int tcp_listens(struct kind_dump *c, const struct fd_view *v, struct err *e);
int tcp_end(struct kind_dump *c, struct err *e);
/* An accepted connection into an entry as any other, without holding it (kind_inet.c). */
int tcp_dump_waiting(struct kind_dump *c, const struct fd_view *v, FileEntry *fe, struct err *e);

/* In repair mode a socket gives and takes its state, and neither says nor does anything when it
 * is closed. SO_REUSEADDR, which the mode borrows, is kept in the socket. */
int tcp_repair_on(int fd, int reuse, struct err *e);
int tcp_repair_off(int fd, int how, int reuse, struct err *e);
int tcp_repair_queue(int fd, int queue, struct err *e);

/* ---- target ---- */

/* fd: a new socket with its options. It is left in repair mode. */
int tcp_create(struct kind_restore *c, const InetSkEntry *m, int fd, struct err *e);
/* How many waited at this listening socket; and there they wait again. */
size_t tcp_waiting_at(const struct kind_restore *c, uint32_t listener);
int tcp_fill_queue(struct kind_restore *c, uint32_t listener, int fd, struct err *e);
/* Everything is in place. */
void tcp_run(struct kind_restore *c, const FileEntry *fe);
