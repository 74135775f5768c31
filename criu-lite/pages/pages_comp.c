/* SPDX-License-Identifier: Apache-2.0 */
#include "pages_comp.h"

#include <errno.h>
#include <stdlib.h>

#include "io.h"

/* Fixed level: incompressible frames in a row until compression is not even tried, and for how many
 * frames. */
#define BAD_FRAMES   4
#define REST_FRAMES  16

/* Auto: a decision is due after this much. */
#define SUM_BYTES    (4u << 20)
#define SUM_FRAMES   3
#define SKIP_FRAMES  2
/* Another level must promise this much; what was measured counts for so long (twice as long after
 * each look that was in vain). */
#define GAIN         0.95
#define TRUST_NS     (1000000000ull)
#define TRUST_MAX_NS (16 * TRUST_NS)
#define LINE_NS      (2 * TRUST_NS)

/* Time and size relative to level 1, as long as nothing is measured: what heaps show at best, for a
 * level that promises nothing is never tried. Level 0 is no compression. */
static const struct {
	int level;
	double pack, size;
} expect[COMP_LEVELS] = {
	{ 0, 0, 0 },
	{ -1, 0.6, 1.05 },
	{ 1, 1, 1 },
	{ 2, 1.15, 0.90 },
	{ 3, 1.5, 0.86 },
	{ 5, 2.6, 0.82 },
	{ 7, 4.5, 0.79 },
};
#define FIRST 2                      /* level 1: what it yields tells most about all others */

int comp_init(struct comp *c, struct err *e)
{
	*c = (struct comp){ .now = FIRST, .zstd = ZSTD_createCCtx() };
	if (!c->zstd)
		return err_set(e, ENOMEM, "zstd");
	ZSTD_CCtx_setParameter(c->zstd, ZSTD_c_compressionLevel, c->set = 1);
	return 0;
}

void comp_free(struct comp *c)
{
	ZSTD_freeCCtx(c->zstd);
	c->zstd = NULL;
}

/* ---- one frame ---- */

static size_t compress(struct comp *c, int level, const void *raw, size_t n, void *out)
{
	uint64_t before = io_now_ns();

	if (level != c->set)
		ZSTD_CCtx_setParameter(c->zstd, ZSTD_c_compressionLevel, c->set = level);
	/* Less than 5 % gained is not worth the other side's time: leave no room for it. */
	size_t got = ZSTD_compress2(c->zstd, out, n - n / 20, raw, n);
	c->packed = io_now_ns() - before;
	return ZSTD_isError(got) ? 0 : got;
}

static size_t pack_fixed(struct comp *c, int level, const void *raw, size_t n, void *out)
{
	if (c->rest) {
		c->rest--;
		return 0;
	}
	size_t got = compress(c, level, raw, n, out);

	c->bad = got ? 0 : c->bad + 1;
	if (c->bad >= BAD_FRAMES)
		c->rest = REST_FRAMES;
	return got;
}

bool comp_is_plain(const struct comp *c, const struct pages_opts *o)
{
	return o->method == COMP_NONE || (o->method == COMP_AUTO && c->now == 0);
}

size_t comp_pack(struct comp *c, const struct pages_opts *o, const void *raw, size_t n, void *out)
{
	bool automatic = o->method == COMP_AUTO;
	bool plain = comp_is_plain(c, o);

	c->packed = 0;
	c->method = plain ? COMP_NONE : COMP_ZSTD;
	c->level = plain ? 0 : automatic ? expect[c->now].level : o->level;
	if (plain || !n)
		return 0;
	return automatic ? compress(c, c->level, raw, n, out)
			 : pack_fixed(c, c->level, raw, n, out);
}

/* ---- the choice ---- */

static bool fresh(const struct comp_level *l, uint64_t now)
{
	return l->when && now - l->when < l->trust;
}

/* The level whose figures tell most about level i: the nearest of those that were measured lately,
 * or else the last one. 0: none. */
static size_t like(const struct comp *c, size_t i, uint64_t now)
{
	size_t best = 0, last = 0;

	for (size_t k = 1; k < COMP_LEVELS; k++) {
		if (!c->at[k].when)
			continue;
		if (!last || c->at[k].when > c->at[last].when)
			last = k;
		if (now - c->at[k].when < TRUST_MAX_NS &&
		    (!best || labs((long)k - (long)i) < labs((long)best - (long)i)))
			best = k;
	}
	return best ? best : last;
}

/* ns per byte of guest memory that level i is good for, by its own work and by the line. */
static double predict(const struct comp *c, size_t i, double other, uint64_t now)
{
	double pack = 0, size = 1;
	bool line = c->line_when && now - c->line_when < LINE_NS;

	if (i > 0) {
		size_t k = like(c, i, now);

		pack = k ? c->at[k].pack / expect[k].pack * expect[i].pack : 3 * expect[i].pack;
		size = k ? c->at[k].size / expect[k].size * expect[i].size : 0.5 * expect[i].size;
		size = size > 1 ? 1 : size;
	}
	double work = other + pack, wire = line ? c->line * size : 0;
	return work > wire ? work : wire;
}

/* Other work of the machine only ever makes things look slower, sometimes by far: down at once, up
 * slowly. */
static double settle(double old, double new)
{
	if (new > 3 * old)
		new = 3 * old;
	return new < old ? new : old * 0.7 + new * 0.3;
}

static void measured(struct comp *c, uint64_t now)
{
	const struct comp_sum *s = &c->sum;
	struct comp_level *l = &c->at[c->now];
	double raw = (double)s->raw, total = (double)s->ns / raw;

	l->total = fresh(l, now) ? settle(l->total, total) : total;
	l->pack = (double)s->pack / raw;
	l->size = (double)s->wire / raw;
	if (!l->trust)
		l->trust = TRUST_NS;
	l->when = now;
	/* If the line always had something to carry, this is what it can. Else it carries this at
	 * least. */
	double line = (double)s->ns / (double)s->wire;
	if (s->busy > s->frames / 2) {
		bool lately = c->line_when && now - c->line_when < LINE_NS;

		c->line = lately ? settle(c->line, line) : line;
		c->line_when = now;
	} else if (line < c->line) {
		c->line = line;
	}
}

static void choose(struct comp *c, uint64_t now)
{
	double other = (double)(c->sum.ns - c->sum.pack - c->sum.wait) / (double)c->sum.raw;
	size_t best = c->now;
	double least = c->at[best].total * GAIN;

	for (size_t i = 0; i < COMP_LEVELS; i++) {
		double cost = fresh(&c->at[i], now) ? c->at[i].total
						    : predict(c, i, other, now);
		if (i != c->now && cost < least) {
			least = cost;
			best = i;
		}
	}
	if (best == c->now)
		return;
	/* What promised more and did not keep it is not tried again so soon. */
	if (fresh(&c->at[best], now)) {
		struct comp_level *l = &c->at[c->now];

		l->trust = l->trust * 2 < TRUST_MAX_NS ? l->trust * 2 : TRUST_MAX_NS;
	}
	c->now = best;
	c->skip = SKIP_FRAMES;
}

void comp_note(struct comp *c, const struct comp_frame *f, uint64_t now)
{
	struct comp_sum *s = &c->sum;
	bool first = !c->at[c->now].when && c->now == FIRST;

	if (c->skip) {
		c->skip--;
		return;
	}
	s->ns += f->ns;
	s->pack += c->packed;
	s->wait += f->wait;
	s->busy += f->busy;
	s->raw += f->raw;
	s->wire += f->wire;
	s->frames++;
	/* A first idea is worth more than a precise one: the line may be far faster than any
	 * level. */
	if (!first && (s->raw < SUM_BYTES || s->frames < SUM_FRAMES))
		return;
	measured(c, now);
	choose(c, now);
	*s = (struct comp_sum){ 0 };
}
