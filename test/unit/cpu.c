/* SPDX-License-Identifier: Apache-2.0 */
/* CPUs that differ, and what --cpu-cap says of that. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "task_cpu.h"

#define AVX     (1ull << 2)
#define AVX512  (7ull << 5)

struct cpu {
	CpuinfoX86Entry m;
	uint32_t words[CPU_WORDS];
};

static struct cpu *make(uint64_t xcr0)
{
	struct cpu *c = test_calloc(1, sizeof(*c));

	cpuinfo_x86_entry__init(&c->m);
	c->m.vendor_id = CPUINFO_X86_ENTRY__VENDOR__INTEL;
	c->m.cpu_family = 6;
	c->m.model = 85;
	c->m.capability_ver = 2;
	c->m.n_capability = CPU_WORDS;
	c->m.capability = c->words;
	c->m.has_xfeatures_mask = true;
	c->m.xfeatures_mask = xcr0;
	c->words[0] = 1u << 25 | 1u << 26;              /* sse sse2 */
	if (xcr0 & AVX) {
		c->words[4] |= 1u << 28;                /* avx */
		c->words[9] |= 1u << 5;                 /* avx2 */
	}
	if ((xcr0 & AVX512) == AVX512)
		c->words[9] |= 1u << 16 | 1u << 31;     /* avx512f avx512vl */
	return c;
}

static void names_what_is_missing(void **state)
{
	struct cpu *big = make(3 | AVX | AVX512), *small = make(3);
	struct err e = ERR_INIT;

	assert_int_equal(cpu_check(&small->m, &big->m, CPU_CAP_DEFAULT, &e), 0);
	assert_int_equal(cpu_check(&big->m, &big->m, CPU_CAP_ALL, &e), 0);
	assert_int_equal(cpu_check(&big->m, &small->m, CPU_CAP_DEFAULT, &e), -ENOTSUP);
	assert_non_null(strstr(e.text, "avx, avx2, avx512f, avx512vl"));
	assert_non_null(strstr(e.remedy, "--cpu-cap=fpu"));
	err_clear(&e);
	assert_int_equal(cpu_check(&big->m, &small->m, CPU_CAP_FPU, &e), -ENOTSUP);
	assert_non_null(strstr(e.text, "AVX, AVX-512 masks, AVX-512, AVX-512 (upper)"));
	assert_int_equal(cpu_check(&big->m, &small->m, 0, &e), 0);
	test_free(big);
	test_free(small);
}

/* Registers alone, instructions alone, and the very same CPU. */
static void capabilities(void **state)
{
	struct cpu *a = make(3 | AVX), *b = make(3 | AVX);
	struct err e = ERR_INIT;

	a->words[9] |= 1u << 8; /* bmi2 */
	assert_int_equal(cpu_check(&a->m, &b->m, CPU_CAP_FPU, &e), 0);
	assert_int_equal(cpu_check(&a->m, &b->m, CPU_CAP_INS, &e), -ENOTSUP);
	assert_non_null(strstr(e.text, "bmi2"));
	assert_int_equal(cpu_check(&b->m, &a->m, CPU_CAP_INS, &e), 0);
	assert_int_equal(cpu_check(&b->m, &a->m, CPU_CAP_ALL, &e), -ENOTSUP);
	a->words[9] &= ~(1u << 8);
	assert_true(cpu_same(&a->m, &b->m));
	a->m.stepping = 3;
	assert_true(cpu_same(&a->m, &b->m));
	a->m.model = 86;
	assert_false(cpu_same(&a->m, &b->m));
	a->m.capability_ver = 1;
	assert_int_equal(cpu_check(&a->m, &b->m, CPU_CAP_INS, &e), -ENOTSUP);
	test_free(a);
	test_free(b);
}

static void joined(void **state)
{
	struct cpu *a = make(3), *b = make(3 | AVX);
	struct err e = ERR_INIT;
	CpuinfoX86Entry *c = cpu_copy(&a->m);

	cpu_join(c, &b->m);
	assert_int_equal(cpu_check(c, &b->m, CPU_CAP_DEFAULT, &e), 0);
	assert_int_equal(cpu_check(c, &a->m, CPU_CAP_DEFAULT, &e), -ENOTSUP);
	cpuinfo_x86_entry__free_unpacked(c, NULL);
	/* shorter lists of words than ours */
	b->m.n_capability = 4;
	cpu_join(&a->m, &b->m);
	assert_int_equal(cpu_check(&a->m, &b->m, CPU_CAP_INS, &e), 0);
	test_free(a);
	test_free(b);
}

static void parse(void **state)
{
	static const struct {
		const char *text;
		unsigned cap;
	} good[] = {
		{ "", CPU_CAP_ALL }, { "all", CPU_CAP_ALL }, { "none", 0 }, { "fpu", CPU_CAP_FPU },
		{ "fpu,ins", CPU_CAP_FPU | CPU_CAP_INS }, { "^cpu", CPU_CAP_FPU | CPU_CAP_INS },
		{ "all,^ins", CPU_CAP_FPU | CPU_CAP_CPU }, { "^all", 0 }, { "^none", CPU_CAP_ALL },
	};
	static const char *const wrong[] = { "avx2", "fpu ins", "fp", "^", ",", "all,," };
	struct err e = ERR_INIT;
	unsigned cap;

	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		assert_int_equal(cpu_cap_parse(good[i].text, &cap, &e), 0);
		assert_int_equal(cap, good[i].cap);
	}
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		assert_int_equal(cpu_cap_parse(wrong[i], &cap, &e), -EINVAL);
		assert_true(e.remedy[0]);
		err_clear(&e);
	}
}

static void here(void **state)
{
	CpuinfoX86Entry *c = cpu_here(), *d = cpu_copy(c);
	struct err e = ERR_INIT;

	assert_true((c->xfeatures_mask & 3) == 3);
	assert_true(c->capability[0] >> 26 & 1);
	assert_true(cpu_same(c, d));
	assert_int_equal(cpu_check(c, d, CPU_CAP_ALL, &e), 0);
	d->xfeatures_mask |= 1ull << 60;
	assert_int_equal(cpu_check(d, c, CPU_CAP_FPU, &e), -ENOTSUP);
	cpuinfo_x86_entry__free_unpacked(c, NULL);
	cpuinfo_x86_entry__free_unpacked(d, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_what_is_missing), cmocka_unit_test(capabilities),
		cmocka_unit_test(joined), cmocka_unit_test(parse), cmocka_unit_test(here),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
