/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tells neighbours and switches where addresses are now: gratuitous ARP (as request and as reply)
 * and unsolicited neighbour advertisements; at once, then after 50, 150, 250 and 350 ms more, as
 * QEMU does.
 *
 * All is made ready before the switch. The first round takes as long as sending two frames for
 * each address; a small process does the others, which do not keep the caller from ending.
 */
#pragma once

#include "err.h"
#include "net_addr.h"

#define NET_ANNOUNCE_ROUNDS     5
#define NET_ANNOUNCE_INITIAL_MS 50
#define NET_ANNOUNCE_STEP_MS    100
#define NET_ANNOUNCE_MAX_MS     550

struct net_announcer;

/* For addresses of devices in the network `netns` (-1: the own). Devices without neighbours
 * (loopback, tunnels) are left out. */
int net_announcer_new(struct net_announcer **a, int netns, const struct net_addr *addrs, size_t n,
		      struct err *e);
/* The addresses are here now. NULL is fine. */
void net_announcer_go(struct net_announcer *a);
/* Without the word before, they will not come. Closing packet sockets takes the kernel some 10 ms:
 * not in the switch. NULL is fine. */
void net_announcer_free(struct net_announcer *a);
