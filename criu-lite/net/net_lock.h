/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The network lock: from the freeze to the switch this host says nothing for the guest's TCP
 * connections and hears nothing, so that no segment meets half a socket and no RST ever leaves.
 * Nothing else of the host is touched.
 *
 * It is a table "criu-lite-ID" of nftables (family inet) with empty sets, made while the guest
 * still runs; in the freeze one netlink transaction fills them. A record on disk (net_record.h) is
 * there before the table is and after it has gone.
 *
 * Segments that come in are dropped before TCP sees them, also when their address has left this
 * host already; with a `group` they are handed to net_catch.h first. Segments that TCP would send
 * (answers, resets, probes) are dropped on their way out: sockets that leave TCP_REPAIR must do so
 * after net_lock_open(), or their window probe is lost.
 *
 * Of a listening socket only what opens a connection (SYN) is held; may be added earlier than the
 * connections, so that handshakes under way end before the freeze.
 */
#pragma once

#include "err.h"
#include "net_conn.h"
#include "net_record.h"

#define NET_LOCK_NO_GROUP (-1)

struct net_lock;

/* Table, chains and empty sets; the record. `netns`: fd of the network namespace, -1: the own. */
int net_lock_prepare(struct net_lock **lock, const char *id, int netns, int group, struct err *e);
/* Closes these connections, all at once or not at all. May be called again. */
int net_lock_add(struct net_lock *lock, const struct net_conn *conns, size_t n, struct err *e);
/* Writes down what is to be done with addresses should this process die, before they are touched;
 * and NET_UNDO_NOTHING once they are where they belong. */
int net_lock_note(struct net_lock *lock, enum net_undo how, const struct net_addr *addrs, size_t n,
		  struct err *e);
/* Opens them at once. Table and record stay for net_lock_lift(): the kernel takes 10 ms to delete a
 * table, which is nothing to wait for in a switch. */
int net_lock_open(struct net_lock *lock, struct err *e);
/* Opens them, if they are not; table and record are gone. The lock is freed, also on error (then
 * the record stays, and the next sweep tries again). NULL is fine. */
int net_lock_lift(struct net_lock *lock, struct err *e);
/* Leaves all as it is when this process ends: nobody's, until net_lock_lift_id(). Frees it. */
int net_lock_keep(struct net_lock *lock, struct err *e);

/* Frees the lock without touching anything: when this process has ended, a sweep does the rest. */
void net_lock_abandon(struct net_lock *lock);

/* Lifts a kept lock by its id; `undo`: addresses go back to where they were. -ENOENT: there is
 * none. */
int net_lock_lift_id(const char *id, bool undo, struct err *e);
/* Lifts all locks whose owners have died, addresses included. */
int net_lock_sweep(struct err *e);
