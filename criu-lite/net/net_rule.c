/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A rule is a list of expressions, which the kernel runs in order until one does not match.
 * Expressions load bytes of a packet into registers, compare registers, look them up in a set, or
 * give a verdict. test/kind/net_lock.c has the same rules in the language of nft(8).
 */
#include "net_rule.h"

#include <arpa/inet.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "net_queue.h"

#define MESSAGE_MAX 4096         /* the longest has less than 1000 */

/* ---- what packets are asked for ---- */

/* nft(8) keeps its type of a key with a set, and shows the set accordingly. */
enum { TYPE_IPV4_ADDR = 7, TYPE_IPV6_ADDR = 8, TYPE_INET_SERVICE = 13, TYPE_BITS = 6 };

enum field { NO_FIELD, SADDR4, DADDR4, SADDR6, DADDR6, SPORT, DPORT, FLAGS };

static const struct {
	uint32_t base, offset, size, type;
} fields[] = {
	[SADDR4] = { NFT_PAYLOAD_NETWORK_HEADER, offsetof(struct iphdr, saddr), 4, TYPE_IPV4_ADDR },
	[DADDR4] = { NFT_PAYLOAD_NETWORK_HEADER, offsetof(struct iphdr, daddr), 4, TYPE_IPV4_ADDR },
	[SADDR6] = { NFT_PAYLOAD_NETWORK_HEADER, offsetof(struct ip6_hdr, ip6_src), 16,
		     TYPE_IPV6_ADDR },
	[DADDR6] = { NFT_PAYLOAD_NETWORK_HEADER, offsetof(struct ip6_hdr, ip6_dst), 16,
		     TYPE_IPV6_ADDR },
	[SPORT] = { NFT_PAYLOAD_TRANSPORT_HEADER, offsetof(struct tcphdr, th_sport), 2,
		    TYPE_INET_SERVICE },
	[DPORT] = { NFT_PAYLOAD_TRANSPORT_HEADER, offsetof(struct tcphdr, th_dport), 2,
		    TYPE_INET_SERVICE },
	[FLAGS] = { NFT_PAYLOAD_TRANSPORT_HEADER, offsetof(struct tcphdr, th_flags), 1, 0 },
};

enum condition { ALWAYS, IPV4, IPV6, TCP, OPENS, OURS_OPENS, OURS_FOLLOWS };

/* One byte of a field, or else of what is known about the packet, is this; or all of that. */
static const struct {
	enum field field;
	uint32_t meta;
	uint8_t mask, is;
	uint32_t word;
} conditions[] = {
	[IPV4] = { .meta = NFT_META_NFPROTO, .is = NFPROTO_IPV4 },
	[IPV6] = { .meta = NFT_META_NFPROTO, .is = NFPROTO_IPV6 },
	[TCP] = { .meta = NFT_META_L4PROTO, .is = IPPROTO_TCP },
	[OPENS] = { .field = FLAGS, .mask = TH_SYN | TH_ACK, .is = TH_SYN },
	[OURS_OPENS] = { .meta = NFT_META_PRIORITY, .word = NET_QUEUE_OPENS },
	[OURS_FOLLOWS] = { .meta = NFT_META_PRIORITY, .word = NET_QUEUE_FOLLOWS },
};

/* ---- the table ---- */

#define KEY_MAX 4
#define CONDITIONS_MAX 3

const char net_set_names[NET_SETS][4] = { "c4", "c6", "l4", "l6", "a4", "a6" };

/* As things are named in what comes in. */
static const uint8_t set_keys[NET_SETS][KEY_MAX] = {
	[NET_C4] = { SADDR4, SPORT, DADDR4, DPORT },
	[NET_C6] = { SADDR6, SPORT, DADDR6, DPORT },
	[NET_L4] = { DADDR4, DPORT },
	[NET_L6] = { DADDR6, DPORT },
	[NET_A4] = { DPORT },
	[NET_A6] = { DPORT },
};

#define NO_HOOK (-1)

static const struct chain {
	const char *name;
	int hook;
} chains[] = {
	{ "take", NO_HOOK },
	{ "in", NO_HOOK },
	{ "pre", NF_INET_PRE_ROUTING },
	{ "input", NF_INET_LOCAL_IN },
	{ "out", NF_INET_LOCAL_OUT },
};

/* Before connection tracking and everybody else's rules. */
#define PRIORITY (-300)

struct rule {
	const char *chain;
	uint8_t when[CONDITIONS_MAX];
	const char *set;             /* the key is in it; NULL: is not looked up */
	uint8_t key[KEY_MAX];
	int verdict;
	const char *to;              /* chain of NFT_GOTO and NFT_JUMP */
	bool log;                    /* if there is a group */
};

/* The key is remote address and port, local address and port, in both directions. What comes in is
 * met twice: before routing, as it may be for an address that has just left this host, and before
 * TCP, as others' rules may have changed its destination on the way there. */
static const struct rule rules[] = {
	{ "take", .verdict = NF_DROP, .log = true },

	/* what net_queue.h sends behind the closed door */
	{ "in", { OURS_OPENS }, .verdict = NFT_RETURN },
	{ "in", { OURS_FOLLOWS }, .verdict = NFT_RETURN },
	{ "in", { IPV4, TCP }, "c4", { SADDR4, SPORT, DADDR4, DPORT }, NFT_GOTO, "take" },
	{ "in", { IPV6, TCP }, "c6", { SADDR6, SPORT, DADDR6, DPORT }, NFT_GOTO, "take" },
	{ "in", { TCP, OPENS, IPV4 }, "l4", { DADDR4, DPORT }, NFT_GOTO, "take" },
	{ "in", { TCP, OPENS, IPV6 }, "l6", { DADDR6, DPORT }, NFT_GOTO, "take" },

	{ "pre", { TCP }, .verdict = NFT_JUMP, .to = "in" },

	{ "input", { TCP }, .verdict = NFT_JUMP, .to = "in" },
	/* any address means any of this host: not what passes through it */
	{ "input", { TCP, OPENS, IPV4 }, "a4", { DPORT }, NFT_GOTO, "take" },
	{ "input", { TCP, OPENS, IPV6 }, "a6", { DPORT }, NFT_GOTO, "take" },

	{ "out", { IPV4, TCP }, "c4", { DADDR4, DPORT, SADDR4, SPORT }, NF_DROP },
	{ "out", { IPV6, TCP }, "c6", { DADDR6, DPORT, SADDR6, SPORT }, NF_DROP },
};

/* ---- expressions ---- */

#define REG NFT_REG32_00         /* registers of four bytes, in a row */

struct expr {
	struct nlattr *elem, *data;
};

static struct expr expr_begin(struct nlmsghdr *nlh, const char *name)
{
	struct expr x = { .elem = mnl_attr_nest_start(nlh, NFTA_LIST_ELEM) };

	mnl_attr_put_strz(nlh, NFTA_EXPR_NAME, name);
	x.data = mnl_attr_nest_start(nlh, NFTA_EXPR_DATA);
	return x;
}

static void expr_end(struct nlmsghdr *nlh, struct expr x)
{
	mnl_attr_nest_end(nlh, x.data);
	mnl_attr_nest_end(nlh, x.elem);
}

static void put_u32(struct nlmsghdr *nlh, uint16_t type, uint32_t value)
{
	mnl_attr_put_u32(nlh, type, htonl(value));
}

static void put_bytes(struct nlmsghdr *nlh, uint16_t type, const void *value, size_t n)
{
	struct nlattr *nest = mnl_attr_nest_start(nlh, type);

	mnl_attr_put(nlh, NFTA_DATA_VALUE, n, value);
	mnl_attr_nest_end(nlh, nest);
}

static void put_byte(struct nlmsghdr *nlh, uint16_t type, uint8_t value)
{
	put_bytes(nlh, type, &value, sizeof(value));
}

static void put_meta(struct nlmsghdr *nlh, uint32_t key)
{
	struct expr x = expr_begin(nlh, "meta");

	put_u32(nlh, NFTA_META_KEY, key);
	put_u32(nlh, NFTA_META_DREG, REG);
	expr_end(nlh, x);
}

static void put_payload(struct nlmsghdr *nlh, enum field f, uint32_t reg)
{
	struct expr x = expr_begin(nlh, "payload");

	put_u32(nlh, NFTA_PAYLOAD_DREG, reg);
	put_u32(nlh, NFTA_PAYLOAD_BASE, fields[f].base);
	put_u32(nlh, NFTA_PAYLOAD_OFFSET, fields[f].offset);
	put_u32(nlh, NFTA_PAYLOAD_LEN, fields[f].size);
	expr_end(nlh, x);
}

static void put_mask(struct nlmsghdr *nlh, uint8_t mask)
{
	struct expr x = expr_begin(nlh, "bitwise");

	put_u32(nlh, NFTA_BITWISE_SREG, REG);
	put_u32(nlh, NFTA_BITWISE_DREG, REG);
	put_u32(nlh, NFTA_BITWISE_LEN, sizeof(mask));
	put_byte(nlh, NFTA_BITWISE_MASK, mask);
	put_byte(nlh, NFTA_BITWISE_XOR, 0);
	expr_end(nlh, x);
}

static void put_equal(struct nlmsghdr *nlh, const void *value, size_t n)
{
	struct expr x = expr_begin(nlh, "cmp");

	put_u32(nlh, NFTA_CMP_SREG, REG);
	put_u32(nlh, NFTA_CMP_OP, NFT_CMP_EQ);
	put_bytes(nlh, NFTA_CMP_DATA, value, n);
	expr_end(nlh, x);
}

static void put_condition(struct nlmsghdr *nlh, enum condition c)
{
	if (conditions[c].field)
		put_payload(nlh, conditions[c].field, REG);
	else
		put_meta(nlh, conditions[c].meta);
	if (conditions[c].mask)
		put_mask(nlh, conditions[c].mask);
	if (conditions[c].word)
		put_equal(nlh, &conditions[c].word, sizeof(conditions[c].word));
	else
		put_equal(nlh, &conditions[c].is, sizeof(conditions[c].is));
}

static uint32_t words(enum field f) { return (fields[f].size + 3) / 4; }

static void put_lookup(struct nlmsghdr *nlh, const uint8_t key[KEY_MAX], const char *set)
{
	uint32_t reg = REG;

	for (int i = 0; i < KEY_MAX && key[i]; i++) {
		put_payload(nlh, key[i], reg);
		reg += words(key[i]);
	}
	struct expr x = expr_begin(nlh, "lookup");
	mnl_attr_put_strz(nlh, NFTA_LOOKUP_SET, set);
	put_u32(nlh, NFTA_LOOKUP_SREG, REG);
	expr_end(nlh, x);
}

static void put_log(struct nlmsghdr *nlh, int group)
{
	struct expr x = expr_begin(nlh, "log");

	mnl_attr_put_u16(nlh, NFTA_LOG_GROUP, htons((uint16_t)group));
	mnl_attr_put_u16(nlh, NFTA_LOG_QTHRESHOLD, htons(1)); /* each one at once */
	expr_end(nlh, x);
}

static void put_verdict(struct nlmsghdr *nlh, int verdict, const char *to)
{
	struct expr x = expr_begin(nlh, "immediate");

	put_u32(nlh, NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
	struct nlattr *data = mnl_attr_nest_start(nlh, NFTA_IMMEDIATE_DATA);
	struct nlattr *inner = mnl_attr_nest_start(nlh, NFTA_DATA_VERDICT);
	put_u32(nlh, NFTA_VERDICT_CODE, (uint32_t)verdict);
	if (to)
		mnl_attr_put_strz(nlh, NFTA_VERDICT_CHAIN, to);
	mnl_attr_nest_end(nlh, inner);
	mnl_attr_nest_end(nlh, data);
	expr_end(nlh, x);
}

/* ---- messages ---- */

static void put_table(struct net_batch *b, const char *table)
{
	char at[MESSAGE_MAX];
	struct nlmsghdr *nlh = net_batch_message(at, NFT_MSG_NEWTABLE, NLM_F_CREATE);

	mnl_attr_put_strz(nlh, NFTA_TABLE_NAME, table);
	net_batch_put(b, nlh);
}

static void put_set(struct net_batch *b, const char *table, enum net_set set)
{
	char at[MESSAGE_MAX];
	struct nlmsghdr *nlh = net_batch_message(at, NFT_MSG_NEWSET, NLM_F_CREATE);
	const uint8_t *key = set_keys[set];
	uint32_t type = 0, size = 0;

	for (int i = 0; i < KEY_MAX && key[i]; i++) {
		type = type << TYPE_BITS | fields[key[i]].type;
		size += words(key[i]) * 4;
	}
	if (!key[1]) /* only parts of joined keys fill whole registers */
		size = fields[key[0]].size;
	mnl_attr_put_strz(nlh, NFTA_SET_TABLE, table);
	mnl_attr_put_strz(nlh, NFTA_SET_NAME, net_set_names[set]);
	put_u32(nlh, NFTA_SET_KEY_TYPE, type);
	put_u32(nlh, NFTA_SET_KEY_LEN, size);
	put_u32(nlh, NFTA_SET_ID, (uint32_t)set + 1); /* must be there, is not used */
	net_batch_put(b, nlh);
}

static void put_chain(struct net_batch *b, const char *table, const struct chain *c)
{
	char at[MESSAGE_MAX];
	struct nlmsghdr *nlh = net_batch_message(at, NFT_MSG_NEWCHAIN, NLM_F_CREATE);

	mnl_attr_put_strz(nlh, NFTA_CHAIN_TABLE, table);
	mnl_attr_put_strz(nlh, NFTA_CHAIN_NAME, c->name);
	if (c->hook != NO_HOOK) {
		struct nlattr *hook = mnl_attr_nest_start(nlh, NFTA_CHAIN_HOOK);

		put_u32(nlh, NFTA_HOOK_HOOKNUM, (uint32_t)c->hook);
		put_u32(nlh, NFTA_HOOK_PRIORITY, (uint32_t)PRIORITY);
		mnl_attr_nest_end(nlh, hook);
		mnl_attr_put_strz(nlh, NFTA_CHAIN_TYPE, "filter");
	}
	net_batch_put(b, nlh);
}

static void put_rule(struct net_batch *b, const char *table, int group, const struct rule *r)
{
	char at[MESSAGE_MAX];
	/* without NLM_F_APPEND it would be the first one of its chain */
	struct nlmsghdr *nlh = net_batch_message(at, NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND);

	mnl_attr_put_strz(nlh, NFTA_RULE_TABLE, table);
	mnl_attr_put_strz(nlh, NFTA_RULE_CHAIN, r->chain);
	struct nlattr *list = mnl_attr_nest_start(nlh, NFTA_RULE_EXPRESSIONS);
	for (int i = 0; i < CONDITIONS_MAX && r->when[i]; i++)
		put_condition(nlh, r->when[i]);
	if (r->set)
		put_lookup(nlh, r->key, r->set);
	if (r->log && group >= 0)
		put_log(nlh, group);
	put_verdict(nlh, r->verdict, r->to);
	mnl_attr_nest_end(nlh, list);
	net_batch_put(b, nlh);
}

void net_rule_put_all(struct net_batch *b, const char *table, int group)
{
	put_table(b, table);
	for (int set = 0; set < NET_SETS; set++)
		put_set(b, table, (enum net_set)set);
	for (size_t i = 0; i < sizeof(chains) / sizeof(chains[0]); i++)
		put_chain(b, table, &chains[i]);
	for (size_t i = 0; i < sizeof(rules) / sizeof(rules[0]); i++)
		put_rule(b, table, group, &rules[i]);
}
