/* SPDX-License-Identifier: Apache-2.0 */
#include "task_cpu.h"

#include <cpuid.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>

#include "task_xsave.h"
#include "vec.h"

#define VERSION        2  /* of the numbering of words */
#define HWCAP2_FSGSBASE_ 2ul

/* ---- --cpu-cap ---- */

static const struct {
	const char *name;
	unsigned bits;
} caps[] = {
	{ "all", CPU_CAP_ALL }, { "fpu", CPU_CAP_FPU }, { "cpu", CPU_CAP_CPU },
	{ "ins", CPU_CAP_INS },
	{ "none", 0 },
};

static int parse_cap(const char *text, size_t n, unsigned *out, struct err *e)
{
	bool no = n && *text == '^';

	text += no;
	n -= no;
	for (size_t i = 0; i < sizeof(caps) / sizeof(caps[0]); i++) {
		if (n != strlen(caps[i].name) || memcmp(caps[i].name, text, n))
			continue;
		if (!caps[i].bits)
			*out = no ? CPU_CAP_ALL : 0;
		else
			*out = no ? *out & ~caps[i].bits : *out | caps[i].bits;
		return 0;
	}
	err_say(e, EINVAL, "--cpu-cap: unknown capability %.*s", (int)n, text);
	return err_remedy(e, "allowed are all, fpu, cpu, ins and none, by comma; ^ in front takes "
			     "away");
}

int cpu_cap_parse(const char *text, unsigned *out, struct err *e)
{
	int ret = 0;

	/* what is only taken away is taken from all */
	*out = !*text || *text == '^' ? CPU_CAP_ALL : 0;
	while (ret == 0 && *text) {
		size_t n = strcspn(text, ",");

		ret = parse_cap(text, n, out, e);
		text += n + (text[n] == ',');
	}
	return ret;
}

/* ---- this machine ---- */

static const struct {
	uint8_t word;
	uint32_t leaf, sub;
	enum { EAX, EBX, ECX, EDX } reg;
} words[] = {
	{ 0, 1, 0, EDX },            { 1, 0x80000001, 0, EDX },  { 4, 1, 0, ECX },
	{ 6, 0x80000001, 0, ECX },   { 9, 7, 0, EBX },           { 10, 0xd, 1, EAX },
	{ 12, 7, 1, EAX },           { 13, 0x80000008, 0, EBX }, { 16, 7, 0, ECX },
	{ 18, 7, 0, EDX },
};

/* Of each word: the instructions that a program may use, by their names in /proc/cpuinfo. Not among
 * them: mmxext, which is an AMD's name for a part of SSE, and protection keys, for which a program
 * asks the kernel. */
static const struct feature {
	uint8_t word, bit;
	const char *name;
	uint64_t xcr0;               /* useless without */
} features[] = {
#define AVX_    (1ull << XSAVE_AVX)
#define AVX512_ (AVX_ | 1ull << XSAVE_OPMASK | 1ull << XSAVE_ZMM_HI256 | 1ull << XSAVE_HI16_ZMM)
#define AMX_    (1ull << XSAVE_TILECFG | 1ull << XSAVE_TILEDATA)
	{ 0, 4, "tsc" }, { 0, 8, "cx8" }, { 0, 15, "cmov" }, { 0, 23, "mmx" }, { 0, 24, "fxsr" },
	{ 0, 25, "sse" }, { 0, 26, "sse2" },
	{ 1, 11, "syscall" }, { 1, 27, "rdtscp" }, { 1, 29, "lm" },
	{ 1, 30, "3dnowext" }, { 1, 31, "3dnow" },
	{ 4, 0, "pni" }, { 4, 1, "pclmulqdq" }, { 4, 9, "ssse3" }, { 4, 12, "fma", AVX_ },
	{ 4, 13, "cx16" }, { 4, 19, "sse4_1" }, { 4, 20, "sse4_2" }, { 4, 22, "movbe" },
	{ 4, 23, "popcnt" }, { 4, 25, "aes" }, { 4, 26, "xsave" }, { 4, 28, "avx", AVX_ },
	{ 4, 29, "f16c", AVX_ }, { 4, 30, "rdrand" },
	{ 6, 0, "lahf_lm" }, { 6, 5, "abm" }, { 6, 6, "sse4a" }, { 6, 7, "misalignsse" },
	{ 6, 8, "3dnowprefetch" }, { 6, 11, "xop", AVX_ }, { 6, 16, "fma4", AVX_ },
	{ 6, 21, "tbm" },
	{ 9, 0, "fsgsbase" }, { 9, 3, "bmi1" }, { 9, 4, "hle" }, { 9, 5, "avx2", AVX_ },
	{ 9, 8, "bmi2" }, { 9, 11, "rtm" }, { 9, 16, "avx512f", AVX512_ },
	{ 9, 17, "avx512dq", AVX512_ }, { 9, 18, "rdseed" }, { 9, 19, "adx" },
	{ 9, 21, "avx512ifma", AVX512_ }, { 9, 23, "clflushopt" }, { 9, 24, "clwb" },
	{ 9, 26, "avx512pf", AVX512_ }, { 9, 27, "avx512er", AVX512_ },
	{ 9, 28, "avx512cd", AVX512_ }, { 9, 29, "sha_ni" }, { 9, 30, "avx512bw", AVX512_ },
	{ 9, 31, "avx512vl", AVX512_ },
	{ 10, 0, "xsaveopt" }, { 10, 1, "xsavec" }, { 10, 2, "xgetbv1" },
	{ 12, 0, "sha512", AVX_ }, { 12, 1, "sm3", AVX_ }, { 12, 2, "sm4", AVX_ },
	{ 12, 4, "avx_vnni", AVX_ }, { 12, 5, "avx512_bf16", AVX512_ }, { 12, 7, "cmpccxadd" },
	{ 12, 21, "amx_fp16", AMX_ }, { 12, 23, "avx_ifma", AVX_ },
	{ 13, 0, "clzero" }, { 13, 4, "rdpru" },
	{ 16, 1, "avx512vbmi", AVX512_ }, { 16, 5, "waitpkg" },
	{ 16, 6, "avx512_vbmi2", AVX512_ }, { 16, 8, "gfni" }, { 16, 9, "vaes", AVX_ },
	{ 16, 10, "vpclmulqdq", AVX_ }, { 16, 11, "avx512_vnni", AVX512_ },
	{ 16, 12, "avx512_bitalg", AVX512_ }, { 16, 14, "avx512_vpopcntdq", AVX512_ },
	{ 16, 22, "rdpid" }, { 16, 25, "cldemote" }, { 16, 27, "movdiri" }, { 16, 28, "movdir64b" },
	{ 16, 29, "enqcmd" },
	{ 18, 2, "avx512_4vnniw", AVX512_ }, { 18, 3, "avx512_4fmaps", AVX512_ },
	{ 18, 8, "avx512_vp2intersect", AVX512_ }, { 18, 14, "serialize" }, { 18, 16, "tsxldtrk" },
	{ 18, 22, "amx_bf16", AMX_ }, { 18, 23, "avx512_fp16", AVX512_ },
	{ 18, 24, "amx_tile", AMX_ },
	{ 18, 25, "amx_int8", AMX_ },
};
#define FEATURES (sizeof(features) / sizeof(features[0]))

static void read_words(CpuinfoX86Entry *c)
{
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		uint32_t r[4];

		if (__get_cpuid_count(words[i].leaf, words[i].sub, &r[EAX], &r[EBX], &r[ECX],
				      &r[EDX]))
			c->capability[words[i].word] = r[words[i].reg];
	}
}

/* What the kernel has not enabled is no use to a program. */
static void mask_words(CpuinfoX86Entry *c)
{
	for (size_t i = 0; i < FEATURES; i++)
		if ((c->xfeatures_mask & features[i].xcr0) != features[i].xcr0)
			c->capability[features[i].word] &= ~(1u << features[i].bit);
	if (!(getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE_))
		c->capability[9] &= ~1u;
}

static void read_model(CpuinfoX86Entry *c)
{
	uint32_t a, b, cx, d, id[13] = { 0 };

	if (__get_cpuid(0, &a, &id[0], &id[2], &id[1]))
		c->vendor_id = !memcmp(id, "GenuineIntel", 12) ? CPUINFO_X86_ENTRY__VENDOR__INTEL :
			       !memcmp(id, "AuthenticAMD", 12) ? CPUINFO_X86_ENTRY__VENDOR__AMD :
								 CPUINFO_X86_ENTRY__VENDOR__UNKNOWN;
	if (__get_cpuid(1, &a, &b, &cx, &d)) {
		c->cpu_family = a >> 8 & 0xf;
		c->model = a >> 4 & 0xf;
		c->stepping = a & 0xf;
		if (c->cpu_family >= 6)
			c->model |= a >> 12 & 0xf0;
		if (c->cpu_family == 0xf)
			c->cpu_family += a >> 20 & 0xff;
	}
	memset(id, 0, sizeof(id));
	for (uint32_t i = 0; i < 3; i++)
		__get_cpuid(0x80000002 + i, &id[4 * i], &id[4 * i + 1], &id[4 * i + 2],
			    &id[4 * i + 3]);
	c->model_id = xstrdup((char *)id);
}

CpuinfoX86Entry *cpu_here(void)
{
	CpuinfoX86Entry *c = xmalloc(sizeof(*c));
	struct xsave_layout l;

	cpuinfo_x86_entry__init(c);
	c->capability_ver = VERSION;
	c->n_capability = CPU_WORDS;
	c->capability = xcalloc(CPU_WORDS, sizeof(*c->capability));
	xsave_layout_here(&l);
	c->has_xfeatures_mask = c->has_xsave_size = c->has_xsave_size_max = true;
	c->xfeatures_mask = l.enabled;
	c->xsave_size = c->xsave_size_max = l.size;
	read_model(c);
	read_words(c);
	mask_words(c);
	return c;
}

CpuinfoX86Entry *cpu_copy(const CpuinfoX86Entry *from)
{
	size_t n = cpuinfo_x86_entry__get_packed_size(from);
	uint8_t *p = xmalloc(n);

	cpuinfo_x86_entry__pack(from, p);
	CpuinfoX86Entry *c = cpuinfo_x86_entry__unpack(NULL, n, p);
	free(p);
	return c;
}

/* ---- comparing ---- */

static uint32_t word(const CpuinfoX86Entry *c, size_t i)
{
	return i < c->n_capability ? c->capability[i] : 0;
}

static bool has(const CpuinfoX86Entry *c, const struct feature *f)
{
	return word(c, f->word) >> f->bit & 1;
}

void cpu_join(CpuinfoX86Entry *c, const CpuinfoX86Entry *add)
{
	for (size_t i = 0; i < c->n_capability; i++)
		c->capability[i] |= word(add, i);
	c->xfeatures_mask |= add->xfeatures_mask;
	if (add->xsave_size > c->xsave_size)
		c->xsave_size = c->xsave_size_max = add->xsave_size;
}

bool cpu_same(const CpuinfoX86Entry *a, const CpuinfoX86Entry *b)
{
	for (size_t i = 0; i < CPU_WORDS; i++)
		if (word(a, i) != word(b, i))
			return false;
	return a->vendor_id == b->vendor_id && a->cpu_family == b->cpu_family &&
	       a->model == b->model && a->xfeatures_mask == b->xfeatures_mask;
}

static int lacks(const char *what, const char *remedy, struct err *e)
{
	err_say(e, ENOTSUP, "this CPU lacks what the guest may use: %s", what);
	return err_remedy(e, "%s; or, if you know that it does not use them, %s",
			  "move it to a host whose CPU has them", remedy);
}

static int check_instructions(const CpuinfoX86Entry *need, const CpuinfoX86Entry *here,
			      struct err *e)
{
	char names[700] = "";
	size_t n = 0;

	if (need->capability_ver != VERSION)
		return err_say(e, ENOTSUP, "cpuinfo.img: version %u of capabilities is not known",
			       need->capability_ver);
	for (size_t i = 0; i < FEATURES; i++)
		if (has(need, &features[i]) && !has(here, &features[i]) && n < sizeof(names) - 32)
			n += (size_t)snprintf(names + n, sizeof(names) - n, "%s%s", n ? ", " : "",
					      features[i].name);
	return n ? lacks(names, "use --cpu-cap=fpu there", e) : 0;
}

static const char *const components[] = {
	"x87", "SSE", "AVX", "MPX bounds", "MPX", "AVX-512 masks", "AVX-512", "AVX-512 (upper)",
	"processor trace", "protection keys", "PASID", "shadow stack", "shadow stack (kernel)",
	"HDC",
	"user interrupts", "LBR", "HWP", "AMX tile configuration", "AMX tile data", "APX",
};

static int check_registers(const CpuinfoX86Entry *need, const CpuinfoX86Entry *here, struct err *e)
{
	/* Whether protection keys are in use shows in their register; MPX, for which Linux gives no
	 * memory any more, likewise. */
	uint64_t missing = need->xfeatures_mask & ~here->xfeatures_mask &
			   ~(1ull << XSAVE_PKRU | 1ull << XSAVE_BNDREGS | 1ull << XSAVE_BNDCSR);
	char names[400] = "";
	size_t n = 0;

	for (size_t i = 0; i < sizeof(components) / sizeof(components[0]); i++)
		if (missing >> i & 1)
			n += (size_t)snprintf(names + n, sizeof(names) - n, "%s%s", n ? ", " : "",
					      components[i]);
	if (!n && missing)
		snprintf(names, sizeof(names), "components %#llx", (unsigned long long)missing);
	return missing ? lacks(names,
			       "use --cpu-cap=none there (registers in use are refused still)", e)
		       : 0;
}

int cpu_check(const CpuinfoX86Entry *need, const CpuinfoX86Entry *here, unsigned cap, struct err *e)
{
	int ret = 0;

	if (cap & CPU_CAP_INS)
		ret = check_instructions(need, here, e);
	if (ret == 0 && cap & CPU_CAP_FPU)
		ret = check_registers(need, here, e);
	if (ret == 0 && cap & CPU_CAP_CPU && !cpu_same(need, here)) {
		err_say(e, ENOTSUP, "this CPU (%s) is not the same as the guest's (%s)",
			here->model_id ? here->model_id : "?",
			need->model_id ? need->model_id : "?");
		ret = err_remedy(e, "leave out cpu from --cpu-cap");
	}
	return ret;
}
