/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One queue of ranges, one thread per connection: each takes a frame's worth from the queue,
 * reads, compresses, sends. Acknowledgements are read by the thread between frames, and by
 * pages_flush() when the threads have nothing left to do.
 */
#include "pages_send.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <zstd.h>

#include "cleanup.h"
#include "io.h"
#include "pages_frame.h"
#include "pages_send_read.h"

#define ACK_TIMEOUT_MS 60000
#define LAST_WORDS_MS 1000

/* Incompressible frames in a row until compression is not even tried, and for how many frames. */
#define BAD_FRAMES 4
#define REST_FRAMES 16

struct job {
	struct pages_space from;
	bool fresh, live;
	struct prange *r;
	size_t n;
	size_t i;                    /* r[i] comes next, */
	uint64_t at;                 /* from here */
};

struct conn {
	struct pages_sender *s;
	int fd;
	bool started;
	pthread_t thread;
	uint64_t sent, acked;        /* frames */
	ZSTD_CCtx *zstd;
	unsigned int bad, rest;
	uint8_t *raw, *packed;       /* FRAME_BYTES each */
	struct pages_slice slice;
	struct frame frame;
	struct buf ack;
};

struct pages_sender {
	struct pages_opts opts;
	pthread_mutex_t lock;
	pthread_cond_t work;         /* jobs came, or stop */
	pthread_cond_t idle;         /* all jobs done, or failed */
	VEC(struct job) jobs;
	size_t next;                 /* jobs.at[next] is in work */
	size_t busy;                 /* threads with a slice in hand */
	bool stop;
	bool plain;                  /* no compression any more; set while nothing is queued */
	struct err err;              /* the first failure */
	uint64_t free_at;            /* bandwidth limit: when the line is free again */
	struct pages_stats stats;
	uint64_t begun;
	struct conn *conns;
	size_t n;
};

/* ---- acknowledgements ---- */

/* Reads one answer. -ETIMEDOUT: none came. */
static int read_ack(struct conn *c, int timeout_ms, struct err *e)
{
	struct frame_ack ack;
	uint32_t type;
	int ret = wire_recv(c->fd, &type, &c->ack, timeout_ms, e);

	if (ret < 0)
		return ret;
	if (type == FRAME_FAILED)
		return err_say(e, EREMOTEIO, "on the target: %.*s", (int)c->ack.n,
			       c->ack.at ? (char *)c->ack.at : "");
	if (type != FRAME_ACK || c->ack.n != sizeof(ack))
		return err_say(e, EBADMSG, "unexpected answer from the target");
	memcpy(&ack, c->ack.at, sizeof(ack));
	if (ack.frames < c->acked || ack.frames > c->sent)
		return err_say(e, EBADMSG, "the target acknowledges what was not sent");
	c->acked = ack.frames;
	return 0;
}

static int read_acks(struct conn *c, struct err *e)
{
	int ret = 0;

	while (ret == 0 && c->acked < c->sent)
		ret = read_ack(c, 0, e);
	return ret == -ETIMEDOUT ? 0 : ret;
}

/* Sending failed: the target may have said why before it hung up. */
static int last_words(struct conn *c, int code, struct err *e)
{
	int ret;

	while ((ret = read_ack(c, LAST_WORDS_MS, e)) == 0)
		;
	if (ret == -EREMOTEIO || ret == -ECONNREFUSED)
		return ret;
	return err_set(e, code, "connection to the target lost");
}

/* ---- one frame ---- */

/* Waits for its turn under the bandwidth limit. */
static void pace(struct pages_sender *s, size_t bytes)
{
	if (!s->opts.bandwidth)
		return;
	pthread_mutex_lock(&s->lock);
	uint64_t now = io_now_ns(), at = s->free_at > now ? s->free_at : now;
	struct timespec t = { (time_t)(at / 1000000000u), (long)(at % 1000000000u) };

	s->free_at = at + (uint64_t)((double)bytes * 1e9 / (double)s->opts.bandwidth);
	while (!s->stop && io_now_ns() < at)
		pthread_cond_timedwait(&s->work, &s->lock, &t);
	pthread_mutex_unlock(&s->lock);
}

/* Sets method and payload; returns the bytes to send. */
static const uint8_t *pack(struct conn *c, size_t raw)
{
	struct frame_head *h = &c->frame.head;

	h->method = COMP_NONE;
	h->payload = (uint32_t)raw;
	if (!c->zstd || !raw || c->s->plain)
		return c->raw;
	if (c->rest) {
		c->rest--;
		return c->raw;
	}
	/* Less than 5 % gained is not worth the other side's time: leave no room for it. */
	size_t n = ZSTD_compress2(c->zstd, c->packed, raw - raw / 20, c->raw, raw);
	if (ZSTD_isError(n)) {
		if (++c->bad >= BAD_FRAMES)
			c->rest = REST_FRAMES;
		return c->raw;
	}
	c->bad = 0;
	h->method = COMP_ZSTD;
	h->payload = (uint32_t)n;
	return c->packed;
}

static int put_frame(struct conn *c, const uint8_t *payload, struct err *e)
{
	const struct frame_head *h = &c->frame.head;
	int ret = wire_write(c->fd, &c->frame, frame_size(h), payload, h->payload);

	if (ret < 0)
		return last_words(c, -ret, e);
	c->sent++;
	return 0;
}

static void count(struct pages_sender *s, const struct frame *f, size_t skipped)
{
	uint32_t data = frame_pages(f, FRAME_DATA), zero = frame_pages(f, FRAME_ZERO);

	pthread_mutex_lock(&s->lock);
	s->stats.pages += data + zero;
	s->stats.zero_pages += zero;
	s->stats.skipped += skipped;
	s->stats.bytes_raw += data * PAGE_SIZE;
	if (f->head.ranges) {
		s->stats.bytes_wire += frame_size(&f->head) + f->head.payload;
		s->stats.frames++;
	}
	pthread_mutex_unlock(&s->lock);
}

static int send_slice(struct conn *c, struct err *e)
{
	struct frame *f = &c->frame;
	size_t skipped;
	int ret = pages_slice_read(&c->slice, f, c->raw, &skipped, e);

	if (ret < 0)
		return ret;
	if (f->head.ranges) {
		const uint8_t *payload = pack(c, frame_pages(f, FRAME_DATA) * PAGE_SIZE);

		frame_seal(f, payload);
		pace(c->s, frame_size(&f->head) + f->head.payload);
		ret = put_frame(c, payload, e);
	}
	if (ret == 0)
		count(c->s, f, skipped);
	return ret < 0 ? ret : read_acks(c, e);
}

/* ---- the queue ---- */

static bool queue_empty(const struct pages_sender *s)
{
	return s->next == s->jobs.n;
}

/* Up to a frame's worth of the first job; a job that is through leaves the queue. Locked. */
static void cut_slice(struct pages_sender *s, struct pages_slice *out)
{
	struct job *j = &s->jobs.at[s->next];
	uint64_t room = FRAME_BYTES;

	out->from = j->from;
	out->fresh = j->fresh;
	out->live = j->live;
	out->n = 0;
	while (room > 0 && j->i < j->n) {
		uint64_t end = j->r[j->i].end;

		if (end - j->at > room)
			end = j->at + room;
		out->r[out->n++] = (struct prange){ j->at, end };
		room -= end - j->at;
		j->at = end;
		if (end == j->r[j->i].end && ++j->i < j->n)
			j->at = j->r[j->i].start;
	}
	if (j->i == j->n) {
		free(j->r);
		if (++s->next == s->jobs.n)
			s->next = s->jobs.n = 0;
	}
}

/* False: no more work, ever. */
static bool take_slice(struct conn *c)
{
	struct pages_sender *s = c->s;

	pthread_mutex_lock(&s->lock);
	while (!s->stop && !err_is(&s->err) && queue_empty(s))
		pthread_cond_wait(&s->work, &s->lock);
	bool go = !s->stop && !err_is(&s->err);
	if (go) {
		cut_slice(s, &c->slice);
		s->busy++;
	}
	pthread_mutex_unlock(&s->lock);
	return go;
}

static void slice_done(struct pages_sender *s, const struct err *e)
{
	pthread_mutex_lock(&s->lock);
	s->busy--;
	if (err_is(e) && !err_is(&s->err)) {
		s->err = *e;
		pthread_cond_broadcast(&s->work);
	}
	if (err_is(&s->err) || (queue_empty(s) && !s->busy))
		pthread_cond_broadcast(&s->idle);
	pthread_mutex_unlock(&s->lock);
}

static void *run(void *arg)
{
	struct conn *c = arg;
	bool ok = true;

	while (ok && take_slice(c)) {
		struct err e = ERR_INIT;

		ok = send_slice(c, &e) == 0;
		if (ok)
			err_clear(&e);
		slice_done(c->s, &e);
	}
	return NULL;
}

/* ---- the interface ---- */

static int start_conn(struct conn *c, struct err *e)
{
	const struct pages_opts *o = &c->s->opts;
	sigset_t all, old;

	if (posix_memalign((void **)&c->raw, PAGE_SIZE, 2 * FRAME_BYTES) != 0)
		return err_set(e, ENOMEM, "buffers of a connection");
	c->packed = c->raw + FRAME_BYTES;
	if (o->method == COMP_ZSTD) {
		c->zstd = ZSTD_createCCtx();
		if (!c->zstd)
			return err_set(e, ENOMEM, "zstd");
		size_t n = ZSTD_CCtx_setParameter(c->zstd, ZSTD_c_compressionLevel, o->level);
		if (ZSTD_isError(n))
			return err_say(e, EINVAL, "compression level %d: %s", o->level,
				       ZSTD_getErrorName(n));
	}
	/* Signals are for the main thread. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	int ret = pthread_create(&c->thread, NULL, run, c);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (ret)
		return err_set(e, ret, "create thread");
	c->started = true;
	return 0;
}

int pages_sender_new(struct pages_sender **out, int *data_fds, size_t n,
		     const struct pages_opts *o, struct err *e)
{
	struct pages_sender *s = xcalloc(1, sizeof(*s));
	pthread_condattr_t attr;
	int ret = 0;

	s->opts = *o;
	s->n = n;
	s->conns = xcalloc(n, sizeof(*s->conns));
	pthread_mutex_init(&s->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&s->work, &attr);
	pthread_cond_init(&s->idle, &attr);
	pthread_condattr_destroy(&attr);
	for (size_t i = 0; i < n; i++) {
		s->conns[i].s = s;
		s->conns[i].fd = data_fds[i];
	}
	for (size_t i = 0; i < n && ret == 0; i++)
		ret = start_conn(&s->conns[i], e);
	if (ret < 0) {
		pages_sender_free(s);
		return ret;
	}
	*out = s;
	return 0;
}

/* Nothing failed, all that was queued has arrived: the stream ends in good order. */
static bool in_order(const struct pages_sender *s)
{
	bool ok = !err_is(&s->err) && queue_empty(s) && !s->busy;

	for (size_t i = 0; i < s->n; i++)
		ok = ok && s->conns[i].started && s->conns[i].sent == s->conns[i].acked;
	return ok;
}

static void end_conn(struct conn *c, bool ok)
{
	struct err ignored = ERR_INIT;

	if (c->started)
		pthread_join(c->thread, NULL);
	if (ok) {
		c->frame.head = (struct frame_head){ .magic = FRAME_MAGIC, .flags = FRAME_END };
		frame_seal(&c->frame, NULL);
		put_frame(c, NULL, &ignored);
	}
	close(c->fd);
	ZSTD_freeCCtx(c->zstd);
	free(c->raw);
	buf_free(&c->ack);
}

void pages_sender_free(struct pages_sender *s)
{
	if (!s)
		return;
	pthread_mutex_lock(&s->lock);
	bool ok = in_order(s);
	s->stop = true;
	pthread_cond_broadcast(&s->work);
	/* Threads may be stuck in a send. */
	for (size_t i = 0; i < s->n && !ok; i++)
		shutdown(s->conns[i].fd, SHUT_RDWR);
	pthread_mutex_unlock(&s->lock);
	for (size_t i = 0; i < s->n; i++)
		end_conn(&s->conns[i], ok);
	for (size_t i = s->next; i < s->jobs.n; i++)
		free(s->jobs.at[i].r);
	vec_free(&s->jobs);
	pthread_cond_destroy(&s->work);
	pthread_cond_destroy(&s->idle);
	pthread_mutex_destroy(&s->lock);
	free(s->conns);
	free(s);
}

int pages_send(struct pages_sender *s, const struct pages_space *from, const struct prange *r,
	       size_t n, bool fresh, bool live, struct err *e)
{
	if (n == 0)
		return 0;
	pthread_mutex_lock(&s->lock);
	if (!s->begun)
		s->begun = io_now_ns();
	if (err_is(&s->err))
		*e = s->err;
	else
		vec_push(&s->jobs, (struct job){
			.from = *from, .fresh = fresh, .live = live,
			.r = xmemdup(r, n * sizeof(*r)), .n = n, .at = r[0].start,
		});
	bool failed = err_is(&s->err);
	pthread_cond_broadcast(&s->work);
	pthread_mutex_unlock(&s->lock);
	return failed ? -e->code : 0;
}

void pages_sender_plain(struct pages_sender *s)
{
	pthread_mutex_lock(&s->lock);
	s->plain = true;
	pthread_mutex_unlock(&s->lock);
}

void pages_sender_cancel(struct pages_sender *s, const struct err *why)
{
	pthread_mutex_lock(&s->lock);
	if (!err_is(&s->err))
		s->err = *why;
	pthread_cond_broadcast(&s->work);
	pthread_cond_broadcast(&s->idle);
	/* Threads may be stuck in a send. */
	for (size_t i = 0; i < s->n; i++)
		shutdown(s->conns[i].fd, SHUT_RDWR);
	pthread_mutex_unlock(&s->lock);
}

void pages_take_back(struct pages_sender *s, pages_left_vec *left)
{
	pthread_mutex_lock(&s->lock);
	for (; s->next < s->jobs.n; s->next++) {
		struct job *j = &s->jobs.at[s->next];
		struct pages_left *l = vec_new(left);

		l->space = j->from;
		for (; j->i < j->n; j->i++) {
			uint64_t start = j->at > j->r[j->i].start ? j->at : j->r[j->i].start;

			prange_add(&l->range, start, j->r[j->i].end);
		}
		free(j->r);
	}
	s->next = s->jobs.n = 0;
	if (!s->busy)
		pthread_cond_broadcast(&s->idle);
	pthread_mutex_unlock(&s->lock);
}

int pages_flush(struct pages_sender *s, struct pages_stats *stats, struct err *e)
{
	struct err mine = ERR_INIT;
	int ret = 0;

	pthread_mutex_lock(&s->lock);
	while (!err_is(&s->err) && (!queue_empty(s) || s->busy))
		pthread_cond_wait(&s->idle, &s->lock);
	if (err_is(&s->err)) {
		*e = s->err;
		ret = -e->code;
	}
	pthread_mutex_unlock(&s->lock);
	/* The threads have nothing to do now, so their connections are ours. */
	for (size_t i = 0; i < s->n && ret == 0; i++)
		while (ret == 0 && s->conns[i].acked < s->conns[i].sent)
			ret = read_ack(&s->conns[i], ACK_TIMEOUT_MS, &mine);
	pthread_mutex_lock(&s->lock);
	if (err_is(&mine)) {
		s->err = *e = mine;
		pthread_cond_broadcast(&s->work);
	}
	s->stats.ns = s->begun ? io_now_ns() - s->begun : 0;
	if (stats)
		*stats = s->stats;
	s->stats = (struct pages_stats){ 0 };
	s->begun = 0;
	pthread_mutex_unlock(&s->lock);
	return ret;
}
