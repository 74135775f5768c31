/* SPDX-License-Identifier: Apache-2.0 */
#include "net_conn.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

static bool is_mapped(const struct sockaddr *sa)
{
	const struct sockaddr_in6 *s = (const struct sockaddr_in6 *)(const void *)sa;

	return sa->sa_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&s->sin6_addr);
}

static void take(struct net_conn *c, struct net_end *end, const struct sockaddr *sa)
{
	const struct sockaddr_in *v4 = (const struct sockaddr_in *)(const void *)sa;
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)(const void *)sa;

	if (sa->sa_family == AF_INET) {
		end->v4 = v4->sin_addr;
		end->port = ntohs(v4->sin_port);
		return;
	}
	end->port = ntohs(v6->sin6_port);
	if (c->family == AF_INET) {
		memcpy(&end->v4, &v6->sin6_addr.s6_addr[12], sizeof(end->v4));
		return;
	}
	end->v6 = v6->sin6_addr;
	if (v6->sin6_scope_id)
		c->ifindex = v6->sin6_scope_id;
}

bool net_conn_set(struct net_conn *c, const struct sockaddr *local, const struct sockaddr *remote)
{
	if ((local->sa_family != AF_INET && local->sa_family != AF_INET6) ||
	    (remote &&
	     (remote->sa_family != local->sa_family || is_mapped(remote) != is_mapped(local))))
		return false;
	*c = (struct net_conn){
		.family = is_mapped(local) ? AF_INET : (uint8_t)local->sa_family,
	};
	take(c, &c->local, local);
	if (remote)
		take(c, &c->remote, remote);
	return true;
}

static int put_end(char *buf, size_t n, int family, const struct net_end *end)
{
	char addr[INET6_ADDRSTRLEN] = "?";

	inet_ntop(family, &end->v6, addr, sizeof(addr));
	return snprintf(buf, n, family == AF_INET6 ? "[%s]:%u" : "%s:%u", addr, end->port);
}

const char *net_conn_text(const struct net_conn *c, char buf[NET_CONN_TEXT])
{
	int n = put_end(buf, NET_CONN_TEXT, c->family, &c->local);

	if (net_conn_is_listener(c)) {
		snprintf(buf + n, (size_t)(NET_CONN_TEXT - n), " (listening)");
		return buf;
	}
	n += snprintf(buf + n, (size_t)(NET_CONN_TEXT - n), " - ");
	put_end(buf + n, (size_t)(NET_CONN_TEXT - n), c->family, &c->remote);
	return buf;
}
