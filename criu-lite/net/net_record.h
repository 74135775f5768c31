/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is done to this host's network and must be undone, on disk before it is done:
 * /run/criu-lite/locks/ID,
 *
 *   record = "1 " OWNER " " START-TIME " " PID-NAMESPACE " " NETWORK-NAMESPACE "\n" *undo
 *   undo   = ("put " / "take ") ROUTES " " ADDRESS "\n"
 *
 * Times as in /proc/PID/stat, namespaces as inode numbers. OWNER 0: nobody's, it stays until its
 * id is asked for (after a dump the network is closed until restore). ADDRESS as net_addr_pack()
 * writes it, ROUTES in hexadecimal, "-": none.
 */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "err.h"
#include "net_addr.h"
#include "vec.h"

#define NET_ID_MAX 64

struct net_record {
	char id[NET_ID_MAX + 1];
	pid_t owner;
	uint64_t start_time, pid_ns, net_ns;
	char *undo;                  /* lines, NULL: none */
};

typedef VEC(struct net_record) net_record_vec;

/* Letters, digits, '-' and '_'. */
int net_id_check(const char *id, struct err *e);

/* How addresses are put right should the owner die: put them back (source), take them away
 * (target). */
enum net_undo { NET_UNDO_NOTHING, NET_UNDO_PUT, NET_UNDO_TAKE };

/* The record of this process for a network namespace (fd, -1: the own). */
int net_record_make(struct net_record *r, const char *id, int netns, struct err *e);
/* `fresh`: it must not be there yet (-EEXIST). */
int net_record_write(const struct net_record *r, bool fresh, struct err *e);
int net_record_read(struct net_record *r, const char *id, struct err *e);
void net_record_free(struct net_record *r);
void net_record_set_undo(struct net_record *r, enum net_undo how, const struct net_addr *a,
			 size_t n);
/* Does what `undo` says. `rt`: of NETLINK_ROUTE, in the record's network. */
int net_record_undo(const struct net_record *r, struct mnl_socket *rt, struct err *e);
int net_record_list(net_record_vec *out, struct err *e);
int net_record_drop(const char *id, struct err *e);

/* Its owner has died. False also if that cannot be known (another pid namespace). */
bool net_record_is_orphan(const struct net_record *r);

/* Opens the network namespace with this inode number, found at a process or in /run/netns: *fd is
 * -1 if it is the caller's own. -ENOENT without a text: there is no such namespace any more. */
int net_ns_find(uint64_t inode, int *fd);
