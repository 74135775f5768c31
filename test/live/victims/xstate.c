/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The extended state, held in registers while a loop spins: x87 stack and control word, MXCSR,
 * SSE, AVX, AVX-512 with its masks, and the protection keys register. Two threads, other values.
 */
#include "victim.h"

#include <cpuid.h>

struct state {
	uint8_t zmm[32][64];
	uint64_t k[8];
	uint8_t st[8][16];
	uint32_t mxcsr, pkru;
	uint16_t fcw;
};

static bool has_avx, has_avx512, has_pku;
static _Atomic int done;

#define ALL16 "0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15"
#define HIGH16 "16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31"

static void find_features(void)
{
	unsigned int a, b, c, d, lo, hi;

	__cpuid(1, a, b, c, d);
	if (!(c & bit_OSXSAVE))
		return;
	__asm__("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	has_avx = (c & bit_AVX) && (lo & 6) == 6;
	if (!__get_cpuid_count(7, 0, &a, &b, &c, &d))
		return;
	has_avx512 = (b & bit_AVX512F) && (b & bit_AVX512BW) && (lo & 0xe6) == 0xe6;
	has_pku = c & (1U << 4);
}

/* Loads all vectors from @in, spins, stores them to @out: one asm, so nothing else runs between. */
static void spin_avx512(const struct state *in, struct state *out, uint64_t count)
{
	__asm__ volatile(".irp n," ALL16 "," HIGH16 "\n vmovdqu64 64*\\n(%0), %%zmm\\n\n.endr\n"
			 ".irp n,0,1,2,3,4,5,6,7\n kmovq 2048+8*\\n(%0), %%k\\n\n.endr\n"
			 "1: dec %2\n jnz 1b\n"
			 ".irp n," ALL16 "," HIGH16 "\n vmovdqu64 %%zmm\\n, 64*\\n(%1)\n.endr\n"
			 ".irp n,0,1,2,3,4,5,6,7\n kmovq %%k\\n, 2048+8*\\n(%1)\n.endr\n"
			 "vzeroupper\n"
			 : "+r"(in), "+r"(out), "+r"(count)
			 :
			 : "memory", "cc");
}

static void spin_avx(const struct state *in, struct state *out, uint64_t count)
{
	__asm__ volatile(".irp n," ALL16 "\n vmovdqu 64*\\n(%0), %%ymm\\n\n.endr\n"
			 "1: dec %2\n jnz 1b\n"
			 ".irp n," ALL16 "\n vmovdqu %%ymm\\n, 64*\\n(%1)\n.endr\n"
			 "vzeroupper\n"
			 : "+r"(in), "+r"(out), "+r"(count)
			 :
			 : "memory", "cc");
}

static void spin_sse(const struct state *in, struct state *out, uint64_t count)
{
	__asm__ volatile(".irp n," ALL16 "\n movdqu 64*\\n(%0), %%xmm\\n\n.endr\n"
			 "1: dec %2\n jnz 1b\n"
			 ".irp n," ALL16 "\n movdqu %%xmm\\n, 64*\\n(%1)\n.endr\n"
			 : "+r"(in), "+r"(out), "+r"(count)
			 :
			 : "memory", "cc");
}

/* The x87 stack is loaded around the vector loop and stored after it. */
static void x87_load(const struct state *in)
{
	__asm__ volatile("fninit\n fldcw %0\n"
			 "fldt 112(%1)\n fldt 96(%1)\n fldt 80(%1)\n fldt 64(%1)\n"
			 "fldt 48(%1)\n fldt 32(%1)\n fldt 16(%1)\n fldt 0(%1)\n"
			 :
			 : "m"(in->fcw), "r"(in->st)
			 : "memory");
}

static void x87_store(struct state *out)
{
	__asm__ volatile("fnstcw %0\n"
			 "fstpt 0(%1)\n fstpt 16(%1)\n fstpt 32(%1)\n fstpt 48(%1)\n"
			 "fstpt 64(%1)\n fstpt 80(%1)\n fstpt 96(%1)\n fstpt 112(%1)\n fninit\n"
			 : "=m"(out->fcw)
			 : "r"(out->st)
			 : "memory");
}

static void hold_state(const struct state *in, struct state *out)
{
	uint32_t default_mxcsr = 0x1f80, zero = 0;

	__asm__ volatile("ldmxcsr %0" : : "m"(in->mxcsr));
	if (has_pku)
		__asm__ volatile("wrpkru" : : "a"(in->pkru), "c"(0), "d"(0));
	x87_load(in);
	if (has_avx512)
		spin_avx512(in, out, 60000000);
	else if (has_avx)
		spin_avx(in, out, 60000000);
	else
		spin_sse(in, out, 60000000);
	x87_store(out);
	__asm__ volatile("stmxcsr %0" : "=m"(out->mxcsr));
	__asm__ volatile("ldmxcsr %0" : : "m"(default_mxcsr));
	if (has_pku)
		__asm__ volatile("rdpkru" : "=a"(out->pkru), "=d"(zero) : "c"(0));
}

static void make_state(struct state *s, uint64_t seed)
{
	size_t vectors = has_avx512 ? 32 : 16, width = has_avx512 ? 64 : has_avx ? 32 : 16, i, j;
	uint64_t v;

	memset(s, 0, sizeof(*s));
	for (i = 0; i < vectors; i++)
		for (j = 0; j < width; j++)
			s->zmm[i][j] = v_mix(seed * 4096 + i * 64 + j);
	for (i = 0; has_avx512 && i < 8; i++)
		s->k[i] = v_mix(seed * 4096 + 3000 + i);
	for (i = 0; i < 8; i++) {
		/* A normal number: the integer bit is set, the exponent is near its middle. */
		v = v_mix(seed * 4096 + 3100 + i) | 1ULL << 63;
		memcpy(s->st[i], &v, 8);
		s->st[i][8] = 0x10 + i;
		s->st[i][9] = i & 1 ? 0xc0 : 0x40;
	}
	s->mxcsr = 0x1f80 | (seed & 3) << 13 | (seed & 1) << 15;
	s->fcw = 0x007f | (seed & 3) << 10 | 0x300;
	s->pkru = has_pku ? (uint32_t)v_mix(seed) & ~3U : 0;
}

static void *hold(void *arg)
{
	static __thread struct state in, out;
	uint64_t seed = (uintptr_t)arg;
	size_t i;

	while (!v_stopping()) {
		make_state(&in, seed += 2);
		memset(&out, 0, sizeof(out));
		hold_state(&in, &out);
		CHECK(out.fcw == in.fcw, "x87 control word %#x, was %#x", out.fcw, in.fcw);
		CHECK(out.mxcsr == in.mxcsr, "MXCSR %#x, was %#x", out.mxcsr, in.mxcsr);
		CHECK(out.pkru == in.pkru, "PKRU %#x, was %#x", out.pkru, in.pkru);
		for (i = 0; i < 8; i++) {
			CHECK(!memcmp(in.st[i], out.st[i], 10), "ST%zu differs", i);
			CHECK(in.k[i] == out.k[i], "k%zu %#lx, was %#lx", i, out.k[i], in.k[i]);
		}
		for (i = 0; i < 32; i++)
			CHECK(!memcmp(in.zmm[i], out.zmm[i], 64), "vector %zu differs", i);
	}
	done++;
	while (done < 2 || gettid() != getpid())
		v_sleep_ms(10);
	return NULL;
}

int main(int argc, char **argv)
{
	v_init(argc, argv);
	find_features();
	v_thread(hold, (void *)1);
	v_ready();
	hold((void *)2);
	v_ok();
}
