/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An open TCP connection, made again: as an established one in repair mode, which connect() gives
 * without a segment; then its queues. A half closed one becomes that at the very end, when its
 * address is here (kind_tcp_run.c).
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>

#include "kind_inet.h"
#include "kind_sockopt.h"
#include "kind_tcp_image.h"
#include "kind_tcp_priv.h"
#include "kind_util.h"
#include "log.h"

#define OPT_MSS        2         /* numbers of TCP's header options */
#define OPT_WSCALE     3
#define OPT_SACK       4
#define OPT_TIMESTAMP  8

static int get_image(const struct img_set *set, const InetSkEntry *m, struct tcp_image *t,
		     struct err *e)
{
	if (!img_count(set, IMG_TCP_STREAM, m->ino))
		return err_say(e, EBADMSG, "TCP connection %u has no tcp-stream-%x.img", m->id,
			       m->ino);
	int ret = img_get(set, IMG_TCP_STREAM, m->ino, 0, &t->m, e);
	if (ret)
		return ret;
	const struct img_record *r = img_record(set, IMG_TCP_STREAM, m->ino, 0);
	if (r->extra_len != (uint64_t)t->m->inq_len + t->m->outq_len ||
	    (t->m->has_unsq_len && t->m->unsq_len > t->m->outq_len))
		return err_say(e, EBADMSG, "tcp-stream-%x.img: lengths of queues do not fit",
			       m->ino);
	t->received = r->extra;
	t->unacked = r->extra + t->m->inq_len;
	t->unsent_len = t->m->has_unsq_len ? t->m->unsq_len : 0;
	return 0;
}

int tcp_image_get(const struct img_set *set, const InetSkEntry *m, struct tcp_image *t,
		  struct err *e)
{
	int state = (int)m->state;

	*t = (struct tcp_image){ .state = state };
	if (get_image(set, m, t, e) < 0)
		return -e->code;
	t->fin_sent = TCP_IN(state, TCP_FIN_SENT);
	t->fin_unsent = TCP_IN(state, TCP_FIN_QUEUED) &&
			(t->unsent_len || (t->m->has_cl_fin_unsent && t->m->cl_fin_unsent));
	t->fin_came = TCP_IN(state, TCP_FIN_CAME);
	t->data_end = t->m->outq_seq - t->fin_sent;
	t->rcv_end = t->m->inq_seq - t->fin_came;
	t->snd_nxt = t->data_end - t->unsent_len + (t->fin_sent && !t->fin_unsent);
	t->seed = t->m->has_cl_rtt && t->m->has_timestamp && t->m->opt_mask & TCPI_OPT_TIMESTAMPS &&
		  (t->m->outq_len || TCP_IN(state, TCP_FIN_QUEUED));
	return 0;
}

/* ---- socket ---- */

static int set_seq(int fd, int queue, uint32_t seq, struct err *e)
{
	int value = (int)seq;

	if (tcp_repair_queue(fd, queue, e) < 0)
		return -e->code;
	if (setsockopt(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, &value, sizeof(value)) < 0)
		return err_set(e, errno, "TCP_QUEUE_SEQ");
	return 0;
}

static int refuse_twin(const InetSkEntry *m, const union inet_addr *them, struct err *e)
{
	char text[INET_ADDR_TEXT];

	err_say(e, EADDRINUSE, "the same TCP connection to %s is open on this host",
		inet_addr_text(them, text));
	return err_remedy(e, "end the program that has it");
}

static int bind_connect(int fd, const InetSkEntry *m, struct err *e)
{
	union inet_addr us, them;
	socklen_t us_len, them_len;

	if (inet_addr_local(m, &us, &us_len, e) < 0 || inet_addr_peer(m, &them, &them_len, e) < 0)
		return -e->code;
	if (bind(fd, &us.sa, us_len) < 0)
		return inet_addr_refuse(m, &us, "binding", errno, e);
	/* In repair mode any port may be shared; a SYN is sent only without it. */
	if (m->state == TCP_SYN_SENT && tcp_repair_off(fd, TCP_REPAIR_OFF_NO_WP, 1, e) < 0)
		return -e->code;
	if (connect(fd, &them.sa, them_len) == 0 || errno == EINPROGRESS)
		return 0;
	return errno == EADDRNOTAVAIL ? refuse_twin(m, &them, e) :
					inet_addr_refuse(m, &them, "connecting to", errno, e);
}

/* The guest's address may come to this host later than its sockets: a transparent socket can be
 * bound and routed without it. */
static int connect_as(int fd, const InetSkEntry *m, struct err *e)
{
	int level = m->family == AF_INET6 ? IPPROTO_IPV6 : IPPROTO_IP;
	int name = m->family == AF_INET6 ? IPV6_TRANSPARENT : IP_TRANSPARENT;
	int was = 0, ret;

	kind_sockopt_get(fd, level, name, &was);
	if ((ret = kind_sockopt_set(fd, level, name, 1)) < 0)
		return err_set(e, -ret, "IP_TRANSPARENT");
	ret = bind_connect(fd, m, e);
	if (!ret && (ret = kind_sockopt_set(fd, level, name, was)) < 0)
		return err_set(e, -ret, "IP_TRANSPARENT");
	return ret;
}

static int set_options(int fd, const struct tcp_image *t, struct err *e)
{
	const TcpStreamEntry *m = t->m;
	struct tcp_repair_opt o[4] = { { OPT_MSS, m->mss_clamp } };
	int n = 1;

	if (m->opt_mask & TCPI_OPT_WSCALE)
		o[n++] = (struct tcp_repair_opt){
			OPT_WSCALE, m->snd_wscale | (m->has_rcv_wscale ? m->rcv_wscale : 0) << 16 };
	if (m->opt_mask & TCPI_OPT_SACK)
		o[n++] = (struct tcp_repair_opt){ OPT_SACK, 0 };
	if (m->opt_mask & TCPI_OPT_TIMESTAMPS)
		o[n++] = (struct tcp_repair_opt){ OPT_TIMESTAMP, 0 };
	if (setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_OPTIONS, o,
		       (socklen_t)(n * (int)sizeof(*o))) < 0)
		return err_set(e, errno, "TCP_REPAIR_OPTIONS");
	return 0;
}

/* The clock of the peer's check for old segments goes on. Since Linux 6.8 the lowest bit says that
 * it counts microseconds; before, it is a bit as others. */
static int set_timestamp(int fd, const struct tcp_image *t, struct err *e)
{
	uint32_t stamp = t->m->timestamp & ~1u;

	if (!t->m->has_timestamp)
		return 0;
	if (t->m->opt_mask & TCPI_OPT_USEC_TS)
		stamp |= 1;
	if (setsockopt(fd, IPPROTO_TCP, TCP_TIMESTAMP, &stamp, sizeof(stamp)) < 0)
		return err_set(e, errno, "TCP_TIMESTAMP");
	return 0;
}

int tcp_set_window(int fd, const struct tcp_image *t, uint32_t rcv_nxt, struct err *e)
{
	const TcpStreamEntry *m = t->m;
	struct tcp_repair_window w = {
		.snd_wl1 = m->snd_wl1, .snd_wnd = m->snd_wnd, .max_window = m->max_window,
		.rcv_wnd = m->rcv_wnd, .rcv_wup = m->rcv_wup,
	};

	if (!m->has_snd_wl1 || !m->has_rcv_wup)
		return 0;
	/* The FIN that was acknowledged has not come here yet. */
	if ((int32_t)(w.rcv_wup - rcv_nxt) > 0) {
		w.rcv_wnd += w.rcv_wup - rcv_nxt;
		w.rcv_wup = rcv_nxt;
	}
	if ((int32_t)(w.snd_wl1 - (rcv_nxt + w.rcv_wnd)) > 0)
		w.snd_wl1 = rcv_nxt;
	if (setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, &w, sizeof(w)) < 0)
		return err_set(e, errno, "TCP_REPAIR_WINDOW");
	return 0;
}

/* ---- queues ---- */

static int put_bytes(int fd, const uint8_t *p, size_t n, const char *what, struct err *e)
{
	while (n) {
		ssize_t got = send(fd, p, n, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return err_set(e, got ? errno : EPROTO, "%zu bytes %s", n, what);
		p += got;
		n -= (size_t)got;
	}
	return 0;
}

/* Room for the queues, whatever the limits of this host say. It is memory of the kernel for what
 * is in them, not for the whole size. */
static void make_room(int fd, const struct tcp_image *t)
{
	int rcv = (int)(t->m->inq_len > 1u << 28 ? 1u << 28 : t->m->inq_len) + (1 << 20);
	int snd = (int)(t->m->outq_len > 1u << 28 ? 1u << 28 : t->m->outq_len) * 2 + (1 << 20);

	if (t->m->inq_len && setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &rcv, sizeof(rcv)) < 0)
		log_debug("SO_RCVBUFFORCE: %m");
	if (t->m->outq_len && setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &snd, sizeof(snd)) < 0)
		log_debug("SO_SNDBUFFORCE: %m");
}

/* What was sent already is put in repair mode; an acknowledgement may come for it. The rest must go
 * into the queue the ordinary way: as long as the peer's window is unknown here (0), it waits
 * there. The same for FINs. */
static int put_unsent(int fd, const struct tcp_image *t, int reuse, struct err *e)
{
	struct err second = ERR_INIT;
	bool fin = t->fin_unsent && t->state != TCP_LAST_ACK;

	if (!t->unsent_len && !fin)
		return 0;
	if (tcp_repair_off(fd, TCP_REPAIR_OFF_NO_WP, reuse, e) < 0)
		return -e->code;
	int ret = put_bytes(fd, t->unacked + t->m->outq_len - t->unsent_len, t->unsent_len,
			    "to be sent", e);
	if (!ret && fin && shutdown(fd, SHUT_WR) < 0)
		ret = err_set(e, errno, "shutdown");
	if (tcp_repair_on(fd, reuse, ret ? &second : e) < 0 && !ret)
		ret = -e->code;
	return ret;
}

static int put_queues(int fd, const struct tcp_image *t, int reuse, struct err *e)
{
	const TcpStreamEntry *m = t->m;
	uint8_t seed = 0;

	if (tcp_repair_queue(fd, TCP_RECV_QUEUE, e) < 0 ||
	    put_bytes(fd, t->received, m->inq_len, "received", e) < 0 ||
	    tcp_repair_queue(fd, TCP_SEND_QUEUE, e) < 0 ||
	    put_bytes(fd, &seed, t->seed, "acknowledged", e) < 0 ||
	    put_bytes(fd, t->unacked, m->outq_len - t->unsent_len, "not acknowledged", e) < 0)
		return -e->code;
	if (put_unsent(fd, t, reuse, e) < 0)
		return -e->code;
	/* Both sides' FINs in their order: one after the peer's waits for that. */
	if (t->fin_sent && !t->fin_unsent && t->state != TCP_LAST_ACK) {
		if (tcp_repair_queue(fd, TCP_SEND_QUEUE, e) < 0)
			return -e->code;
		if (shutdown(fd, SHUT_WR) < 0)
			return err_set(e, errno, "shutdown");
	}
	return tcp_repair_queue(fd, TCP_NO_QUEUE, e);
}

/* ---- create ---- */

/* Without scaling by the peer's wish there must be none of ours. connect() asks for as much as the
 * largest window needs, and takes it back only in an answer to a SYN. */
#define UNSCALED_MAX 65535

static int keep_unscaled(int fd, const struct tcp_image *t, struct err *e)
{
	int clamp = UNSCALED_MAX, ret = 0;

	if (!(t->m->opt_mask & TCPI_OPT_WSCALE))
		ret = kind_sockopt_set(fd, IPPROTO_TCP, TCP_WINDOW_CLAMP, clamp);
	return ret < 0 ? err_set(e, -ret, "TCP_WINDOW_CLAMP") : 0;
}

/* The size of segments was worked out in connect(), before anything was known of the peer, and
 * would stay at 536 bytes. To set IP options, if only to none, works it out again: from the peer's
 * maximum and half of the largest window that it has offered. (Also of IPv6 sockets; their own
 * options do not.) */
static int size_segments(int fd, const struct tcp_image *t, struct err *e)
{
	struct tcp_repair_window w = { .max_window = t->m->max_window,
				       .rcv_wup = t->rcv_end - t->m->inq_len };

	w.snd_wl1 = w.rcv_wup;
	if (t->m->has_max_window &&
	    setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, &w, sizeof(w)) < 0)
		return err_set(e, errno, "TCP_REPAIR_WINDOW");
	if (setsockopt(fd, IPPROTO_IP, IP_OPTIONS, "", 0) < 0)
		log_debug("IP_OPTIONS: %m");
	return 0;
}

static int create_established(const InetSkEntry *m, const struct tcp_image *t, int fd,
			      struct err *e)
{
	int reuse = m->opts->reuseaddr;

	if (tcp_repair_on(fd, -1, e) < 0 ||
	    set_seq(fd, TCP_SEND_QUEUE, t->data_end - t->m->outq_len - t->seed, e) < 0 ||
	    set_seq(fd, TCP_RECV_QUEUE, t->rcv_end - t->m->inq_len, e) < 0 ||
	    keep_unscaled(fd, t, e) < 0 || connect_as(fd, m, e) < 0 || set_options(fd, t, e) < 0 ||
	    set_timestamp(fd, t, e) < 0 || size_segments(fd, t, e) < 0)
		return -e->code;
	make_room(fd, t);
	if (put_queues(fd, t, reuse, e) < 0 || tcp_set_window(fd, t, t->rcv_end, e) < 0)
		return -e->code;
	if ((m->shutdown & SK_SHUTDOWN__READ) && !t->fin_came && shutdown(fd, SHUT_RD) < 0)
		return err_set(e, errno, "shutdown");
	return kind_sockopt_restore_buffers(fd, m->opts, e);
}

/* The SYN is sent once more, with the same number: a peer that had it takes it for a repetition. */
static int create_opening(const InetSkEntry *m, const struct tcp_image *t, int fd, struct err *e)
{
	int reuse = m->opts->reuseaddr;

	if (tcp_repair_on(fd, -1, e) < 0 ||
	    set_seq(fd, TCP_SEND_QUEUE, t->m->outq_seq - 1, e) < 0 || connect_as(fd, m, e) < 0 ||
	    tcp_repair_on(fd, reuse, e) < 0)
		return -e->code;
	return set_timestamp(fd, t, e);
}

int tcp_create(struct kind_restore *c, const InetSkEntry *m, int fd, struct err *e)
{
	_cleanup_(tcp_image_free) struct tcp_image t = {0};
	struct err ignored = ERR_INIT;

	if (tcp_image_get(kind_restore_set(c), m, &t, e) < 0 ||
	    kind_set_flags(fd, O_NONBLOCK, e) < 0)
		return -e->code;
	int ret = t.state == TCP_SYN_SENT ? create_opening(m, &t, fd, e) :
					    create_established(m, &t, fd, e);
	if (ret)
		tcp_repair_on(fd, -1, &ignored); /* its end is to be silent */
	return ret;
}
