/* SPDX-License-Identifier: Apache-2.0 */
/* One thread per connection: reads a frame, checks it, has its pages put where they will live. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>
#include <xxhash.h>
#include <zstd.h>

#include "cleanup.h"
#include "io.h"
#include "log.h"
#include "pages_place.h"
#include "pages_send.h"
#include "thread.h"

#define ACK_FRAMES 8
#define ACK_BYTES (1u << 20)
#define DRAIN_NS (2 * 1000000000ull)

struct space {
	int kind;
	uint32_t id;
	struct pages_place place;
	prange_vec missing;          /* came, and could not be put there */
};

struct conn {
	struct pages_receiver *r;
	int fd;
	pthread_t thread;
	struct frame_ack ack;
	struct frame_ack acked;      /* as last said */
	ZSTD_DCtx *zstd;
	uint8_t *raw, *packed;       /* FRAME_BYTES each */
	uint8_t *zeros;              /* FRAME_BYTES, never written: all the kernel's zero page */
	struct frame frame;
};

struct pages_receiver {
	pthread_mutex_t lock;
	VEC(struct space) spaces;
	VEC(struct conn *) conns;
	struct err err;              /* the first failure */
};

/* ---- placing ---- */

static struct space *find_space(struct pages_receiver *r, int kind, uint32_t id)
{
	vec_each(&r->spaces, s)
		if (s->kind == kind && s->id == id)
			return s;
	return NULL;
}

static int find_place(struct conn *c, struct pages_place *out, struct err *e)
{
	const struct frame_head *h = &c->frame.head;

	pthread_mutex_lock(&c->r->lock);
	struct space *s = find_space(c->r, h->kind, h->space);
	if (s)
		*out = s->place;
	pthread_mutex_unlock(&c->r->lock);
	if (!s)
		return err_say(e, EBADMSG, "pages for an unknown %s %u",
			       h->kind == PAGES_TASK ? "task" : "shared memory object", h->space);
	return 0;
}

static void take_off(prange_vec *missing, const prange_vec *what)
{
	prange_vec rest = { 0 };

	prange_minus(missing, what, &rest);
	vec_free(missing);
	*missing = rest;
}

/* The frame has been placed, but for what is missing. */
static void keep_missing(struct conn *c, const prange_vec *missing)
{
	const struct frame *f = &c->frame;
	prange_vec all = { 0 };

	pthread_mutex_lock(&c->r->lock);
	struct space *s = find_space(c->r, f->head.kind, f->head.space);
	if (s && s->missing.n) {
		for (uint32_t i = 0; i < f->head.ranges; i++)
			prange_add(&all, f->ranges[i].start,
				   f->ranges[i].start + f->ranges[i].pages * PAGE_SIZE);
		take_off(&s->missing, &all);
	}
	if (s && missing->n)
		prange_merge(&s->missing, missing);
	vec_each(missing, r)
		log_debug("task %u: no memory for %lx-%lx", f->head.space, r->start, r->end);
	pthread_mutex_unlock(&c->r->lock);
	vec_free(&all);
}

static int place_frame(struct conn *c, struct err *e)
{
	struct placing p = { .frame = &c->frame, .raw = c->raw, .scratch = c->packed,
			     .zeros = c->zeros };
	prange_vec missing = { 0 };
	int ret = find_place(c, &p.to, e);

	if (ret == 0)
		ret = pages_place(&p, &missing, e);
	if (ret == 0)
		keep_missing(c, &missing);
	vec_free(&missing);
	return ret;
}

/* ---- reading ---- */

static int read_iov(int fd, struct iovec *iov, size_t n, struct err *e)
{
	struct msghdr m = { .msg_iov = iov, .msg_iovlen = n };

	while (m.msg_iovlen > 0) {
		ssize_t got = recvmsg(fd, &m, MSG_WAITALL);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return err_set(e, errno, "read pages from the source");
		if (got == 0)
			return err_say(e, ENODATA, "the source's data connection was cut");
		while (m.msg_iovlen > 0 && (size_t)got >= m.msg_iov->iov_len) {
			got -= (ssize_t)m.msg_iov->iov_len;
			m.msg_iov++;
			m.msg_iovlen--;
		}
		if (m.msg_iovlen > 0) {
			m.msg_iov->iov_base = (uint8_t *)m.msg_iov->iov_base + got;
			m.msg_iov->iov_len -= (size_t)got;
		}
	}
	return 0;
}

static int unpack(struct conn *c, struct err *e)
{
	size_t raw = frame_raw(&c->frame);
	size_t n = ZSTD_decompressDCtx(c->zstd, c->raw, raw, c->packed, c->frame.head.payload);

	if (ZSTD_isError(n))
		return err_say(e, EBADMSG, "page frame damaged (%s)", ZSTD_getErrorName(n));
	if (n != raw)
		return err_say(e, EBADMSG, "page frame damaged (fewer pages than announced)");
	return 0;
}

/* 1: a frame is in c->frame and its pages in c->raw. 0: the end. */
static int read_frame(struct conn *c, struct err *e)
{
	struct frame_head *h = &c->frame.head;
	struct iovec iov[2] = { { h, sizeof(*h) } };
	int ret = read_iov(c->fd, iov, 1, e);

	if (ret == 0)
		ret = frame_check_head(h, e);
	if (ret < 0)
		return ret;
	if (h->flags & FRAME_END)
		return 0;
	uint8_t *payload = h->method == COMP_ZSTD ? c->packed : c->raw;
	iov[0] = (struct iovec){ c->frame.ranges, frame_size(h) - sizeof(*h) };
	iov[1] = (struct iovec){ payload, h->payload };
	ret = read_iov(c->fd, iov, 2, e);
	if (ret == 0)
		ret = frame_check(&c->frame, payload, e);
	if (ret == 0 && h->method == COMP_ZSTD)
		ret = unpack(c, e);
	return ret < 0 ? ret : 1;
}

/* Cumulative, so one answer serves many small frames; at once when the source has paused. The
 * source measures by what is placed: so not later than after ACK_BYTES. */
static int acknowledge(struct conn *c, struct err *e)
{
	struct pollfd p = { .fd = c->fd, .events = POLLIN };

	c->ack.frames++;
	c->ack.bytes += frame_size(&c->frame.head) + c->frame.head.payload;
	c->ack.placed += frame_raw(&c->frame) + frame_pages(&c->frame, FRAME_ZERO) * PAGE_SIZE;
	if (c->ack.frames - c->acked.frames < ACK_FRAMES &&
	    c->ack.placed - c->acked.placed < ACK_BYTES && poll(&p, 1, 0) > 0)
		return 0;
	c->acked = c->ack;
	return wire_send(c->fd, FRAME_ACK, &c->ack, sizeof(c->ack), e);
}

/* Tells the source what went wrong. What it still sends is read away for a moment: closing
 * over unread bytes would be a reset that may overtake our words. */
static void complain(struct conn *c, const struct err *e)
{
	struct err ignored = ERR_INIT;
	uint64_t until = io_now_ns() + DRAIN_NS;

	if (wire_send(c->fd, FRAME_FAILED, e->text, strlen(e->text), &ignored) < 0)
		return;
	shutdown(c->fd, SHUT_WR);
	while (io_now_ns() < until) {
		struct pollfd p = { .fd = c->fd, .events = POLLIN };

		if (poll(&p, 1, 100) > 0 &&
		    recv(c->fd, c->raw, FRAME_BYTES, MSG_DONTWAIT | MSG_TRUNC) <= 0)
			return;
	}
}

static void fail(struct conn *c, const struct err *e)
{
	pthread_mutex_lock(&c->r->lock);
	if (!err_is(&c->r->err))
		c->r->err = *e;
	pthread_mutex_unlock(&c->r->lock);
	complain(c, e);
}

static void *run(void *arg)
{
	struct conn *c = arg;
	struct err e = ERR_INIT;
	int ret;

	while ((ret = read_frame(c, &e)) > 0) {
		ret = place_frame(c, &e);
		if (ret == 0)
			ret = acknowledge(c, &e);
		if (ret < 0)
			break;
	}
	if (ret < 0)
		fail(c, &e);
	/* Closed at once, so that a source that is stuck in a send learns of it. */
	pthread_mutex_lock(&c->r->lock);
	close(steal_fd(c->fd));
	pthread_mutex_unlock(&c->r->lock);
	return NULL;
}

/* ---- the interface ---- */

int pages_receiver_new(struct pages_receiver **out, struct err *e)
{
	struct pages_receiver *r = xcalloc(1, sizeof(*r));

	pthread_mutex_init(&r->lock, NULL);
	*out = r;
	return 0;
}

static void free_conn(struct conn *c)
{
	cleanup_close(&c->fd);
	ZSTD_freeDCtx(c->zstd);
	free(c->raw);
	free(c->zeros);
	free(c);
}

void pages_receiver_free(struct pages_receiver *r)
{
	if (!r)
		return;
	pthread_mutex_lock(&r->lock);
	vec_each(&r->conns, c)
		if ((*c)->fd >= 0)
			shutdown((*c)->fd, SHUT_RDWR);
	pthread_mutex_unlock(&r->lock);
	vec_each(&r->conns, c) {
		pthread_join((*c)->thread, NULL);
		free_conn(*c);
	}
	vec_free(&r->conns);
	vec_each(&r->spaces, s)
		vec_free(&s->missing);
	vec_free(&r->spaces);
	pthread_mutex_destroy(&r->lock);
	free(r);
}

int pages_receiver_add(struct pages_receiver *r, int data_fd, struct err *e)
{
	struct conn *c = xcalloc(1, sizeof(*c));

	c->r = r;
	c->fd = data_fd;
	c->zstd = ZSTD_createDCtx();
	c->zeros = calloc(1, FRAME_BYTES);
	if (!c->zstd || !c->zeros ||
	    posix_memalign((void **)&c->raw, PAGE_SIZE, 2 * FRAME_BYTES) != 0) {
		free_conn(c);
		return err_set(e, ENOMEM, "buffers of a connection");
	}
	c->packed = c->raw + FRAME_BYTES;
	int ret = thread_start(&c->thread, run, c, e);
	if (ret < 0) {
		free_conn(c);
		return ret;
	}
	pthread_mutex_lock(&r->lock);
	vec_push(&r->conns, c);
	pthread_mutex_unlock(&r->lock);
	return 0;
}

void pages_receiver_space(struct pages_receiver *r, int kind, uint32_t id, struct pages_place p)
{
	pthread_mutex_lock(&r->lock);
	struct space *s = find_space(r, kind, id);
	if (!s) {
		s = vec_new(&r->spaces);
		s->kind = kind;
		s->id = id;
	}
	s->place = p;
	pthread_mutex_unlock(&r->lock);
}

void pages_receiver_void(struct pages_receiver *r, int kind, uint32_t id, const struct prange *v,
			 size_t n)
{
	prange_vec what = { 0 };

	for (size_t i = 0; i < n; i++)
		prange_add(&what, v[i].start, v[i].end);
	pthread_mutex_lock(&r->lock);
	struct space *s = find_space(r, kind, id);
	if (s)
		take_off(&s->missing, &what);
	pthread_mutex_unlock(&r->lock);
	vec_free(&what);
}

int pages_receiver_complete(struct pages_receiver *r, int kind, uint32_t id, struct err *e)
{
	uint64_t bytes = 0, first = 0;

	pthread_mutex_lock(&r->lock);
	struct space *s = find_space(r, kind, id);
	if (s && s->missing.n) {
		bytes = prange_bytes(&s->missing);
		first = s->missing.at[0].start;
	}
	pthread_mutex_unlock(&r->lock);
	return bytes ? err_say(e, EFAULT, "%lu pages of task %u, from %#lx on, have no memory here",
			       bytes / PAGE_SIZE, id, first) : 0;
}

int pages_receiver_error(struct pages_receiver *r, struct err *e)
{
	pthread_mutex_lock(&r->lock);
	if (err_is(&r->err))
		*e = r->err;
	int ret = -r->err.code;
	pthread_mutex_unlock(&r->lock);
	return ret;
}
