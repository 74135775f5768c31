/* SPDX-License-Identifier: Apache-2.0 */
/* FP state into CRIU's message and back, on this machine's layout and on an invented one. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "task_xsave.h"
#include "vec.h"

/* AVX-512, PKRU and AMX, at Sapphire Rapids' places. */
static const struct xsave_layout big = {
	.enabled = 0x602e7,
	.size = 11008,
	.part = {
		[XSAVE_AVX] = {576, 256}, [XSAVE_OPMASK] = {1088, 64},
		[XSAVE_ZMM_HI256] = {1152, 512}, [XSAVE_HI16_ZMM] = {1664, 1024},
		[XSAVE_PKRU] = {2688, 8}, [XSAVE_TILECFG] = {2752, 64},
		[XSAVE_TILEDATA] = {2816, 8192},
	},
};
static const struct xsave_layout sse_only = {.enabled = 3, .size = 576};

/* Every byte of the known components different from its neighbours. */
static uint8_t *sample(const struct xsave_layout *l)
{
	static const int parts[] = {XSAVE_AVX, XSAVE_OPMASK, XSAVE_ZMM_HI256, XSAVE_HI16_ZMM,
				    XSAVE_PKRU};
	uint8_t *area = xcalloc(1, l->size);
	uint32_t mxcsr[2] = {0x1f80, 0x2ffff};
	uint64_t bv = 3;

	for (size_t i = 0; i < 416; i++)
		area[i] = (uint8_t)(i * 7 + 1);
	memcpy(area + 24, mxcsr, sizeof(mxcsr));
	for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++) {
		if (!(l->enabled >> parts[i] & 1))
			continue;
		bv |= 1ull << parts[i];
		for (uint32_t k = 0; k < l->part[parts[i]].size; k++)
			area[l->part[parts[i]].at + k] = (uint8_t)(k * 13 + (uint32_t)parts[i]);
	}
	memcpy(area + 512, &bv, sizeof(bv));
	return area;
}

static void round_trip_on(const struct xsave_layout *l)
{
	struct err e = ERR_INIT;
	uint8_t *area = sample(l), *back = NULL, *packed;
	UserX86FpregsEntry *f, *g;
	size_t n;

	assert_int_equal(xsave_to_image(l, area, l->size, &f, &e), 0);
	n = user_x86_fpregs_entry__get_packed_size(f);
	packed = malloc(n);
	user_x86_fpregs_entry__pack(f, packed);
	g = user_x86_fpregs_entry__unpack(NULL, n, packed);
	assert_non_null(g);
	assert_int_equal(xsave_from_image(l, g, &back, &e), 0);
	assert_memory_equal(area, back, l->size);
	user_x86_fpregs_entry__free_unpacked(f, NULL);
	user_x86_fpregs_entry__free_unpacked(g, NULL);
	free(packed);
	free(area);
	free(back);
}

static void round_trip(void **state)
{
	struct xsave_layout here;

	xsave_layout_here(&here);
	assert_true(here.size >= 576 && (here.enabled & 3) == 3);
	round_trip_on(&here);
	round_trip_on(&big);
	round_trip_on(&sse_only);
}

static void amx(void **state)
{
	struct err e = ERR_INIT;
	uint8_t *area = sample(&big);
	UserX86FpregsEntry *f;
	uint64_t bv = 0x602e7;

	/* allowed and initial: not in use */
	memcpy(area + 512, &bv, sizeof(bv));
	assert_int_equal(xsave_to_image(&big, area, big.size, &f, &e), 0);
	assert_int_equal(f->xsave->xstate_bv, 0x2e7);
	user_x86_fpregs_entry__free_unpacked(f, NULL);

	area[2816 + 8191] = 1;
	assert_int_equal(xsave_to_image(&big, area, big.size, &f, &e), -ENOTSUP);
	assert_non_null(strstr(e.text, "AMX"));
	assert_true(e.remedy[0]);
	free(area);
}

/* The components stand elsewhere, and others are there: AMD's AVX and PKRU, AVX-512 without AMX. */
static const struct xsave_layout small = {
	.enabled = 0x207,
	.size = 840,
	.part = {[XSAVE_AVX] = {576, 256}, [XSAVE_PKRU] = {832, 8}},
};
static const struct xsave_layout no_amx = {
	.enabled = 0xe7,
	.size = 2432,
	.part = {
		[XSAVE_AVX] = {576, 256}, [XSAVE_OPMASK] = {832, 64},
		[XSAVE_ZMM_HI256] = {896, 512}, [XSAVE_HI16_ZMM] = {1408, 1024},
	},
};

static void set_pkru(const struct xsave_layout *l, uint8_t *area, uint32_t pkru)
{
	memset(area + l->part[XSAVE_PKRU].at, 0, 8);
	memcpy(area + l->part[XSAVE_PKRU].at, &pkru, 4);
}

static void other_layouts(void **state)
{
	struct err e = ERR_INIT;
	uint8_t *area = sample(&big), *back = NULL, *again = NULL;
	UserX86FpregsEntry *f;
	uint64_t bv;

	set_pkru(&big, area, 0x55555554);
	assert_int_equal(xsave_to_image(&big, area, big.size, &f, &e), 0);
	/* no AMX, no keys: what is used has moved, PKRU was nobody's own */
	assert_int_equal(xsave_from_image(&no_amx, f, &back, &e), 0);
	assert_memory_equal(back + 576, area + 576, 256);
	assert_memory_equal(back + 832, area + 1088, 64);
	assert_memory_equal(back + 896, area + 1152, 512);
	assert_memory_equal(back + 1408, area + 1664, 1024);
	memcpy(&bv, back + 512, 8);
	assert_int_equal(bv, 0xe7);
	user_x86_fpregs_entry__free_unpacked(f, NULL);
	/* and back: it gets the usual PKRU */
	assert_int_equal(xsave_to_image(&no_amx, back, no_amx.size, &f, &e), 0);
	assert_int_equal(xsave_from_image(&big, f, &again, &e), 0);
	assert_memory_equal(again, area, big.size);
	free(again);
	/* AVX-512 in use does not go to an AVX machine; initial, it does */
	assert_int_equal(xsave_from_image(&small, f, &again, &e), -ENOTSUP);
	assert_non_null(strstr(e.text, "AVX-512"));
	f->xsave->xstate_bv = 7;
	assert_int_equal(xsave_from_image(&small, f, &again, &e), 0);
	assert_memory_equal(again + 576, area + 576, 256);
	memcpy(&bv, again + 512, 8);
	assert_int_equal(bv, 0x207);
	user_x86_fpregs_entry__free_unpacked(f, NULL);
	free(again);
	free(back);
	free(area);
}

/* The frames of signal handlers that have not returned yet, on a stack. */
static void frames(void **state)
{
	static uint8_t stack[65536], before[65536];
	const uint32_t magic1 = 0x46505853, magic2 = 0x46505845, size = big.size,
		       extended = size + 4;
	const uint64_t bv = 0x202e7, features = big.enabled;
	uint64_t got;

	memset(stack, 0x5a, sizeof(stack));
	for (size_t at = 640; at < 40000; at += 20032) {
		memcpy(stack + at + 464, &magic1, 4);
		memcpy(stack + at + 468, &extended, 4);
		memcpy(stack + at + 472, &features, 8);
		memcpy(stack + at + 480, &size, 4);
		memcpy(stack + at + 512, &bv, 8);
		memcpy(stack + at + size, &magic2, 4);
	}
	memcpy(before, stack, sizeof(stack));
	assert_int_equal(xsave_fix_frames(&big, stack, sizeof(stack)), 0);
	assert_memory_equal(stack, before, sizeof(stack));
	assert_int_equal(xsave_fix_frames(&no_amx, stack, sizeof(stack)), 2);
	memcpy(&got, stack + 640 + 512, 8);
	assert_int_equal(got, 0xe7);
	memcpy(&got, stack + 640 + 472, 8);
	assert_int_equal(got, 0xe7);
	assert_int_equal(xsave_fix_frames(&no_amx, stack, sizeof(stack)), 0);
	/* cut off, or without its end: none */
	memcpy(stack, before, sizeof(stack));
	assert_int_equal(xsave_fix_frames(&no_amx, stack, 640 + size), 0);
	stack[640 + size] ^= 1;
	assert_int_equal(xsave_fix_frames(&no_amx, stack, 20000), 0);
	for (size_t n = 0; n < 2000; n++)
		xsave_fix_frames(&no_amx, stack, n);
}

static void keys_in_use(void **state)
{
	struct err e = ERR_INIT;
	uint8_t *area = sample(&small), *back = NULL;
	UserX86FpregsEntry *f;

	set_pkru(&small, area, 0x55555550);
	assert_int_equal(xsave_to_image(&small, area, small.size, &f, &e), 0);
	assert_int_equal(xsave_from_image(&no_amx, f, &back, &e), -ENOTSUP);
	assert_non_null(strstr(e.text, "protection keys"));
	user_x86_fpregs_entry__free_unpacked(f, NULL);
	free(area);
}

static void poorer_cpu(void **state)
{
	struct err e = ERR_INIT;
	uint8_t *area = sample(&big), *back = NULL;
	UserX86FpregsEntry *f;

	assert_int_equal(xsave_to_image(&big, area, big.size, &f, &e), 0);
	assert_int_equal(xsave_from_image(&sse_only, f, &back, &e), -ENOTSUP);
	assert_non_null(strstr(e.text, "AVX"));
	/* not in use: no need for it */
	f->xsave->xstate_bv = 3;
	assert_int_equal(xsave_from_image(&sse_only, f, &back, &e), 0);
	free(back);
	/* in use by name only */
	f->xsave->xstate_bv = 7;
	memset(f->xsave->ymmh_space, 0, 256);
	assert_int_equal(xsave_from_image(&sse_only, f, &back, &e), 0);
	user_x86_fpregs_entry__free_unpacked(f, NULL);
	free(area);
	free(back);
}

static void damaged(void **state)
{
	struct err e = ERR_INIT;
	uint8_t *area = sample(&big), *back = NULL;
	UserX86FpregsEntry *f;

	assert_int_equal(xsave_to_image(&big, area, 500, &f, &e), -EPROTO);
	assert_int_equal(xsave_to_image(&big, area, big.size, &f, &e), 0);
	f->n_st_space = 31;
	assert_int_equal(xsave_from_image(&big, f, &back, &e), -EBADMSG);
	f->n_st_space = 32;
	f->mxcsr = 0x10000;
	assert_int_equal(xsave_from_image(&big, f, &back, &e), -EBADMSG);
	f->mxcsr = 0x1f80;
	f->cwd |= 0x10000;
	assert_int_equal(xsave_from_image(&big, f, &back, &e), -EBADMSG);
	f->cwd &= 0xffff;
	f->xsave->n_zmm_upper = 63;
	assert_int_equal(xsave_from_image(&big, f, &back, &e), -EBADMSG);
	f->xsave->n_zmm_upper = 0;
	assert_int_equal(xsave_from_image(&big, f, &back, &e), -EBADMSG);
	f->xsave->n_zmm_upper = 64;
	f->xsave->xstate_bv |= 1ull << 63;
	assert_int_equal(xsave_from_image(&big, f, &back, &e), -ENOTSUP);
	user_x86_fpregs_entry__free_unpacked(f, NULL);
	free(area);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_trip), cmocka_unit_test(amx),
		cmocka_unit_test(poorer_cpu), cmocka_unit_test(other_layouts),
		cmocka_unit_test(keys_in_use), cmocka_unit_test(frames), cmocka_unit_test(damaged),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
