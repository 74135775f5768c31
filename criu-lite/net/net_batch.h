/* SPDX-License-Identifier: Apache-2.0 */
/* Transactions of nf_tables: messages of which the kernel does all or none. */
#pragma once

#include <netinet/in.h>          /* before the kernel's headers, which then leave it out */
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>

#include "net_nl.h"
#include "vec.h"

struct net_batch {
	struct buf b;
	uint32_t seq;
	size_t last;                 /* where the last message begins */
};

void net_batch_begin(struct net_batch *b);
void net_batch_free(struct net_batch *b);
#define _cleanup_batch_ _cleanup_(net_batch_free)

/* A message of family inet is begun in `at`, gets its attributes, and is put into the batch. */
struct nlmsghdr *net_batch_message(char *at, uint16_t type, uint16_t flags);
void net_batch_put(struct net_batch *b, struct nlmsghdr *nlh);

/* Sends it and waits until it is done; -errno of the first message that was refused. `nl`: of
 * NETLINK_NETFILTER; its network is the one that is changed. */
int net_batch_commit(struct net_batch *b, struct mnl_socket *nl);
