/* SPDX-License-Identifier: Apache-2.0 */
/* Open TCP connections, for kind_inet.c and among the files kind_tcp_*.c. */
#pragma once

#include <netinet/in.h>
#include <netinet/tcp.h>

#include "kind.h"
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

/* ---- source ---- */

int tcp_check(struct kind_dump *c, int fd, int state, struct err *e);
SkShutdown tcp_shutdown_of(int fd, int state);
/* Puts the queues; m is complete but for what only connections have. */
int tcp_dump(struct kind_dump *c, const struct fd_view *v, InetSkEntry *m, struct err *e);
/* n clients wait for accept() at this listening socket: tcp_end() says so. */
void tcp_waiting(struct kind_dump *c, const struct fd_view *v, uint32_t n);
int tcp_end(struct kind_dump *c, struct err *e);
int tcp_leave(struct kind_dump *c, struct err *e);
void tcp_undo(struct kind_dump *c);

/* In repair mode a socket gives and takes its state, and neither says nor does anything when it
 * is closed. SO_REUSEADDR, which the mode borrows, is kept in the socket. */
int tcp_repair_on(int fd, int reuse, struct err *e);
int tcp_repair_off(int fd, int how, int reuse, struct err *e);
int tcp_repair_queue(int fd, int queue, struct err *e);

/* ---- target ---- */

/* fd: a new socket with its options. It is left in repair mode. */
int tcp_create(struct kind_restore *c, const InetSkEntry *m, int fd, struct err *e);
/* Everything is in place. */
void tcp_run(struct kind_restore *c, const FileEntry *fe);
