/* SPDX-License-Identifier: Apache-2.0 */
#include "net_lock.h"

#include <errno.h>
#include <linux/netlink.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"
#include "net_nl.h"
#include "net_record.h"
#include "net_table.h"

struct net_lock {
	struct net_record record;
	char table[NET_TABLE_NAME];
	struct mnl_socket *nl;       /* of its network */
};

static void lock_free(struct net_lock *l)
{
	net_nl_close(&l->nl);
	net_record_free(&l->record);
	free(l);
}

static int make_table(struct net_lock *l, int group, struct err *e)
{
	int ret = net_table_make(l->nl, l->table, group, e);

	if (ret == -EOPNOTSUPP && group >= 0) {
		err_clear(e);
		ret = net_table_make(l->nl, l->table, NET_LOCK_NO_GROUP, e);
		if (ret == 0)
			log_info("this kernel cannot keep segments that come during the switch "
				 "(CONFIG_NFT_LOG)");
	}
	return ret;
}

int net_lock_prepare(struct net_lock **lock, const char *id, int netns, int group, struct err *e)
{
	struct net_lock *l = xcalloc(1, sizeof(*l));
	struct err ignored = ERR_INIT;
	int ret = net_record_make(&l->record, id, netns, e);

	*lock = NULL;
	net_table_name(l->table, id);
	if (ret == 0 && (ret = net_nl_open(&l->nl, NETLINK_NETFILTER, netns, e)) == 0 &&
	    (ret = net_record_write(&l->record, true, e)) == 0) {
		ret = make_table(l, group, e);
		if (ret == 0) {
			*lock = l;
			return 0;
		}
		net_record_drop(id, &ignored);
	}
	lock_free(l);
	return err_in(e, "network lock %s", id);
}

int net_lock_add(struct net_lock *l, const struct net_conn *conns, size_t n, struct err *e)
{
	int ret = net_table_add(l->nl, l->table, conns, n, e);

	return ret < 0 ? err_in(e, "network lock %s", l->record.id) : 0;
}

int net_lock_note(struct net_lock *l, enum net_undo how, const struct net_addr *addrs, size_t n,
		  struct err *e)
{
	net_record_set_undo(&l->record, how, addrs, n);
	int ret = net_record_write(&l->record, false, e);

	return ret < 0 ? err_in(e, "network lock %s", l->record.id) : 0;
}

int net_lock_open(struct net_lock *l, struct err *e)
{
	int ret = net_table_empty(l->nl, l->table, e);

	return ret < 0 ? err_in(e, "network lock %s", l->record.id) : 0;
}

int net_lock_lift(struct net_lock *l, struct err *e)
{
	if (!l)
		return 0;
	int ret = net_table_delete(l->nl, l->table, e);

	if (ret == 0)
		ret = net_record_drop(l->record.id, e);
	if (ret < 0)
		err_in(e, "network lock %s", l->record.id);
	lock_free(l);
	return ret;
}

int net_lock_keep(struct net_lock *l, struct err *e)
{
	l->record.owner = 0;
	int ret = net_record_write(&l->record, false, e);

	lock_free(l);
	return ret;
}

void net_lock_abandon(struct net_lock *l)
{
	lock_free(l);
}

/* ---- locks of others ---- */

static int undo_in(const struct net_record *r, int netns, struct err *e)
{
	_cleanup_nl_ struct mnl_socket *nl = NULL, *rt = NULL;
	char table[NET_TABLE_NAME];
	struct err ignored = ERR_INIT;
	int ret = net_nl_open(&nl, NETLINK_NETFILTER, netns, e);

	net_table_name(table, r->id);
	if (ret < 0 || (ret = net_nl_open(&rt, NETLINK_ROUTE, netns, e)) < 0)
		return ret;
	/* first the addresses: a packet that comes in between must find the lock closed */
	ret = net_record_undo(r, rt, e);
	int deleted = net_table_delete(nl, table, ret < 0 ? &ignored : e);
	return ret < 0 ? ret : deleted;
}

static int lift_recorded(const struct net_record *r, struct err *e)
{
	_cleanup_close_ int netns = -1;
	int ret = 0;

	/* where its network has gone, its table has gone with it */
	if (net_ns_find(r->net_ns, &netns) == 0)
		ret = undo_in(r, netns, e);
	if (ret == 0)
		ret = net_record_drop(r->id, e);
	return ret < 0 ? err_in(e, "network lock %s", r->id) : 0;
}

int net_lock_lift_id(const char *id, bool undo, struct err *e)
{
	struct net_record r;
	int ret = net_record_read(&r, id, e);

	if (ret < 0)
		return ret;
	if (!undo)
		net_record_free(&r);
	ret = lift_recorded(&r, e);
	net_record_free(&r);
	return ret;
}

int net_lock_sweep(struct err *e)
{
	net_record_vec all = { 0 };
	int ret = net_record_list(&all, e);

	vec_each(&all, r) {
		struct err wrong = ERR_INIT;

		if (!net_record_is_orphan(r))
			continue;
		if (lift_recorded(r, &wrong) < 0) {
			log_warn("%s", wrong.text);
			if (ret == 0) {
				*e = wrong;
				ret = -wrong.code;
			}
		} else {
			log_info("network lock %s lifted: its owner, process %d, has died", r->id,
				 r->owner);
		}
	}
	vec_each(&all, r)
		net_record_free(r);
	vec_free(&all);
	return ret;
}
