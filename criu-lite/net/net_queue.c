/* SPDX-License-Identifier: Apache-2.0 */
#include "net_queue.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <fcntl.h>
#include <libnet.h>
#include <linux/inet_diag.h>
#include <linux/sock_diag.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>

#include "cleanup.h"
#include "io.h"
#include "log.h"
#include "net_nl.h"
#include "net_queue_bpf.h"

struct net_queue {
	struct queue_bpf bpf;
	libnet_t *raw[2];            /* IPv4, IPv6 */
	struct mnl_socket *diag;
	int listener;                /* -1: none; what is to be given back to it: */
	int reuseport, backlog;
};

/* ---- segments in the peer's name ---- */

#ifndef SO_BUF_LOCK
#define SO_BUF_LOCK 72
#endif
#define SOCK_RCVBUF_LOCK 2       /* as the kernel has it */

#define HOPS 64
#define HEADERS 100              /* IPv6, TCP and its options */
/* A buffer of the kernel's, 32 KiB, has room for so much with all headers: received bytes take up
 * no more memory than those that came from a network. */
#define PIECE 32000

struct segment {
	const struct net_waiting *w;
	uint32_t priority, seq;
	uint8_t flags;
	const uint8_t *data;
	uint32_t n;
};

static void put32(uint8_t *at, uint32_t value)
{
	value = htonl(value);
	memcpy(at, &value, sizeof(value));
}

/* The peer's clock is not known; 0 leaves it open for what comes (RFC 7323 as Linux does it). */
static bool build_tcp(libnet_t *l, const struct segment *s, uint16_t *size)
{
	uint8_t options[12] = { TCPOPT_NOP, TCPOPT_NOP, TCPOPT_TIMESTAMP, TCPOLEN_TIMESTAMP };
	const struct net_conn *c = &s->w->conn;
	uint16_t head = LIBNET_TCP_H + (c->has_ts ? sizeof(options) : 0);

	*size = (uint16_t)(head + s->n);
	put32(options + 8, c->ts_val - (s->w->has_usec_ts ? s->w->rtt : s->w->rtt / 1000));
	if (c->has_ts && libnet_build_tcp_options(options, sizeof(options), l, 0) < 0)
		return false;
	return libnet_build_tcp(c->remote.port, c->local.port, s->seq, c->snd_nxt, s->flags,
				c->window, 0, 0, *size, s->data, s->n, l, 0) >= 0;
}

static bool build_ip(libnet_t *l, const struct net_conn *c, uint16_t size)
{
	struct libnet_in6_addr src, dst;

	if (c->family == AF_INET)
		return libnet_build_ipv4((uint16_t)(LIBNET_IPV4_H + size), 0, 0, IP_DF, HOPS,
					 IPPROTO_TCP, 0, c->remote.v4.s_addr, c->local.v4.s_addr,
					 NULL, 0, l, 0) >= 0;
	memcpy(&src, &c->remote.v6, sizeof(src));
	memcpy(&dst, &c->local.v6, sizeof(dst));
	return libnet_build_ipv6(0, 0, size, IPPROTO_TCP, HOPS, src, dst, NULL, 0, l, 0) >= 0;
}

static libnet_t *raw_of(struct net_queue *q, int family, struct err *e)
{
	libnet_t **l = &q->raw[family == AF_INET6];
	char why[LIBNET_ERRBUF_SIZE] = "";

	if (*l)
		libnet_clear_packet(*l);
	else
		*l = libnet_init(family == AF_INET ? LIBNET_RAW4 : LIBNET_RAW6, NULL, why);
	if (!*l)
		err_say(e, EPERM, "raw socket: %s", why);
	return *l;
}

static int send_segment(struct net_queue *q, const struct segment *s, struct err *e)
{
	const struct net_conn *c = &s->w->conn;
	libnet_t *l = raw_of(q, c->family, e);
	uint16_t size;

	if (!l)
		return -e->code;
	if (setsockopt(libnet_getfd(l), SOL_SOCKET, SO_PRIORITY, &s->priority,
		       sizeof(s->priority)) < 0)
		return err_set(e, errno, "SO_PRIORITY");
	if (!build_tcp(l, s, &size) || !build_ip(l, c, size) || libnet_write(l) < 0)
		return err_say(e, EIO, "a segment through lo: %s", libnet_geterror(l));
	return 0;
}

/* ---- what has become of it ---- */

struct seen {
	int state;                   /* 0: there is no such connection */
	uint32_t received;           /* a FIN counts as one */
};

static int take_seen(const struct nlmsghdr *nlh, void *data)
{
	const struct inet_diag_msg *m = mnl_nlmsg_get_payload(nlh);
	struct seen *seen = data;

	if (nlh->nlmsg_type == SOCK_DIAG_BY_FAMILY &&
	    mnl_nlmsg_get_payload_len(nlh) >= sizeof(*m)) {
		seen->state = m->idiag_state;
		seen->received = m->idiag_rqueue;
	}
	return MNL_CB_OK;
}

static int look(struct net_queue *q, const struct net_conn *c, struct seen *seen, struct err *e)
{
	struct {
		struct nlmsghdr h;
		struct inet_diag_req_v2 r;
	} ask = {
		.h = { .nlmsg_len = sizeof(ask), .nlmsg_type = SOCK_DIAG_BY_FAMILY,
		       .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK, .nlmsg_seq = 1 },
		.r = { .sdiag_family = c->family, .sdiag_protocol = IPPROTO_TCP,
		       .idiag_states = ~0u,
		       .id = { .idiag_sport = htons(c->local.port),
			       .idiag_dport = htons(c->remote.port),
			       .idiag_if = c->ifindex,
			       .idiag_cookie = { INET_DIAG_NOCOOKIE, INET_DIAG_NOCOOKIE } } },
	};
	size_t n = c->family == AF_INET ? 4 : 16;

	memcpy(ask.r.id.idiag_src, &c->local.v6, n);
	memcpy(ask.r.id.idiag_dst, &c->remote.v6, n);
	*seen = (struct seen){ 0 };
	int ret = net_nl_ask(q->diag, &ask, sizeof(ask), 1, take_seen, seen);
	if (ret < 0 && ret != -ENOENT)
		return err_set(e, -ret, "asking for a connection (CONFIG_INET_TCP_DIAG)");
	return 0;
}

/* Through `lo` a segment arrives at once, or a moment later, if another CPU does it. */
#define TRIES    7
#define PAUSE_NS 100000          /* the first; each is twice as long */

/* Sends until the connection is in this state and has received so much. */
static int send_until(struct net_queue *q, const struct segment *s, int state, uint32_t received,
		      struct err *e)
{
	struct seen seen;

	for (int i = 0; i < TRIES; i++) {
		int sent = send_segment(q, s, e);

		if (look(q, &s->w->conn, &seen, e) < 0)
			return -e->code;
		if (seen.state == state && seen.received == received)
			return 0;
		nanosleep(&(struct timespec){ .tv_nsec = (long)PAUSE_NS << i }, NULL);
		if (sent == 0 && seen.state && seen.state != state && i == TRIES - 1)
			break;
		if (sent == 0)
			err_clear(e);
	}
	if (err_is(e))
		return -e->code;
	return err_say(e, EPROTO,
		       "what the peer has said is not heard through lo (state %d, %u bytes)",
		       seen.state, seen.received);
}

/* ---- opening ---- */

static void fill_slot(const struct net_waiting *w, struct queue_slot *slot)
{
	/* the smallest that the kernel takes (net/core/filter.c) */
	uint16_t least = w->conn.family == AF_INET ? 536 : 1220;

	*slot = (struct queue_slot){
		.attrs = {
			.rcv_tsecr = w->conn.ts_val,
			.mss = w->mss < least ? least : w->mss,
			.rcv_wscale = w->rcv_wscale,
			.snd_wscale = w->snd_wscale,
			.ecn_ok = w->has_ecn,
			.wscale_ok = w->has_wscale,
			.sack_ok = w->has_sack,
			.tstamp_ok = w->conn.has_ts,
			.usec_ts_ok = w->has_usec_ts,
		},
	};
}

static int refused(const struct queue_slot *slot, struct err *e)
{
	err_set(e, -slot->result, "the kernel does not open it");
	return slot->result == -EINVAL ?
		       err_remedy(e, "net.ipv4.tcp_timestamps, tcp_sack and tcp_window_scaling "
				     "must be on here if they were on where it comes from") :
		       -e->code;
}

static int open_it(struct net_queue *q, const struct net_waiting *w, struct err *e)
{
	struct segment s = { .w = w, .priority = NET_QUEUE_OPENS, .seq = w->first,
			     .flags = TH_ACK };
	struct queue_slot slot;
	uint32_t key = 0;

	fill_slot(w, &slot);
	if (bpf_map_update_elem(q->bpf.slot, &key, &slot, BPF_ANY) < 0)
		return err_set(e, errno, "BPF map");
	if (send_until(q, &s, TCP_ESTABLISHED, 0, e) == 0)
		return 0;
	if (bpf_map_lookup_elem(q->bpf.slot, &key, &slot) == 0 && slot.result < 0) {
		err_clear(e);
		return refused(&slot, e);
	}
	return slot.used ? -e->code :
			   err_remedy(e, "its address must be on this host, lo up, and no rule may "
					 "drop what comes through lo");
}

static int get(int fd, int level, int name, int *value)
{
	socklen_t n = sizeof(*value);

	return getsockopt(fd, level, name, value, &n);
}

/* As large as lo lets through. */
static size_t piece_max(const struct net_queue *q)
{
	struct ifreq r = { .ifr_name = "lo" };
	int mtu = ioctl(q->listener, SIOCGIFMTU, &r) < 0 ? 0 : r.ifr_mtu;

	return mtu >= PIECE + HEADERS ? PIECE : mtu > HEADERS + 512 ? (size_t)(mtu - HEADERS) : 512;
}

static int put_all(struct net_queue *q, const struct net_waiting *w, struct err *e)
{
	struct segment s = { .w = w, .priority = NET_QUEUE_FOLLOWS, .flags = TH_ACK | TH_PUSH };
	size_t max = w->n ? piece_max(q) : 0;
	int ret = open_it(q, w, e);

	for (size_t at = 0; !ret && at < w->n; at += s.n) {
		s.data = w->data + at;
		s.n = (uint32_t)(w->n - at < max ? w->n - at : max);
		s.seq = w->first + (uint32_t)at;
		ret = send_until(q, &s, TCP_ESTABLISHED, (uint32_t)at + s.n, e);
	}
	if (!ret && w->fin) {
		s = (struct segment){ .w = w, .priority = NET_QUEUE_FOLLOWS,
				      .flags = TH_ACK | TH_FIN,
				      .seq = w->first + (uint32_t)w->n };
		ret = send_until(q, &s, TCP_CLOSE_WAIT, (uint32_t)w->n + 1, e);
	}
	return ret;
}

/* A connection has the receive buffer of its listening socket, which is smaller than what it has
 * grown to, or what the program may have made of it meanwhile. It is not locked: it grows on as
 * ever. */
static void set_room(int fd, int size, int lock)
{
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_BUF_LOCK, &lock, sizeof(lock)) < 0)
		log_debug("receive buffer of a listening socket: %m");
}

int net_queue_put(struct net_queue *q, const struct net_waiting *w, struct err *e)
{
	char text[NET_CONN_TEXT];
	int size = 0, lock = 0, want = (int)w->n + (128 << 10);
	bool grow = w->n && get(q->listener, SOL_SOCKET, SO_RCVBUF, &size) == 0 &&
		    get(q->listener, SOL_SOCKET, SO_BUF_LOCK, &lock) == 0 &&
		    w->n > (size_t)size / 4 && want > size / 2;

	if (grow)
		set_room(q->listener, want, lock & ~SOCK_RCVBUF_LOCK);
	int ret = put_all(q, w, e);
	if (grow)
		set_room(q->listener, size / 2, lock); /* the kernel doubles it */
	return ret ? err_in(e, "%s", net_conn_text(&w->conn, text)) : 0;
}

/* ---- the listening socket ---- */

/* A program may have made its queue shorter than what was in it. */
static int make_room(int listener, uint32_t room, uint32_t have, struct err *e)
{
	struct tcp_info info = { 0 };
	socklen_t n = sizeof(info);

	/* one more than that is let in */
	if (have + 1 >= room)
		return 0;
	if (listen(listener, (int)room) < 0 ||
	    getsockopt(listener, IPPROTO_TCP, TCP_INFO, &info, &n) < 0)
		return err_set(e, errno, "listen");
	if (info.tcpi_sacked + 1 >= room)
		return 0;
	err_say(e, ENOBUFS, "its queue holds %u connections here, not %u", info.tcpi_sacked + 1,
		room);
	return err_remedy(e, "raise net.core.somaxconn");
}

/* Of a group of listening sockets (SO_REUSEPORT) the kernel would choose one by itself. */
int net_queue_begin(struct net_queue *q, int listener, uint32_t room, struct err *e)
{
	struct tcp_info info = { 0 };
	socklen_t n = sizeof(info);
	uint32_t key = 0;
	int no = 0;

	if (getsockopt(listener, IPPROTO_TCP, TCP_INFO, &info, &n) < 0 ||
	    get(listener, SOL_SOCKET, SO_REUSEPORT, &q->reuseport) < 0)
		return err_set(e, errno, "listening socket");
	if (bpf_map_update_elem(q->bpf.sock, &key, &listener, BPF_ANY) < 0)
		return err_set(e, errno, "listening socket: BPF map");
	q->listener = listener;
	q->backlog = (int)info.tcpi_sacked;
	if (q->reuseport && setsockopt(listener, SOL_SOCKET, SO_REUSEPORT, &no, sizeof(no)) < 0)
		return err_set(e, errno, "SO_REUSEPORT");
	return make_room(listener, room, info.tcpi_sacked, e);
}

void net_queue_end(struct net_queue *q)
{
	uint32_t key = 0;

	if (q->listener < 0)
		return;
	listen(q->listener, q->backlog);
	if (q->reuseport)
		setsockopt(q->listener, SOL_SOCKET, SO_REUSEPORT, &q->reuseport,
			   sizeof(q->reuseport));
	bpf_map_delete_elem(q->bpf.sock, &key);
	q->listener = -1;
}

/* ---- */

/* Without SYN cookies the kernel does not look at what ends a handshake it does not know of. */
static int need_cookies(struct err *e)
{
	struct buf text = { 0 };
	struct err why = ERR_INIT;
	int ret = io_slurp_at(AT_FDCWD, "/proc/sys/net/ipv4/tcp_syncookies", &text, &why);
	bool off = ret < 0 || !text.n || text.at[0] == '0';

	buf_free(&text);
	if (!off)
		return 0;
	err_say(e, ENOTSUP, "SYN cookies are off");
	return err_remedy(e, "sysctl net.ipv4.tcp_syncookies=1");
}

int net_queue_open(struct net_queue **out, struct err *e)
{
	struct net_queue *q = xcalloc(1, sizeof(*q));
	struct err ignored = ERR_INIT;

	*out = NULL;
	q->listener = -1;
	q->bpf = (struct queue_bpf)QUEUE_BPF_INIT;
	if (need_cookies(e) < 0 || net_nl_open(&q->diag, NETLINK_SOCK_DIAG, -1, e) < 0 ||
	    queue_bpf_open(&q->bpf, e) < 0 || !raw_of(q, AF_INET, e)) {
		net_queue_close(q);
		return -e->code;
	}
	/* to make these costs libnet some milliseconds; IPv6 may be off */
	raw_of(q, AF_INET6, &ignored);
	*out = q;
	return 0;
}

void net_queue_close(struct net_queue *q)
{
	if (!q)
		return;
	net_queue_end(q);
	queue_bpf_close(&q->bpf);
	net_nl_close(&q->diag);
	for (int i = 0; i < 2; i++)
		if (q->raw[i])
			libnet_destroy(q->raw[i]);
	free(q);
}

/* ---- does it work here? ---- */

struct trial {
	int listener, peer;          /* the latter has but a port, which is nobody else's then */
	struct net_waiting w;
};

static int bind_lo(int *fd, struct sockaddr_in *at)
{
	socklen_t n = sizeof(*at);

	*at = (struct sockaddr_in){ .sin_family = AF_INET,
				    .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	*fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	return *fd < 0 || bind(*fd, (struct sockaddr *)at, n) < 0 ||
	       getsockname(*fd, (struct sockaddr *)at, &n) < 0 ? -errno : 0;
}

static int try_put(struct net_queue *q, struct trial *t, struct err *e)
{
	struct sockaddr_in us, them;
	int on = TCP_REPAIR_ON;

	if (bind_lo(&t->listener, &us) < 0 || bind_lo(&t->peer, &them) < 0 ||
	    listen(t->listener, 1) < 0)
		return err_set(e, errno, "a socket for a trial");
	net_conn_set(&t->w.conn, (struct sockaddr *)&us, (struct sockaddr *)&them);
	t->w.conn.snd_nxt = 1;
	t->w.conn.window = 1000;
	t->w.mss = 1460;
	t->w.first = 1;
	if (net_queue_begin(q, t->listener, 1, e) < 0 || net_queue_put(q, &t->w, e) < 0)
		return -e->code;
	_cleanup_close_ int fd = accept4(t->listener, NULL, NULL, SOCK_CLOEXEC);
	if (fd < 0)
		return err_set(e, errno, "accept");
	setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &on, sizeof(on)); /* it ends without a word */
	return 0;
}

int net_queue_try(struct net_queue *q, struct err *e)
{
	struct trial t = { .listener = -1, .peer = -1 };
	int ret = try_put(q, &t, e);

	net_queue_end(q);
	cleanup_close(&t.listener);
	cleanup_close(&t.peer);
	return ret;
}
