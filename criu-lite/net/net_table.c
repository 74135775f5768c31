/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The rules are text for libnftables. What happens while the guest is frozen, filling the sets and
 * deleting the table, is netlink without a detour: parsing 500 connections takes libnftables more
 * than 2 ms.
 */
#include "net_table.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <nftables/libnftables.h>
#include <stdio.h>
#include <string.h>

#include "net_nl.h"

/* Before connection tracking and everybody else's rules. The key is remote address and port, local
 * address and port, in both directions. What comes in is met twice: before routing, as it may be
 * for an address that has just left this host, and before TCP, as others' rules may have changed
 * its destination on the way there. */
static const char rules[] =
	"add table inet %1$s\n"
	"add set inet %1$s c4 { type ipv4_addr . inet_service . ipv4_addr . inet_service; }\n"
	"add set inet %1$s c6 { type ipv6_addr . inet_service . ipv6_addr . inet_service; }\n"
	"add set inet %1$s l4 { type ipv4_addr . inet_service; }\n"
	"add set inet %1$s l6 { type ipv6_addr . inet_service; }\n"
	"add set inet %1$s a4 { type inet_service; }\n"
	"add set inet %1$s a6 { type inet_service; }\n"
	"add chain inet %1$s take\n"
	"add rule inet %1$s take %2$s drop\n"
	"add chain inet %1$s in\n"
	"add rule inet %1$s in ip saddr . tcp sport . ip daddr . tcp dport @c4 goto take\n"
	"add rule inet %1$s in ip6 saddr . tcp sport . ip6 daddr . tcp dport @c6 goto take\n"
	"add rule inet %1$s in tcp flags & (syn|ack) == syn ip daddr . tcp dport @l4 goto take\n"
	"add rule inet %1$s in tcp flags & (syn|ack) == syn ip6 daddr . tcp dport @l6 goto take\n"
	"add chain inet %1$s pre { type filter hook prerouting priority -300; }\n"
	"add rule inet %1$s pre meta l4proto tcp jump in\n"
	"add chain inet %1$s input { type filter hook input priority -300; }\n"
	"add rule inet %1$s input meta l4proto tcp jump in\n"
	/* any address means any of this host: not what passes through it */
	"add rule inet %1$s input tcp flags & (syn|ack) == syn meta nfproto ipv4 tcp dport @a4 "
	"goto take\n"
	"add rule inet %1$s input tcp flags & (syn|ack) == syn meta nfproto ipv6 tcp dport @a6 "
	"goto take\n"
	"add chain inet %1$s out { type filter hook output priority -300; }\n"
	"add rule inet %1$s out ip daddr . tcp dport . ip saddr . tcp sport @c4 drop\n"
	"add rule inet %1$s out ip6 daddr . tcp dport . ip6 saddr . tcp sport @c6 drop\n";

void net_table_name(char name[NET_TABLE_NAME], const char *id)
{
	snprintf(name, NET_TABLE_NAME, "criu-lite-%s", id);
}

/* ---- making ---- */

static int explain(struct nft_ctx *nft, struct err *e)
{
	const char *said = nft_ctx_get_error_buffer(nft), *what = strstr(said, "Error: ");
	int code = errno;

	what = what ? what + strlen("Error: ") : said;
	if (code == 0 || code == ENOENT) /* ENOENT: of a missing kernel module */
		code = EOPNOTSUPP;
	err_say(e, code, "nftables: %.*s", (int)strcspn(what, "\n"), what);
	return err_remedy(e, "nftables with the family inet is needed (CONFIG_NF_TABLES_INET, "
			     "module nf_tables)");
}

int net_table_make(const char *name, int group, struct err *e)
{
	char log[64] = "";
	struct nft_ctx *nft = nft_ctx_new(NFT_CTX_DEFAULT);
	int ret = 0;

	if (!nft)
		return err_set(e, ENOMEM, "nftables");
	if (group >= 0)
		snprintf(log, sizeof(log), "log group %d queue-threshold 1", group);
	_cleanup_free_ char *text = xasprintf(rules, name, log);
	nft_ctx_buffer_error(nft);
	nft_ctx_buffer_output(nft);
	errno = 0;
	if (nft_run_cmd_from_buffer(nft, text))
		ret = explain(nft, e);
	nft_ctx_free(nft);
	return ret;
}

/* ---- netlink transactions ---- */

struct batch {
	struct mnl_socket *nl;
	struct buf b;
	uint32_t seq;
};

#define MESSAGE_MAX 65536
#define ELEMENTS_MAX 1000        /* in one message: the length of an attribute has 16 bits */

static struct nlmsghdr *put_header(char *at, uint32_t seq, uint16_t type, uint16_t flags,
				   uint8_t family, uint16_t res_id)
{
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(at);
	struct nfgenmsg *nfg = mnl_nlmsg_put_extra_header(nlh, sizeof(*nfg));

	nlh->nlmsg_type = type;
	nlh->nlmsg_flags = NLM_F_REQUEST | flags;
	nlh->nlmsg_seq = seq;
	nfg->nfgen_family = family;
	nfg->version = NFNETLINK_V0;
	nfg->res_id = htons(res_id);
	return nlh;
}

static void put_mark(struct batch *b, uint16_t type)
{
	char at[64];
	struct nlmsghdr *nlh = put_header(at, b->seq++, type, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES);

	buf_put(&b->b, nlh, nlh->nlmsg_len);
}

static struct nlmsghdr *put_message(char *at, struct batch *b, uint16_t type, uint16_t flags)
{
	return put_header(at, b->seq++, (uint16_t)(NFNL_SUBSYS_NFTABLES << 8 | type), flags,
			  NFPROTO_INET, 0);
}

/* Sends the batch; `last` is the message that asked for an acknowledgement. */
static int commit(struct batch *b, uint32_t last)
{
	int size = (int)b->b.n * 2 + 65536;

	/* the whole batch is one datagram */
	setsockopt(mnl_socket_get_fd(b->nl), SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size));
	put_mark(b, NFNL_MSG_BATCH_END);
	return net_nl_ask(b->nl, b->b.at, b->b.n, last, NULL, NULL);
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

enum { C4, C6, L4, L6, A4, A6, SETS };
static const char set_names[SETS][4] = { "c4", "c6", "l4", "l6", "a4", "a6" };

static int set_of(const struct net_conn *c)
{
	int six = c->family == AF_INET6;

	if (!net_conn_is_listener(c))
		return C4 + six;
	return (is_any(c) ? A4 : L4) + six;
}

static void put_element(struct nlmsghdr *nlh, const struct net_conn *c)
{
	struct key k = { .n = 0 };
	int set = set_of(c);

	if (set <= C6)
		put_end(&k, c->family, &c->remote, true);
	put_end(&k, c->family, &c->local, set < A4);
	struct nlattr *elem = mnl_attr_nest_start(nlh, NFTA_LIST_ELEM);
	struct nlattr *key = mnl_attr_nest_start(nlh, NFTA_SET_ELEM_KEY);
	mnl_attr_put(nlh, NFTA_DATA_VALUE, k.n, k.at);
	mnl_attr_nest_end(nlh, key);
	mnl_attr_nest_end(nlh, elem);
}

/* Messages for one set; returns how many elements. */
static size_t put_set(struct batch *b, const char *table, int set, const struct net_conn *conns,
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
			buf_put(&b->b, nlh, nlh->nlmsg_len);
			nlh = NULL;
		}
		if (is_end)
			break;
		if (!nlh) {
			nlh = put_message(at, b, NFT_MSG_NEWSETELEM, NLM_F_CREATE);
			mnl_attr_put_strz(nlh, NFTA_SET_ELEM_LIST_TABLE, table);
			mnl_attr_put_strz(nlh, NFTA_SET_ELEM_LIST_SET, set_names[set]);
			list = mnl_attr_nest_start(nlh, NFTA_SET_ELEM_LIST_ELEMENTS);
		}
		put_element(nlh, &conns[i]);
		count++;
	}
	return count;
}

/* The last message of a batch asks for the answer. */
static void want_answer(struct buf *b)
{
	struct nlmsghdr *nlh = (struct nlmsghdr *)(void *)b->at, *last = nlh;
	int left = (int)b->n;

	for (; mnl_nlmsg_ok(nlh, left); nlh = mnl_nlmsg_next(nlh, &left))
		last = nlh;
	last->nlmsg_flags |= NLM_F_ACK;
}

int net_table_add(struct mnl_socket *nl, const char *name, const struct net_conn *conns, size_t n,
		  struct err *e)
{
	_cleanup_(buf_free) struct buf bytes = { 0 };
	struct batch b = { .nl = nl, .seq = 1 };
	size_t added = 0;
	int ret = 0;

	put_mark(&b, NFNL_MSG_BATCH_BEGIN);
	for (int set = 0; set < SETS; set++)
		added += put_set(&b, name, set, conns, n);
	if (added) {
		want_answer(&b.b);
		ret = commit(&b, b.seq - 1);
	}
	bytes = b.b;
	return ret < 0 ? err_set(e, -ret, "nftables: %zu connections into %s", added, name) : 0;
}

int net_table_empty(struct mnl_socket *nl, const char *name, struct err *e)
{
	_cleanup_(buf_free) struct buf bytes = { 0 };
	struct batch b = { .nl = nl, .seq = 1 };
	char at[512];

	put_mark(&b, NFNL_MSG_BATCH_BEGIN);
	for (int set = 0; set < SETS; set++) {
		struct nlmsghdr *nlh = put_message(at, &b, NFT_MSG_DELSETELEM, 0);

		/* no elements named: all of them */
		mnl_attr_put_strz(nlh, NFTA_SET_ELEM_LIST_TABLE, name);
		mnl_attr_put_strz(nlh, NFTA_SET_ELEM_LIST_SET, set_names[set]);
		buf_put(&b.b, nlh, nlh->nlmsg_len);
	}
	want_answer(&b.b);
	int ret = commit(&b, b.seq - 1);
	bytes = b.b;
	return ret < 0 ? err_set(e, -ret, "nftables: emptying %s", name) : 0;
}

int net_table_delete(struct mnl_socket *nl, const char *name, struct err *e)
{
	_cleanup_(buf_free) struct buf bytes = { 0 };
	struct batch b = { .nl = nl, .seq = 1 };
	char at[512];

	put_mark(&b, NFNL_MSG_BATCH_BEGIN);
	struct nlmsghdr *nlh = put_message(at, &b, NFT_MSG_DELTABLE, NLM_F_ACK);
	mnl_attr_put_strz(nlh, NFTA_TABLE_NAME, name);
	buf_put(&b.b, nlh, nlh->nlmsg_len);
	int ret = commit(&b, b.seq - 1);
	bytes = b.b;
	return ret < 0 && ret != -ENOENT ? err_set(e, -ret, "nftables: deleting %s", name) : 0;
}
