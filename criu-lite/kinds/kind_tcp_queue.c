/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections that wait for accept(). On the source each is accepted by us, saved, closed without a
 * word and put back at the end of the queue (net_queue.h): one after the other, so that never more
 * than one is outside, and their order stays. Whatever happens next, the source's queue is whole.
 * On the target they go the same way into the queue of the new listening socket.
 */
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "kind_inet.h"
#include "kind_priv.h"
#include "kind_sockopt.h"
#include "kind_tcp.h"
#include "kind_tcp_image.h"
#include "kind_tcp_priv.h"
#include "kind_util.h"
#include "log.h"
#include "net_queue.h"

void kind_dump_use_queue(struct kind_dump *c, struct net_queue *q) { c->queue = q; }

void kind_restore_use_queue(struct kind_restore *c, struct net_queue *q) { c->queue = q; }

static void free_queue(struct net_queue **q) { net_queue_close(*q); }

/* ---- as the network takes it ---- */

static int waiting_of(const InetSkEntry *m, const struct tcp_image *t, struct net_waiting *w,
		      struct err *e)
{
	const TcpStreamEntry *s = t->m;
	bool scaled = s->opt_mask & TCPI_OPT_WSCALE;

	*w = (struct net_waiting){ 0 };
	if (tcp_image_conn(m, t, &w->conn, e) < 0)
		return -e->code;
	if ((t->state != TCP_ESTABLISHED && t->state != TCP_CLOSE_WAIT) || s->outq_len)
		return err_say(e, EBADMSG, "socket %u waits for accept() in state %d, with %u "
			       "bytes to be sent", m->id, t->state, s->outq_len);
	w->first = t->rcv_end - s->inq_len;
	w->conn.window = (uint16_t)(s->snd_wnd >> (scaled ? s->snd_wscale : 0));
	w->mss = (uint16_t)s->mss_clamp;
	w->has_wscale = scaled;
	w->snd_wscale = (uint8_t)s->snd_wscale;
	w->rcv_wscale = (uint8_t)s->rcv_wscale;
	w->has_sack = s->opt_mask & TCPI_OPT_SACK;
	w->has_ecn = s->opt_mask & TCPI_OPT_ECN;
	w->has_usec_ts = s->opt_mask & TCPI_OPT_USEC_TS;
	w->rtt = s->has_cl_rtt ? s->cl_rtt : 0;
	w->data = t->received;
	w->n = s->inq_len;
	w->fin = t->fin_came;
	return 0;
}

static int put(struct net_queue *q, const struct img_set *set, const InetSkEntry *m, struct err *e)
{
	_cleanup_(tcp_image_free) struct tcp_image t = {0};
	struct net_waiting w;

	if (tcp_image_get(set, m, &t, e) < 0 || waiting_of(m, &t, &w, e) < 0)
		return -e->code;
	return net_queue_put(q, &w, e);
}

/* ---- source ---- */

void tcp_queues_clear(struct tcp_queues *q)
{
	vec_each(&q->at, l)
		close(l->fd);
	q->at.n = 0;
}

/* Also a look at a running guest (kind_preview_fd()) comes here. */
int tcp_listens(struct kind_dump *c, const struct fd_view *v, struct err *e)
{
	struct tcp_queues *q = tcp_queues(c);
	int copy = fcntl(v->local, F_DUPFD_CLOEXEC, 0);

	if (copy < 0)
		return err_set(e, errno, "a copy of the descriptor");
	if (q->pass != c->pass)
		tcp_queues_clear(q);
	q->pass = c->pass;
	vec_push(&q->at, (struct tcp_listener){ copy, v->id, v->pid, v->fd });
	return 0;
}

static uint32_t length_of(const struct tcp_listener *l)
{
	struct tcp_info info = {0};
	socklen_t n = sizeof(info);

	return getsockopt(l->fd, IPPROTO_TCP, TCP_INFO, &info, &n) < 0 ? 0 : info.tcpi_unacked;
}

static int refuse(const struct tcp_listener *l, const char *why, struct err *e)
{
	err_say(e, EAGAIN, "pid %d: fd %d: %u TCP connections wait for accept(), and cannot be "
		"taken over: %s", l->holder, l->number, length_of(l), why);
	return err_remedy(e, "try again when the program has taken them, or use --skip-in-flight "
			  "to reset them");
}

/* What would not come into the queue again must not be taken out of it. */
static int check_queue(const struct tcp_listener *l, struct err *e)
{
	net_conn_vec at = { 0 }, waiting = { 0 };
	char device[IFNAMSIZ] = "";
	socklen_t n = sizeof(device);
	int fastopen = 0, ret = 0;
	size_t half;

	if (getsockopt(l->fd, SOL_SOCKET, SO_BINDTODEVICE, device, &n) == 0 && device[0])
		return refuse(l, "the socket is bound to a device", e);
	if (kind_sockopt_get(l->fd, IPPROTO_TCP, TCP_FASTOPEN, &fastopen) == 0 && fastopen)
		return refuse(l, "the socket takes TCP Fast Open", e);
	if (tcp_is_signed(l->fd))
		return refuse(l, "they are signed (TCP-MD5 or TCP-AO)", e);
	tcp_add_listener(l->fd, &at);
	ret = kind_tcp_arrivals(&at, &waiting, &half, e);
	vec_each(&waiting, w)
		if (!ret && w->family == AF_INET6 && IN6_IS_ADDR_LINKLOCAL(&w->remote.v6))
			ret = refuse(l, "one comes from a link-local address", e);
	vec_free(&at);
	vec_free(&waiting);
	return ret;
}

static int dump_one(struct kind_dump *c, const struct tcp_listener *l, uint32_t place, int fd,
		    struct net_queue *q, struct err *e)
{
	FileEntry *fe = kind_msg(FileEntry, file_entry__init);
	struct fd_view v = { .pid = l->holder, .fd = -1, .local = fd };
	struct err ignored = ERR_INIT;

	v.id = kind_number(c, KIND_SPACE_FILE, KIND_KEY_OWN | l->id, place,
			   (uint64_t)c->pass << 32);
	v.flags = fcntl(fd, F_GETFL);
	fe->type = FD_TYPES__INETSK;
	fe->id = v.id;
	int ret = fstat(fd, &v.st) < 0 ? err_set(e, errno, "fstat") :
					 tcp_dump_waiting(c, &v, fe, e);
	if (!ret) {
		fe->isk->has_cl_waits_at = 1;
		fe->isk->cl_waits_at = l->id;
		img_put(c->set, IMG_FILES, 0, &fe->base);
	}
	/* its end is to be silent: its twin follows */
	tcp_repair_on(fd, -1, &ignored);
	close(fd);
	if (!ret)
		ret = put(q, c->set, fe->isk, e);
	file_entry__free_unpacked(fe, NULL);
	return ret;
}

static bool is_over(int fd)
{
	struct tcp_info info = {0};
	socklen_t n = sizeof(info);

	return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &n) < 0 || info.tcpi_state == TCP_CLOSE;
}

static int dump_queue(struct kind_dump *c, const struct tcp_listener *l, uint32_t n,
		      struct net_queue *q, struct err *e)
{
	int ret = net_queue_begin(q, l->fd, n, e);

	for (uint32_t i = 0; !ret && i < n; i++) {
		struct pollfd p = { .fd = l->fd, .events = POLLIN };

		if (poll(&p, 1, 0) <= 0)
			break;
		int fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC);
		if (fd < 0 && errno == ECONNABORTED)
			continue;
		if (fd < 0) {
			ret = err_set(e, errno, "accept");
		} else if (is_over(fd)) {
			log_info("a connection that its peer has reset is not taken over");
			close(fd);
		} else {
			ret = dump_one(c, l, i, fd, q, e);
		}
	}
	net_queue_end(q);
	return ret ? err_in(e, "pid %d: fd %d: a connection that waits for accept()", l->holder,
			    l->number) : 0;
}

static int open_queue(struct net_queue **q, const struct tcp_listener *l, struct err *e)
{
	struct err why = ERR_INIT;

	if (net_queue_open(q, &why) == 0 && net_queue_try(*q, &why) == 0)
		return 0;
	refuse(l, why.text, e);
	return -e->code;
}

int tcp_end(struct kind_dump *c, struct err *e)
{
	_cleanup_(free_queue) struct net_queue *own = NULL;
	struct tcp_queues *all = tcp_queues(c);
	struct net_queue *q = c->queue;
	int ret = 0;

	if (all->pass != c->pass)
		return 0;
	for (size_t i = 0; !ret && i < all->at.n; i++) {
		const struct tcp_listener *l = &all->at.at[i];
		uint32_t n = length_of(l);

		if (!n)
			continue;
		if (!q && (ret = open_queue(&own, l, e)) == 0)
			q = own;
		if (!ret && (ret = check_queue(l, e)) == 0)
			ret = dump_queue(c, l, n, q, e);
	}
	tcp_queues_clear(all);
	return ret;
}

/* ---- target ---- */

static bool waits_at(const FileEntry *fe, uint32_t listener)
{
	return fe->type == FD_TYPES__INETSK && fe->isk->has_cl_waits_at &&
	       fe->isk->cl_waits_at == listener && tcp_is_open((int)fe->isk->state);
}

size_t tcp_waiting_at(const struct kind_restore *c, uint32_t listener)
{
	const FileEntry *fe;
	size_t n = 0;

	for (size_t i = 0; (fe = kind_entry_at(c, i)); i++)
		n += waits_at(fe, listener);
	return n;
}

int tcp_fill_queue(struct kind_restore *c, uint32_t listener, int fd, struct err *e)
{
	_cleanup_(free_queue) struct net_queue *own = NULL;
	struct net_queue *q = c->queue;
	const FileEntry *fe;
	int ret = 0;

	if (!q && (ret = net_queue_open(&own, e)) == 0)
		q = own;
	if (!ret)
		ret = net_queue_begin(q, fd, (uint32_t)tcp_waiting_at(c, listener), e);
	for (size_t i = 0; !ret && (fe = kind_entry_at(c, i)); i++)
		if (waits_at(fe, listener))
			ret = put(q, c->set, fe->isk, e);
	if (q)
		net_queue_end(q);
	if (!ret)
		return 0;
	err_in(e, "TCP connections that wait for accept()");
	return err_remedy(e, "use --skip-in-flight to leave them out");
}
