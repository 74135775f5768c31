/* SPDX-License-Identifier: Apache-2.0 */
#include "kind_sockopt.h"

#include <errno.h>
#include <linux/filter.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "cleanup.h"
#include "kind_util.h"
#include "log.h"

#ifndef SO_BUF_LOCK
#define SO_BUF_LOCK 72
#endif

/* Options with a field of their own. Both kinds of field are 4 bytes. */
struct field {
	int level, name;
	size_t has, at;
};
#define FIELD(level, name, f) \
	{ level, name, offsetof(SkOptsEntry, has_##f), offsetof(SkOptsEntry, f) }
static const struct field fields[] = {
	FIELD(SOL_SOCKET, SO_REUSEADDR, reuseaddr),
	FIELD(SOL_SOCKET, SO_REUSEPORT, so_reuseport),
	FIELD(SOL_SOCKET, SO_PRIORITY, so_priority),
	FIELD(SOL_SOCKET, SO_RCVLOWAT, so_rcvlowat),
	FIELD(SOL_SOCKET, SO_MARK, so_mark),
	FIELD(SOL_SOCKET, SO_PASSCRED, so_passcred),
	FIELD(SOL_SOCKET, SO_PASSSEC, so_passsec),
	FIELD(SOL_SOCKET, SO_DONTROUTE, so_dontroute),
	FIELD(SOL_SOCKET, SO_NO_CHECK, so_no_check),
	FIELD(SOL_SOCKET, SO_BROADCAST, so_broadcast),
	FIELD(SOL_SOCKET, SO_KEEPALIVE, so_keepalive),
	FIELD(SOL_SOCKET, SO_OOBINLINE, so_oobinline),
	FIELD(IPPROTO_TCP, TCP_KEEPCNT, tcp_keepcnt),
	FIELD(IPPROTO_TCP, TCP_KEEPIDLE, tcp_keepidle),
	FIELD(IPPROTO_TCP, TCP_KEEPINTVL, tcp_keepintvl),
};

/* Options without one: written only if they differ from those of a new socket. Numbers where
 * Debian 12's headers have no name. */
static const struct { int level, name; } others[] = {
	{ SOL_SOCKET, SO_TIMESTAMP }, { SOL_SOCKET, SO_TIMESTAMPNS },
	{ SOL_SOCKET, 63 /* SO_TIMESTAMP_NEW */ }, { SOL_SOCKET, 64 /* SO_TIMESTAMPNS_NEW */ },
	{ SOL_SOCKET, SO_TIMESTAMPING }, { SOL_SOCKET, SO_RXQ_OVFL },
	{ SOL_SOCKET, SO_BUSY_POLL }, { SOL_SOCKET, SO_SELECT_ERR_QUEUE },
	{ SOL_SOCKET, SO_ZEROCOPY }, { SOL_SOCKET, SO_INCOMING_CPU },
	{ SOL_SOCKET, 76 /* SO_PASSPIDFD */ }, { SOL_SOCKET, 83 /* SO_PASSRIGHTS */ },
	{ SOL_SOCKET, SO_PEEK_OFF }, { SOL_SOCKET, SO_LOCK_FILTER },
	{ SOL_SOCKET, SO_MAX_PACING_RATE }, { IPPROTO_TCP, 16 /* TCP_THIN_LINEAR_TIMEOUTS */ },
	{ IPPROTO_TCP, 37 /* TCP_TX_DELAY */ },
	{ IPPROTO_TCP, TCP_MAXSEG }, { IPPROTO_TCP, TCP_SYNCNT }, { IPPROTO_TCP, TCP_LINGER2 },
	{ IPPROTO_TCP, TCP_DEFER_ACCEPT }, { IPPROTO_TCP, TCP_WINDOW_CLAMP },
	{ IPPROTO_TCP, TCP_QUICKACK }, { IPPROTO_TCP, TCP_USER_TIMEOUT },
	{ IPPROTO_TCP, TCP_FASTOPEN }, { IPPROTO_TCP, TCP_FASTOPEN_CONNECT },
	{ IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE }, { IPPROTO_TCP, TCP_NOTSENT_LOWAT },
	{ IPPROTO_TCP, TCP_SAVE_SYN }, { IPPROTO_TCP, TCP_INQ },
	{ IPPROTO_UDP, UDP_ENCAP }, { IPPROTO_UDP, UDP_NO_CHECK6_TX },
	{ IPPROTO_UDP, UDP_NO_CHECK6_RX }, { IPPROTO_UDP, 103 /* UDP_SEGMENT */ },
	{ IPPROTO_UDP, 104 /* UDP_GRO */ },
	{ IPPROTO_IP, IP_MTU_DISCOVER }, { IPPROTO_IP, IP_RECVERR }, { IPPROTO_IP, IP_RECVTTL },
	{ IPPROTO_IP, IP_RECVTOS }, { IPPROTO_IP, IP_RECVOPTS },
	{ IPPROTO_IP, IP_RECVORIGDSTADDR }, { IPPROTO_IP, IP_MULTICAST_TTL },
	{ IPPROTO_IP, IP_MULTICAST_LOOP }, { IPPROTO_IP, IP_MULTICAST_ALL },
	{ IPPROTO_IP, IP_TRANSPARENT }, { IPPROTO_IP, IP_MINTTL },
	{ IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT },
	{ IPPROTO_IPV6, IPV6_MTU_DISCOVER }, { IPPROTO_IPV6, IPV6_RECVERR },
	{ IPPROTO_IPV6, IPV6_RECVHOPLIMIT }, { IPPROTO_IPV6, IPV6_RECVTCLASS },
	{ IPPROTO_IPV6, IPV6_MULTICAST_HOPS }, { IPPROTO_IPV6, IPV6_MULTICAST_LOOP },
	{ IPPROTO_IPV6, IPV6_DONTFRAG }, { IPPROTO_IPV6, IPV6_TRANSPARENT },
	{ IPPROTO_IPV6, IPV6_MINHOPCOUNT }, { IPPROTO_IPV6, IPV6_AUTOFLOWLABEL },
	{ IPPROTO_IPV6, 74 /* IPV6_RECVORIGDSTADDR */ },
};
#define N_OF(a) (sizeof(a) / sizeof(*(a)))

int kind_sockopt_get(int fd, int level, int name, int *value)
{
	socklen_t len = sizeof(*value);

	*value = 0;
	return getsockopt(fd, level, name, value, &len) < 0 ? -errno : 0;
}

int kind_sockopt_set(int fd, int level, int name, int value)
{
	int now;

	/* What is so already must not fail for want of a capability. */
	if (!kind_sockopt_get(fd, level, name, &now) && now == value)
		return 0;
	return setsockopt(fd, level, name, &value, sizeof(value)) < 0 ? -errno : 0;
}

/* ---- dump ---- */

/* What a new socket has, for each sort of socket that was met. */
struct usual {
	int domain, type, proto;
	bool has[N_OF(others)];
	int value[N_OF(others)];
};
typedef VEC(struct usual) usual_vec;
static const struct kind whose = { .name = "socket options" };

static const struct usual *usual_of(struct kind_dump *c, int fd)
{
	usual_vec *all = kind_dump_list(c, &whose);
	int domain, type, proto;

	if (kind_sockopt_get(fd, SOL_SOCKET, SO_DOMAIN, &domain) ||
	    kind_sockopt_get(fd, SOL_SOCKET, SO_TYPE, &type) ||
	    kind_sockopt_get(fd, SOL_SOCKET, SO_PROTOCOL, &proto))
		return NULL;
	vec_each(all, u)
		if (u->domain == domain && u->type == type && u->proto == proto)
			return u;

	_cleanup_close_ int fresh = socket(domain, type | SOCK_CLOEXEC, proto);
	if (fresh < 0)
		return NULL;
	struct usual *u = vec_new(all);
	u->domain = domain;
	u->type = type;
	u->proto = proto;
	for (size_t i = 0; i < N_OF(others); i++)
		u->has[i] = !kind_sockopt_get(fresh, others[i].level, others[i].name, &u->value[i]);
	return u;
}

static void dump_others(struct kind_dump *c, int fd, SkOptsEntry *m)
{
	const struct usual *usual = usual_of(c, fd);
	int value;

	m->more = xcalloc(N_OF(others), sizeof(*m->more));
	for (size_t i = 0; usual && i < N_OF(others); i++) {
		if (!usual->has[i] ||
		    kind_sockopt_get(fd, others[i].level, others[i].name, &value) ||
		    value == usual->value[i])
			continue;
		SkIntOpt *o = kind_msg(SkIntOpt, sk_int_opt__init);
		o->level = (uint32_t)others[i].level;
		o->name = (uint32_t)others[i].name;
		o->value = value;
		m->more[m->n_more++] = o;
	}
}

static int dump_timeout(int fd, int name, uint64_t *sec, uint64_t *usec, struct err *e)
{
	struct timeval tv = {0};
	socklen_t len = sizeof(tv);

	if (getsockopt(fd, SOL_SOCKET, name, &tv, &len) < 0)
		return err_set(e, errno, "reading a timeout");
	*sec = (uint64_t)tv.tv_sec;
	*usec = (uint64_t)tv.tv_usec;
	return 0;
}

static int dump_device(int fd, SkOptsEntry *m, struct err *e)
{
	char name[IFNAMSIZ] = "";
	socklen_t len = sizeof(name);

	if (getsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, name, &len) < 0)
		return errno == ENOPROTOOPT ? 0 : err_set(e, errno, "reading SO_BINDTODEVICE");
	if (len && name[0])
		m->so_bound_dev = xstrdup(name);
	return 0;
}

/* The length of the option is a number of instructions, not of bytes. */
int kind_sockopt_check(int fd, struct err *e)
{
	socklen_t n = 0;

	if (getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, NULL, &n) == 0 || errno != EACCES)
		return 0;
	err_say(e, ENOTSUP, "the socket has an eBPF filter, which cannot be read");
	return err_remedy(e, "let the program detach the filter (SO_DETACH_BPF)");
}

static int dump_filter(int fd, SkOptsEntry *m, struct err *e)
{
	struct sock_filter code[BPF_MAXINSNS];
	socklen_t n = 0;

	if (kind_sockopt_check(fd, e) < 0)
		return -e->code;
	if (getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, NULL, &n) < 0 || !n)
		return 0;
	n = BPF_MAXINSNS;
	if (getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, code, &n) < 0)
		return err_set(e, errno, "reading the filter");
	m->so_filter = xcalloc(n, sizeof(*m->so_filter));
	for (m->n_so_filter = 0; m->n_so_filter < n; m->n_so_filter++) {
		const struct sock_filter *f = &code[m->n_so_filter];

		m->so_filter[m->n_so_filter] = (uint64_t)f->code << 48 | (uint64_t)f->jt << 40 |
					       (uint64_t)f->jf << 32 | f->k;
	}
	return 0;
}

static int dump_buffers(int fd, SkOptsEntry *m, struct err *e)
{
	int snd, rcv, lock, ret;

	if ((ret = kind_sockopt_get(fd, SOL_SOCKET, SO_SNDBUF, &snd)) < 0 ||
	    (ret = kind_sockopt_get(fd, SOL_SOCKET, SO_RCVBUF, &rcv)) < 0)
		return err_set(e, -ret, "reading the sizes of the buffers");
	m->so_sndbuf = (uint32_t)snd;
	m->so_rcvbuf = (uint32_t)rcv;
	if (!kind_sockopt_get(fd, SOL_SOCKET, SO_BUF_LOCK, &lock)) { /* since 5.14 */
		m->has_so_buf_lock = 1;
		m->so_buf_lock = (uint32_t)lock;
	}
	return 0;
}

int kind_sockopt_dump(struct kind_dump *c, int fd, SkOptsEntry **out, struct err *e)
{
	SkOptsEntry *m = *out = kind_msg(SkOptsEntry, sk_opts_entry__init);
	struct linger linger = {0};
	socklen_t len = sizeof(linger);
	int value;

	for (const struct field *f = fields; f < fields + N_OF(fields); f++) {
		if (kind_sockopt_get(fd, f->level, f->name, &value))
			continue;
		*(int *)((char *)m + f->has) = 1;
		*(int *)((char *)m + f->at) = value;
	}
	if (!getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &len) && linger.l_onoff) {
		m->has_so_linger = 1;
		m->so_linger = (uint32_t)linger.l_linger;
	}
	dump_others(c, fd, m);
	if (dump_timeout(fd, SO_SNDTIMEO, &m->so_snd_tmo_sec, &m->so_snd_tmo_usec, e) < 0 ||
	    dump_timeout(fd, SO_RCVTIMEO, &m->so_rcv_tmo_sec, &m->so_rcv_tmo_usec, e) < 0 ||
	    dump_buffers(fd, m, e) < 0 || dump_device(fd, m, e) < 0)
		return -e->code;
	return dump_filter(fd, m, e);
}

/* ---- restore ---- */

static void restore_others(int fd, const SkOptsEntry *m)
{
	for (size_t i = 0; i < m->n_more; i++) {
		const SkIntOpt *o = m->more[i];
		int ret = kind_sockopt_set(fd, (int)o->level, (int)o->name, o->value);

		if (ret < 0)
			log_warn("socket option %u/%u cannot be set to %d: %s", o->level, o->name,
				 o->value, strerror(-ret));
	}
}

static int restore_fields(int fd, const SkOptsEntry *m, struct err *e)
{
	for (const struct field *f = fields; f < fields + N_OF(fields); f++) {
		int value = *(const int *)((const char *)m + f->at);

		if (!*(const int *)((const char *)m + f->has))
			continue;
		int ret = kind_sockopt_set(fd, f->level, f->name, value);
		/* An option at rest that this kernel does not have for such a socket. */
		if (ret < 0 && value)
			return err_set(e, -ret, "setting socket option %d/%d to %d", f->level,
				       f->name, value);
	}
	return 0;
}

static int restore_timeout(int fd, int name, uint64_t sec, uint64_t usec, struct err *e)
{
	struct timeval tv = { (time_t)sec, (suseconds_t)usec };

	if ((sec || usec) && setsockopt(fd, SOL_SOCKET, name, &tv, sizeof(tv)) < 0)
		return err_set(e, errno, "setting a timeout");
	return 0;
}

/* The kernel doubles what is set and gives back the double. */
static int restore_buffer(int fd, int force, int plain, uint32_t size, struct err *e)
{
	int half = (int)(size / 2), now;

	if (!kind_sockopt_get(fd, SOL_SOCKET, plain, &now) && (uint32_t)now == size)
		return 0;
	if (!setsockopt(fd, SOL_SOCKET, force, &half, sizeof(half)))
		return 0;
	if (setsockopt(fd, SOL_SOCKET, plain, &half, sizeof(half)) < 0)
		return err_set(e, errno, "setting the size of a buffer");
	if (!kind_sockopt_get(fd, SOL_SOCKET, plain, &now) && (uint32_t)now < size)
		log_warn("a socket buffer of %u bytes is limited to %d here", size, now);
	return 0;
}

int kind_sockopt_restore_buffers(int fd, const SkOptsEntry *m, struct err *e)
{
	if (restore_buffer(fd, SO_SNDBUFFORCE, SO_SNDBUF, m->so_sndbuf, e) < 0 ||
	    restore_buffer(fd, SO_RCVBUFFORCE, SO_RCVBUF, m->so_rcvbuf, e) < 0)
		return -e->code;
	/* To set a size is to lock it; only what was locked stays so. */
	if (m->has_so_buf_lock &&
	    kind_sockopt_set(fd, SOL_SOCKET, SO_BUF_LOCK, (int)m->so_buf_lock) < 0)
		log_debug("socket buffers stay locked on this kernel");
	return 0;
}

static int restore_filter(int fd, const SkOptsEntry *m, struct err *e)
{
	struct sock_filter code[BPF_MAXINSNS];
	struct sock_fprog prog = { .len = (unsigned short)m->n_so_filter, .filter = code };

	if (!m->n_so_filter)
		return 0;
	if (m->n_so_filter > BPF_MAXINSNS)
		return err_say(e, EBADMSG, "a socket filter of %zu instructions", m->n_so_filter);
	for (size_t i = 0; i < m->n_so_filter; i++) {
		uint64_t f = m->so_filter[i];

		code[i] = (struct sock_filter){ (uint16_t)(f >> 48), (uint8_t)(f >> 40),
						(uint8_t)(f >> 32), (uint32_t)f };
	}
	if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog)) < 0)
		return err_set(e, errno, "setting the filter");
	return 0;
}

static int restore_device(int fd, const char *name, struct err *e)
{
	if (!name || !*name)
		return 0;
	if (!setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, name, (socklen_t)strlen(name)))
		return 0;
	err_set(e, errno, "binding to network device %s", name);
	return err_remedy(e, "give this host a network device %s", name);
}

int kind_sockopt_restore(int fd, const SkOptsEntry *m, struct err *e)
{
	struct linger linger = { .l_onoff = 1, .l_linger = (int)m->so_linger };

	if (restore_fields(fd, m, e) < 0 || restore_device(fd, m->so_bound_dev, e) < 0 ||
	    restore_timeout(fd, SO_SNDTIMEO, m->so_snd_tmo_sec, m->so_snd_tmo_usec, e) < 0 ||
	    restore_timeout(fd, SO_RCVTIMEO, m->so_rcv_tmo_sec, m->so_rcv_tmo_usec, e) < 0 ||
	    restore_filter(fd, m, e) < 0)
		return -e->code;
	if (m->has_so_linger &&
	    setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)) < 0)
		return err_set(e, errno, "setting SO_LINGER");
	restore_others(fd, m);
	/* Last: SO_RCVLOWAT and TCP_WINDOW_CLAMP move the buffers' sizes. */
	return kind_sockopt_restore_buffers(fd, m, e);
}
