/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the peers send while the lock is closed. TCP would repeat it after 200 ms or more (a sender
 * whose peer knows SACK does not react to duplicate acknowledgements), so it is kept (NFLOG) and
 * given to the guest's sockets where they live after the switch: here, or on the target. For TCP
 * that is a packet which took a little longer. What is lost on the way, its sender repeats as
 * ever.
 *
 * Kept packets are bytes: for each one its length (uint32_t, little endian), then the IP packet.
 */
#pragma once

#include <stdint.h>

#include "err.h"
#include "vec.h"

struct net_catch;

/* Takes an unused group of NFLOG in this network namespace. -EOPNOTSUPP: there is none. */
int net_catch_new(struct net_catch **c, int netns, struct err *e);
int net_catch_group(const struct net_catch *c);
/* Appends what has come since the last time; does not wait. */
int net_catch_take(struct net_catch *c, struct buf *out, struct err *e);
/* For poll(): something has come. */
int net_catch_fd(const struct net_catch *c);
void net_catch_free(struct net_catch *c);

/* Gives packets to this host's own TCP, in order; the lock must be open. `netns`: -1: the own.
 * Packets that are damaged or not for an address of this host are left out; *given counts the
 * others. */
int net_catch_replay(const void *packets, size_t n, int netns, unsigned *given, struct err *e);
