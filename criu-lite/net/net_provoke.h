/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tells peers right after the switch what has arrived and that there is room: an acknowledgement
 * that was held back or lost in the lock would be missed until the peer repeats something.
 *
 * The window probe that a socket sends when it leaves TCP_REPAIR is no substitute: its sequence
 * number lies before the peer's window, so the peer answers it (which moves on what the guest
 * sends) but does not read its acknowledgement.
 */
#pragma once

#include "err.h"
#include "net_conn.h"

/* A plain acknowledgement, and three more of the same when a sender without SACK shall repeat at
 * once what it has outstanding. */
#define NET_PROVOKE_ONCE   1
#define NET_PROVOKE_REPEAT 4

/* Of connections with `has_seq`; others are left out. `netns`: -1: the own. What cannot be sent is
 * not an error: TCP goes on by itself, later. Returns how many were served, or -errno. */
int net_provoke(const struct net_conn *conns, size_t n, unsigned acks, int netns, struct err *e);
