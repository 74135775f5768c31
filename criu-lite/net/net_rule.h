/* SPDX-License-Identifier: Apache-2.0 */
/* The lock's sets, chains and rules, as data and as messages. */
#pragma once

#include "net_batch.h"

/* Connections; listening sockets of one address; those of any address. Of IPv4, of IPv6. */
enum net_set { NET_C4, NET_C6, NET_L4, NET_L6, NET_A4, NET_A6, NET_SETS };
extern const char net_set_names[NET_SETS][4];

/* All that makes the table. `group`: of NFLOG, -1: none. */
void net_rule_put_all(struct net_batch *b, const char *table, int group);
