/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>
#include <xxhash.h>

#include "io.h"
#include "pages_frame.h"
#include "pages_send.h"

static uint8_t payload[FRAME_BYTES];

/* Two data ranges and a zero range between. */
static struct frame good(void)
{
	struct frame f = {
		.head = { .magic = FRAME_MAGIC, .kind = PAGES_TASK, .method = COMP_NONE,
			  .space = 12, .ranges = 3, .payload = 5 * PAGE_SIZE },
		.ranges = { { 0x10000, 2, FRAME_DATA }, { 0x12000, 7, FRAME_ZERO },
			    { 0x7f0000000000, 3, FRAME_DATA } },
	};

	return f;
}

/* The checksums are right, so that what they cover is looked at. */
static int verdict(struct frame *f, struct err *e)
{
	err_clear(e);
	if (f->head.ranges <= FRAME_PAGES && f->head.payload <= FRAME_BYTES)
		frame_seal(f, payload);
	f->head.check = XXH3_64bits(&f->head, offsetof(struct frame_head, check));
	int ret = frame_check_head(&f->head, e);
	return ret < 0 ? ret : frame_check(f, payload, e);
}

static void refused(struct frame f)
{
	struct err e = ERR_INIT;

	assert_int_equal(verdict(&f, &e), -EBADMSG);
	assert_non_null(strstr(e.text, "damaged"));
}

static void test_good(void **state)
{
	struct frame f = good();
	struct err e = ERR_INIT;
	struct prange r[FRAME_PAGES];

	assert_int_equal(verdict(&f, &e), 0);
	assert_int_equal(frame_pages(&f, FRAME_DATA), 5);
	assert_int_equal(frame_pages(&f, FRAME_ZERO), 7);
	assert_int_equal(frame_ranges(&f, true, r), 2);
	assert_int_equal(r[1].start, 0x7f0000000000);
	assert_int_equal(r[1].end, 0x7f0000003000);
	assert_int_equal(frame_size(&f.head), 56 + 3 * 16);

	struct frame delta = good();
	delta.ranges[2].type = FRAME_DELTA;
	delta.head.pages = 1;
	assert_int_equal(verdict(&delta, &e), 0);
	assert_int_equal(frame_raw(&delta), 5 * PAGE_SIZE);
	assert_int_equal(frame_ranges(&delta, true, r), 2);
	assert_int_equal(frame_ranges(&delta, false, r), 1);

	struct frame end = { .head = { .magic = FRAME_MAGIC, .flags = FRAME_END } };
	assert_int_equal(verdict(&end, &e), 0);

	struct frame z = good();
	z.head.method = COMP_ZSTD;
	z.head.payload = 100;
	assert_int_equal(verdict(&z, &e), 0);

	struct frame shm = good();
	shm.head.kind = PAGES_SHM;
	shm.head.limit = 0x7f0000002001;
	assert_int_equal(verdict(&shm, &e), 0);
}

#define BAD(change) do { struct frame f = good(); change; refused(f); } while (0)

static void test_bad_head(void **state)
{
	BAD(f.head.magic++);
	BAD(f.head.kind = 2);
	BAD(f.head.method = 2);
	BAD(f.head.flags = 4);
	BAD(f.head.flags = 0x80000000);
	BAD(f.head.ranges = 0);
	BAD(f.head.ranges = FRAME_PAGES + 1);
	BAD(f.head.ranges = UINT32_MAX);
	BAD(f.head.payload = FRAME_BYTES + 1);
	BAD(f.head.payload = UINT32_MAX);
	BAD(f.head.payload = 4 * PAGE_SIZE);
	BAD(f.head.payload = 6 * PAGE_SIZE);
	BAD(f.head.limit = 1);
	BAD(f.head.pages = 1);
	BAD(f.head.method = COMP_ZSTD);
	BAD((f.head.method = COMP_ZSTD, f.head.payload = 0));
	BAD(f.head.flags = FRAME_END);
}

static void test_bad_ranges(void **state)
{
	BAD(f.ranges[0].start++);
	BAD(f.ranges[0].pages = 0);
	BAD(f.ranges[0].pages = 3);
	BAD(f.ranges[1].start = 0x11000);
	BAD(f.ranges[1].pages = UINT32_MAX);
	BAD(f.ranges[1].pages = FRAME_PAGES - 4);
	BAD(f.ranges[1].type = 3);
	BAD(f.ranges[2].start = 0xffff800000000000);
	BAD(f.ranges[2].start = UINT64_MAX - PAGE_SIZE + 1);
	BAD(f.ranges[2].start = (1ull << 56) - PAGE_SIZE);
	BAD(f.ranges[2].start = 0);
	/* Objects: nothing beyond their end, no end that is negative as an off_t. */
	BAD((f.head.kind = PAGES_SHM, f.head.limit = 0));
	BAD((f.head.kind = PAGES_SHM, f.head.limit = 0x7f0000002000));
	BAD((f.head.kind = PAGES_SHM, f.head.limit = UINT64_MAX));
}

static void test_checksums(void **state)
{
	struct frame f = good();
	struct err e = ERR_INIT;
	uint8_t *bytes = (uint8_t *)&f;

	assert_int_equal(verdict(&f, &e), 0);
	for (size_t bit = 0; bit < frame_size(&f.head) * 8; bit++) {
		bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
		bool head = bit / 8 < sizeof(f.head);
		int ret = frame_check_head(&f.head, &e);
		assert_true(!head || ret < 0);
		assert_true(head || frame_check(&f, payload, &e) < 0);
		bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	payload[5 * PAGE_SIZE - 1] ^= 1;
	assert_int_equal(frame_check(&f, payload, &e), -EBADMSG);
	payload[5 * PAGE_SIZE - 1] ^= 1;
	assert_int_equal(frame_check(&f, payload, &e), 0);
}

static void test_iov(void **state)
{
	const struct prange r[] = { { 0x1000, 0x3000 }, { 0x8000, 0x9000 } };
	struct iovec v[2];

	assert_int_equal(frame_iov(r, 2, 0, v), 2);
	assert_ptr_equal(v[0].iov_base, (void *)0x1000);
	assert_int_equal(v[1].iov_len, 0x1000);
	assert_int_equal(frame_iov(r, 2, 0x1800, v), 2);
	assert_ptr_equal(v[0].iov_base, (void *)0x2800);
	assert_int_equal(v[0].iov_len, 0x800);
	assert_int_equal(frame_iov(r, 2, 0x2000, v), 1);
	assert_ptr_equal(v[0].iov_base, (void *)0x8000);
	assert_int_equal(frame_iov(r, 2, 0x3000, v), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good),
		cmocka_unit_test(test_bad_head),
		cmocka_unit_test(test_bad_ranges),
		cmocka_unit_test(test_checksums),
		cmocka_unit_test(test_iov),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
