/* SPDX-License-Identifier: Apache-2.0 */
/* One thread per connection: reads a frame, checks it, puts its pages where they will live. */
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
#include "pages_frame.h"
#include "pages_send.h"
#include "pages_send_read.h"
#include "thread.h"

#define ACK_FRAMES 8
#define ACK_BYTES (1u << 20)
#define DRAIN_NS (2 * 1000000000ull)

struct space {
	int kind;
	uint32_t id;
	struct pages_place place;
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

/* Ranges of one kind of a frame, and the bytes that go there. */
struct load {
	const struct pages_place *to;
	uint64_t limit;
	size_t n;
	struct prange r[FRAME_PAGES];
};

static size_t load_bytes(const struct load *l)
{
	size_t n = 0;

	for (size_t i = 0; i < l->n; i++)
		n += l->r[i].end - l->r[i].start;
	return n;
}

static int put_task(const struct load *l, const uint8_t *p, struct err *e)
{
	size_t total = load_bytes(l);

	for (size_t done = 0; done < total;) {
		struct iovec local = { (void *)(p + done), total - done }, remote[FRAME_PAGES];
		size_t n = frame_iov(l->r, l->n, done, remote);
		ssize_t put = process_vm_writev(l->to->pid, &local, 1, remote, n, 0);

		if (put < 0 && errno != EFAULT)
			return err_set(e, errno, "write memory of task %d", l->to->pid);
		/* Read-only and PROT_NONE mappings take bytes only through here. */
		if (put <= 0)
			put = pwrite(l->to->mem_fd, local.iov_base, remote[0].iov_len,
				     (off_t)remote[0].iov_base);
		if (put <= 0)
			return err_set(e, put < 0 ? errno : ESRCH, "write memory of task %d at %p",
				       l->to->pid, remote[0].iov_base);
		done += (size_t)put;
	}
	return 0;
}

static int put_shm(const struct load *l, const uint8_t *p, struct err *e)
{
	for (size_t i = 0; i < l->n; i++) {
		uint64_t end = l->r[i].end < l->limit ? l->r[i].end : l->limit;
		int ret = io_pwrite(l->to->fd, p, end - l->r[i].start, (off_t)l->r[i].start);

		if (ret < 0)
			return err_set(e, -ret, "write shared memory at %#lx", l->r[i].start);
		p += l->r[i].end - l->r[i].start;
	}
	return 0;
}

static int put_pages(int kind, const struct load *l, const uint8_t *p, struct err *e)
{
	return kind == PAGES_TASK ? put_task(l, p, e) : put_shm(l, p, e);
}

/* Does the target read as zeros already? What cannot be read counts as no. */
static bool already_zero(int kind, const struct load *l, uint8_t *scratch)
{
	struct iovec local = { scratch, load_bytes(l) }, remote[FRAME_PAGES];
	size_t total = local.iov_len, n = frame_iov(l->r, l->n, 0, remote);

	if (kind == PAGES_TASK) {
		if (process_vm_readv(l->to->pid, &local, 1, remote, n, 0) != (ssize_t)total)
			return false;
	} else {
		uint8_t *at = scratch;

		for (size_t i = 0; i < n; i++) {
			if (pread(l->to->fd, at, remote[i].iov_len, (off_t)remote[i].iov_base) !=
			    (ssize_t)remote[i].iov_len)
				return false;
			at += remote[i].iov_len;
		}
	}
	for (size_t at = 0; at < total; at += PAGE_SIZE)
		if (!pages_is_zero(scratch + at))
			return false;
	return true;
}

/* What is at one range now. */
static int get_pages(int kind, const struct pages_place *from, const struct prange *r, uint8_t *p,
		     struct err *e)
{
	struct iovec local = { p, r->end - r->start }, remote = { (void *)r->start, local.iov_len };
	int ret;

	if (kind == PAGES_TASK &&
	    process_vm_readv(from->pid, &local, 1, &remote, 1, 0) == (ssize_t)local.iov_len)
		return 0;
	/* PROT_NONE mappings give bytes only through here. */
	memset(p, 0, local.iov_len);
	ret = io_pread(kind == PAGES_TASK ? from->mem_fd : from->fd, p, local.iov_len,
		       (off_t)r->start);
	if (ret == -ENODATA && kind == PAGES_SHM) /* beyond the end of an object: zeros */
		return 0;
	return ret < 0 ? err_set(e, -ret, "read what is at %#lx", r->start) : 0;
}

/* Delta pages come as the difference to what is there. */
static int add_deltas(struct conn *c, const struct pages_place *to, struct err *e)
{
	const struct frame *f = &c->frame;
	uint8_t *at = c->raw;

	for (uint32_t i = 0; i < f->head.ranges; i++) {
		const struct frame_range *r = &f->ranges[i];
		size_t n = r->type == FRAME_ZERO ? 0 : r->pages * PAGE_SIZE;

		if (r->type == FRAME_DELTA) {
			struct prange here = { r->start, r->start + n };
			int ret = get_pages(f->head.kind, to, &here, c->packed, e);

			if (ret < 0)
				return ret;
			pages_xor(at, c->packed, n);
		}
		at += n;
	}
	if (f->head.pages != XXH3_64bits(c->raw, frame_raw(f)))
		return err_say(e, EBADMSG, "pages of %s %u are not as the source believes",
			       f->head.kind == PAGES_TASK ? "task" : "shared memory object",
			       f->head.space);
	return 0;
}

static int place_frame(struct conn *c, const struct pages_place *to, struct err *e)
{
	const struct frame *f = &c->frame;
	struct load l = { .to = to, .limit = f->head.limit };
	int ret = frame_pages(f, FRAME_DELTA) ? add_deltas(c, to, e) : 0;

	if (ret < 0)
		return ret;
	l.n = frame_ranges(f, true, l.r);
	if (l.n)
		ret = put_pages(f->head.kind, &l, c->raw, e);
	if (ret < 0)
		return ret;
	l.n = frame_ranges(f, false, l.r);
	/* Where nothing was before, looking is cheaper than filling memory with zeros. */
	if (!l.n || ((f->head.flags & FRAME_FRESH) && already_zero(f->head.kind, &l, c->raw)))
		return 0;
	return put_pages(f->head.kind, &l, c->zeros, e);
}

static int find_place(struct conn *c, struct pages_place *out, struct err *e)
{
	const struct frame_head *h = &c->frame.head;
	bool found = false;

	pthread_mutex_lock(&c->r->lock);
	vec_each(&c->r->spaces, s) {
		if (s->kind == h->kind && s->id == h->space) {
			*out = s->place;
			found = true;
			break;
		}
	}
	pthread_mutex_unlock(&c->r->lock);
	if (!found)
		return err_say(e, EBADMSG, "pages for an unknown %s %u",
			       h->kind == PAGES_TASK ? "task" : "shared memory object", h->space);
	return 0;
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
		struct pages_place to;

		ret = find_place(c, &to, &e);
		if (ret == 0)
			ret = place_frame(c, &to, &e);
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
	vec_each(&r->spaces, s) {
		if (s->kind == kind && s->id == id) {
			s->place = p;
			pthread_mutex_unlock(&r->lock);
			return;
		}
	}
	vec_push(&r->spaces, (struct space){ .kind = kind, .id = id, .place = p });
	pthread_mutex_unlock(&r->lock);
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
