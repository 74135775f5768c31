/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One queue of ranges, one thread per connection: each takes a frame's worth from the queue,
 * reads, compresses, sends. Acknowledgements are read by the thread between frames, and by
 * pages_flush() when the threads have nothing left to do.
 */
#include "pages_send.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cleanup.h"
#include "io.h"
#include "pages_send_int.h"
#include "thread.h"

/* Towards the end of the queue connections take less at a time, so that they end together. */
#define SLICE_MIN (64ul * 1024)

/* ---- the queue ---- */

static bool queue_empty(const struct pages_sender *s)
{
	return s->next == s->jobs.n;
}

/* How much a connection takes now. Locked. */
static uint64_t slice_room(const struct pages_sender *s)
{
	uint64_t room = s->queued / (2 * s->use) & ~(PAGE_SIZE - 1);

	if (room < SLICE_MIN)
		room = SLICE_MIN;
	return room < FRAME_BYTES ? room : FRAME_BYTES;
}

/* Some of the first job; a job that is through leaves the queue. Locked. */
static void cut_slice(struct pages_sender *s, struct pages_slice *out)
{
	struct job *j = &s->jobs.at[s->next];
	uint64_t room = slice_room(s);

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
		s->queued -= end - j->at;
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
	while (!s->stop && !err_is(&s->err) && (queue_empty(s) || c->number >= s->use))
		pthread_cond_wait(&s->work, &s->lock);
	bool go = !s->stop && !err_is(&s->err);
	if (go) {
		cut_slice(s, &c->slice);
		c->opts = s->opts;
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

		ok = conn_send(c, &e) == 0;
		if (ok)
			err_clear(&e);
		slice_done(c->s, &e);
	}
	return NULL;
}

/* ---- connections ---- */

int pages_sender_add(struct pages_sender *s, int data_fd, struct err *e)
{
	struct conn *c = xcalloc(1, sizeof(*c));
	int ret = 0;

	c->s = s;
	c->fd = data_fd;
	if (s->conns.n == PAGES_CONNS_MAX)
		ret = err_say(e, ERANGE, "more than %d data connections", PAGES_CONNS_MAX);
	if (ret == 0)
		ret = conn_init(c, e);
	pthread_mutex_lock(&s->lock);
	c->number = s->conns.n;
	if (ret == 0)
		ret = thread_start(&c->thread, run, c, e);
	if (ret == 0) {
		if (s->use == s->conns.n)
			s->use++;
		vec_push(&s->conns, c);
	}
	pthread_mutex_unlock(&s->lock);
	if (ret < 0)
		conn_free(c);
	return ret;
}

void pages_sender_use(struct pages_sender *s, size_t n)
{
	pthread_mutex_lock(&s->lock);
	s->use = n < 1 ? 1 : n > s->conns.n ? s->conns.n : n;
	pthread_cond_broadcast(&s->work);
	pthread_mutex_unlock(&s->lock);
}

size_t pages_sender_conns(struct pages_sender *s)
{
	pthread_mutex_lock(&s->lock);
	size_t n = s->conns.n;
	pthread_mutex_unlock(&s->lock);
	return n;
}

/* ---- the sender ---- */

int pages_sender_new(struct pages_sender **out, int *data_fds, size_t n,
		     const struct pages_opts *o, struct err *e)
{
	struct pages_sender *s = xcalloc(1, sizeof(*s));
	size_t i = 0;

	s->opts = *o;
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->work, NULL);
	pthread_cond_init(&s->idle, NULL);
	pace_init(&s->pace, o->bandwidth);
	int ret = o->same ? same_new(&s->same, e) : 0;
	for (; i < n && ret == 0; i++)
		ret = pages_sender_add(s, data_fds[i], e);
	if (ret < 0) {
		for (; i < n; i++)
			close(data_fds[i]);
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

	for (size_t i = 0; i < s->conns.n; i++)
		ok = ok && s->conns.at[i]->sent == s->conns.at[i]->ack.frames;
	return ok;
}

/* Threads may be stuck in a send. */
static void hang_up(struct pages_sender *s)
{
	pace_stop(&s->pace);
	vec_each(&s->conns, c)
		shutdown((*c)->fd, SHUT_RDWR);
}

void pages_sender_free(struct pages_sender *s)
{
	if (!s)
		return;
	pthread_mutex_lock(&s->lock);
	bool ok = in_order(s);
	s->stop = true;
	pthread_cond_broadcast(&s->work);
	if (!ok)
		hang_up(s);
	pthread_mutex_unlock(&s->lock);
	vec_each(&s->conns, c) {
		pthread_join((*c)->thread, NULL);
		if (ok)
			conn_end(*c);
		conn_free(*c);
	}
	for (size_t i = s->next; i < s->jobs.n; i++)
		free(s->jobs.at[i].r);
	vec_free(&s->jobs);
	vec_free(&s->conns);
	same_free(s->same);
	pace_free(&s->pace);
	pthread_cond_destroy(&s->work);
	pthread_cond_destroy(&s->idle);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

void pages_sender_set(struct pages_sender *s, const struct pages_opts *o)
{
	pthread_mutex_lock(&s->lock);
	s->opts = *o;
	pthread_mutex_unlock(&s->lock);
	pace_set(&s->pace, o->bandwidth);
}

void pages_sender_plain(struct pages_sender *s)
{
	pthread_mutex_lock(&s->lock);
	s->opts.method = COMP_NONE;
	pthread_mutex_unlock(&s->lock);
}

void pages_sender_cancel(struct pages_sender *s, const struct err *why)
{
	pthread_mutex_lock(&s->lock);
	if (!err_is(&s->err))
		s->err = *why;
	pthread_cond_broadcast(&s->work);
	pthread_cond_broadcast(&s->idle);
	hang_up(s);
	pthread_mutex_unlock(&s->lock);
}

/* ---- pages ---- */

void pages_sender_forget(struct pages_sender *s, const struct pages_space *of,
			 const struct prange *r, size_t n)
{
	static const struct prange all = { 0, UINT64_MAX & ~(PAGE_SIZE - 1) };

	if (s->same)
		same_forget(s->same, of->kind, of->id, r ? r : &all, r ? n : 1);
}

int pages_send(struct pages_sender *s, const struct pages_space *from, const struct prange *r,
	       size_t n, bool fresh, bool live, struct err *e)
{
	if (fresh)
		pages_sender_forget(s, from, NULL, 0);
	if (n == 0)
		return 0;
	pthread_mutex_lock(&s->lock);
	if (!s->begun)
		s->begun = io_now_ns();
	if (err_is(&s->err)) {
		*e = s->err;
	} else {
		vec_push(&s->jobs, (struct job){
			.from = *from, .fresh = fresh, .live = live,
			.r = xmemdup(r, n * sizeof(*r)), .n = n, .at = r[0].start,
		});
		for (size_t i = 0; i < n; i++)
			s->queued += r[i].end - r[i].start;
	}
	bool failed = err_is(&s->err);
	pthread_cond_broadcast(&s->work);
	pthread_mutex_unlock(&s->lock);
	return failed ? -e->code : 0;
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
	s->queued = 0;
	if (!s->busy)
		pthread_cond_broadcast(&s->idle);
	pthread_mutex_unlock(&s->lock);
}

/* ---- figures ---- */

/* What came on top of `old`. */
static struct pages_stats since(const struct pages_stats *now, const struct pages_stats *old)
{
	struct pages_stats d = *now;

	d.pages -= old->pages;
	d.zero_pages -= old->zero_pages;
	d.same_pages -= old->same_pages;
	d.delta_pages -= old->delta_pages;
	d.bytes_raw -= old->bytes_raw;
	d.bytes_wire -= old->bytes_wire;
	d.frames -= old->frames;
	d.bytes_placed -= old->bytes_placed;
	d.skipped -= old->skipped;
	d.ns -= old->ns;
	return d;
}

void pages_sender_sample(struct pages_sender *s, struct pages_stats *out)
{
	pthread_mutex_lock(&s->lock);
	*out = s->total;
	out->ns += s->begun ? io_now_ns() - s->begun : 0;
	out->queue_bytes = s->queued;
	out->conns = s->use;
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
	for (size_t i = 0; i < s->conns.n && ret == 0; i++)
		ret = conn_drain(s->conns.at[i], &mine);
	pthread_mutex_lock(&s->lock);
	if (err_is(&mine)) {
		/* Cancelled meanwhile: then that is why. */
		if (!err_is(&s->err))
			s->err = mine;
		*e = s->err;
		ret = -e->code;
		pthread_cond_broadcast(&s->work);
	}
	s->total.ns += s->begun ? io_now_ns() - s->begun : 0;
	s->begun = 0;
	if (stats) {
		*stats = since(&s->total, &s->flushed);
		stats->conns = s->use;
		stats->queue_bytes = s->queued;
	}
	s->flushed = s->total;
	pthread_mutex_unlock(&s->lock);
	if (s->same && ret == 0)
		same_round(s->same);
	return ret;
}
