/* SPDX-License-Identifier: Apache-2.0 */
#include "flow_converge.h"

#include <math.h>

#define MIB 1048576.0
#define GIB (1024 * MIB)

/* Rounds that are over within a few milliseconds say nothing about the rate. */
#define RATE_BYTES (8 * MIB)
/* A round of that many bytes counts as much as all those before it. */
#define RATE_WEIGHT (64 * MIB)
/* Fewer bytes are not worth a round of their own. */
#define LITTLE (256 * 1024ul)
/* Of the guest's memory: if nearly all of it is dirty, nobody can say how often it was written. */
#define PART_MAX 0.95
#define STALLS_MAX 2
#define FUTILE_MAX 10
#define HIGH_MAX 2
#define MODEL_SHRINK 0.5           /* each round is to be half of the one before */
#define RUN_FREE 0.95              /* so little throttle is not worth the signals */
#define MODEL_HURRY  0.25          /* if the time is short */

void converge_begin(struct converge *c, uint64_t memory, uint64_t now_ns)
{
	*c = (struct converge){ .memory = memory, .begun_ns = now_ns, .best = UINT64_MAX };
}

static double gib_of(const struct converge *c)
{
	double gib = (double)c->memory / GIB;

	return gib < 2 ? 2 : gib; /* as Nova counts */
}

double converge_allowed_ms(const struct converge *c, const struct flow_qos *q, uint64_t now_ns)
{
	double max = (double)q->max_downtime, first = max / (double)q->downtime_steps;
	double step_s = (double)q->downtime_delay * gib_of(c);

	if (q->downtime_steps <= 1 || step_s <= 0)
		return max;
	double elapsed_s = (double)(now_ns - c->begun_ns) / 1e9;
	double steps = (double)(int64_t)(elapsed_s / step_s);
	double now = first + steps * (max - first) / (double)q->downtime_steps;
	return now < max ? now : max;
}

uint64_t converge_deadline_ns(const struct converge *c, const struct flow_qos *q)
{
	double s = (double)q->timeout, by_size = (double)q->timeout_per_gib * gib_of(c);

	if (by_size > s)
		s = by_size;
	return s > 0 ? c->begun_ns + (uint64_t)(s * 1e9) : 0;
}

double converge_downtime_ms(const struct converge *c, const struct flow_qos *q, double bytes,
			    uint64_t fixed_ns)
{
	double rate = c->placed;

	if (rate <= 0)
		return 0;
	/* The last copy may have a limit of its own. Without one it is at least as fast. */
	if (q->bandwidth > 0 && q->switchover_bandwidth > 0)
		rate *= (double)q->switchover_bandwidth / (double)q->bandwidth;
	else if (q->switchover_bandwidth > 0 && rate > (double)q->switchover_bandwidth * MIB)
		rate = (double)q->switchover_bandwidth * MIB;
	return bytes * 1e3 / rate + (double)fixed_ns / 1e6;
}

/* Bytes written in an interval, from the bytes found dirty: pages that were written twice count
 * once. As if the guest wrote here and there: of n pages, n (1 - e^(-w/n)) are dirty after w
 * writes. */
static double written(const struct converge *c, double dirty)
{
	double all = (double)c->memory, part = all > 0 ? dirty / all : 0;

	if (part <= 0)
		return dirty;
	return -all * log1p(-(part < PART_MAX ? part : PART_MAX));
}

static void measure(struct converge *c, const struct converge_round *r)
{
	double bytes = (double)r->dirty, s = (double)(r->send_ns ? r->send_ns : 1) / 1e9;

	if (bytes >= RATE_BYTES || c->placed <= 0) {
		double w = c->placed > 0 ? bytes / (bytes + RATE_WEIGHT) : 1;

		c->placed += w * (bytes / s - c->placed);
	}
	if (r->interval_ns) {
		double ran = r->ran > 0.005 ? r->ran : 0.005;

		c->full_rate = written(c, bytes) * 1e9 / (double)r->interval_ns / ran;
	}
}

/* What will be dirty after the round: as much as was before it, if it took no longer. That is too
 * much for a guest that writes here and there, and right for one that writes the same pages again
 * and again. */
static double pending(const struct converge_round *r)
{
	double longer = r->interval_ns ? (double)r->send_ns / (double)r->interval_ns : 1;

	return (double)r->dirty * (longer > 1 ? longer : 1);
}

static unsigned clamp(double percent, const struct flow_qos *q)
{
	if (percent > (double)q->ac_max)
		return (unsigned)q->ac_max;
	return percent > 0 ? (unsigned)percent : 0;
}

/* QEMU's rule: if more was dirtied than half of what was sent meanwhile, twice, one step more. */
static void ramp(struct converge *c, const struct flow_qos *q, const struct converge_round *r)
{
	if (!c->last_dirty ||
	    (double)r->dirty * 100 <= (double)c->last_dirty * (double)q->ac_threshold)
		return;
	if (++c->high < HIGH_MAX)
		return;
	c->high = 0;
	c->throttle = clamp(c->throttle ? c->throttle + (double)q->ac_increment
					: (double)q->ac_initial, q);
}

/* The guest may change as many bytes as make each round half of the one before; a quarter, if
 * that would end after the deadline. Follows the guest both ways. */
static void model(struct converge *c, const struct flow_qos *q, const struct converge_round *r,
		  uint64_t now_ns)
{
	uint64_t deadline = converge_deadline_ns(c, q);
	double shrink = MODEL_SHRINK;

	if (r->interval_ns == 0 || c->full_rate <= 0 || c->placed <= 0)
		return;
	if (deadline) {
		double left_s = deadline > now_ns ? (double)(deadline - now_ns) / 1e9 : 0;

		if ((double)r->dirty / c->placed / (1 - shrink) > left_s)
			shrink = MODEL_HURRY;
	}
	double run = shrink * c->placed / c->full_rate;
	/* Rounded up, or the last percent would be the one that is missing. */
	c->throttle = run >= RUN_FREE ? 0 : clamp((1 - run) * 100 + 0.999, q);
}

static void slow_down(struct converge *c, const struct flow_qos *q, const struct converge_round *r,
		      uint64_t now_ns)
{
	if (!q->auto_converge)
		c->throttle = 0;
	else if (q->ac_mode == CONVERGE_MODEL)
		model(c, q, r, now_ns);
	else
		ramp(c, q, r);
	if (c->throttle > (unsigned)q->ac_max)
		c->throttle = (unsigned)q->ac_max;
}

enum converge_what converge_next(struct converge *c, const struct flow_qos *q,
				 const struct converge_round *r, uint64_t now_ns)
{
	measure(c, r);
	c->predicted_ms = converge_downtime_ms(c, q, pending(r), r->fixed_ns);
	double allowed_ms = converge_allowed_ms(c, q, now_ns);
	bool fits = c->predicted_ms <= allowed_ms;

	c->stalls = r->dirty < c->best - c->best / 8 ? 0 : c->stalls + 1;
	if (r->dirty < c->best)
		c->best = r->dirty;
	bool little = r->dirty <= LITTLE, hopeless = (double)r->fixed_ns / 1e6 >= allowed_ms;
	if (!fits && !little)
		slow_down(c, q, r, now_ns);
	c->last_dirty = r->dirty;
	if (q->max_rounds && r->number >= (uint64_t)q->max_rounds)
		return CONVERGE_ENOUGH;
	/* The first round is all of the guest, which tells nothing of what it changes. More rounds
	 * are for a shorter downtime, which is not worth it while the guest is slowed down. */
	bool ripe = little || c->stalls >= STALLS_MAX ||
		    (c->throttle && c->predicted_ms <= allowed_ms / 2);
	if (r->number > 1 && fits && ripe)
		return CONVERGE_SWITCH;
	/* The switch itself takes longer than is allowed: no round changes that. But what the guest
	 * has written since is not to make it longer. */
	if ((little || hopeless) && c->stalls >= FUTILE_MAX)
		return CONVERGE_SWITCH;
	return CONVERGE_GO_ON;
}
