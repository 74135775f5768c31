/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses in the images: ports in host byte order, addresses as the words of the wire. */
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>

#include "kind_inet.h"
#include "vec.h"

const char *inet_addr_text(const union inet_addr *a, char out[INET_ADDR_TEXT])
{
	char host[INET6_ADDRSTRLEN] = "?";

	if (a->sa.sa_family == AF_INET6) {
		inet_ntop(AF_INET6, &a->v6.sin6_addr, host, sizeof(host));
		snprintf(out, INET_ADDR_TEXT, "[%s]:%u", host, ntohs(a->v6.sin6_port));
	} else {
		inet_ntop(AF_INET, &a->v4.sin_addr, host, sizeof(host));
		snprintf(out, INET_ADDR_TEXT, "%s:%u", host, ntohs(a->v4.sin_port));
	}
	return out;
}

/* Addresses are written also where there is none: a reader tells the family by their length. */
static void put(const union inet_addr *a, int family, uint32_t **words, size_t *n, uint32_t *port,
		char **ifname)
{
	char name[IF_NAMESIZE];

	*n = family == AF_INET6 ? 4 : 1;
	*words = xcalloc(*n, sizeof(**words));
	if (a->sa.sa_family == AF_INET6) {
		memcpy(*words, &a->v6.sin6_addr, 16);
		*port = ntohs(a->v6.sin6_port);
		if (a->v6.sin6_scope_id && !*ifname && if_indextoname(a->v6.sin6_scope_id, name))
			*ifname = xstrdup(name);
	} else if (a->sa.sa_family == AF_INET) {
		memcpy(*words, &a->v4.sin_addr, 4);
		*port = ntohs(a->v4.sin_port);
	}
}

int inet_addr_of_peer(int fd, union inet_addr *a)
{
	struct tcp_info info = {0};
	socklen_t len = sizeof(*a), info_len = sizeof(info);

	if (!getpeername(fd, &a->sa, &len))
		return 0;
	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &info_len) < 0 ||
	    info.tcpi_state != TCP_SYN_SENT)
		return -ENOTCONN;
	/* The length must not be more than the address has. */
	len = sizeof(a->v6);
	if (!getsockopt(fd, SOL_SOCKET, SO_PEERNAME, a, &len))
		return 0;
	len = sizeof(a->v4);
	return getsockopt(fd, SOL_SOCKET, SO_PEERNAME, a, &len) < 0 ? -ENOTCONN : 0;
}

void inet_addr_dump(int fd, InetSkEntry *m, bool over)
{
	union inet_addr src = {0}, dst = {0};
	socklen_t src_len = sizeof(src);

	if (over || getsockname(fd, &src.sa, &src_len) < 0)
		src.sa.sa_family = AF_UNSPEC;
	if (over || inet_addr_of_peer(fd, &dst) < 0)
		dst.sa.sa_family = AF_UNSPEC;
	put(&src, (int)m->family, &m->src_addr, &m->n_src_addr, &m->src_port, &m->ifname);
	put(&dst, (int)m->family, &m->dst_addr, &m->n_dst_addr, &m->dst_port, &m->ifname);
}

static int take(const InetSkEntry *m, const uint32_t *words, size_t n, uint32_t port,
		union inet_addr *a, socklen_t *len, struct err *e)
{
	memset(a, 0, sizeof(*a));
	if (n != (m->family == AF_INET6 ? 4 : 1) || port > 65535)
		return err_say(e, EBADMSG, "socket %u has an address of %zu words", m->id, n);
	if (m->family == AF_INET6) {
		a->v6.sin6_family = AF_INET6;
		a->v6.sin6_port = htons((uint16_t)port);
		memcpy(&a->v6.sin6_addr, words, 16);
		if (m->ifname && IN6_IS_ADDR_LINKLOCAL(&a->v6.sin6_addr)) {
			a->v6.sin6_scope_id = if_nametoindex(m->ifname);
			if (!a->v6.sin6_scope_id)
				return err_set(e, errno, "network device %s", m->ifname);
		}
		*len = sizeof(a->v6);
	} else {
		a->v4.sin_family = AF_INET;
		a->v4.sin_port = htons((uint16_t)port);
		memcpy(&a->v4.sin_addr, words, 4);
		*len = sizeof(a->v4);
	}
	return 0;
}

int inet_addr_local(const InetSkEntry *m, union inet_addr *a, socklen_t *len, struct err *e)
{
	return take(m, m->src_addr, m->n_src_addr, m->src_port, a, len, e);
}

int inet_addr_peer(const InetSkEntry *m, union inet_addr *a, socklen_t *len, struct err *e)
{
	return take(m, m->dst_addr, m->n_dst_addr, m->dst_port, a, len, e);
}

bool inet_addr_is_bound(const InetSkEntry *m)
{
	for (size_t i = 0; i < m->n_src_addr; i++)
		if (m->src_addr[i])
			return true;
	return m->src_port != 0;
}

int inet_addr_refuse(const InetSkEntry *m, const union inet_addr *a, const char *what, int code,
		     struct err *e)
{
	char text[INET_ADDR_TEXT];

	err_set(e, code, "%s %s %s", what, m->proto == IPPROTO_TCP ? "TCP" : "UDP",
		inet_addr_text(a, text));
	if (code == EADDRINUSE)
		return err_remedy(e, "another program on this host uses port %u: stop it (or wait "
				  "a minute, if it has just ended)", m->src_port);
	if (code == EADDRNOTAVAIL)
		return err_remedy(e, "give this host the address, or bind the program to all");
	if (code == ENETUNREACH || code == EHOSTUNREACH)
		return err_remedy(e, "give this host a route to that address");
	return -code;
}
