/* SPDX-License-Identifier: Apache-2.0 */
#include "flow_links.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "kind_tcp.h"
#include "log.h"
#include "net_queue.h"

/* ---- either side ---- */

int links_script(struct links *l, const char *action, pid_t root, struct err *e)
{
	struct script_env env = {
		.image_dir = l->peer[0] ? NULL : l->o->images_dir,
		.init_pid = root,
		.peer = l->peer[0] ? l->peer : NULL,
		.id = l->id[0] ? l->id : NULL,
		.side = l->is_source ? "source" : "target",
		.addresses = l->addresses.n ? (char *)l->addresses.at : NULL,
	};

	return flow_script_run(l->o->action_script, action, &env, e);
}

/* Where it is too late to fail. */
static void script_anyway(struct links *l, const char *action, pid_t root)
{
	struct err why = ERR_INIT;

	if (links_script(l, action, root, &why) < 0)
		log_warn("%s", why.text);
}

static void begin(struct links *l, const struct flow_opts *o, const char *id, const char *peer,
		  bool is_source)
{
	*l = (struct links){ .o = o, .is_source = is_source };
	snprintf(l->id, sizeof(l->id), "%s", id);
	snprintf(l->peer, sizeof(l->peer), "%s", peer ? peer : "");
}

static void note_address(struct links *l, const struct net_addr *a)
{
	char text[INET6_ADDRSTRLEN + 4];

	if (l->addresses.n)
		l->addresses.at[l->addresses.n - 1] = ' '; /* was the end of the string */
	net_addr_text(a, text);
	buf_put(&l->addresses, text, strlen(text) + 1);
}

void links_end(struct links *l)
{
	struct err why = ERR_INIT;

	if (flow_net_done(steal_ptr(l->net), &why) < 0)
		log_warn("%s", why.text);
	net_queue_close(steal_ptr(l->queue));
	vec_free(&l->conns);
	buf_free(&l->addresses);
}

/* ---- source ---- */

static int parse_addresses(struct links *l, net_addr_vec *out, struct err *e)
{
	for (unsigned i = 0; i < l->o->n_move_address; i++) {
		struct net_addr *a = vec_new(out);
		int ret = net_addr_parse(a, l->o->move_address[i], e);

		if (ret < 0)
			return err_in(e, "--move-address %s", l->o->move_address[i]);
		note_address(l, a);
	}
	return 0;
}

/* Early, as it takes its time. If it cannot be done, whoever needs it says so. */
static void open_queue(struct links *l)
{
	struct err why = ERR_INIT;

	if (net_queue_open(&l->queue, &why) < 0 || net_queue_try(l->queue, &why) == 0)
		return;
	net_queue_close(steal_ptr(l->queue));
}

int links_source(struct links *l, const struct flow_opts *o, const char *id, const char *where,
		 int control, struct err *e)
{
	net_addr_vec addrs = { 0 };
	int ret;

	begin(l, o, id, where, true);
	if ((ret = flow_script_check(o->action_script, e)) == 0)
		ret = parse_addresses(l, &addrs, e);
	if (ret == 0 && (o->kinds.tcp_established || addrs.n))
		ret = flow_net_source(&l->net, id, -1, &addrs, control, e);
	if (ret == 0 && o->kinds.tcp_established && !o->kinds.skip_in_flight)
		open_queue(l);
	vec_each(&addrs, a)
		net_addr_free(a);
	vec_free(&addrs);
	if (ret == 0)
		ret = links_script(l, "pre-dump", o->pid, e);
	return ret;
}

typedef VEC(pid_t) pids_vec;

static void pids_of(const struct guest *g, pids_vec *out)
{
	vec_each(&g->tree.task, t)
		if ((*t)->state != TASK_DEAD)
			vec_push(out, (*t)->pid);
}

static int conns_of(const struct guest *g, net_conn_vec *out, struct err *e)
{
	pids_vec pids = { 0 };

	pids_of(g, &pids);
	int ret = kind_tcp_conns(pids.at, pids.n, out, e);
	vec_free(&pids);
	return ret;
}

#define ACCEPT_LOOKS     10
#define ACCEPT_LOOKS_MAX 40      /* where they cannot be taken over */
#define HANDSHAKE_LOOKS  250
#define LOOK_PAUSE_NS    1000000

/* The door is closed: handshakes under way end by themselves, and a guest that calls accept() has
 * soon taken those who wait. True: somebody is still at the door, and is taken over by us. */
static bool let_in(const net_conn_vec *listeners, int looks)
{
	net_conn_vec there = { 0 };
	struct err why = ERR_INIT;
	size_t half = 0;
	bool left = true;

	for (int i = 0; left && i < (half ? HANDSHAKE_LOOKS : looks); i++) {
		if (i)
			nanosleep(&(struct timespec){ .tv_nsec = LOOK_PAUSE_NS }, NULL);
		there.n = 0;
		if (kind_tcp_arrivals(listeners, &there, &half, &why) < 0)
			break;
		left = there.n > 0;
	}
	vec_free(&there);
	return left;
}

void links_close_listeners(struct links *l, const struct guest *g)
{
	net_conn_vec all = { 0 };
	struct err why = ERR_INIT;
	size_t n = 0;

	if (!l->net || !l->o->kinds.tcp_established || conns_of(g, &all, &why) < 0)
		return; /* the frozen guest will show what is wrong */
	for (size_t i = 0; i < all.n; i++)
		if (net_conn_is_listener(&all.at[i]))
			all.at[n++] = all.at[i];
	all.n = n;
	l->listeners_closed = n > 0;
	if (flow_net_close(l->net, all.at, n, &why) < 0)
		log_info("%s", why.text);
	else if (n && !l->o->kinds.skip_in_flight)
		l->knocking = let_in(&all, l->queue ? ACCEPT_LOOKS : ACCEPT_LOOKS_MAX);
	kind_dump_use_queue(g->kinds, l->queue);
	vec_free(&all);
}

/* Those who are still at the door, also in a handshake that may end at any time. */
static int add_arrivals(net_conn_vec *conns, struct err *e)
{
	net_conn_vec listeners = { 0 };
	size_t half;

	vec_each(conns, c)
		if (net_conn_is_listener(c))
			vec_push(&listeners, *c);
	int ret = kind_tcp_arrivals(&listeners, conns, &half, e);
	vec_free(&listeners);
	return ret;
}

int links_close(struct links *l, const struct guest *g, struct err *e)
{
	int ret = 0;

	l->closed = true;
	l->conns.n = 0;
	if (l->net && l->o->kinds.tcp_established && (ret = conns_of(g, &l->conns, e)) == 0 &&
	    (!l->knocking || (ret = add_arrivals(&l->conns, e)) == 0))
		ret = flow_net_close(l->net, l->conns.at, l->conns.n, e);
	return ret < 0 ? ret : links_script(l, "network-lock", g->tree.task.at[0]->pid, e);
}

int links_take(struct links *l, pid_t root, struct err *e)
{
	int ret = links_script(l, "post-dump", root, e);

	return ret < 0 ? ret : flow_net_take(l->net, e);
}

int links_commit(struct links *l, struct err *e) { return flow_net_commit(l->net, e); }

void links_undo(struct links *l, pid_t root)
{
	struct err why = ERR_INIT;

	if ((l->closed || l->listeners_closed) && flow_net_undo(l->net, &why) < 0)
		log_warn("%s", why.text);
	if (l->closed)
		script_anyway(l, "network-unlock", root);
	l->closed = l->listeners_closed = l->knocking = false;
}

/* ---- target ---- */

int links_target(struct links *l, const struct flow_opts *o, bool tcp, const char *id,
		 const char *peer, char *const *addresses, size_t n, struct err *e)
{
	struct err why = ERR_INIT;
	int ret;

	begin(l, o, id, peer, false);
	if ((ret = flow_script_check(o->action_script, e)) < 0)
		return ret;
	for (size_t i = 0; i < n; i++) {
		struct net_addr a;

		if ((ret = net_addr_unpack(&a, addresses[i], e)) < 0)
			return ret;
		note_address(l, &a);
		net_addr_free(&a);
	}
	if (tcp || n)
		ret = flow_net_target(&l->net, id, -1, addresses, n, e);
	if (tcp && ret == 0 && net_queue_open(&l->queue, &why) < 0)
		log_debug("no connections that wait for accept() can come here: %s", why.text);
	return ret < 0 ? ret : links_script(l, "pre-restore", 0, e);
}

int links_arrive(struct links *l, struct kind_restore *kinds, const struct img_set *set,
		 struct err *e)
{
	int ret;

	if (!l->net)
		return 0;
	l->closed = true;
	kind_restore_use_queue(kinds, l->queue);
	if ((ret = kind_tcp_conns_in(set, &l->conns, e)) < 0 ||
	    (ret = flow_net_close(l->net, l->conns.at, l->conns.n, e)) < 0)
		return ret;
	return flow_net_put(l->net, e);
}

int links_open(struct links *l, pid_t root, struct err *e)
{
	int ret = links_script(l, "pre-resume", root, e);

	if (ret < 0 || (ret = flow_net_open(l->net, e)) < 0)
		return ret;
	script_anyway(l, "network-unlock", root);
	return 0;
}

void links_running(struct links *l, pid_t root)
{
	flow_net_provoke(l->net, l->conns.at, l->conns.n);
	script_anyway(l, "post-resume", root);
}

void links_give_up(struct links *l, pid_t root)
{
	links_undo(l, root);
	links_end(l);
}
