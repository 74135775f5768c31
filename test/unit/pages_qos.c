/* SPDX-License-Identifier: Apache-2.0 */
/* Parts of the sender by themselves: the token bucket, what the target holds, the choice of a
 * level. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io.h"
#include "pages_comp.h"
#include "pages_pace.h"
#include "pages_same.h"

#define MIB (1ul << 20)
#define CHUNK (64 * PAGE_SIZE)

/* ---- the token bucket ---- */

static uint64_t take_all(struct pace *p, size_t bytes)
{
	uint64_t began = io_now_ns();
	bool waited = false;

	for (size_t done = 0; done < bytes;) {
		size_t n = pace_take(p, bytes - done, &waited);

		assert_true(n > 0 && n <= bytes - done);
		done += n;
	}
	return io_now_ns() - began;
}

static void test_pace(void **state)
{
	struct pace p;

	pace_init(&p, 0);
	bool waited = false;
	assert_int_equal(pace_take(&p, 100 * MIB, &waited), 100 * MIB);
	assert_false(waited);
	pace_set(&p, 20 * MIB);
	/* 4 MiB take 0.2 s, but for the bucket and the last piece; how much longer is the
	 * machine's. */
	assert_true(take_all(&p, 4 * MIB) > 180000000u);
	/* An hour of pause is not made up for: the bucket holds 10 ms. */
	usleep(200000);
	assert_true(take_all(&p, 4 * MIB) > 180000000u);
	pace_free(&p);
}

struct taker {
	struct pace pace;
	size_t got;
};

static void *take_two(void *arg)
{
	struct taker *t = arg;

	bool waited = false;

	pace_take(&t->pace, MIB, &waited);
	t->got = pace_take(&t->pace, MIB, &waited);
	return NULL;
}

/* Who waits for hours under the old limit goes on under the new one, or ends. */
static void test_pace_wakes(void **state)
{
	for (int stop = 0; stop < 2; stop++) {
		struct taker t = { .got = 1 };
		pthread_t thread;

		pace_init(&t.pace, 1);
		pthread_create(&thread, NULL, take_two, &t);
		usleep(50000);
		if (stop)
			pace_stop(&t.pace);
		else
			pace_set(&t.pace, 0);
		pthread_join(thread, NULL);
		assert_int_equal(t.got, stop ? 0 : MIB);
		pace_free(&t.pace);
	}
}

/* ---- what the target holds ---- */

static bool check_one(struct same *s, uint32_t id, uint64_t at, uint8_t content)
{
	uint8_t page[PAGE_SIZE];
	struct same_page p = { .at = at };

	memset(page, content, sizeof(page));
	p.hash = same_hash(s, page);
	same_check(s, 0, id, &p, 1);
	assert_null(p.copy);
	return p.same;
}

static void test_same(void **state)
{
	struct err e = ERR_INIT;
	struct same *s;

	assert_int_equal(same_new(&s, &e), 0);
	assert_false(check_one(s, 1, 0x7000, 5));
	assert_true(check_one(s, 1, 0x7000, 5));
	assert_false(check_one(s, 2, 0x7000, 5));
	assert_false(check_one(s, 1, 0x8000, 5));
	assert_false(check_one(s, 1, 0x7000, 6));
	assert_false(check_one(s, 1, 0x7000, 5));
	assert_true(check_one(s, 1, 0x7000, 5));
	uint8_t zeros[PAGE_SIZE] = { 0 };
	struct same_hash a = same_hash(s, zeros), b = same_hash_zero(s);
	assert_memory_equal(&a, &b, sizeof(a));
	same_free(s);
}

/* Ranges against chunks: before, at, across and over their ends; exactly those pages are
 * forgotten. */
static void test_forget(void **state)
{
	static const struct prange r[] = {
		{ 0, PAGE_SIZE }, { CHUNK - PAGE_SIZE, CHUNK + PAGE_SIZE }, { CHUNK, 2 * CHUNK },
		{ PAGE_SIZE, 3 * CHUNK - PAGE_SIZE }, { 0, 4 * CHUNK },
		{ 0, UINT64_MAX & ~(PAGE_SIZE - 1) }, { 2 * CHUNK + 5 * PAGE_SIZE, 1ul << 46 },
		{ 3 * CHUNK, 3 * CHUNK }, { 4 * CHUNK, 1ul << 40 },
	};

	for (size_t i = 0; i < sizeof(r) / sizeof(r[0]); i++) {
		struct err e = ERR_INIT;
		struct same *s;

		assert_int_equal(same_new(&s, &e), 0);
		for (uint64_t at = 0; at < 4 * CHUNK; at += PAGE_SIZE) {
			check_one(s, 1, at, 1);
			check_one(s, 2, at, 1);
		}
		same_forget(s, 0, 1, &r[i], 1);
		same_forget(s, 0, 1, NULL, 0);
		for (uint64_t at = 0; at < 4 * CHUNK; at += PAGE_SIZE) {
			bool gone = at >= r[i].start && at < r[i].end;

			assert_int_equal(check_one(s, 1, at, 1), !gone);
			assert_true(check_one(s, 2, at, 1));
		}
		same_free(s);
	}
}

/* Full: what does not fit is never said to be the same; what is forgotten makes room. */
static void test_same_bounded(void **state)
{
	struct err e = ERR_INIT;
	struct same *s;

	assert_int_equal(same_new(&s, &e), 0);
	for (uint64_t i = 0; i < SAME_CHUNKS + 10; i++)
		assert_false(check_one(s, 1, i * CHUNK, 1));
	assert_true(check_one(s, 1, 0, 1));
	assert_false(check_one(s, 1, (SAME_CHUNKS + 5) * CHUNK, 1));
	assert_false(check_one(s, 1, (SAME_CHUNKS + 5) * CHUNK, 1));
	same_forget(s, 0, 1, &(struct prange){ 0, SAME_CHUNKS / 2 * CHUNK }, 1);
	assert_false(check_one(s, 1, (SAME_CHUNKS + 5) * CHUNK, 1));
	assert_true(check_one(s, 1, (SAME_CHUNKS + 5) * CHUNK, 1));
	assert_false(check_one(s, 1, 0, 1));
	assert_true(check_one(s, 1, (SAME_CHUNKS - 1) * CHUNK, 1));
	same_free(s);
}

/* Returns whether there was a valid copy, with what was sent last. */
static bool send_one(struct same *s, uint64_t at, uint8_t content, bool keep, bool *room)
{
	uint8_t page[PAGE_SIZE];
	struct same_page p = { .at = at, .keep = keep };

	memset(page, content, sizeof(page));
	p.hash = same_hash(s, page);
	same_check(s, 0, 1, &p, 1);
	*room = p.copy;
	if (p.valid && content > 1)
		assert_int_equal(p.copy[77], content - 1);
	if (p.copy)
		memcpy(p.copy, page, PAGE_SIZE);
	return p.valid;
}

static void test_copies(void **state)
{
	const uint64_t last = (SAME_COPIES - 1) * PAGE_SIZE;
	struct err e = ERR_INIT;
	struct same *s;
	bool room;

	assert_int_equal(same_new(&s, &e), 0);
	for (uint8_t content = 1; content < 4; content++) {
		for (uint64_t at = 0; at <= last; at += PAGE_SIZE) {
			assert_int_equal(send_one(s, at, content, true, &room), content > 1);
			assert_true(room);
		}
		same_round(s);
	}
	/* Full, as long as all are of use. */
	assert_false(send_one(s, last + PAGE_SIZE, 1, true, &room));
	assert_false(room);
	/* Void on the target; sent without keeping a copy: it is not what the target holds. */
	same_forget(s, 0, 1, &(struct prange){ 0, PAGE_SIZE }, 1);
	assert_false(send_one(s, 0, 9, true, &room));
	assert_false(send_one(s, PAGE_SIZE, 9, false, &room));
	assert_false(send_one(s, PAGE_SIZE, 10, true, &room));
	/* Three rounds without use. */
	for (int i = 0; i < 3; i++)
		same_round(s);
	for (uint64_t at = last + PAGE_SIZE; at <= 2 * last; at += PAGE_SIZE) {
		assert_false(send_one(s, at, 2, true, &room));
		assert_true(room);
	}
	same_round(s);
	for (uint64_t at = last + PAGE_SIZE; at <= 2 * last; at += PAGE_SIZE)
		assert_true(send_one(s, at, 3, true, &room));
	assert_false(send_one(s, 9 * PAGE_SIZE, 4, true, &room));
	same_free(s);
}

/* ---- the level ---- */

/* A world of its own: what each level costs and yields, what the line takes. */
struct world {
	double other, line;                     /* ns per byte of guest memory, of the wire */
	double pack[COMP_LEVELS], size[COMP_LEVELS];
};

static double cost(const struct world *w, size_t i)
{
	double work = w->other + w->pack[i], wire = w->line * w->size[i];

	return work > wire ? work : wire;
}

/* Sends frames for `seconds`; returns the mean cost against the best, over the second half. */
static double play(struct comp *c, const struct world *w, uint64_t *now, double seconds)
{
	uint64_t end = *now + (uint64_t)(seconds * 1e9), half = *now + (uint64_t)(seconds * 5e8);
	double best = cost(w, 0), ns = 0, bytes = 0;

	for (size_t i = 1; i < COMP_LEVELS; i++)
		best = cost(w, i) < best ? cost(w, i) : best;
	while (*now < end) {
		size_t i = c->now, raw = MIB;
		double all = cost(w, i) * (double)raw, work = (w->other + w->pack[i]) * (double)raw;

		*now += (uint64_t)all;
		c->packed = (uint64_t)(w->pack[i] * (double)raw);
		comp_note(c, &(struct comp_frame){
			.ns = (uint64_t)all, .wait = (uint64_t)(all - work), .busy = all > work,
			.raw = raw, .wire = (size_t)(w->size[i] * (double)raw) }, *now);
		if (*now > half) {
			ns += all;
			bytes += (double)raw;
		}
	}
	return ns / bytes / best;
}

static const struct world heap = {
	.other = 0.3,
	.pack = { 0, 1.7, 2.1, 2.4, 3.4, 6, 11 },
	.size = { 1, 0.36, 0.31, 0.27, 0.26, 0.25, 0.245 },
};

static void test_auto_lines(void **state)
{
	static const double lines[] = { 0.5, 1, 2, 4, 8, 10, 20, 40, 100 };
	uint64_t now = 1000000000;

	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
		struct err e = ERR_INIT;
		struct world w = heap;
		struct comp c;

		w.line = lines[i];
		assert_int_equal(comp_init(&c, &e), 0);
		double ratio = play(&c, &w, &now, 10);
		if (ratio > 1.06)
			fail_msg("line %.1f: %.2f of the best, level %zu", lines[i], ratio, c.now);
		comp_free(&c);
	}
}

/* Contents and lines change; what does not compress is sent as it is. */
static void test_auto_follows(void **state)
{
	struct err e = ERR_INIT;
	struct world w = heap, random = heap;
	uint64_t now = 1000000000;
	struct comp c;

	for (size_t i = 1; i < COMP_LEVELS; i++) {
		random.size[i] = 1;
		random.pack[i] = 1;
	}
	assert_int_equal(comp_init(&c, &e), 0);
	w.line = 1;
	random.line = 1;
	for (int i = 0; i < 3; i++) {
		w.line = i % 2 ? 1 : 10;
		for (int r = 0; r < 2; r++) {
			double ratio = play(&c, r ? &random : &w, &now, 40);

			if (ratio > 1.06)
				fail_msg("change %d, %s: %.2f of the best, level %zu", i,
					 r ? "random" : "heap", ratio, c.now);
		}
	}
	comp_free(&c);
}

static void test_pack(void **state)
{
	static uint8_t raw[MIB], out[MIB], back[MIB];
	struct pages_opts none = { .method = COMP_NONE },
			  three = { .method = COMP_ZSTD, .level = 3 },
			  automatic = { .method = COMP_AUTO };
	struct err e = ERR_INIT;
	struct comp c;

	for (size_t i = 0; i < MIB; i++)
		raw[i] = (uint8_t)(i / 100 * 7);
	assert_int_equal(comp_init(&c, &e), 0);
	assert_int_equal(comp_pack(&c, &none, raw, MIB, out), 0);
	assert_int_equal(c.method, COMP_NONE);
	for (int i = 0; i < 2; i++) {
		size_t n = comp_pack(&c, i ? &automatic : &three, raw, MIB, out);

		assert_in_range(n, 1, MIB / 2);
		assert_int_equal(c.method, COMP_ZSTD);
		assert_int_equal(c.level, i ? 1 : 3);
		assert_int_equal(ZSTD_decompress(back, MIB, out, n), MIB);
		assert_memory_equal(raw, back, MIB);
	}
	for (size_t i = 0; i < MIB; i++)
		raw[i] = (uint8_t)rand();
	assert_int_equal(comp_pack(&c, &three, raw, MIB, out), 0);
	comp_free(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pace),
		cmocka_unit_test(test_pace_wakes),
		cmocka_unit_test(test_same),
		cmocka_unit_test(test_forget),
		cmocka_unit_test(test_same_bounded),
		cmocka_unit_test(test_copies),
		cmocka_unit_test(test_auto_lines),
		cmocka_unit_test(test_auto_follows),
		cmocka_unit_test(test_pack),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
