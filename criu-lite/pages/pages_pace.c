/* SPDX-License-Identifier: Apache-2.0 */
#include "pages_pace.h"

#include "io.h"
#include "thread.h"

#define DEPTH_S    0.010
#define PIECE_S    0.005
#define PIECE_MIN  16384.0
/* What TCP, IP and the link add to our bytes: 0.1 % in the large segments of a virtual link, 4.6 %
 * in frames of 1500 bytes. In between, so that either is met within 3 %. */
#define HEADERS    1.02

void pace_init(struct pace *p, uint64_t rate)
{
	*p = (struct pace){ .rate = rate, .at = io_now_ns() };
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->change, NULL);
}

void pace_free(struct pace *p)
{
	pthread_cond_destroy(&p->change);
	pthread_mutex_destroy(&p->lock);
}

void pace_set(struct pace *p, uint64_t rate)
{
	pthread_mutex_lock(&p->lock);
	if (rate != p->rate) {
		p->rate = rate;
		p->tokens = 0;
		p->at = io_now_ns();
		pthread_cond_broadcast(&p->change);
	}
	pthread_mutex_unlock(&p->lock);
}

void pace_stop(struct pace *p)
{
	pthread_mutex_lock(&p->lock);
	p->stop = true;
	pthread_cond_broadcast(&p->change);
	pthread_mutex_unlock(&p->lock);
}

static void fill(struct pace *p)
{
	uint64_t now = io_now_ns();
	double depth = (double)p->rate * DEPTH_S;

	p->tokens += (double)(now - p->at) * 1e-9 * (double)p->rate;
	if (p->tokens > depth)
		p->tokens = depth;
	p->at = now;
}

/* Until the debt is paid, or something changed. */
static void sleep_on(struct pace *p)
{
	uint64_t at = p->at + (uint64_t)(-p->tokens * 1e9 / (double)p->rate) + 1;

	thread_wait_until(&p->change, &p->lock, at);
}

size_t pace_take(struct pace *p, size_t want, bool *waited)
{
	pthread_mutex_lock(&p->lock);
	if (p->rate)
		fill(p);
	while (!p->stop && p->rate && p->tokens < 0) {
		*waited = true;
		sleep_on(p);
		fill(p);
	}
	if (p->stop) {
		want = 0;
	} else if (p->rate) {
		double piece = (double)p->rate * PIECE_S;

		piece = piece < PIECE_MIN ? PIECE_MIN : piece;
		if ((double)want > piece)
			want = (size_t)piece;
		p->tokens -= (double)want * HEADERS;
	}
	pthread_mutex_unlock(&p->lock);
	return want;
}
