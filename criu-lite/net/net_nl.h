/* SPDX-License-Identifier: Apache-2.0 */
/* Netlink sockets in a network namespace, and questions to the kernel through them. */
#pragma once

#include <libmnl/libmnl.h>

#include "cleanup.h"
#include "err.h"

#define NET_NL_BUF 65536

/* The calling thread enters a network namespace (fd of it; -1: stays) and comes back. */
int net_ns_enter(int netns, int *back, struct err *e);
void net_ns_leave(int *back);
#define _cleanup_ns_ _cleanup_(net_ns_leave)

/* `bus`: NETLINK_ROUTE, NETLINK_NETFILTER. */
int net_nl_open(struct mnl_socket **nl, int bus, int netns, struct err *e);
void net_nl_close(struct mnl_socket **nl);
#define _cleanup_nl_ _cleanup_(net_nl_close)

/* Sends `n` bytes of messages; reads until the answer to `last` has come: the end of a dump (`cb`
 * sees each message) or the acknowledgement. Returns -errno as the kernel says it, no text. */
int net_nl_ask(struct mnl_socket *nl, const void *msgs, size_t n, uint32_t last, mnl_cb_t cb,
	       void *data);
