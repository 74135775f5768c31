/* SPDX-License-Identifier: Apache-2.0 */
#include "net_batch.h"

#include <arpa/inet.h>
#include <linux/netfilter/nfnetlink.h>
#include <sys/socket.h>

static struct nlmsghdr *put_header(char *at, uint16_t type, uint16_t flags, uint8_t family,
				   uint16_t res_id)
{
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(at);
	struct nfgenmsg *nfg = mnl_nlmsg_put_extra_header(nlh, sizeof(*nfg));

	nlh->nlmsg_type = type;
	nlh->nlmsg_flags = NLM_F_REQUEST | flags;
	nfg->nfgen_family = family;
	nfg->version = NFNETLINK_V0;
	nfg->res_id = htons(res_id);
	return nlh;
}

static void put_mark(struct net_batch *b, uint16_t type)
{
	char at[64];

	net_batch_put(b, put_header(at, type, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES));
}

void net_batch_begin(struct net_batch *b)
{
	*b = (struct net_batch){ .seq = 1 };
	put_mark(b, NFNL_MSG_BATCH_BEGIN);
}

void net_batch_free(struct net_batch *b)
{
	buf_free(&b->b);
}

struct nlmsghdr *net_batch_message(char *at, uint16_t type, uint16_t flags)
{
	return put_header(at, (uint16_t)(NFNL_SUBSYS_NFTABLES << 8 | type), flags, NFPROTO_INET, 0);
}

void net_batch_put(struct net_batch *b, struct nlmsghdr *nlh)
{
	nlh->nlmsg_seq = b->seq++;
	b->last = b->b.n;
	buf_put(&b->b, nlh, nlh->nlmsg_len);
}

int net_batch_commit(struct net_batch *b, struct mnl_socket *nl)
{
	struct nlmsghdr *last = (struct nlmsghdr *)(void *)(b->b.at + b->last);
	uint32_t seq = last->nlmsg_seq;
	int size = (int)b->b.n * 2 + 65536;

	last->nlmsg_flags |= NLM_F_ACK;
	put_mark(b, NFNL_MSG_BATCH_END);
	/* the whole batch is one datagram */
	setsockopt(mnl_socket_get_fd(nl), SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size));
	return net_nl_ask(nl, b->b.at, b->b.n, seq, NULL, NULL);
}
