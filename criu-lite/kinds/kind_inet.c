/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TCP and UDP sockets. Open TCP connections live on with --tcp-established (kind_tcp.h); with
 * --tcp-close each becomes a closed socket that reads as "end of file", so that the program
 * notices and connects again. Without either they are refused.
 */
#include <errno.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "kind_fown.h"
#include "kind_inet.h"
#include "kind_sockopt.h"
#include "kind_tcp_priv.h"
#include "kind_util.h"
#include "log.h"

#ifndef IPV6_FREEBIND
#define IPV6_FREEBIND 78
#endif

struct inet_sock {
	int family, type, proto;
	int state;               /* TCP_LISTEN, ..., also for UDP */
	uint32_t backlog, waiting;
};

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
	socklen_t len = sizeof(info), alen = sizeof(union inet_addr);
	union inet_addr peer;

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
	return s->proto == IPPROTO_TCP && tcp_is_open(s->state);
}

/* What becomes of connections. */
static bool keeps(const struct kind_opts *o)
{
	return o->tcp_established && !o->tcp_close;
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

static int refuse_connection(int fd, struct err *e)
{
	union inet_addr us = {0}, them = {0};
	socklen_t len = sizeof(us);
	char a[INET_ADDR_TEXT], b[INET_ADDR_TEXT];

	getsockname(fd, &us.sa, &len);
	if (inet_addr_of_peer(fd, &them) < 0)
		them.sa.sa_family = us.sa.sa_family;
	err_say(e, ENOTSUP, "TCP connection %s - %s is open", inet_addr_text(&us, a),
		inet_addr_text(&them, b));
	return err_remedy(e, "use --tcp-established to keep it, or --tcp-close to have the program "
			  "see it as closed by its peer");
}

static int check_sock(struct kind_dump *c, int fd, struct inet_sock *s, struct err *e)
{
	if (inspect(fd, s, e) < 0)
		return -e->code;
	if (!(s->type == SOCK_STREAM && s->proto == IPPROTO_TCP) &&
	    !(s->type == SOCK_DGRAM && (s->proto == IPPROTO_UDP || s->proto == IPPROTO_UDPLITE)))
		return refuse_protocol(s, e);
	if (is_connection(s) && keeps(kind_dump_opts(c))) {
		if (tcp_check(c, fd, s->state, e) < 0)
			return -e->code;
	} else if (is_connection(s) && !kind_dump_opts(c)->tcp_close) {
		return refuse_connection(fd, e);
	}
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

/* Do those live on who wait for accept()? */
static bool keeps_waiting(const struct kind_opts *o) { return keeps(o) && !o->skip_in_flight; }

static void say_losses(struct kind_dump *c, const struct fd_view *v, const struct inet_sock *s)
{
	int n = 0;

	if (s->waiting && !keeps_waiting(kind_dump_opts(c)))
		log_warn("pid %d: fd %d: %u TCP connections not accepted yet are dropped", v->pid,
			 v->fd, s->waiting);
	if (s->proto != IPPROTO_TCP && ioctl(v->local, SIOCINQ, &n) == 0 && n > 0)
		log_info("pid %d: fd %d: UDP datagrams not read yet are dropped", v->pid, v->fd);
}

/* What a connection shows of these is how it goes, not what the program has set. */
static void drop_of_connection(SkOptsEntry *m)
{
	static const struct { uint32_t level, name; } drop[] = {
		{ IPPROTO_TCP, TCP_MAXSEG }, { IPPROTO_TCP, TCP_FASTOPEN_CONNECT },
		{ SOL_SOCKET, SO_INCOMING_CPU }, { IPPROTO_IP, IP_MULTICAST_TTL },
		{ IPPROTO_IPV6, IPV6_MULTICAST_HOPS },
	};
	size_t n = 0;

	for (size_t i = 0; i < m->n_more; i++) {
		bool gone = false;

		for (size_t k = 0; k < sizeof(drop) / sizeof(*drop); k++)
			gone |= m->more[i]->level == drop[k].level &&
				m->more[i]->name == drop[k].name;
		if (gone)
			sk_int_opt__free_unpacked(m->more[i], NULL);
		else
			m->more[n++] = m->more[i];
	}
	m->n_more = n;
}

static int dump_state(struct kind_dump *c, const struct fd_view *v, const struct inet_sock *s,
		      InetSkEntry *m, struct err *e)
{
	bool open = is_connection(s), kept = open && keeps(kind_dump_opts(c));
	bool over = s->proto == IPPROTO_TCP && !kept;

	m->state = open && !kept ? TCP_CLOSE : (uint32_t)s->state;
	m->has_shutdown = 1;
	if (kept)
		m->shutdown = tcp_shutdown_of(v->local, s->state);
	else
		m->shutdown = open ? SK_SHUTDOWN__BOTH : shutdown_of(v->local, s);
	inet_addr_dump(v->local, m, over && m->shutdown == SK_SHUTDOWN__BOTH);
	inet_opts_dump(v->local, m);
	free(m->opts);
	if (kind_sockopt_dump(c, v->local, &m->opts, e) < 0)
		return -e->code;
	if (open)
		drop_of_connection(m->opts);
	return kept ? tcp_dump(c, v, m, e) : 0;
}

static int dump_sock(struct kind_dump *c, const struct fd_view *v, const struct inet_sock *s,
		     FileEntry *fe, struct err *e)
{
	InetSkEntry *m = kind_msg(InetSkEntry, inet_sk_entry__init);

	fe->isk = m;
	m->fown = kind_fown_dump(v->local);
	m->opts = kind_msg(SkOptsEntry, sk_opts_entry__init);
	m->id = v->id;
	m->ino = (uint32_t)v->st.st_ino;
	m->flags = (uint32_t)v->flags;
	m->family = (uint32_t)s->family;
	m->type = (uint32_t)s->type;
	m->proto = (uint32_t)s->proto;
	m->backlog = s->backlog;
	m->has_uid = 1;
	m->uid = v->st.st_uid;
	return dump_state(c, v, s, m, e);
}

static int inet_dump(struct kind_dump *c, const struct fd_view *v, FileEntry *fe, struct err *e)
{
	const struct kind_opts *o = kind_dump_opts(c);
	struct inet_sock s;

	if (inspect(v->local, &s, e) < 0)
		return -e->code;
	say_losses(c, v, &s);
	int ret = dump_sock(c, v, &s, fe, e);
	if (!ret && is_connection(&s) && keeps(o))
		ret = tcp_hold(c, v->local, fe->isk->opts->reuseaddr, e);
	if (!ret && s.state == TCP_LISTEN && s.proto == IPPROTO_TCP && keeps_waiting(o))
		ret = tcp_listens(c, v, e);
	return ret;
}

int tcp_dump_waiting(struct kind_dump *c, const struct fd_view *v, FileEntry *fe, struct err *e)
{
	struct inet_sock s;

	return inspect(v->local, &s, e) < 0 ? -e->code : dump_sock(c, v, &s, fe, e);
}

/* ---- restore ---- */

static int do_bind(int fd, const InetSkEntry *m, struct err *e)
{
	bool tcp = m->proto == IPPROTO_TCP;
	union inet_addr a;
	socklen_t len;

	if (!inet_addr_is_bound(m))
		return 0;
	if (inet_addr_local(m, &a, &len, e) < 0)
		return -e->code;
	/* Connections to this port that a former run left behind (TIME_WAIT) are no reason to
	 * fail. A listener still is. */
	if (tcp && kind_sockopt_set(fd, SOL_SOCKET, SO_REUSEADDR, 1) < 0)
		return err_set(e, errno, "SO_REUSEADDR");
	if (bind(fd, &a.sa, len) < 0)
		return inet_addr_refuse(m, &a, "binding", errno, e);
	if (m->state == TCP_LISTEN && listen(fd, (int)m->backlog) < 0)
		return inet_addr_refuse(m, &a, "listening on", errno, e);
	if (tcp && kind_sockopt_set(fd, SOL_SOCKET, SO_REUSEADDR, m->opts->reuseaddr) < 0)
		return err_set(e, errno, "SO_REUSEADDR");
	return 0;
}

static int do_connect(int fd, const InetSkEntry *m, struct err *e)
{
	union inet_addr a;
	socklen_t len;

	if (m->proto == IPPROTO_TCP || m->state != TCP_ESTABLISHED)
		return 0;
	if (inet_addr_peer(m, &a, &len, e) < 0)
		return -e->code;
	if (connect(fd, &a.sa, len) < 0)
		return inet_addr_refuse(m, &a, "connecting to", errno, e);
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

static bool is_open(const InetSkEntry *m)
{
	return m->proto == IPPROTO_TCP && tcp_is_open((int)m->state);
}

static int refuse_open(const InetSkEntry *m, struct err *e)
{
	err_say(e, ENOTSUP, m->state == TCP_LISTEN ?
		"open TCP connections wait for accept() at socket %u" :
		"socket %u is an open TCP connection", m->id);
	return err_remedy(e, "use --tcp-established or --tcp-close");
}

static int new_socket(const InetSkEntry *m, struct err *e)
{
	int fd = socket((int)m->family, (int)m->type | SOCK_CLOEXEC, (int)m->proto);

	if (fd < 0)
		return err_set(e, errno, "socket");
	if (m->has_uid && fchown(fd, m->uid, (gid_t)-1) < 0)
		log_debug("socket %u stays ours: %m", m->id);
	return fd;
}

static int inet_create(struct kind_restore *c, const FileEntry *fe, int *out, struct err *e)
{
	const InetSkEntry *m = fe->isk;
	_cleanup_close_ int fd = -1;
	InetSkEntry closed;
	bool kept = is_open(m) && keeps(kind_restore_opts(c));

	if ((m->family != AF_INET && m->family != AF_INET6) ||
	    (m->type != SOCK_STREAM && m->type != SOCK_DGRAM))
		return err_say(e, EBADMSG, "socket %u: family %u, type %u", m->id, m->family,
			       m->type);
	if (is_open(m) && !kept) {
		if (!kind_restore_opts(c)->tcp_close)
			return refuse_open(m, e);
		closed = *m;
		closed.state = TCP_CLOSE;
		closed.has_shutdown = 1;
		closed.shutdown = SK_SHUTDOWN__BOTH;
		closed.src_port = 0;
		closed.n_src_addr = 0;
		m = &closed;
	}
	if ((fd = new_socket(m, e)) < 0 || inet_opts_restore(fd, m, e) < 0)
		return -e->code;
	if (kept) {
		if (tcp_create(c, m, fd, e) < 0)
			return -e->code;
	} else if (do_bind(fd, m, e) < 0 || do_connect(fd, m, e) < 0 || do_shutdown(fd, m, e) < 0) {
		return -e->code;
	}
	if (kind_set_flags(fd, m->flags, e) < 0)
		return -e->code;
	*out = steal_fd(fd);
	return 0;
}

static int inet_finish(struct kind_restore *c, const FileEntry *fe, int fd, struct err *e)
{
	const struct kind_opts *o = kind_restore_opts(c);
	const InetSkEntry *m = fe->isk;
	size_t n = m->state == TCP_LISTEN ? tcp_waiting_at(c, m->id) : 0;

	if (!n)
		return 0;
	if (keeps_waiting(o))
		return tcp_fill_queue(c, m->id, fd, e);
	if (!keeps(o) && !o->tcp_close)
		return refuse_open(m, e);
	log_warn("socket %u: %zu TCP connections not accepted yet are dropped", m->id, n);
	return 0;
}

static void inet_done(struct kind_restore *c, const FileEntry *fe)
{
	if (is_open(fe->isk) && keeps(kind_restore_opts(c)))
		tcp_run(c, fe);
}

/* Is the port free? Its address may come later, with the guest. */
static int inet_verify(struct kind_restore *c, const FileEntry *fe, struct err *e)
{
	InetSkEntry m = *fe->isk;
	_cleanup_close_ int fd = -1;

	if ((m.family != AF_INET && m.family != AF_INET6) || !m.src_port ||
	    is_open(&m))
		return 0;
	m.state = TCP_CLOSE;     /* bound, but not listening yet */
	if ((fd = new_socket(&m, e)) < 0 || inet_opts_restore(fd, &m, e) < 0)
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
	.finish = inet_finish,
	.done = inet_done,
	.end = tcp_end,
	.leave = tcp_leave,
	.undo = tcp_undo,
};
