/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What ties the guest to the world, in the order of the stories: its TCP connections and addresses
 * (flow_net.h), and the administrator's script. On either side; all of it is nothing without
 * --tcp-established, --move-address and --action-script.
 */
#pragma once

#include "flow.h"
#include "flow_guest.h"
#include "flow_net.h"
#include "flow_script.h"

struct links {
	const struct flow_opts *o;
	struct flow_net *net;
	net_conn_vec conns;          /* of the frozen guest */
	bool closed, listeners_closed;
	bool knocking;               /* somebody waits at a listening socket */
	struct net_queue *queue;     /* who puts them there again; NULL: nobody */
	char peer[128], id[40];      /* for the script */
	struct buf addresses;        /* as text, by spaces */
	bool is_source;
};

/* ---- source; the guest runs until links_close() ---- */

/* Preflight. `where`, `control`: of the target, NULL and -1 for a dump. `id` names the
 * migration. */
int links_source(struct links *l, const struct flow_opts *o, const char *id, const char *where,
		 int control, struct err *e);
/* Handshakes under way end; new ones are held. */
void links_close_listeners(struct links *l, const struct guest *g);
int links_close(struct links *l, const struct guest *g, struct err *e);
/* All is captured and the target is ready: addresses leave; should we die, they come back. */
int links_take(struct links *l, pid_t root, struct err *e);
/* The guest will not go on here by itself: nor do they come back. After it the target may run. */
int links_commit(struct links *l, struct err *e);
/* The guest goes on here: first half while it is frozen (its sockets are as they were). */
void links_undo(struct links *l, pid_t root);

/* ---- target ---- */

/* `addresses`: as flow_net_addresses() gave them on the source. */
int links_target(struct links *l, const struct flow_opts *o, bool tcp, const char *id,
		 const char *peer, char *const *addresses, size_t n, struct err *e);
/* The last state is known, no socket is made yet. */
int links_arrive(struct links *l, struct kind_restore *kinds, const struct img_set *set,
		 struct err *e);
/* Just before the guest runs. */
int links_open(struct links *l, pid_t root, struct err *e);
/* It runs. */
void links_running(struct links *l, pid_t root);
/* It does not run here. */
void links_give_up(struct links *l, pid_t root);

/* ---- either ---- */

int links_script(struct links *l, const char *action, pid_t root, struct err *e);
/* What is left to tidy up, with the guest running (here or there). */
void links_end(struct links *l);
