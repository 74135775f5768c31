/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The last step of a restored connection, right before the guest runs: its address is here and the
 * network is open. What came from the peer and will not come again (its FIN, its acknowledgement of
 * ours) is said by a segment in its name; then the socket leaves repair mode and asks the peer
 * where it stands, so that both go on at once and not when a timer runs out.
 */
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "kind_inet.h"
#include "kind_sockopt.h"
#include "kind_tcp.h"
#include "kind_tcp_image.h"
#include "kind_tcp_priv.h"
#include "kind_tcp_segment.h"
#include "log.h"

#define FIN 0x01
#define ACK 0x10

extern const struct kind kind_inet;

struct run {
	struct tcp_sender *by;
	const InetSkEntry *m;
	int fd;
	struct tcp_image t;
	struct net_conn conn;
};

static int state_of(int fd)
{
	struct tcp_info info = {0};
	socklen_t len = sizeof(info);

	return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0 ? TCP_CLOSE : info.tcpi_state;
}

/* In the peer's name. Its clock is not known; 0 passes the check for old segments and leaves it
 * open for what comes next (RFC 7323 as Linux does it: no check against 0). The other number tells
 * the socket how far away the peer is. */
static int say(struct run *r, uint8_t flags, uint32_t ack, struct err *e)
{
	const TcpStreamEntry *m = r->t.m;
	struct tcp_segment s = {
		.conn = &r->conn, .to_us = true, .flags = ACK | flags, .ack = ack,
		.seq = flags & FIN ? r->t.rcv_end : m->inq_seq, .has_ts = r->conn.has_ts,
	};
	int now = 0;

	s.window = (uint16_t)(m->snd_wnd >> (m->opt_mask & TCPI_OPT_WSCALE ? m->snd_wscale : 0));
	if (s.has_ts && !kind_sockopt_get(r->fd, IPPROTO_TCP, TCP_TIMESTAMP, &now))
		s.ts_ecr = (uint32_t)now -
			   (m->opt_mask & TCPI_OPT_USEC_TS ? m->cl_rtt : m->cl_rtt / 1000);
	return tcp_segment_send(r->by, &s, e);
}

/* Through `lo` a segment arrives at once, or a moment later, if another CPU does it. To an address
 * of IPv6 that has just come to this host there is no way in the first moments. */
#define TRIES    7
#define PAUSE_NS 100000          /* the first; each is twice as long */

static int say_until(struct run *r, uint8_t flags, uint32_t ack, int state, struct err *e)
{
	for (int i = 0; i < TRIES; i++) {
		if (say(r, flags, ack, e) == 0 && state_of(r->fd) == state)
			return 0;
		nanosleep(&(struct timespec){ .tv_nsec = (long)PAUSE_NS << i }, NULL);
		if (state_of(r->fd) == state)
			return 0;
		err_clear(e);
	}
	return err_say(e, EPROTO, "what the peer has said is not heard through lo");
}

/* Segments by `lo` do not reach a socket that is bound to another device. */
static void set_device(int fd, const char *name)
{
	if (setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, name, (socklen_t)strlen(name)) < 0)
		log_warn("SO_BINDTODEVICE %s: %m", name);
}

/* There is room for a FIN in any window. */
static int widen(struct run *r, struct err *e)
{
	struct tcp_repair_window w;
	socklen_t len = sizeof(w);

	if (getsockopt(r->fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, &w, &len) < 0)
		return err_set(e, errno, "TCP_REPAIR_WINDOW");
	w.rcv_wup = r->t.rcv_end;
	if (w.rcv_wnd < 4096)
		w.rcv_wnd = 4096;
	if (setsockopt(r->fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, &w, sizeof(w)) < 0)
		return err_set(e, errno, "TCP_REPAIR_WINDOW");
	return 0;
}

static int say_all(struct run *r, struct err *e)
{
	uint32_t una = r->t.data_end - r->t.m->outq_len;

	switch (r->t.state) {
	case TCP_FIN_WAIT2:
		return say_until(r, 0, r->t.m->outq_seq, TCP_FIN_WAIT2, e);
	case TCP_CLOSE_WAIT:
		return say_until(r, FIN, una, TCP_CLOSE_WAIT, e);
	case TCP_CLOSING:
		return say_until(r, FIN, una, TCP_CLOSING, e);
	case TCP_LAST_ACK:
		if (say_until(r, FIN, una, TCP_CLOSE_WAIT, e) < 0)
			return -e->code;
		if (!r->t.fin_unsent && tcp_repair_queue(r->fd, TCP_SEND_QUEUE, e) < 0)
			return -e->code;
		if (shutdown(r->fd, SHUT_WR) < 0)
			return err_set(e, errno, "shutdown");
		return tcp_repair_queue(r->fd, TCP_NO_QUEUE, e);
	default:
		return say(r, 0, una, e);
	}
}

static int say_what_was(struct run *r, struct err *e)
{
	const char *device = r->m->opts->so_bound_dev;
	bool unbind = device && *device && r->conn.family == AF_INET;

	if (r->t.state == TCP_SYN_SENT ||
	    (r->t.state != TCP_FIN_WAIT2 && !r->t.fin_came && !r->t.seed))
		return 0;
	if (r->t.fin_came && widen(r, e) < 0)
		return -e->code;
	if (unbind)
		set_device(r->fd, "");
	int ret = say_all(r, e);
	if (unbind)
		set_device(r->fd, device);
	if (!r->t.fin_came)
		return ret;
	if (!ret)
		return tcp_set_window(r->fd, &r->t, r->t.m->inq_seq, e);
	/* The program is to see the end all the same. */
	shutdown(r->fd, SHUT_RD);
	return ret;
}

/* What the kernel does only for an established connection. */
static void probe(struct run *r)
{
	struct tcp_segment s = {
		.conn = &r->conn, .flags = ACK, .seq = r->t.data_end - r->t.m->outq_len - 1,
		.ack = r->conn.rcv_nxt, .window = r->conn.window, .has_ts = r->conn.has_ts,
		.ts_val = r->conn.ts_val,
	};
	struct err e = ERR_INIT;

	if (tcp_segment_send(r->by, &s, &e) < 0)
		log_debug("a probe: %s", e.text);
}

/* To set TCP_NODELAY sends what waits. */
static void push(const struct run *r)
{
	int nodelay = r->m->tcp_opts ? r->m->tcp_opts->nodelay : 0, on = 1;

	if ((!r->t.unsent_len && !r->t.fin_unsent) || (r->m->tcp_opts && r->m->tcp_opts->cork))
		return;
	setsockopt(r->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	setsockopt(r->fd, IPPROTO_TCP, TCP_NODELAY, &nodelay, sizeof(nodelay));
}

static int run(struct run *r, struct err *e)
{
	int how = r->t.state == TCP_SYN_SENT ? TCP_REPAIR_OFF_NO_WP : TCP_REPAIR_OFF;
	struct err second = ERR_INIT;
	int ret = say_what_was(r, e);

	if (tcp_repair_off(r->fd, how, r->m->opts->reuseaddr, ret ? &second : e) < 0)
		return -e->code;
	if (r->t.state != TCP_SYN_SENT && r->t.state != TCP_ESTABLISHED)
		probe(r);
	push(r);
	return ret;
}

static void free_sender(void *p)
{
	tcp_sender_free(p);
	free(p);
}

void tcp_run(struct kind_restore *c, const FileEntry *fe)
{
	void **slot = kind_restore_slot(c, &kind_inet, free_sender);
	struct run r = { .m = fe->isk, .by = *slot ?: (*slot = xcalloc(1, sizeof(*r.by))) };
	char text[NET_CONN_TEXT];
	struct err e = ERR_INIT;

	r.fd = kind_fd(c, fe->id, &e);
	if (r.fd < 0 || tcp_image_get(kind_restore_set(c), r.m, &r.t, &e) < 0 ||
	    tcp_image_conn(r.m, &r.t, &r.conn, &e) < 0 || run(&r, &e) < 0)
		log_warn("TCP connection %s: %s", net_conn_text(&r.conn, text), e.text);
	tcp_image_free(&r.t);
}
