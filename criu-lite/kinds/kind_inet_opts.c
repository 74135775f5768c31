/* SPDX-License-Identifier: Apache-2.0 */
/* Options of IP and TCP: the same name has one number per family. */
#include <errno.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <string.h>

#include "kind_inet.h"
#include "kind_sockopt.h"
#include "kind_util.h"
#include "log.h"

#ifndef IPV6_FREEBIND
#define IPV6_FREEBIND 78
#endif

struct ip_field {
	int level, name;
	size_t has, at;
};
#define IP_FIELD(level, name, f) \
	{ level, name, offsetof(IpOptsEntry, has_##f), offsetof(IpOptsEntry, f) }
#define TCP_FIELD(name, f) \
	{ IPPROTO_TCP, name, offsetof(TcpOptsEntry, has_##f), offsetof(TcpOptsEntry, f) }
static const struct ip_field v4_fields[] = {
	IP_FIELD(IPPROTO_IP, IP_FREEBIND, freebind), IP_FIELD(IPPROTO_IP, IP_PKTINFO, pktinfo),
	IP_FIELD(IPPROTO_IP, IP_TOS, tos), IP_FIELD(IPPROTO_IP, IP_TTL, ttl), {0},
};
static const struct ip_field v6_fields[] = {
	IP_FIELD(IPPROTO_IPV6, IPV6_FREEBIND, freebind),
	IP_FIELD(IPPROTO_IPV6, IPV6_RECVPKTINFO, pktinfo),
	IP_FIELD(IPPROTO_IPV6, IPV6_TCLASS, tos), IP_FIELD(IPPROTO_IPV6, IPV6_UNICAST_HOPS, ttl),
	{0},
};
static const struct ip_field tcp_fields[] = {
	TCP_FIELD(TCP_CORK, cork), TCP_FIELD(TCP_NODELAY, nodelay),
	TCP_FIELD(TCP_KEEPCNT, keepcnt), TCP_FIELD(TCP_KEEPIDLE, keepidle),
	TCP_FIELD(TCP_KEEPINTVL, keepintvl), {0},
};

static void get_fields(int fd, const struct ip_field *f, void *m)
{
	for (; f->name; f++) {
		int value;

		if (kind_sockopt_get(fd, f->level, f->name, &value))
			continue;
		*(int *)((char *)m + f->has) = 1;
		*(int *)((char *)m + f->at) = value;
	}
}

static int set_fields(int fd, const struct ip_field *f, const void *m, struct err *e)
{
	for (; f->name; f++) {
		int value = *(const int *)((const char *)m + f->at), ret;

		if (!*(const int *)((const char *)m + f->has))
			continue;
		ret = kind_sockopt_set(fd, f->level, f->name, value);
		if (ret < 0)
			return err_set(e, -ret, "setting socket option %d/%d to %d", f->level,
				       f->name, value);
	}
	return 0;
}

static void dump_congestion(int fd, TcpOptsEntry *m)
{
	char name[64] = "";
	socklen_t len = sizeof(name) - 1;

	if (!getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &len) && name[0])
		m->congestion = xstrdup(name);
}

void inet_opts_dump(int fd, InetSkEntry *m)
{
	int v6only;

	if (m->family == AF_INET6 && !kind_sockopt_get(fd, IPPROTO_IPV6, IPV6_V6ONLY, &v6only)) {
		m->has_v6only = 1;
		m->v6only = v6only;
	}
	m->ip_opts = kind_msg(IpOptsEntry, ip_opts_entry__init);
	get_fields(fd, m->family == AF_INET6 ? v6_fields : v4_fields, m->ip_opts);
	if (m->proto == IPPROTO_TCP) {
		m->tcp_opts = kind_msg(TcpOptsEntry, tcp_opts_entry__init);
		get_fields(fd, tcp_fields, m->tcp_opts);
		dump_congestion(fd, m->tcp_opts);
	}
}

/* How fast it sends is not what it does: without this one the host's own will do. */
static void set_congestion(int fd, const char *name)
{
	char now[64] = "";
	socklen_t len = sizeof(now) - 1;

	if (!name)
		return;
	if (!getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, now, &len) && !strcmp(now, name))
		return;
	if (setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, (socklen_t)strlen(name)) < 0)
		log_warn("congestion control %s is not available here (%m), %s is used", name, now);
}

int inet_opts_restore(int fd, const InetSkEntry *m, struct err *e)
{
	int ret;

	if (m->family == AF_INET6 && m->has_v6only &&
	    (ret = kind_sockopt_set(fd, IPPROTO_IPV6, IPV6_V6ONLY, m->v6only)) < 0)
		return err_set(e, -ret, "setting IPV6_V6ONLY");
	/* IP_TOS moves SO_PRIORITY: it goes first. */
	if (m->ip_opts && set_fields(fd, m->family == AF_INET6 ? v6_fields : v4_fields,
				     m->ip_opts, e) < 0)
		return -e->code;
	if (m->tcp_opts && m->proto == IPPROTO_TCP &&
	    set_fields(fd, tcp_fields, m->tcp_opts, e) < 0)
		return -e->code;
	if (m->tcp_opts && m->proto == IPPROTO_TCP)
		set_congestion(fd, m->tcp_opts->congestion);
	return kind_sockopt_restore(fd, m->opts, e);
}
