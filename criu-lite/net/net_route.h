/* SPDX-License-Identifier: Apache-2.0 */
/* Routes that go with an address, kept to be put back with it. */
#pragma once

#include "err.h"
#include "net_addr.h"

/* Those of the administrator and of routing daemons (the kernel's own come back by themselves)
 * that use the device or have the address as their source: netlink messages, one after the other.
 */
int net_routes_save(struct mnl_socket *rt, int family, int index, const union net_ip *ip,
		    struct buf *out, struct err *e);
/* How many of them have the address as their source. */
unsigned net_routes_from(const struct buf *routes, int family, const union net_ip *ip);
/* Puts back those that are missing. */
int net_routes_put(struct mnl_socket *rt, const struct buf *routes, struct err *e);

/* Packets for this address come in here. */
bool net_route_is_local(struct mnl_socket *rt, int family, const union net_ip *ip);
