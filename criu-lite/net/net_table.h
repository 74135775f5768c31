/* SPDX-License-Identifier: Apache-2.0 */
/* The lock's table in the kernel's packet filter. */
#pragma once

#include "err.h"
#include "net_conn.h"

struct mnl_socket;

#define NET_TABLE_NAME 96
void net_table_name(char name[NET_TABLE_NAME], const char *id);

/* `nl`: of NETLINK_NETFILTER, in the guest's network. `group`: of NFLOG, which gets what is dropped
 * on its way in; -1: nobody does. -EOPNOTSUPP: this kernel cannot log to it. */
int net_table_make(struct mnl_socket *nl, const char *name, int group, struct err *e);
int net_table_add(struct mnl_socket *nl, const char *name, const struct net_conn *conns, size_t n,
		  struct err *e);
/* All connections out again. */
int net_table_empty(struct mnl_socket *nl, const char *name, struct err *e);
/* Waits for all processors (RCU), some 10 ms. It is no error if it is not there. */
int net_table_delete(struct mnl_socket *nl, const char *name, struct err *e);
