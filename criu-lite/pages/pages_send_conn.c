/* SPDX-License-Identifier: Apache-2.0 */
/* What a connection of the sender does with a slice of pages. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>

#include "io.h"
#include "pages_send_int.h"

#define ACK_TIMEOUT_MS 60000
#define LAST_WORDS_MS 1000

int conn_init(struct conn *c, struct err *e)
{
	if (posix_memalign((void **)&c->raw, PAGE_SIZE, 2 * FRAME_BYTES) != 0)
		return err_set(e, ENOMEM, "buffers of a connection");
	c->packed = c->raw + FRAME_BYTES;
	return comp_init(&c->comp, e);
}

void conn_free(struct conn *c)
{
	close(c->fd);
	comp_free(&c->comp);
	free(c->raw);
	buf_free(&c->answer);
	free(c);
}

/* ---- acknowledgements ---- */

/* Reads one answer. -ETIMEDOUT: none came. */
static int read_ack(struct conn *c, int timeout_ms, struct err *e)
{
	struct pages_sender *s = c->s;
	struct frame_ack ack;
	uint32_t type;
	int ret = wire_recv(c->fd, &type, &c->answer, timeout_ms, e);

	if (ret < 0)
		return ret;
	if (type == FRAME_FAILED)
		return err_say(e, EREMOTEIO, "on the target: %.*s", (int)c->answer.n,
			       c->answer.at ? (char *)c->answer.at : "");
	if (type != FRAME_ACK || c->answer.n != sizeof(ack))
		return err_say(e, EBADMSG, "unexpected answer from the target");
	memcpy(&ack, c->answer.at, sizeof(ack));
	if (ack.frames < c->ack.frames || ack.frames > c->sent || ack.placed < c->ack.placed)
		return err_say(e, EBADMSG, "the target acknowledges what was not sent");
	pthread_mutex_lock(&s->lock);
	s->total.bytes_placed += ack.placed - c->ack.placed;
	pthread_mutex_unlock(&s->lock);
	c->ack = ack;
	return 0;
}

static int read_acks(struct conn *c, struct err *e)
{
	int ret = 0;

	while (ret == 0 && c->ack.frames < c->sent)
		ret = read_ack(c, 0, e);
	return ret == -ETIMEDOUT ? 0 : ret;
}

int conn_drain(struct conn *c, struct err *e)
{
	int ret = 0;

	while (ret == 0 && c->ack.frames < c->sent)
		ret = read_ack(c, ACK_TIMEOUT_MS, e);
	return ret;
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

/* Is there something that the kernel has not sent yet? */
static bool has_backlog(const struct conn *c)
{
	int n = 0;

	return ioctl(c->fd, SIOCOUTQNSD, &n) == 0 && n > 0;
}

/* In the pieces that the bandwidth limit allows. *busy: the line was not idle until now. */
static int put_frame(struct conn *c, const uint8_t *payload, bool *busy, struct err *e)
{
	size_t head = frame_size(&c->frame.head), all = head + c->frame.head.payload;

	*busy = has_backlog(c);
	for (size_t done = 0; done < all;) {
		bool ignored;
		size_t n = pace_take(&c->s->pace, all - done, done ? &ignored : busy);
		size_t from_head = done < head ? head - done : 0;

		if (!n)
			return err_set(e, ECANCELED, "send pages");
		if (from_head > n)
			from_head = n;
		const uint8_t *rest = payload + (done > head ? done - head : 0);
		int ret = from_head ? wire_write(c->fd, (uint8_t *)&c->frame + done, from_head,
						 rest, n - from_head)
				    : wire_write(c->fd, rest, n, NULL, 0);
		if (ret < 0)
			return last_words(c, -ret, e);
		done += n;
	}
	c->sent++;
	return 0;
}

static int send_frame(struct conn *c, uint64_t began, struct err *e)
{
	struct frame_head *h = &c->frame.head;
	size_t raw = frame_raw(&c->frame);
	size_t n = comp_pack(&c->comp, &c->opts, c->raw, raw, c->packed);
	const uint8_t *payload = n ? c->packed : c->raw;

	h->method = n ? COMP_ZSTD : COMP_NONE;
	h->payload = (uint32_t)(n ? n : raw);
	frame_seal(&c->frame, payload);
	uint64_t before = io_now_ns();
	struct comp_frame f = { .raw = raw, .wire = h->payload };
	int ret = put_frame(c, payload, &f.busy, e);
	uint64_t now = io_now_ns();

	f.ns = now - began;
	f.wait = now - before;
	if (ret == 0 && raw && c->opts.method == COMP_AUTO)
		comp_note(&c->comp, &f, now);
	return ret;
}

static void count(struct conn *c, const struct slice_stats *st)
{
	const struct frame *f = &c->frame;
	struct pages_stats *t = &c->s->total;
	uint32_t zero = frame_pages(f, FRAME_ZERO);
	size_t raw = frame_raw(f);

	pthread_mutex_lock(&c->s->lock);
	t->pages += raw / PAGE_SIZE + zero + st->same;
	t->zero_pages += zero;
	t->same_pages += st->same;
	t->skipped += st->gone;
	t->delta_pages += frame_pages(f, FRAME_DELTA);
	t->bytes_raw += raw;
	if (f->head.ranges) {
		t->bytes_wire += frame_size(&f->head) + f->head.payload;
		t->frames++;
	}
	t->conn[c->number] = (struct pages_comp){ (int8_t)c->comp.method, (int8_t)c->comp.level };
	pthread_mutex_unlock(&c->s->lock);
}

int conn_send(struct conn *c, struct err *e)
{
	uint64_t began = io_now_ns();
	/* Differences are mostly zeros: nothing without compression. */
	struct slice_known known = { c->s->same, !comp_is_plain(&c->comp, &c->opts) };
	struct slice_stats st;
	int ret = pages_slice_read(&c->slice, &known, &c->frame, c->raw, &st, e);

	if (ret == 0 && c->frame.head.ranges)
		ret = send_frame(c, began, e);
	if (ret < 0)
		return ret;
	count(c, &st);
	return read_acks(c, e);
}

void conn_end(struct conn *c)
{
	c->frame.head = (struct frame_head){ .magic = FRAME_MAGIC, .flags = FRAME_END };
	frame_seal(&c->frame, NULL);
	wire_write(c->fd, &c->frame, frame_size(&c->frame.head), NULL, 0);
}
