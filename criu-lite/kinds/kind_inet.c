/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TCP and UDP sockets that are not connections: listening, bound, new, closed. In the images
 * ports are in host byte order, addresses are the words of the wire.
 *
 * A TCP connection is kept only as far as --tcp-close goes: as a closed socket that reads as
 * "end of file", so that the program notices and connects again.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "kind.h"
#include "kind_fown.h"
#include "kind_sockopt.h"
#include "kind_util.h"
#include "log.h"

#ifndef IPV6_FREEBIND
#define IPV6_FREEBIND 78
#endif

/* An address of either family. */
union addr {
	struct sockaddr sa;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

struct inet_sock {
	int family, type, proto;
	int state;               /* TCP_LISTEN, ..., also for UDP */
	uint32_t backlog, waiting;
};

/* ---- options of IP and TCP: the same name has one number per family ---- */

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

/* ---- what it is ---- */

static bool inet_match(const struct fd_view *v)
{
	int domain;

	return S_ISSOCK(v->st.st_mode) &&
	       !kind_sockopt_get(v->local, SOL_SOCKET, SO_DOMAIN, &domain) &&
	       (domain == AF_INET || domain == AF_INET6);
}

static int inspect(int fd, struct inet_sock *s, struct err *e)
{
	struct tcp_info info = {0};
	socklen_t len = sizeof(info), alen = sizeof(union addr);
	union addr peer;

	if (kind_sockopt_get(fd, SOL_SOCKET, SO_DOMAIN, &s->family) ||
	    kind_sockopt_get(fd, SOL_SOCKET, SO_TYPE, &s->type) ||
	    kind_sockopt_get(fd, SOL_SOCKET, SO_PROTOCOL, &s->proto))
		return err_set(e, errno, "socket");
	s->backlog = s->waiting = 0;
	if (s->proto != IPPROTO_TCP) {
		s->state = getpeername(fd, &peer.sa, &alen) ? TCP_CLOSE : TCP_ESTABLISHED;
		return 0;
	}
	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0)
		return err_set(e, errno, "reading TCP_INFO");
	s->state = info.tcpi_state;
	if (s->state == TCP_LISTEN) {
		s->waiting = info.tcpi_unacked;
		s->backlog = info.tcpi_sacked;
	}
	return 0;
}

static bool is_connection(const struct inet_sock *s)
{
	return s->proto == IPPROTO_TCP && s->state != TCP_LISTEN && s->state != TCP_CLOSE;
}

static int refuse_protocol(const struct inet_sock *s, struct err *e)
{
	static const struct { int proto; const char *name; } names[] = {
		{ IPPROTO_ICMP, "ICMP" }, { IPPROTO_ICMPV6, "ICMPv6" }, { IPPROTO_SCTP, "SCTP" },
		{ IPPROTO_DCCP, "DCCP" }, { 262, "MPTCP" }, { 256, "SMC" },
	};
	const char *name = s->type == SOCK_RAW ? "raw" : "unknown";

	for (size_t i = 0; s->type != SOCK_RAW && i < sizeof(names) / sizeof(*names); i++)
		if (names[i].proto == s->proto)
			name = names[i].name;
	err_say(e, ENOTSUP, "%s socket (protocol %d) cannot be moved", name, s->proto);
	return err_remedy(e, "only TCP and UDP can: let the program close this socket first");
}

static const char *addr_text(const union addr *a, char *out, size_t size)
{
	char host[INET6_ADDRSTRLEN] = "?";

	if (a->sa.sa_family == AF_INET6) {
		inet_ntop(AF_INET6, &a->v6.sin6_addr, host, sizeof(host));
		snprintf(out, size, "[%s]:%u", host, ntohs(a->v6.sin6_port));
	} else {
		inet_ntop(AF_INET, &a->v4.sin_addr, host, sizeof(host));
		snprintf(out, size, "%s:%u", host, ntohs(a->v4.sin_port));
	}
	return out;
}

static int refuse_connection(int fd, struct err *e)
{
	union addr us = {0}, them = {0};
	socklen_t len = sizeof(us), peer_len = sizeof(them);
	char a[64], b[64];

	getsockname(fd, &us.sa, &len);
	if (getpeername(fd, &them.sa, &peer_len) < 0)
		them.sa.sa_family = us.sa.sa_family;
	err_say(e, ENOTSUP, "TCP connection %s - %s is open", addr_text(&us, a, sizeof(a)),
		addr_text(&them, b, sizeof(b)));
	return err_remedy(e, "use --tcp-close to have the program see it as closed by its peer");
}

static int check_sock(struct kind_dump *c, int fd, struct inet_sock *s, struct err *e)
{
	if (inspect(fd, s, e) < 0)
		return -e->code;
	if (!(s->type == SOCK_STREAM && s->proto == IPPROTO_TCP) &&
	    !(s->type == SOCK_DGRAM && (s->proto == IPPROTO_UDP || s->proto == IPPROTO_UDPLITE)))
		return refuse_protocol(s, e);
	if (is_connection(s) && !kind_dump_opts(c)->tcp_close)
		return refuse_connection(fd, e);
	return kind_sockopt_check(fd, e);
}

static int inet_check(struct kind_dump *c, const struct fd_view *v, struct err *e)
{
	struct inet_sock s;

	return check_sock(c, v->local, &s, e);
}

/* ---- dump ---- */

static bool inet_preview(const struct fd_view *v)
{
	struct err ignored = ERR_INIT;
	struct inet_sock s;

	return !inspect(v->local, &s, &ignored) && s.state != TCP_ESTABLISHED && !is_connection(&s);
}

/* Addresses are written also where there is none: a reader tells the family by their length. */
static void put_addr(const union addr *a, int family, uint32_t **words, size_t *n,
		     uint32_t *port, char **ifname)
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

/* TCP_CLOSE is a new socket, or one whose connection is over. The latter reads as closed and
 * has no port any more. */
static SkShutdown shutdown_of(int fd, const struct inet_sock *s)
{
	struct pollfd p = { .fd = fd, .events = POLLRDHUP };

	if (s->state == TCP_LISTEN || poll(&p, 1, 0) < 0 || !(p.revents & POLLRDHUP))
		return SK_SHUTDOWN__NONE;
	if (s->proto == IPPROTO_TCP || (p.revents & POLLHUP))
		return SK_SHUTDOWN__BOTH;
	return SK_SHUTDOWN__READ;
}

static void dump_addrs(int fd, InetSkEntry *m)
{
	union addr src = {0}, dst = {0};
	socklen_t src_len = sizeof(src), dst_len = sizeof(dst);
	bool over = m->proto == IPPROTO_TCP && m->shutdown == SK_SHUTDOWN__BOTH;

	if (over || getsockname(fd, &src.sa, &src_len) < 0)
		src.sa.sa_family = AF_UNSPEC;
	if (over || getpeername(fd, &dst.sa, &dst_len) < 0)
		dst.sa.sa_family = AF_UNSPEC;
	put_addr(&src, (int)m->family, &m->src_addr, &m->n_src_addr, &m->src_port, &m->ifname);
	put_addr(&dst, (int)m->family, &m->dst_addr, &m->n_dst_addr, &m->dst_port, &m->ifname);
}

static void say_losses(const struct fd_view *v, const struct inet_sock *s)
{
	int n = 0;

	if (s->waiting)
		log_warn("pid %d: fd %d: %u TCP connections not accepted yet are dropped", v->pid,
			 v->fd, s->waiting);
	if (s->proto != IPPROTO_TCP && ioctl(v->local, SIOCINQ, &n) == 0 && n > 0)
		log_info("pid %d: fd %d: UDP datagrams not read yet are dropped", v->pid, v->fd);
}

static void dump_congestion(int fd, TcpOptsEntry *m)
{
	char name[64] = "";
	socklen_t len = sizeof(name) - 1;

	if (!getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &len) && name[0])
		m->congestion = xstrdup(name);
}

static int inet_dump(struct kind_dump *c, const struct fd_view *v, FileEntry *fe, struct err *e)
{
	InetSkEntry *m = kind_msg(InetSkEntry, inet_sk_entry__init);
	struct inet_sock s;
	int v6only;

	fe->isk = m;
	m->fown = kind_fown_dump(v->local);
	m->opts = kind_msg(SkOptsEntry, sk_opts_entry__init);
	if (check_sock(c, v->local, &s, e) < 0)
		return -e->code;
	m->id = v->id;
	m->ino = (uint32_t)v->st.st_ino;
	m->flags = (uint32_t)v->flags;
	m->family = (uint32_t)s.family;
	m->type = (uint32_t)s.type;
	m->proto = (uint32_t)s.proto;
	m->backlog = s.backlog;
	m->state = is_connection(&s) ? TCP_CLOSE : (uint32_t)s.state;
	m->has_shutdown = 1;
	m->shutdown = is_connection(&s) ? SK_SHUTDOWN__BOTH : shutdown_of(v->local, &s);
	m->has_uid = 1;
	m->uid = v->st.st_uid;
	dump_addrs(v->local, m);
	if (s.family == AF_INET6 &&
	    !kind_sockopt_get(v->local, IPPROTO_IPV6, IPV6_V6ONLY, &v6only)) {
		m->has_v6only = 1;
		m->v6only = v6only;
	}
	m->ip_opts = kind_msg(IpOptsEntry, ip_opts_entry__init);
	get_fields(v->local, s.family == AF_INET6 ? v6_fields : v4_fields, m->ip_opts);
	if (s.proto == IPPROTO_TCP) {
		m->tcp_opts = kind_msg(TcpOptsEntry, tcp_opts_entry__init);
		get_fields(v->local, tcp_fields, m->tcp_opts);
		dump_congestion(v->local, m->tcp_opts);
	}
	say_losses(v, &s);
	free(m->opts);
	return kind_sockopt_dump(c, v->local, &m->opts, e);
}

/* ---- restore ---- */

static int take_addr(const InetSkEntry *m, const uint32_t *words, size_t n, uint32_t port,
		     union addr *a, socklen_t *len, struct err *e)
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

static const char *proto_name(const InetSkEntry *m)
{
	return m->proto == IPPROTO_TCP ? "TCP" : "UDP";
}

static int refuse_addr(const InetSkEntry *m, const union addr *a, const char *what, int code,
		       struct err *e)
{
	char text[64];

	err_set(e, code, "%s %s %s", what, proto_name(m), addr_text(a, text, sizeof(text)));
	if (code == EADDRINUSE)
		return err_remedy(e, "another program on this host uses port %u: stop it (or wait a "
				  "minute, if it has just ended)", m->src_port);
	if (code == EADDRNOTAVAIL)
		return err_remedy(e, "give this host the address, or bind the program to all");
	if (code == ENETUNREACH || code == EHOSTUNREACH)
		return err_remedy(e, "give this host a route to that address");
	return -code;
}

static bool is_zero(const uint32_t *words, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (words[i])
			return false;
	return true;
}

static int do_bind(int fd, const InetSkEntry *m, struct err *e)
{
	bool tcp = m->proto == IPPROTO_TCP;
	union addr a;
	socklen_t len;

	if (!m->src_port && is_zero(m->src_addr, m->n_src_addr))
		return 0;
	if (take_addr(m, m->src_addr, m->n_src_addr, m->src_port, &a, &len, e) < 0)
		return -e->code;
	/* Connections to this port that a former run left behind (TIME_WAIT) are no reason to
	 * fail. A listener still is. */
	if (tcp && kind_sockopt_set(fd, SOL_SOCKET, SO_REUSEADDR, 1) < 0)
		return err_set(e, errno, "SO_REUSEADDR");
	if (bind(fd, &a.sa, len) < 0)
		return refuse_addr(m, &a, "binding", errno, e);
	if (m->state == TCP_LISTEN && listen(fd, (int)m->backlog) < 0)
		return refuse_addr(m, &a, "listening on", errno, e);
	if (tcp && kind_sockopt_set(fd, SOL_SOCKET, SO_REUSEADDR, m->opts->reuseaddr) < 0)
		return err_set(e, errno, "SO_REUSEADDR");
	return 0;
}

static int do_connect(int fd, const InetSkEntry *m, struct err *e)
{
	union addr a;
	socklen_t len;

	if (m->proto == IPPROTO_TCP || m->state != TCP_ESTABLISHED)
		return 0;
	if (take_addr(m, m->dst_addr, m->n_dst_addr, m->dst_port, &a, &len, e) < 0)
		return -e->code;
	if (connect(fd, &a.sa, len) < 0)
		return refuse_addr(m, &a, "connecting to", errno, e);
	return 0;
}

/* shutdown() of a socket that is not connected says ENOTCONN, but does it. */
static int do_shutdown(int fd, const InetSkEntry *m, struct err *e)
{
	if (!m->has_shutdown || m->shutdown == SK_SHUTDOWN__NONE)
		return 0;
	if (shutdown(fd, (int)m->shutdown - 1) < 0 && errno != ENOTCONN)
		return err_set(e, errno, "shutdown");
	return 0;
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

static int set_options(int fd, const InetSkEntry *m, struct err *e)
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

static int inet_create(struct kind_restore *c, const FileEntry *fe, int *out, struct err *e)
{
	const InetSkEntry *m = fe->isk;
	_cleanup_close_ int fd = -1;
	InetSkEntry closed;

	if ((m->family != AF_INET && m->family != AF_INET6) ||
	    (m->type != SOCK_STREAM && m->type != SOCK_DGRAM))
		return err_say(e, EBADMSG, "socket %u: family %u, type %u", m->id, m->family,
			       m->type);
	if (m->proto == IPPROTO_TCP && m->state != TCP_LISTEN && m->state != TCP_CLOSE) {
		if (!kind_restore_opts(c)->tcp_close) {
			err_say(e, ENOTSUP, "socket %u is an open TCP connection", m->id);
			return err_remedy(e, "use --tcp-close");
		}
		closed = *m;
		closed.state = TCP_CLOSE;
		closed.has_shutdown = 1;
		closed.shutdown = SK_SHUTDOWN__BOTH;
		closed.src_port = 0;
		closed.n_src_addr = 0;
		m = &closed;
	}
	fd = socket((int)m->family, (int)m->type | SOCK_CLOEXEC, (int)m->proto);
	if (fd < 0)
		return err_set(e, errno, "socket");
	if (m->has_uid && fchown(fd, m->uid, (gid_t)-1) < 0)
		log_debug("socket %u stays ours: %m", m->id);
	if (set_options(fd, m, e) < 0 || do_bind(fd, m, e) < 0 || do_connect(fd, m, e) < 0 ||
	    do_shutdown(fd, m, e) < 0 || kind_set_flags(fd, m->flags, e) < 0)
		return -e->code;
	*out = steal_fd(fd);
	return 0;
}

/* Is the port free? Its address may come later, with the guest. */
static int inet_verify(struct kind_restore *c, const FileEntry *fe, struct err *e)
{
	InetSkEntry m = *fe->isk;
	_cleanup_close_ int fd = -1;

	if ((m.family != AF_INET && m.family != AF_INET6) || !m.src_port ||
	    (m.proto == IPPROTO_TCP && m.state != TCP_LISTEN && m.state != TCP_CLOSE))
		return 0;
	m.state = TCP_CLOSE;     /* bound, but not listening yet */
	fd = socket((int)m.family, (int)m.type | SOCK_CLOEXEC, (int)m.proto);
	if (fd < 0)
		return err_set(e, errno, "socket");
	if (m.has_uid && fchown(fd, m.uid, (gid_t)-1) < 0)
		log_debug("socket %u stays ours: %m", m.id);
	if (set_options(fd, &m, e) < 0)
		return -e->code;
	if (m.family == AF_INET6)
		kind_sockopt_set(fd, IPPROTO_IPV6, IPV6_FREEBIND, 1);
	else
		kind_sockopt_set(fd, IPPROTO_IP, IP_FREEBIND, 1);
	return do_bind(fd, &m, e);
}

const struct kind kind_inet = {
	.name = "inet socket",
	.type = FD_TYPES__INETSK,
	.match = inet_match,
	.check = inet_check,
	.preview = inet_preview,
	.dump = inet_dump,
	.verify = inet_verify,
	.create = inet_create,
};
