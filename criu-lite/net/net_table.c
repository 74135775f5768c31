/* SPDX-License-Identifier: Apache-2.0 */
#include "net_table.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "net_rule.h"

#define MESSAGE_MAX 65536
#define ELEMENTS_MAX 1000        /* in one message: the length of an attribute has 16 bits */

void net_table_name(char name[NET_TABLE_NAME], const char *id)
{
	snprintf(name, NET_TABLE_NAME, "criu-lite-%s", id);
}

static int explain(int code, const char *name, struct err *e)
{
	if (code == EOPNOTSUPP || code == ENOENT) { /* ENOENT: of a missing kernel module */
		err_say(e, EOPNOTSUPP, "nftables: this kernel cannot make %s", name);
		return err_remedy(e, "nftables with the family inet is needed "
				     "(CONFIG_NF_TABLES_INET, module nf_tables)");
	}
	err_set(e, code, "nftables: making %s", name);
	return code == EPERM ? err_remedy(e, "CAP_NET_ADMIN in the guest's network is needed")
			     : -code;
}

int net_table_make(struct mnl_socket *nl, const char *name, int group, struct err *e)
{
	_cleanup_batch_ struct net_batch b;

	net_batch_begin(&b);
	net_rule_put_all(&b, name, group);
	int ret = net_batch_commit(&b, nl);
	return ret < 0 ? explain(-ret, name, e) : 0;
}

/* ---- elements ---- */

struct key {
	uint8_t at[40];
	size_t n;
};

/* Each part of a joined key begins at a multiple of four bytes, also the one after the last. */
static void put_end(struct key *k, int family, const struct net_end *end, bool with_addr)
{
	size_t size = family == AF_INET ? 4 : 16;
	uint16_t port = htons(end->port);

	if (with_addr) {
		memcpy(k->at + k->n, &end->v6, size);
		k->n += size;
	}
	memcpy(k->at + k->n, &port, sizeof(port));
	k->n += with_addr ? 4 : sizeof(port);
}

static bool is_any(const struct net_conn *c)
{
	return c->family == AF_INET ? c->local.v4.s_addr == INADDR_ANY
				    : IN6_IS_ADDR_UNSPECIFIED(&c->local.v6);
}

static int set_of(const struct net_conn *c)
{
	int six = c->family == AF_INET6;

	if (!net_conn_is_listener(c))
		return NET_C4 + six;
	return (is_any(c) ? NET_A4 : NET_L4) + six;
}

static void put_element(struct nlmsghdr *nlh, const struct net_conn *c)
{
	struct key k = { .n = 0 };
	int set = set_of(c);

	if (set <= NET_C6)
		put_end(&k, c->family, &c->remote, true);
	put_end(&k, c->family, &c->local, set < NET_A4);
	struct nlattr *elem = mnl_attr_nest_start(nlh, NFTA_LIST_ELEM);
	struct nlattr *key = mnl_attr_nest_start(nlh, NFTA_SET_ELEM_KEY);
	mnl_attr_put(nlh, NFTA_DATA_VALUE, k.n, k.at);
	mnl_attr_nest_end(nlh, key);
	mnl_attr_nest_end(nlh, elem);
}

/* Messages for one set; returns how many elements. */
static size_t put_set(struct net_batch *b, const char *table, int set, const struct net_conn *conns,
		      size_t n)
{
	_cleanup_free_ char *at = xmalloc(MESSAGE_MAX);
	struct nlmsghdr *nlh = NULL;
	struct nlattr *list = NULL;
	size_t count = 0;

	for (size_t i = 0; i <= n; i++) {
		bool is_end = i == n;

		if (!is_end && set_of(&conns[i]) != set)
			continue;
		if (nlh && (is_end || count % ELEMENTS_MAX == 0)) {
			mnl_attr_nest_end(nlh, list);
			net_batch_put(b, nlh);
			nlh = NULL;
		}
		if (is_end)
			break;
		if (!nlh) {
			nlh = net_batch_message(at, NFT_MSG_NEWSETELEM, NLM_F_CREATE);
			mnl_attr_put_strz(nlh, NFTA_SET_ELEM_LIST_TABLE, table);
			mnl_attr_put_strz(nlh, NFTA_SET_ELEM_LIST_SET, net_set_names[set]);
			list = mnl_attr_nest_start(nlh, NFTA_SET_ELEM_LIST_ELEMENTS);
		}
		put_element(nlh, &conns[i]);
		count++;
	}
	return count;
}

int net_table_add(struct mnl_socket *nl, const char *name, const struct net_conn *conns, size_t n,
		  struct err *e)
{
	_cleanup_batch_ struct net_batch b;
	size_t added = 0;
	int ret = 0;

	net_batch_begin(&b);
	for (int set = 0; set < NET_SETS; set++)
		added += put_set(&b, name, set, conns, n);
	if (added)
		ret = net_batch_commit(&b, nl);
	return ret < 0 ? err_set(e, -ret, "nftables: %zu connections into %s", added, name) : 0;
}

int net_table_empty(struct mnl_socket *nl, const char *name, struct err *e)
{
	_cleanup_batch_ struct net_batch b;
	char at[512];

	net_batch_begin(&b);
	for (int set = 0; set < NET_SETS; set++) {
		struct nlmsghdr *nlh = net_batch_message(at, NFT_MSG_DELSETELEM, 0);

		/* no elements named: all of them */
		mnl_attr_put_strz(nlh, NFTA_SET_ELEM_LIST_TABLE, name);
		mnl_attr_put_strz(nlh, NFTA_SET_ELEM_LIST_SET, net_set_names[set]);
		net_batch_put(&b, nlh);
	}
	int ret = net_batch_commit(&b, nl);
	return ret < 0 ? err_set(e, -ret, "nftables: emptying %s", name) : 0;
}

int net_table_delete(struct mnl_socket *nl, const char *name, struct err *e)
{
	_cleanup_batch_ struct net_batch b;
	char at[512];

	net_batch_begin(&b);
	struct nlmsghdr *nlh = net_batch_message(at, NFT_MSG_DELTABLE, 0);
	mnl_attr_put_strz(nlh, NFTA_TABLE_NAME, name);
	net_batch_put(&b, nlh);
	int ret = net_batch_commit(&b, nl);
	return ret < 0 && ret != -ENOENT ? err_set(e, -ret, "nftables: deleting %s", name) : 0;
}
