/* SPDX-License-Identifier: Apache-2.0 */
/* Range sets, the soft-dirty logic over pagemap entries, parked trackers as bytes. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "io.h"
#include "pages_tracker_int.h"

#define BASE 0x7f0000000000ull
#define ZERO_FRAME 0x1234ull
#define HUGE_FRAME 0x40000ull

/* "0-3 5-6": page numbers from BASE on. */
static void ranges(prange_vec *v, const char *text)
{
	v->n = 0;
	while (*text) {
		char *end;
		uint64_t a = strtoul(text, &end, 10), b = strtoul(end + 1, &end, 10);

		prange_add(v, BASE + a * PAGE_SIZE, BASE + b * PAGE_SIZE);
		text = *end ? end + 1 : end;
	}
}

static void expect(const prange_vec *got, const char *text)
{
	prange_vec want = { 0 };

	ranges(&want, text);
	assert_int_equal(got->n, want.n);
	for (size_t i = 0; i < want.n; i++) {
		assert_int_equal(got->at[i].start, want.at[i].start);
		assert_int_equal(got->at[i].end, want.at[i].end);
	}
	vec_free(&want);
}

typedef void set_op(const prange_vec *, const prange_vec *, prange_vec *);

static void check(set_op *op, const char *a, const char *b, const char *want)
{
	prange_vec x = { 0 }, y = { 0 }, got = { 0 };

	ranges(&x, a);
	ranges(&y, b);
	op(&x, &y, &got);
	expect(&got, want);
	vec_free(&x);
	vec_free(&y);
	vec_free(&got);
}

static void test_add(void **state)
{
	prange_vec v = { 0 };

	prange_add(&v, BASE, BASE);
	assert_int_equal(v.n, 0);
	prange_add(&v, BASE, BASE + PAGE_SIZE);
	prange_add(&v, BASE + PAGE_SIZE, BASE + 2 * PAGE_SIZE);
	expect(&v, "0-2");
	prange_add(&v, BASE + PAGE_SIZE, BASE + 2 * PAGE_SIZE);
	prange_add(&v, BASE + 9 * PAGE_SIZE, BASE + 10 * PAGE_SIZE);
	expect(&v, "0-2 9-10");
	assert_int_equal(prange_bytes(&v), 3 * PAGE_SIZE);
	vec_free(&v);
}

static void test_merge(void **state)
{
	prange_vec v = { 0 }, more = { 0 };

	ranges(&more, "4-6 9-10");
	prange_merge(&v, &more);
	expect(&v, "4-6 9-10");
	ranges(&more, "0-1 6-8");
	prange_merge(&v, &more);
	expect(&v, "0-1 4-8 9-10");
	expect(&more, "0-1 6-8");
	vec_free(&v);
	vec_free(&more);
}

static void test_sets(void **state)
{
	check(prange_or, "0-2 8-9", "1-4 6-7", "0-4 6-7 8-9");
	check(prange_or, "0-9", "1-2 3-4", "0-9");
	check(prange_and, "0-5 7-9", "1-2 4-8", "1-2 4-5 7-8");
	check(prange_and, "0-5", "5-9", "");
	check(prange_minus, "0-9", "2-3 5-7", "0-2 3-5 7-9");
	check(prange_minus, "0-3 4-8", "2-5", "0-2 5-8");
	check(prange_minus, "0-1 2-3 4-5", "0-9", "");
	check(prange_minus, "2-4", "", "2-4");
	check(prange_minus, "", "2-4", "");
}

/* Against bitmaps. */
static void test_sets_random(void **state)
{
	for (unsigned seed = 1; seed < 300; seed++) {
		prange_vec v[2] = { 0 }, out[3] = { 0 }, clip = { 0 };
		bool bit[2][64] = { 0 };

		srand(seed);
		for (int s = 0; s < 2; s++)
			for (unsigned i = 0; i < 64; i++)
				if ((bit[s][i] = rand() % 3 == 0))
					prange_add(&v[s], i * PAGE_SIZE, (i + 1) * PAGE_SIZE);
		prange_or(&v[0], &v[1], &out[0]);
		prange_and(&v[0], &v[1], &out[1]);
		prange_minus(&v[0], &v[1], &out[2]);
		prange_clip(&v[0], 10 * PAGE_SIZE, 50 * PAGE_SIZE, &clip);
		for (unsigned i = 0; i < 64; i++) {
			bool a = bit[0][i], b = bit[1][i], want[3] = { a || b, a && b, a && !b };

			for (int o = 0; o < 3; o++) {
				bool in = false;
				vec_each(&out[o], r)
					in |= r->start <= i * PAGE_SIZE && i * PAGE_SIZE < r->end;
				assert_int_equal(in, want[o]);
			}
			bool in = false;
			vec_each(&clip, r)
				in |= r->start <= i * PAGE_SIZE && i * PAGE_SIZE < r->end;
			assert_int_equal(in, a && i >= 10 && i < 50);
		}
		for (int i = 0; i < 3; i++)
			vec_free(&out[i]);
		vec_free(&v[0]);
		vec_free(&v[1]);
		vec_free(&clip);
	}
}

/* ---- soft-dirty ---- */

#define ANON (PME_PRESENT | 0x77)
#define SWAPPED (PME_SWAP | 2 | 7 << 5)
#define MARKER (PME_SWAP | 31 | 1 << 5)
#define GUARD (PME_SWAP | 31 | 4 << 5)
#define ZERO (PME_PRESENT | ZERO_FRAME)
#define HUGE_ZERO(n) (PME_PRESENT | (HUGE_FRAME + (n)))

static const struct pm_zeros zeros = { .small = ZERO_FRAME, .huge = HUGE_FRAME };
#define FILE_PAGE (PME_PRESENT | PME_FILE | 0x99)

struct settled {
	prange_vec reset, dirty;
	struct soft_pages now;
};

static struct settled settle(const char *known, const uint64_t *pme, size_t n)
{
	struct settled s = { 0 };
	prange_vec k = { 0 };

	ranges(&k, known);
	soft_sort(pme, n, BASE, false, &zeros, &s.now);
	soft_settle(&k, &s.now, &s.reset, &s.dirty);
	vec_free(&k);
	return s;
}

static void settled_free(struct settled *s)
{
	vec_free(&s->reset);
	vec_free(&s->dirty);
	soft_pages_free(&s->now);
}

#define SETTLE(known, ...) \
	settle(known, (uint64_t[]){ __VA_ARGS__ }, \
	       sizeof((uint64_t[]){ __VA_ARGS__ }) / sizeof(uint64_t))

static void check_settled(struct settled s, const char *reset, const char *dirty)
{
	expect(&s.reset, reset);
	expect(&s.dirty, dirty);
	settled_free(&s);
}

static void test_soft_written(void **state)
{
	check_settled(SETTLE("0-3", ANON, ANON | PME_SOFT, ANON), "", "1-2");
	check_settled(SETTLE("0-2", SWAPPED, SWAPPED | PME_SOFT), "", "1-2");
}

/* There, but never reported: dirty even if the bit is clear. */
static void test_soft_unknown_is_dirty(void **state)
{
	check_settled(SETTLE("", ANON, ANON), "", "0-2");
	check_settled(SETTLE("0-1", ANON, SWAPPED), "", "1-2");
}

/* MADV_DONTNEED, or a re-made mapping: bits or not, nothing is there. */
static void test_soft_dropped(void **state)
{
	check_settled(SETTLE("0-4", ANON, 0, PME_SOFT, ANON), "1-3", "");
}

/* Dropped, then only read: the zero page. */
static void test_soft_zero_page(void **state)
{
	check_settled(SETTLE("0-3", ANON, ZERO, ZERO | PME_SOFT), "1-3", "");
	check_settled(SETTLE("", ZERO | PME_SOFT), "", "");
}

/* A private file mapping dropped its own copy: the file's page is back. */
static void test_soft_back_to_file(void **state)
{
	check_settled(SETTLE("0-3", FILE_PAGE, FILE_PAGE | PME_SOFT, ANON), "0-2", "");
	check_settled(SETTLE("", FILE_PAGE | PME_SOFT), "", "");
}

static void test_soft_markers(void **state)
{
	struct settled s = SETTLE("0-4", MARKER, GUARD | PME_SOFT, SWAPPED, MARKER | PME_SOFT);

	expect(&s.now.guard, "1-2");
	check_settled(s, "0-2 3-4", "");
}

/* Dropped, and read again: zeros of either size are no content. */
static void test_soft_huge_zeros(void **state)
{
	uint64_t pme[] = { HUGE_ZERO(0), ZERO, HUGE_ZERO(511), HUGE_ZERO(512), HUGE_ZERO(-1) };
	struct soft_pages p = { 0 };

	soft_sort(pme, 5, BASE, false, &zeros, &p);
	expect(&p.content, "3-5");
	soft_pages_free(&p);
}

/* A grown or new mapping: the whole of it has the bit. */
static void test_soft_new_mapping(void **state)
{
	check_settled(SETTLE("0-2", ANON | PME_SOFT, PME_SOFT, PME_SOFT, ANON | PME_SOFT), "1-2",
		      "0-1 3-4");
}

static void test_soft_shared(void **state)
{
	uint64_t pme[] = { FILE_PAGE, FILE_PAGE | PME_SOFT, 0, PME_SOFT, SWAPPED };
	struct soft_pages p = { 0 };

	soft_sort(pme, 5, BASE, true, &zeros, &p);
	expect(&p.content, "");
	expect(&p.dirty, "1-2 3-4");
	expect(&p.unsure, "2-3 4-5");
	soft_pages_free(&p);
}

/* Pieces of one mapping give the same as the whole. */
static void test_soft_pieces(void **state)
{
	uint64_t pme[] = { ANON, ANON | PME_SOFT, ANON | PME_SOFT, ANON };
	struct soft_pages p = { 0 };

	soft_sort(pme, 2, BASE, false, &zeros, &p);
	soft_sort(pme + 2, 2, BASE + 2 * PAGE_SIZE, false, &zeros, &p);
	expect(&p.content, "0-4");
	expect(&p.dirty, "1-3");
	soft_pages_free(&p);
}

/* ---- mappings that are others now ---- */

static void test_renamed(void **state)
{
	struct proc_vma v[] = {
		{ .start = BASE, .end = BASE + PAGE_SIZE, .ino = 5, .path = "/a" },
		{ .start = BASE + PAGE_SIZE, .end = BASE + 2 * PAGE_SIZE, .ino = 6, .path = "/b" },
		{ .start = BASE + 2 * PAGE_SIZE, .end = BASE + 3 * PAGE_SIZE, .ino = 5,
		  .shared = true, .path = "/a" },
		{ .start = BASE + 3 * PAGE_SIZE, .end = BASE + 4 * PAGE_SIZE, .path = "" },
	};
	struct tracker t = { .kind = TRACKER_UFFD_WP };
	prange_vec remade = { 0 };

	tracker_remember(&t, v, 4);
	tracker_remade(&t, v, 4, &remade);
	expect(&remade, "");
	v[0].path = v[2].path = "/c";
	v[3].path = "[anon:name]";
	tracker_remade(&t, v, 4, &remade);
	expect(&remade, "0-1");
	vec_free(&remade);
	vec_free(&t.seen);
}

/* ---- page tables that move ---- */

#define TABLE 512

/* A table whose pages have the frames from `frame` on, every third a dirty one. */
static void fill_table(uint64_t *pme, uint64_t frame)
{
	for (uint64_t i = 0; i < TABLE; i++)
		pme[i] = PME_PRESENT | (frame + i) | (i % 3 ? 0 : PME_SOFT);
}

/* One look at three tables, in two mappings that share the second. */
static void look(struct soft_moves *m, const soft_tables *before, const uint64_t *pme)
{
	size_t first = TABLE + TABLE / 3, at = 0;

	*m = (struct soft_moves){ .before = before };
	for (size_t n = first; at < 3 * TABLE; at += n, n = 3 * TABLE - first)
		soft_moves_look(m, pme + at, n, BASE + at * PAGE_SIZE, &zeros);
	soft_moves_end(m);
}

/* The tables looked like `was`, and like `is` now: which have come from elsewhere? */
static void check_moves(const uint64_t *was, const uint64_t *is, const char *moved)
{
	struct soft_moves first, second;

	look(&first, &(soft_tables){ 0 }, was);
	expect(&first.moved, "");
	look(&second, &first.now, is);
	expect(&second.moved, moved);
	soft_moves_free(&first);
	soft_moves_free(&second);
}

static void test_soft_moved(void **state)
{
	uint64_t was[3 * TABLE], is[3 * TABLE];

	for (size_t i = 0; i < 3; i++)
		fill_table(was + i * TABLE, 0x100000 + i * 0x1000);
	check_moves(was, was, "");
	for (size_t i = 0; i < 3; i++) {
		const char *const want[] = { "0-512", "512-1024", "1024-1536" };

		memcpy(is, was, sizeof(is));
		fill_table(is + i * TABLE, 0x500000);
		check_moves(was, is, want[i]);
	}
	/* What is new, written or gone since is none. */
	memcpy(is, was, sizeof(is));
	for (size_t i = 0; i < 3 * TABLE; i += 2)
		is[i] = i % 4 ? 0 : PME_PRESENT | PME_SOFT | (0x600000 + i);
	check_moves(was, is, "");
	/* Little is there, all in one part, and most of it goes. */
	memset(was, 0, sizeof(was));
	fill_table(is, 0x100000);
	memcpy(was + 40, is, 8 * sizeof(*was));
	memcpy(is, was, sizeof(is));
	memset(is + 40, 0, 6 * sizeof(*is));
	check_moves(was, is, "0-512");
	is[45] = was[45];
	check_moves(was, is, "");
	is[45]++;
	check_moves(was, is, "0-512");
	/* Nothing there at all before. */
	memset(was, 0, TABLE * sizeof(*was));
	check_moves(was, is, "");
}

/* Nothing left to tell by: in doubt it has moved. */
static void test_soft_moved_doubt(void **state)
{
	uint64_t was[3 * TABLE], is[3 * TABLE];

	for (size_t i = 0; i < 3; i++)
		fill_table(was + i * TABLE, 0x100000 + i * 0x1000);
	memcpy(is, was, sizeof(is));
	for (size_t i = 0; i < TABLE; i++)
		is[i] |= PME_SOFT;
	for (size_t i = TABLE; i < 2 * TABLE; i++)
		is[i] = 0;
	for (size_t i = 2 * TABLE; i < 3 * TABLE; i++)
		is[i] = PME_SWAP | i << 5;
	check_moves(was, is, "0-1536");
	/* Some that are swapped say nothing. */
	memcpy(is, was, sizeof(is));
	for (size_t i = 0; i < TABLE / 2; i++)
		is[i] = PME_SWAP | i << 5;
	check_moves(was, is, "");
	check_moves(is, was, "");
	check_moves(is, is, "");
}

/* ---- as bytes ---- */

static void test_bytes(void **state)
{
	struct tracker t = { .kind = TRACKER_SOFT_DIRTY, .pid = 7, .born = 99, .scanned = true,
			     .uffd = -1 };
	struct tracker *back;
	struct buf b = { 0 };
	struct err e = ERR_INIT;

	ranges(&t.known, "0-2 5-6");
	vec_push(&t.tables, (struct soft_table){ .at = 1 << 21, .sample = { 5 } });
	vec_push(&t.tables, (struct soft_table){ .at = 3 << 21, .sample = { 0, 0, 0, 6 } });
	tracker_encode(&t, &b);
	assert_int_equal(tracker_decode(&back, b.at, b.n, -1, &e), 0);
	assert_int_equal(tracker_pid(back), 7);
	assert_int_equal(tracker_born(back), 99);
	assert_true(back->scanned);
	expect(tracker_known(back), "0-2 5-6");
	assert_int_equal(back->tables.n, 2);
	assert_memory_equal(back->tables.at, t.tables.at, 2 * sizeof(*t.tables.at));
	tracker_free(back);

	for (size_t n = 0; n < b.n; n++)
		assert_int_equal(tracker_decode(&back, b.at, n, -1, &e), -EBADMSG);
	/* Ranges and tables out of order; counts that are too big; unknown kind. */
	struct { size_t at; uint8_t value; } harm[] = {
		{ 61, 0xff }, { 79, 0xff }, { 31, 0xff }, { 39, 0xff }, { 4, 9 },
	};
	for (size_t i = 0; i < sizeof(harm) / sizeof(*harm); i++) {
		uint8_t kept = b.at[harm[i].at];

		b.at[harm[i].at] = harm[i].value;
		assert_int_equal(tracker_decode(&back, b.at, b.n, -1, &e), -EBADMSG);
		b.at[harm[i].at] = kept;
	}
	buf_free(&b);
	vec_free(&t.known);
	vec_free(&t.tables);
}

static void test_names(void **state)
{
	assert_string_equal(tracker_name(TRACKER_UFFD_WP), "uffd-wp");
	assert_string_equal(tracker_name(TRACKER_SOFT_DIRTY), "soft-dirty");
	assert_string_equal(tracker_name(TRACKER_AUTO), "auto");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_add), cmocka_unit_test(test_merge),
		cmocka_unit_test(test_sets),
		cmocka_unit_test(test_sets_random), cmocka_unit_test(test_soft_written),
		cmocka_unit_test(test_soft_unknown_is_dirty), cmocka_unit_test(test_soft_dropped),
		cmocka_unit_test(test_soft_zero_page), cmocka_unit_test(test_soft_back_to_file),
		cmocka_unit_test(test_soft_markers), cmocka_unit_test(test_soft_new_mapping),
		cmocka_unit_test(test_soft_huge_zeros), cmocka_unit_test(test_soft_moved),
		cmocka_unit_test(test_soft_moved_doubt), cmocka_unit_test(test_renamed),
		cmocka_unit_test(test_soft_shared), cmocka_unit_test(test_soft_pieces),
		cmocka_unit_test(test_bytes), cmocka_unit_test(test_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
