/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Addresses that move with the guest: looked up while it still runs, taken away and put in the
 * freeze (one netlink message each), and put back should it stay after all.
 */
#pragma once

#include <net/if.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

#include "err.h"
#include "vec.h"

#define NET_ADDR_FOREVER UINT32_MAX

struct net_addr {
	uint8_t family, prefix, scope;
	bool has_broadcast, has_peer;
	union net_ip {
		struct in_addr v4;
		struct in6_addr v6;
	} ip, peer;                  /* peer: of a point-to-point link */
	struct in_addr broadcast;
	uint32_t flags;              /* IFA_F_*, those that are settings */
	uint32_t valid, preferred;   /* s */
	uint32_t metric;             /* of its prefix route */
	char dev[IFNAMSIZ];          /* "": the one that has it */
	char target[IFNAMSIZ];       /* on the target, "": same as dev */
	char label[IFNAMSIZ];        /* IPv4 */

	/* Known after net_addr_look(), not packed. */
	int index;
	bool promote;                /* others of its subnet would vanish with it */
	struct buf routes;           /* messages of those that may go with it */
};

typedef VEC(struct net_addr) net_addr_vec;

/* ADDR/LEN[@DEV[=TARGETDEV]] */
int net_addr_parse(struct net_addr *a, const char *text, struct err *e);
void net_addr_free(struct net_addr *a);
const char *net_addr_text(const struct net_addr *a, char buf[INET6_ADDRSTRLEN + 4]);

/* All of it as a line of text for a record or a message; given back by unpack. */
char *net_addr_pack(const struct net_addr *a);
int net_addr_unpack(struct net_addr *a, const char *line, struct err *e);
/* What the source packed becomes what the target puts: dev is `target`, its label follows. */
void net_addr_land(struct net_addr *a);

struct mnl_socket;               /* net_nl_open(NETLINK_ROUTE): in which network */

/* Source, before the freeze: it is there; fills in what is not in its text. Warns of routes that go
 * with it. */
int net_addr_look(struct mnl_socket *rt, struct net_addr *a, struct err *e);
/* Target, before the freeze: the device is there and up, the address is not. */
int net_addr_room(struct mnl_socket *rt, struct net_addr *a, struct err *e);

/* Takes it off its device; other addresses of its subnet stay. */
int net_addr_take(struct mnl_socket *rt, const struct net_addr *a, struct err *e);
/* Puts it on `dev`; an IPv6 address can be used when this returns. `back`: with the routes that
 * went with it, and it is no error if it is there already. */
int net_addr_put(struct mnl_socket *rt, const struct net_addr *a, bool back, struct err *e);
