/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The state of an open TCP connection, while its process stands still and the network lock keeps
 * the peer's segments away.
 *
 * Sequence numbers are the kernel's: write_seq and rcv_nxt, a FIN is one number. Lengths are
 * bytes of data. Segments beyond a hole (out of order) cannot be read; the peer sends them again,
 * as it must for any receiver.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "kind_priv.h"
#include "kind_sockopt.h"
#include "kind_tcp_priv.h"
#include "kind_util.h"
#include "log.h"
#include "tcp-stream.pb-c.h"

extern const struct kind kind_inet;

/* ---- what is held until the guest is gone or goes on ---- */

/* Our duplicates of the connections of this pass. */
struct held {
	int fd, reuse;
	bool quiet;
};
struct held_all {
	VEC(struct held) h;
	struct buf buf;
	struct tcp_queues queues;
};

static void free_held(void *p)
{
	struct held_all *all = p;

	vec_each(&all->h, h)
		close(h->fd);
	vec_free(&all->h);
	buf_free(&all->buf);
	tcp_queues_clear(&all->queues);
	vec_free(&all->queues.at);
	free(all);
}

static struct held_all *held_of(struct kind_dump *c)
{
	void **slot = kind_dump_slot(c, &kind_inet, free_held);

	return *slot ?: (*slot = xcalloc(1, sizeof(struct held_all)));
}

struct tcp_queues *tcp_queues(struct kind_dump *c) { return &held_of(c)->queues; }

int tcp_hold(struct kind_dump *c, int fd, int reuse, struct err *e)
{
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);

	if (copy < 0) {
		err_set(e, errno, "a copy of the descriptor");
		return err_remedy(e, "raise the limit of open files (ulimit -n)");
	}
	vec_push(&held_of(c)->h, (struct held){ .fd = copy, .reuse = reuse });
	return 0;
}

/* From here on the death of the guest says nothing to its peers. */
int tcp_leave(struct kind_dump *c, struct err *e)
{
	vec_each(&held_of(c)->h, h) {
		if (!h->quiet && tcp_repair_on(h->fd, h->reuse, e) < 0)
			return -e->code;
		h->quiet = true;
	}
	return 0;
}

void tcp_undo(struct kind_dump *c)
{
	struct held_all *all = held_of(c);
	struct err e = ERR_INIT;

	vec_each(&all->h, h) {
		if (h->quiet && tcp_repair_off(h->fd, TCP_REPAIR_OFF, h->reuse, &e) < 0)
			log_warn("a TCP connection of the guest: %s", e.text);
		close(h->fd);
	}
	all->h.n = 0;
}

/* ---- capture ---- */

struct capture {
	int fd, state;
	TcpStreamEntry t;
	struct buf *buf;         /* of all connections: fresh memory is dear */
	uint8_t *data;           /* in it: received, then to be sent */
};

static int get(int fd, int name, int *value, const char *text, struct err *e)
{
	int ret = kind_sockopt_get(fd, IPPROTO_TCP, name, value);

	return ret < 0 ? err_set(e, -ret, "reading %s", text) : 0;
}

static int queue_size(int fd, unsigned long name, uint32_t *size, struct err *e)
{
	int n = 0;

	if (ioctl(fd, name, &n) < 0)
		return err_set(e, errno, "reading the length of a queue");
	*size = (uint32_t)n;
	return 0;
}

static int queue_seq(struct capture *s, int queue, uint32_t *seq, struct err *e)
{
	int value, ret = tcp_repair_queue(s->fd, queue, e);

	if (ret || (ret = get(s->fd, TCP_QUEUE_SEQ, &value, "TCP_QUEUE_SEQ", e)))
		return ret;
	*seq = (uint32_t)value;
	return 0;
}

static int capture_options(struct capture *s, struct err *e)
{
	struct tcp_info info = {0};
	socklen_t len = sizeof(info);
	int mss, stamp;

	if (getsockopt(s->fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0)
		return err_set(e, errno, "reading TCP_INFO");
	/* In repair mode this is what the peer has said, not what is used. */
	if (get(s->fd, TCP_MAXSEG, &mss, "TCP_MAXSEG", e) < 0 ||
	    get(s->fd, TCP_TIMESTAMP, &stamp, "TCP_TIMESTAMP", e) < 0)
		return -e->code;
	s->t.opt_mask = info.tcpi_options;
	s->t.snd_wscale = info.tcpi_snd_wscale;
	s->t.has_rcv_wscale = true;
	s->t.rcv_wscale = info.tcpi_rcv_wscale;
	s->t.has_cl_rtt = info.tcpi_rtt != 0;
	s->t.cl_rtt = info.tcpi_rtt;
	s->t.mss_clamp = (uint32_t)mss;
	s->t.has_timestamp = true;
	s->t.timestamp = (uint32_t)stamp;
	return 0;
}

static int capture_window(struct capture *s, struct err *e)
{
	struct tcp_repair_window w;
	socklen_t len = sizeof(w);

	if (getsockopt(s->fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, &w, &len) < 0)
		return err_set(e, errno, "reading TCP_REPAIR_WINDOW");
	s->t.has_snd_wl1 = s->t.has_snd_wnd = s->t.has_max_window = true;
	s->t.has_rcv_wnd = s->t.has_rcv_wup = true;
	s->t.snd_wl1 = w.snd_wl1;
	s->t.snd_wnd = w.snd_wnd;
	s->t.max_window = w.max_window;
	s->t.rcv_wnd = w.rcv_wnd;
	s->t.rcv_wup = w.rcv_wup;
	return 0;
}

static int refuse_urgent(const struct capture *s, uint32_t n, struct err *e)
{
	err_say(e, ENOTSUP, "%u bytes are to be received, urgent data (MSG_OOB) after %u of them",
		s->t.inq_len, n);
	return err_remedy(e, "try again, when the program has read them");
}

/* SIOCINQ stops at an urgent byte, also if that was read, unless it is a byte like others. */
static int received_length(struct capture *s, struct err *e)
{
	uint32_t n = 0;
	int inline_now = 1;

	kind_sockopt_get(s->fd, SOL_SOCKET, SO_OOBINLINE, &inline_now);
	if (queue_size(s->fd, SIOCINQ, &n, e) < 0)
		return -e->code;
	s->t.inq_len = n;
	if (inline_now)
		return 0;
	if (kind_sockopt_set(s->fd, SOL_SOCKET, SO_OOBINLINE, 1) < 0 ||
	    queue_size(s->fd, SIOCINQ, &s->t.inq_len, e) < 0 ||
	    kind_sockopt_set(s->fd, SOL_SOCKET, SO_OOBINLINE, 0) < 0)
		return err_set(e, EPROTO, "SO_OOBINLINE");
	return s->t.inq_len == n ? 0 : refuse_urgent(s, n, e);
}

static int capture_lengths(struct capture *s, struct err *e)
{
	if (received_length(s, e) < 0 ||
	    queue_size(s->fd, SIOCOUTQ, &s->t.outq_len, e) < 0 ||
	    queue_size(s->fd, SIOCOUTQNSD, &s->t.unsq_len, e) < 0)
		return -e->code;
	s->t.has_unsq_len = true;
	if (!TCP_IN(s->state, TCP_FIN_QUEUED))
		return 0;
	/* The FIN stands behind all data. */
	if (!s->t.outq_len)
		return err_set(e, EPROTO, "a send queue without its FIN");
	s->t.outq_len--;
	if (s->t.unsq_len) {
		s->t.unsq_len--;
		s->t.has_cl_fin_unsent = s->t.cl_fin_unsent = true;
	}
	return 0;
}

/* What was peeked at must be the whole queue: an urgent mark stops it. */
static int peek_received(struct capture *s, struct err *e)
{
	int offset = -1, have_offset = !kind_sockopt_get(s->fd, SOL_SOCKET, SO_PEEK_OFF, &offset);
	ssize_t n;

	if (!s->t.inq_len)
		return 0;
	if (tcp_repair_queue(s->fd, TCP_RECV_QUEUE, e) < 0)
		return -e->code;
	/* TCP obeys SO_PEEK_OFF since Linux 6.9. */
	if (have_offset && offset >= 0)
		kind_sockopt_set(s->fd, SOL_SOCKET, SO_PEEK_OFF, -1);
	n = recv(s->fd, s->data, s->t.inq_len, MSG_PEEK | MSG_DONTWAIT);
	if (have_offset && offset >= 0)
		kind_sockopt_set(s->fd, SOL_SOCKET, SO_PEEK_OFF, offset);
	if (n < 0)
		return err_set(e, errno, "reading the received bytes");
	if ((size_t)n == s->t.inq_len)
		return 0;
	return refuse_urgent(s, (uint32_t)n, e);
}

/* The queue begins with the first segment that is not acknowledged as a whole; of what is
 * before snd_una the peer needs nothing any more. */
#define SEGMENT_MAX 65536

static int peek_unacked(struct capture *s, struct err *e)
{
	size_t want = s->t.outq_len, room = want + SEGMENT_MAX;
	uint8_t *at = s->data + s->t.inq_len;
	ssize_t n;

	if (!want)
		return 0;
	if (tcp_repair_queue(s->fd, TCP_SEND_QUEUE, e) < 0)
		return -e->code;
	n = recv(s->fd, at, room, MSG_PEEK | MSG_DONTWAIT);
	if (n < 0)
		return err_set(e, errno, "reading the bytes to be sent");
	if ((size_t)n < want || (size_t)n > room)
		return err_set(e, EAGAIN, "a send queue of %zu bytes holds %zd", want, n);
	if ((size_t)n > want)
		memmove(at, at + ((size_t)n - want), want);
	return 0;
}

static int capture_numbers(struct capture *s, struct err *e)
{
	if (queue_seq(s, TCP_SEND_QUEUE, &s->t.outq_seq, e) < 0 ||
	    queue_seq(s, TCP_RECV_QUEUE, &s->t.inq_seq, e) < 0 || capture_window(s, e) < 0)
		return -e->code;
	/* A connect() that was not answered yet has nothing but its first number. */
	return s->state == TCP_SYN_SENT ? 0 : capture_lengths(s, e);
}

static bool same_numbers(const TcpStreamEntry *a, const TcpStreamEntry *b)
{
	return a->inq_seq == b->inq_seq && a->outq_seq == b->outq_seq && a->inq_len == b->inq_len &&
	       a->outq_len == b->outq_len && a->unsq_len == b->unsq_len;
}

static int capture_once(struct capture *s, struct err *e)
{
	if (capture_numbers(s, e) < 0)
		return -e->code;
	vec_reserve(s->buf, (size_t)s->t.inq_len + s->t.outq_len + SEGMENT_MAX);
	s->data = s->buf->at;
	if (s->state == TCP_SYN_SENT || peek_received(s, e) < 0)
		return -e->code;
	return peek_unacked(s, e);
}

/* With the network locked once is enough. */
#define TRIES 5

static int capture_all(struct capture *s, struct err *e)
{
	int ret = capture_options(s, e);

	for (int i = 0; !ret && i < TRIES; i++) {
		TcpStreamEntry before;

		ret = capture_once(s, e);
		before = s->t;
		if (ret == -EAGAIN)
			ret = 0;
		else if (ret || (ret = capture_numbers(s, e)) || same_numbers(&before, &s->t))
			return ret;
		err_clear(e);
	}
	return ret ? ret : err_set(e, EBUSY, "it changes while it is read");
}

int tcp_dump(struct kind_dump *c, const struct fd_view *v, InetSkEntry *m, struct err *e)
{
	struct capture s = { .fd = v->local, .state = (int)m->state, .buf = &held_of(c)->buf };
	struct err second = ERR_INIT;
	int reuse = m->opts->reuseaddr, ret;

	tcp_stream_entry__init(&s.t);
	if (m->tcp_opts) {
		s.t.has_cork = s.t.has_nodelay = true;
		s.t.cork = m->tcp_opts->cork;
		s.t.nodelay = m->tcp_opts->nodelay;
	}
	ret = tcp_repair_on(s.fd, reuse, e);
	if (!ret)
		ret = capture_all(&s, e);
	/* At once: should criu-lite be killed, the connection is as it was. */
	if (tcp_repair_off(s.fd, TCP_REPAIR_OFF_NO_WP, reuse, ret ? &second : e) < 0 && !ret)
		ret = -e->code;
	if (!ret)
		img_put_extra(kind_dump_set(c), IMG_TCP_STREAM, m->ino, &s.t.base, s.data,
			      (size_t)s.t.inq_len + s.t.outq_len);
	return ret ? err_in(e, "TCP connection") : 0;
}

/* What the program sees of a connection that goes one way only. */
SkShutdown tcp_shutdown_of(int fd, int state)
{
	struct pollfd p = { .fd = fd, .events = POLLRDHUP };
	unsigned how = TCP_IN(state, TCP_FIN_SENT) ? SK_SHUTDOWN__WRITE : SK_SHUTDOWN__NONE;

	if (poll(&p, 1, 0) > 0 && (p.revents & POLLRDHUP))
		how |= SK_SHUTDOWN__READ;
	return how;
}
