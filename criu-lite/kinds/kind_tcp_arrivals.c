/* SPDX-License-Identifier: Apache-2.0 */
/* Who has knocked at a listening socket. Nobody has a descriptor of those; sock_diag knows them, as
 * the ones without an inode. */
#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/sock_diag.h>
#include <string.h>

#include "kind_inet.h"
#include "kind_tcp.h"
#include "kind_tcp_priv.h"
#include "net_nl.h"

#ifndef TCP_NEW_SYN_RECV
#define TCP_NEW_SYN_RECV 12      /* a handshake as the kernel keeps it */
#endif

struct knocks {
	const net_conn_vec *listeners;
	net_conn_vec *out;
	size_t half;
};

static bool is_at(const struct net_conn *c, const struct net_conn *listener)
{
	static const struct in6_addr any;
	size_t n = c->family == AF_INET ? 4 : 16;

	return c->family == listener->family && c->local.port == listener->local.port &&
	       (!memcmp(&listener->local.v6, &any, n) ||
		!memcmp(&listener->local.v6, &c->local.v6, n));
}

static void addr_of(const struct inet_diag_msg *m, bool local, union inet_addr *a)
{
	const __be32 *ip = local ? m->id.idiag_src : m->id.idiag_dst;
	__be16 port = local ? m->id.idiag_sport : m->id.idiag_dport;

	*a = (union inet_addr){ .sa.sa_family = m->idiag_family };
	a->v4.sin_port = port;   /* stands at one place in both families */
	if (m->idiag_family == AF_INET)
		memcpy(&a->v4.sin_addr, ip, 4);
	else
		memcpy(&a->v6.sin6_addr, ip, 16);
}

static int take(const struct nlmsghdr *nlh, void *data)
{
	const struct inet_diag_msg *m = mnl_nlmsg_get_payload(nlh);
	struct knocks *k = data;
	union inet_addr us, them;
	struct net_conn c;

	if (nlh->nlmsg_type != SOCK_DIAG_BY_FAMILY || mnl_nlmsg_get_payload_len(nlh) < sizeof(*m) ||
	    m->idiag_inode)
		return MNL_CB_OK;
	addr_of(m, true, &us);
	addr_of(m, false, &them);
	if (!net_conn_set(&c, &us.sa, &them.sa))
		return MNL_CB_OK;
	vec_each(k->listeners, l) {
		if (!is_at(&c, l))
			continue;
		vec_push(k->out, c);
		k->half += m->idiag_state == TCP_SYN_RECV || m->idiag_state == TCP_NEW_SYN_RECV;
		break;
	}
	return MNL_CB_OK;
}

static int ask(struct mnl_socket *nl, int family, struct knocks *k)
{
	struct {
		struct nlmsghdr h;
		struct inet_diag_req_v2 r;
	} q = {
		.h = { .nlmsg_len = sizeof(q), .nlmsg_type = SOCK_DIAG_BY_FAMILY,
		       .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP, .nlmsg_seq = 1 },
		.r = { .sdiag_family = (uint8_t)family, .sdiag_protocol = IPPROTO_TCP,
		       .idiag_states = TCP_BIT(TCP_ESTABLISHED) | TCP_BIT(TCP_CLOSE_WAIT) |
				       TCP_BIT(TCP_SYN_RECV) | TCP_BIT(TCP_NEW_SYN_RECV) },
	};

	if (k->listeners->n == 1)
		q.r.id.idiag_sport = htons(k->listeners->at[0].local.port);
	return net_nl_ask(nl, &q, sizeof(q), 1, take, k);
}

int kind_tcp_arrivals(const net_conn_vec *listeners, net_conn_vec *out, size_t *half, struct err *e)
{
	struct knocks k = { .listeners = listeners, .out = out };
	_cleanup_nl_ struct mnl_socket *nl = NULL;
	static const int families[] = { AF_INET, AF_INET6 };
	int ret = 0;

	*half = 0;
	if (!listeners->n)
		return 0;
	if (net_nl_open(&nl, NETLINK_SOCK_DIAG, -1, e) < 0)
		return -e->code;
	for (size_t i = 0; !ret && i < 2; i++)
		ret = ask(nl, families[i], &k);
	*half = k.half;
	return ret < 0 ? err_set(e, -ret, "asking for connections (CONFIG_INET_TCP_DIAG)") : 0;
}
