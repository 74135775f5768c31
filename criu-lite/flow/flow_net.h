/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The network's part of the stories. Source of a migration:
 *
 *   flow_net_source()      preflight, guest running: addresses, rules, record
 *   flow_net_addresses()     -> to the target, in its preflight
 *   flow_net_close()       frozen, before the sockets are captured
 *     ... sockets, last pages, PREPARED ...
 *   flow_net_take()        just before GO: addresses leave
 *   flow_net_commit()      they do not come back by themselves any more, should we die
 *     ... GO, RUNNING: guest's sockets here are gone (TCP_REPAIR: silently) ...
 *   flow_net_caught()        -> to the target: what peers sent meanwhile
 *                          (some 100 ms long: until every neighbour has heard of the new place)
 *   flow_net_done()        success; where a script moves the addresses, after it has done so: what
 *                          still comes here without a lock is answered by RST
 *   flow_net_undo()        failure before GO: addresses are back, the lock is open, sockets have
 *                          what came meanwhile. Call it when the guest's sockets are as they were,
 *                          and flow_net_done() when the guest runs: it waits 10 ms for the kernel
 *   flow_net_keep()        undecided: it stays as it is until flow_net_lift_kept()
 *
 * Target:
 *
 *   flow_net_target()      preflight: there is room for the addresses; rules, record, announcer
 *   flow_net_close()       as soon as the connections are known, before flow_net_put()
 *   flow_net_put()         addresses arrive, before sockets are bound to them
 *     ... sockets are made in TCP_REPAIR; GO ...
 *   flow_net_open()        the lock opens and the new place is announced; after it sockets leave
 *                          TCP_REPAIR
 *   flow_net_provoke()     peers learn at once what has arrived
 *   flow_net_replay()      what the source caught
 *   flow_net_done()        when the guest runs; flow_net_undo() before it otherwise
 *
 * Dump: source without addresses, then flow_net_undo() and flow_net_done() (the guest goes on),
 * only flow_net_done() (its connections end here) or flow_net_keep() (they wait for restore).
 * Restore: flow_net_lift_kept() before sockets leave TCP_REPAIR; flow_net_target() without
 * addresses where there is no kept lock, on another host.
 *
 * All of it is nothing where there are neither connections nor addresses: pass NULL.
 */
#pragma once

#include "err.h"
#include "net_addr.h"
#include "net_conn.h"

struct flow_net;

/* At each start of criu-lite, and in the guard when its owner has died: undoes what criu-lites
 * that died have left. What cannot be undone is warned of. */
void flow_net_sweep(void);

/* `id`: of the migration; `netns`: the guest's network (fd), -1: ours; `control`: connection to
 * the target (-1: none), which must not be one that breaks with the addresses. `addrs` are looked
 * up in place and stay the caller's. */
int flow_net_source(struct flow_net **fn, const char *id, int netns, net_addr_vec *addrs,
		    int control, struct err *e);
/* `lines`: what flow_net_addresses() gave. */
int flow_net_target(struct flow_net **fn, const char *id, int netns, char *const *lines, size_t n,
		    struct err *e);

/* As lines of text for a message; the caller frees each and the array. */
char **flow_net_addresses(const struct flow_net *fn, size_t *n);

/* Listening sockets may be closed before the guest is frozen, connections only then; may be called
 * several times. */
int flow_net_close(struct flow_net *fn, const struct net_conn *conns, size_t n, struct err *e);
int flow_net_take(struct flow_net *fn, struct err *e);
int flow_net_commit(struct flow_net *fn, struct err *e);
int flow_net_put(struct flow_net *fn, struct err *e);
int flow_net_open(struct flow_net *fn, struct err *e);

/* Packets, appended to `out`; may be called again for what came later. */
int flow_net_caught(struct flow_net *fn, struct buf *out, struct err *e);
/* Not an error if some get lost: peers repeat them. */
void flow_net_replay(struct flow_net *fn, const void *packets, size_t n);
void flow_net_provoke(struct flow_net *fn, const struct net_conn *conns, size_t n);

int flow_net_undo(struct flow_net *fn, struct err *e);
/* These two free it, also on error. NULL is fine everywhere. */
int flow_net_done(struct flow_net *fn, struct err *e);
int flow_net_keep(struct flow_net *fn, struct err *e);

/* Name of a kept lock (for the images, for messages) and its lifting. `back`: its addresses come
 * back here. -ENOENT: there is none. */
const char *flow_net_id(const struct flow_net *fn);
int flow_net_lift_kept(const char *id, bool back, struct err *e);
