/* SPDX-License-Identifier: Apache-2.0 */
/* The rules of convergence against guests that are made of arithmetic. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "flow_converge.h"

#define MIB 1048576.0
#define ROUNDS_MAX 400

/* A guest that writes `rate` bytes per s here and there in `hot` bytes of its memory, and a link
 * that places `link` bytes per s. */
struct world {
	double memory, hot, rate, link;
	int64_t max_downtime;
	bool off;
	enum qos_mode mode;
};

struct outcome {
	bool converged;
	double seconds, lost_s, downtime_ms;
	unsigned rounds, throttle_max, throttle_end;
};

static double found_dirty(const struct world *w, double written)
{
	return w->hot * (1 - exp(-written / w->hot));
}

static struct outcome play(const struct world *w)
{
	struct outcome o = { 0 };
	struct flow_qos q;
	struct converge c;
	double dirty = w->memory, interval = 0, run = 1;

	qos_defaults(&q);
	q.max_downtime = w->max_downtime ? w->max_downtime : 300;
	q.auto_converge = !w->off;
	q.ac_mode = w->mode;
	converge_begin(&c, (uint64_t)w->memory, 0);
	for (uint32_t i = 1; i <= ROUNDS_MAX; i++) {
		double send = dirty / w->link + 0.0005;
		struct converge_round r = {
			.number = i, .dirty = (uint64_t)dirty, .ran = run, .fixed_ns = 3000000,
			.interval_ns = (uint64_t)(interval * 1e9),
			.send_ns = (uint64_t)(send * 1e9),
		};
		uint64_t now = (uint64_t)((o.seconds + send) * 1e9);

		o.seconds += send;
		o.lost_s += send * (1 - run);
		dirty = found_dirty(w, w->rate * run * send);
		interval = send;
		o.rounds = i;
		enum converge_what what = converge_next(&c, &q, &r, now);
		run = 1 - c.throttle / 100.0;
		if (c.throttle > o.throttle_max)
			o.throttle_max = c.throttle;
		o.throttle_end = c.throttle;
		if (what != CONVERGE_SWITCH)
			continue;
		o.converged = true;
		o.downtime_ms = dirty / w->link * 1e3 + 3;
		break;
	}
	return o;
}

static struct world dirtier(double ratio)
{
	return (struct world){ .memory = 512 * MIB, .hot = 512 * MIB, .rate = 100 * MIB * ratio,
			       .link = 100 * MIB };
}

static const double ratios[] = { 0.5, 1, 2, 5, 10 };

static void all_converge_when_throttled(void **state)
{
	for (size_t i = 0; i < 5; i++)
		for (int mode = CONVERGE_RAMP; mode <= CONVERGE_MODEL; mode++) {
			struct world w = dirtier(ratios[i]);

			w.mode = mode;
			struct outcome o = play(&w);
			print_message("W/L %g %s: %.1f s, lost %.1f s, %.0f ms, %u rounds, %u %%\n",
				      ratios[i], mode ? "model" : "ramp", o.seconds, o.lost_s,
				      o.downtime_ms, o.rounds, o.throttle_max);
			assert_true(o.converged);
			assert_true(o.downtime_ms <= 300);
			assert_true(o.throttle_max <= 99);
		}
}

static void nothing_helps_when_it_is_off(void **state)
{
	struct world w = dirtier(2);

	w.off = true;
	struct outcome o = play(&w);
	assert_false(o.converged);
	assert_int_equal(o.throttle_max, 0);
	w = dirtier(0.5);
	w.off = true;
	assert_true(play(&w).converged);
}

static void the_model_is_faster_and_costs_no_more(void **state)
{
	struct world w = dirtier(5);
	struct outcome ramp = play(&w);

	w.mode = CONVERGE_MODEL;
	struct outcome model = play(&w);
	assert_true(model.seconds <= ramp.seconds / 2);
	assert_true(model.lost_s <= ramp.lost_s);
}

static void the_model_gives_speed_back(void **state)
{
	struct flow_qos q;
	struct converge c;
	struct converge_round r = { .number = 2, .dirty = 400 << 20, .interval_ns = 1000000000,
				    .send_ns = 4000000000, .ran = 1 };

	qos_defaults(&q);
	q.ac_mode = CONVERGE_MODEL;
	converge_begin(&c, 8ul << 30, 0);
	converge_next(&c, &q, &r, 0);
	unsigned high = c.throttle;
	assert_in_range(high, 80, 95);  /* 400 MiB/s against 100: an eighth may be written */
	/* now it writes half of what the link takes, though it is throttled no more than before */
	r = (struct converge_round){ .number = 3, .dirty = 50 << 20, .interval_ns = 4000000000,
				     .send_ns = 500000000, .ran = 1 - high / 100.0 };
	q.max_downtime = 10;
	converge_next(&c, &q, &r, 0);
	assert_true(c.throttle < high);
}

static void a_hot_set_is_not_underrated(void **state)
{
	/* the same 80 MiB again and again, faster than any round: what is left is always that */
	struct world w = { .memory = 4096 * MIB, .hot = 80 * MIB, .rate = 2000 * MIB,
			   .link = 100 * MIB,
			   .off = true };
	struct outcome o = play(&w);

	assert_false(o.converged);   /* 800 ms against 300 */
	w.max_downtime = 1000;
	o = play(&w);
	assert_true(o.converged);
	assert_true(o.downtime_ms <= 1000);
}

static void the_throttle_has_a_limit(void **state)
{
	struct flow_qos q;
	struct converge c;
	struct converge_round r = {
		.dirty = 1 << 30, .interval_ns = 1000000, .send_ns = 10000000000, .ran = 1
	};

	qos_defaults(&q);
	q.ac_max = 60;
	for (int mode = CONVERGE_RAMP; mode <= CONVERGE_MODEL; mode++) {
		q.ac_mode = mode;
		converge_begin(&c, 1ul << 40, 0);
		for (r.number = 1; r.number < 40; r.number++)
			assert_int_equal(converge_next(&c, &q, &r, 0), CONVERGE_GO_ON);
		assert_int_equal(c.throttle, 60);
		q.ac_max = 30; /* lowered while it runs */
		converge_next(&c, &q, &r, 0);
		assert_int_equal(c.throttle, 30);
		q.ac_max = 60;
	}
	q.auto_converge = false;
	converge_next(&c, &q, &r, 0);
	assert_int_equal(c.throttle, 0);
}

static void ramp_is_qemus(void **state)
{
	struct flow_qos q;
	struct converge c;
	struct converge_round r = {
		.dirty = 1 << 30, .interval_ns = 1, .send_ns = 10000000000, .ran = 1
	};
	unsigned want[] = { 0, 0, 20, 20, 30, 30, 40, 40, 50 };

	qos_defaults(&q);
	converge_begin(&c, 1ul << 40, 0);
	for (r.number = 1; r.number <= 9; r.number++) {
		converge_next(&c, &q, &r, 0);
		assert_int_equal(c.throttle, want[r.number - 1]);
	}
}

static void novas_steps(void **state)
{
	struct flow_qos q;
	struct converge c;

	qos_defaults(&q);
	q.max_downtime = 500;
	q.downtime_steps = 10;
	q.downtime_delay = 75;
	converge_begin(&c, 4ul << 30, 1000000000);
	/* 500/10 + i (500 - 50)/10, a step each 75 s x 4 GiB */
	for (uint64_t i = 0; i <= 10; i++) {
		uint64_t at = 1000000000 + i * 300 * 1000000000ul;
		double ms = converge_allowed_ms(&c, &q, at + 1000);

		assert_true(fabs(ms - (50 + (double)i * 45)) < 0.01);
	}
	assert_true(converge_allowed_ms(&c, &q, 1ul << 60) == 500);
	q.downtime_steps = 1;
	assert_true(converge_allowed_ms(&c, &q, 1000000000) == 500);
	/* a small guest counts as 2 GiB */
	q.downtime_steps = 2;
	converge_begin(&c, 1 << 20, 0);
	assert_true(converge_allowed_ms(&c, &q, 149ul * 1000000000) == 250);
	assert_true(converge_allowed_ms(&c, &q, 151ul * 1000000000) == 375);
}

static void deadlines(void **state)
{
	struct flow_qos q;
	struct converge c;

	qos_defaults(&q);
	converge_begin(&c, 8ul << 30, 5);
	assert_int_equal(converge_deadline_ns(&c, &q), 0);
	q.timeout = 10;
	assert_int_equal(converge_deadline_ns(&c, &q), 10000000005);
	q.timeout_per_gib = 800;
	assert_int_equal(converge_deadline_ns(&c, &q), 6400000000005);
	q.timeout = 10000;
	assert_int_equal(converge_deadline_ns(&c, &q), 10000000000005);
}

static void max_rounds(void **state)
{
	struct flow_qos q;
	struct converge c;
	struct converge_round r = {
		.dirty = 1 << 30, .interval_ns = 1, .send_ns = 10000000000, .ran = 1
	};

	qos_defaults(&q);
	q.max_rounds = 3;
	converge_begin(&c, 1ul << 30, 0);
	r.number = 1;
	assert_int_equal(converge_next(&c, &q, &r, 0), CONVERGE_GO_ON);
	r.number = 2;
	assert_int_equal(converge_next(&c, &q, &r, 0), CONVERGE_GO_ON);
	r.number = 3;
	assert_int_equal(converge_next(&c, &q, &r, 0), CONVERGE_ENOUGH);
}

static void a_slow_switch_is_no_reason_to_go_on(void **state)
{
	struct flow_qos q;
	struct converge c;
	struct converge_round r = { .dirty = 4096, .interval_ns = 1000000, .send_ns = 1000000,
				    .ran = 1,
				    .fixed_ns = 400000000 };
	enum converge_what what = CONVERGE_GO_ON;

	qos_defaults(&q);
	converge_begin(&c, 1 << 20, 0);
	for (r.number = 1; what == CONVERGE_GO_ON && r.number < 50; r.number++)
		what = converge_next(&c, &q, &r, 0);
	assert_int_equal(what, CONVERGE_SWITCH);
	assert_int_equal(c.throttle, 0);
}

static void switchover_bandwidth_counts(void **state)
{
	struct flow_qos q;
	struct converge c;

	qos_defaults(&q);
	converge_begin(&c, 1ul << 30, 0);
	c.placed = 100 * MIB;
	q.bandwidth = 100;
	assert_true(fabs(converge_downtime_ms(&c, &q, 100 * MIB, 5000000) - 1005) < 0.1);
	q.switchover_bandwidth = 400;
	assert_true(fabs(converge_downtime_ms(&c, &q, 100 * MIB, 5000000) - 255) < 0.1);
	q.bandwidth = 0;
	assert_true(fabs(converge_downtime_ms(&c, &q, 100 * MIB, 5000000) - 1005) < 0.1);
	q.switchover_bandwidth = 20;
	assert_true(fabs(converge_downtime_ms(&c, &q, 100 * MIB, 5000000) - 5005) < 0.1);
	c.placed = 0;
	assert_true(converge_downtime_ms(&c, &q, 1, 1) == 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_converge_when_throttled),
		cmocka_unit_test(nothing_helps_when_it_is_off),
		cmocka_unit_test(the_model_is_faster_and_costs_no_more),
		cmocka_unit_test(the_model_gives_speed_back),
		cmocka_unit_test(a_hot_set_is_not_underrated),
		cmocka_unit_test(the_throttle_has_a_limit),
		cmocka_unit_test(ramp_is_qemus),
		cmocka_unit_test(novas_steps),
		cmocka_unit_test(deadlines),
		cmocka_unit_test(max_rounds),
		cmocka_unit_test(a_slow_switch_is_no_reason_to_go_on),
		cmocka_unit_test(switchover_bandwidth_counts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
