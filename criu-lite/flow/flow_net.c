/* SPDX-License-Identifier: Apache-2.0 */
#include "flow_net.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "io.h"
#include "log.h"
#include "net_announce.h"
#include "net_catch.h"
#include "net_lock.h"
#include "net_nl.h"
#include "net_provoke.h"

struct flow_net {
	bool is_source;
	char id[NET_ID_MAX + 1];
	int netns;                   /* own descriptor, -1: our network */
	net_addr_vec addrs;
	size_t moved;                /* so many of them are away (source), here (target) */
	bool stuck;                  /* one of them could not be moved back */
	struct mnl_socket *rt;
	struct net_lock *lock;
	struct net_catch *kept;      /* what peers send meanwhile; source only, NULL: no NFLOG */
	struct net_announcer *announcer;
};

void flow_net_sweep(void)
{
	struct err said = ERR_INIT; /* each failure was warned of */

	net_lock_sweep(&said);
}

/* ---- making ---- */

static void net_free(struct flow_net *fn)
{
	net_announcer_free(fn->announcer);
	net_catch_free(fn->kept);
	net_nl_close(&fn->rt);
	vec_each(&fn->addrs, a)
		net_addr_free(a);
	vec_free(&fn->addrs);
	if (fn->netns >= 0)
		close(fn->netns);
	free(fn);
}

static int net_new(struct flow_net **out, const char *id, bool is_source, int netns, struct err *e)
{
	struct flow_net *fn = xcalloc(1, sizeof(*fn));

	/* on one machine both sides may share a network */
	snprintf(fn->id, sizeof(fn->id), "%s-%s", id, is_source ? "from" : "to");
	fn->is_source = is_source;
	fn->netns = netns < 0 ? -1 : fcntl(netns, F_DUPFD_CLOEXEC, 3);
	*out = fn;
	return net_nl_open(&fn->rt, NETLINK_ROUTE, fn->netns, e);
}

/* Without it the guest's peers wait longer, no more. */
static void begin_catching(struct flow_net *fn)
{
	struct err why = ERR_INIT;

	if (net_catch_new(&fn->kept, fn->netns, &why) < 0)
		log_info("packets that come during the switch are lost (%s)", why.text);
}

static int prepare_lock(struct flow_net *fn, struct err *e)
{
	int group = fn->kept ? net_catch_group(fn->kept) : NET_LOCK_NO_GROUP;

	return net_lock_prepare(&fn->lock, fn->id, fn->netns, group, e);
}

/* ---- source ---- */

static bool is_end_of(int control, const struct net_addr *a)
{
	struct sockaddr_storage sa;
	socklen_t n = sizeof(sa);
	struct net_conn c;

	return control >= 0 && getsockname(control, (struct sockaddr *)&sa, &n) == 0 &&
	       net_conn_set(&c, (struct sockaddr *)&sa, NULL) && c.family == a->family &&
	       !memcmp(&c.local.v6, &a->ip, a->family == AF_INET ? 4 : 16);
}

static int look(struct flow_net *fn, net_addr_vec *addrs, int control, struct err *e)
{
	char ip[INET6_ADDRSTRLEN + 4];

	vec_each(addrs, a) {
		int ret = net_addr_look(fn->rt, a, e);

		if (ret < 0)
			return ret;
		if (is_end_of(control, a)) {
			err_say(e, EINVAL, "address %s: this migration goes over it",
				net_addr_text(a, ip));
			return err_remedy(e, "reach the target from another address of this host");
		}
		struct net_addr *own = vec_new(&fn->addrs);
		*own = *a;
		own->routes = (struct buf){ 0 };
		buf_put(&own->routes, a->routes.at, a->routes.n);
	}
	return 0;
}

int flow_net_source(struct flow_net **out, const char *id, int netns, net_addr_vec *addrs,
		    int control, struct err *e)
{
	struct flow_net *fn;
	int ret = net_new(&fn, id, true, netns, e);

	*out = NULL;
	if (ret == 0 && (ret = look(fn, addrs, control, e)) == 0) {
		begin_catching(fn);
		ret = prepare_lock(fn, e);
	}
	if (ret == 0)
		*out = fn;
	else
		net_free(fn);
	return ret;
}

char **flow_net_addresses(const struct flow_net *fn, size_t *n)
{
	*n = fn ? fn->addrs.n : 0;
	char **lines = xcalloc(*n + 1, sizeof(*lines));

	for (size_t i = 0; i < *n; i++)
		lines[i] = net_addr_pack(&fn->addrs.at[i]);
	return lines;
}

/* ---- target ---- */

static int make_room(struct flow_net *fn, char *const *lines, size_t n, struct err *e)
{
	for (size_t i = 0; i < n; i++) {
		struct net_addr *a = vec_new(&fn->addrs);
		int ret = net_addr_unpack(a, lines[i], e);

		if (ret < 0)
			return ret;
		net_addr_land(a);
		if ((ret = net_addr_room(fn->rt, a, e)) < 0)
			return ret;
	}
	return n ? net_announcer_new(&fn->announcer, fn->netns, fn->addrs.at, n, e) : 0;
}

int flow_net_target(struct flow_net **out, const char *id, int netns, char *const *lines, size_t n,
		    struct err *e)
{
	struct flow_net *fn;
	int ret = net_new(&fn, id, false, netns, e);

	*out = NULL;
	if (ret == 0 && (ret = make_room(fn, lines, n, e)) == 0)
		ret = prepare_lock(fn, e);
	if (ret == 0)
		*out = fn;
	else
		net_free(fn);
	return ret;
}

/* ---- the switch ---- */

static bool listens_everywhere(const struct net_conn *c)
{
	static const struct in6_addr any;

	return net_conn_is_listener(c) &&
	       !memcmp(&c->local.v6, &any, c->family == AF_INET ? 4 : 16);
}

/* Who listens on any address of this host listens on those that move, also when they have left. */
static void add_listeners(const struct flow_net *fn, const struct net_conn *c, net_conn_vec *out)
{
	vec_each(&fn->addrs, a) {
		if (a->family != c->family)
			continue;
		struct net_conn *own = vec_new(out);
		*own = *c;
		memcpy(&own->local.v6, &a->ip, a->family == AF_INET ? 4 : 16);
	}
}

int flow_net_close(struct flow_net *fn, const struct net_conn *conns, size_t n, struct err *e)
{
	uint64_t since = io_now_ns();
	net_conn_vec more = { 0 };

	if (!fn || !n)
		return 0;
	for (size_t i = 0; i < n; i++)
		if (listens_everywhere(&conns[i]))
			add_listeners(fn, &conns[i], &more);
	int ret = net_lock_add(fn->lock, conns, n, e);
	if (ret == 0 && more.n)
		ret = net_lock_add(fn->lock, more.at, more.n, e);
	vec_free(&more);
	log_debug("network lock: %zu connections in %.3f ms", n,
		  (double)(io_now_ns() - since) / 1e6);
	return ret;
}

static int move(struct flow_net *fn, enum net_undo undo, struct err *e)
{
	uint64_t since = io_now_ns();
	int ret = 0;

	if (!fn || !fn->addrs.n)
		return 0;
	if ((ret = net_lock_note(fn->lock, undo, fn->addrs.at, fn->addrs.n, e)) < 0)
		return ret;
	for (; ret == 0 && fn->moved < fn->addrs.n; fn->moved += ret == 0)
		ret = fn->is_source ? net_addr_take(fn->rt, &fn->addrs.at[fn->moved], e) :
				      net_addr_put(fn->rt, &fn->addrs.at[fn->moved], false, e);
	log_debug("%zu addresses moved in %.3f ms", fn->moved, (double)(io_now_ns() - since) / 1e6);
	return ret;
}

int flow_net_take(struct flow_net *fn, struct err *e) { return move(fn, NET_UNDO_PUT, e); }

int flow_net_put(struct flow_net *fn, struct err *e) { return move(fn, NET_UNDO_TAKE, e); }

int flow_net_commit(struct flow_net *fn, struct err *e)
{
	return fn && fn->addrs.n ? net_lock_note(fn->lock, NET_UNDO_NOTHING, NULL, 0, e) : 0;
}

int flow_net_open(struct flow_net *fn, struct err *e)
{
	if (!fn)
		return 0;
	int ret = net_lock_open(fn->lock, e);

	if (ret == 0)
		net_announcer_go(fn->announcer);
	return ret;
}

int flow_net_caught(struct flow_net *fn, struct buf *out, struct err *e)
{
	return fn && fn->kept ? net_catch_take(fn->kept, out, e) : 0;
}

void flow_net_replay(struct flow_net *fn, const void *packets, size_t n)
{
	struct err why = ERR_INIT;
	unsigned given = 0;

	if (!fn || !n)
		return;
	if (net_catch_replay(packets, n, fn->netns, &given, &why) < 0)
		log_info("packets that came during the switch are lost (%s)", why.text);
	else
		log_debug("%u packets that came during the switch given to the guest", given);
}

void flow_net_provoke(struct flow_net *fn, const struct net_conn *conns, size_t n)
{
	struct err why = ERR_INIT;

	if (fn && n && net_provoke(conns, n, NET_PROVOKE_ONCE, fn->netns, &why) < 0)
		log_info("peers are not told at once (%s)", why.text);
}

/* ---- the end ---- */

/* Neighbours may have asked while the target had them. */
static void announce_back(struct flow_net *fn)
{
	struct err why = ERR_INIT;

	if (net_announcer_new(&fn->announcer, fn->netns, fn->addrs.at, fn->addrs.n, &why) < 0)
		log_warn("%s", why.text);
	net_announcer_go(fn->announcer);
}

static int move_back(struct flow_net *fn, struct err *e)
{
	for (; fn->moved; fn->moved--) {
		const struct net_addr *a = &fn->addrs.at[fn->moved - 1];
		struct err why = ERR_INIT;
		int ret = fn->is_source ? net_addr_put(fn->rt, a, true, &why)
					: net_addr_take(fn->rt, a, &why);

		if (ret == 0)
			continue;
		if (err_is(e))
			log_warn("%s", why.text);
		else
			*e = why;
	}
	return -e->code;
}

int flow_net_undo(struct flow_net *fn, struct err *e)
{
	_cleanup_(buf_free) struct buf packets = { 0 };
	struct err why = ERR_INIT, opening = ERR_INIT;

	if (!fn)
		return 0;
	bool away = fn->is_source && fn->moved;
	fn->stuck = move_back(fn, &why) < 0;
	if (net_lock_open(fn->lock, &opening) == 0) {
		flow_net_caught(fn, &packets, &opening);
		flow_net_replay(fn, packets.at, packets.n);
	}
	if (away)
		announce_back(fn);
	if (!err_is(&why))
		why = opening;
	if (err_is(&why))
		*e = why;
	return -why.code;
}

int flow_net_done(struct flow_net *fn, struct err *e)
{
	int ret = 0;

	if (!fn)
		return 0;
	/* an address that is not back stays in the record, for the next start */
	if (fn->stuck)
		net_lock_abandon(fn->lock);
	else
		ret = net_lock_lift(fn->lock, e);
	net_free(fn);
	return ret;
}

int flow_net_keep(struct flow_net *fn, struct err *e)
{
	struct err why = ERR_INIT;

	if (!fn)
		return 0;
	/* whoever lifts it says whether they come back */
	int noted = fn->moved ? net_lock_note(fn->lock, NET_UNDO_PUT, fn->addrs.at, fn->moved, e)
			      : 0;
	int kept = net_lock_keep(fn->lock, noted < 0 ? &why : e);

	net_free(fn);
	return noted < 0 ? noted : kept;
}

const char *flow_net_id(const struct flow_net *fn) { return fn->id; }

int flow_net_lift_kept(const char *id, bool back, struct err *e)
{
	return net_lock_lift_id(id, back, e);
}
