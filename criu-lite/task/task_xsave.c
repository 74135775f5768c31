/* SPDX-License-Identifier: Apache-2.0 */
#include "task_xsave.h"

#include <cpuid.h>
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "vec.h"

#define XSTATE_BV   512
#define AREA_MIN    576
#define ST_AT       32
#define XMM_AT      160
#define N_ST        32
#define N_XMM       64
#define N_PADDING   24 /* what CRIU's readers expect */
#define BIT(c)      (1ull << (c))
#define PKRU_USUAL  0x55555554u /* what the kernel gives each program: nothing but key 0 */

/* One repeated field of UserX86XsaveEntry for each component. */
static const struct component {
	int nr;
	const char *name;
	uint32_t bytes;      /* all of the field */
	uint32_t elem;       /* size of one element */
	size_t n_at, p_at;
} components[] = {
#define FIELD(f) offsetof(UserX86XsaveEntry, n_##f), offsetof(UserX86XsaveEntry, f)
	{XSAVE_AVX, "AVX", 256, 4, FIELD(ymmh_space)},
	{XSAVE_OPMASK, "AVX-512", 64, 8, FIELD(opmask_reg)},
	{XSAVE_ZMM_HI256, "AVX-512", 512, 8, FIELD(zmm_upper)},
	{XSAVE_HI16_ZMM, "AVX-512", 1024, 8, FIELD(hi16_zmm)},
	{XSAVE_PKRU, "memory protection keys", 8, 4, FIELD(pkru)},
#undef FIELD
};
#define N_COMPONENTS (sizeof(components) / sizeof(*components))

static uint64_t xcr0(void)
{
	uint32_t lo, hi;

	__asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	return (uint64_t)hi << 32 | lo;
}

static void ask_cpu(struct xsave_layout *l)
{
	uint32_t a, b, c, d;

	*l = (struct xsave_layout){ .enabled = BIT(XSAVE_X87) | BIT(XSAVE_SSE), .size = AREA_MIN };
	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
		return;
	l->enabled = xcr0();
	if (__get_cpuid_count(0xd, 0, &a, &b, &c, &d))
		l->size = b;
	for (uint32_t i = 2; i < XSAVE_COMPONENTS; i++) {
		if (!(l->enabled & BIT(i)) || !__get_cpuid_count(0xd, i, &a, &b, &c, &d))
			continue;
		l->part[i].at = b;
		l->part[i].size = a;
	}
}

/* In a virtual machine each CPUID takes some 35 us, too long for every task of a frozen guest; and
 * what it says of the machine that we run on does not change. */
void xsave_layout_here(struct xsave_layout *l)
{
	static struct xsave_layout here;
	static atomic_bool known;

	if (!known) {
		struct xsave_layout asked;

		ask_cpu(&asked);
		here = asked;
		known = true;
	}
	*l = here;
}

static bool has(const struct xsave_layout *l, const struct component *c, uint32_t len)
{
	uint32_t at = l->part[c->nr].at;

	return l->enabled & BIT(c->nr) && l->part[c->nr].size >= c->bytes && at >= AREA_MIN &&
	       at <= len && len - at >= c->bytes;
}

static bool all_zero(const uint8_t *p, size_t n)
{
	while (n && !p[n - 1])
		n--;
	return n == 0;
}

/* Components that an image has no place for, but whose content is the initial one, are as good
 * as not in use. */
static int drop_unused(const struct xsave_layout *l, const uint8_t *area, uint32_t len,
		       uint64_t *bv, struct err *e)
{
	uint64_t known = BIT(XSAVE_X87) | BIT(XSAVE_SSE);

	for (size_t i = 0; i < N_COMPONENTS; i++)
		known |= BIT(components[i].nr);
	for (int i = 0; i < 64; i++) {
		if (!(*bv & ~known & BIT(i)))
			continue;
		uint32_t at = i < XSAVE_COMPONENTS ? l->part[i].at : 0;
		uint32_t size = i < XSAVE_COMPONENTS ? l->part[i].size : 0;

		if (size && at <= len && len - at >= size && all_zero(area + at, size)) {
			*bv &= ~BIT(i);
			continue;
		}
		err_say(e, ENOTSUP, "CPU state component %d%s is in use and cannot be carried over",
			i, i == XSAVE_TILECFG || i == XSAVE_TILEDATA ? " (AMX tiles)" : "");
		return err_remedy(e, "try again when the program is not inside such a computation, "
				     "or tell its library not to use it (for oneDNN: "
				     "ONEDNN_MAX_CPU_ISA=AVX512_CORE)");
	}
	return 0;
}

static void put_component(UserX86XsaveEntry *x, const struct component *c, const uint8_t *from)
{
	*(size_t *)((char *)x + c->n_at) = c->bytes / c->elem;
	*(void **)((char *)x + c->p_at) = xmemdup(from, c->bytes);
}

static uint16_t get16(const uint8_t *p)
{
	uint16_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

int xsave_to_image(const struct xsave_layout *l, const uint8_t *area, uint32_t len,
		   UserX86FpregsEntry **out, struct err *e)
{
	uint64_t bv;
	int ret;

	if (len < AREA_MIN)
		return err_say(e, EPROTO, "FP state of %u bytes is too short", len);
	memcpy(&bv, area + XSTATE_BV, sizeof(bv));
	if ((ret = drop_unused(l, area, len, &bv, e)) < 0)
		return ret;

	UserX86FpregsEntry *f = xmalloc(sizeof(*f));
	user_x86_fpregs_entry__init(f);
	f->cwd = get16(area);
	f->swd = get16(area + 2);
	f->twd = get16(area + 4);
	f->fop = get16(area + 6);
	memcpy(&f->rip, area + 8, 8);
	memcpy(&f->rdp, area + 16, 8);
	memcpy(&f->mxcsr, area + 24, 4);
	memcpy(&f->mxcsr_mask, area + 28, 4);
	f->n_st_space = N_ST;
	f->st_space = xmemdup(area + ST_AT, N_ST * 4);
	f->n_xmm_space = N_XMM;
	f->xmm_space = xmemdup(area + XMM_AT, N_XMM * 4);
	f->n_padding = N_PADDING;
	f->padding = xcalloc(N_PADDING, 4);

	f->xsave = xmalloc(sizeof(*f->xsave));
	user_x86_xsave_entry__init(f->xsave);
	f->xsave->xstate_bv = bv;
	for (size_t i = 0; i < N_COMPONENTS; i++) {
		const struct component *c = &components[i];

		if (has(l, c, len))
			put_component(f->xsave, c, area + l->part[c->nr].at);
	}
	*out = f;
	return 0;
}

static int lacks(const char *name, int nr, struct err *e)
{
	err_say(e, ENOTSUP, "this CPU lacks state that the program uses: %s (component %d)",
		name, nr);
	return err_remedy(e, "move it to a host whose CPU has it");
}

/* Whether contents are as good as none. A CPU may say that a component is in use when it is as it
 * was at first: QEMU's always does. And every program has a PKRU that is not the CPU's initial one,
 * where there are protection keys at all: as long as it is the kernel's own, the program uses no
 * keys. */
static bool is_initial(const struct component *c, const void *p)
{
	uint32_t pkru;

	if (c->nr != XSAVE_PKRU)
		return all_zero(p, c->bytes);
	memcpy(&pkru, p, sizeof(pkru));
	return pkru == PKRU_USUAL || pkru == 0;
}

static int get_component(const struct xsave_layout *l, const UserX86XsaveEntry *x,
			 const struct component *c, uint8_t *area, struct err *e)
{
	size_t n = *(const size_t *)((const char *)x + c->n_at);
	const void *p = *(void *const *)((const char *)x + c->p_at);
	bool used = x->xstate_bv & BIT(c->nr);

	if (n && n != c->bytes / c->elem)
		return err_say(e, EBADMSG, "FP state: %zu elements of %s, not %u", n, c->name,
			       c->bytes / c->elem);
	if (used && !n)
		return err_say(e, EBADMSG, "FP state: %s is missing", c->name);
	if (!has(l, c, l->size))
		return used && !is_initial(c, p) ? lacks(c->name, c->nr, e) : 0;
	if (n)
		memcpy(area + l->part[c->nr].at, p, c->bytes);
	return 0;
}

static int get_components(const struct xsave_layout *l, const UserX86XsaveEntry *x, uint8_t *area,
			  struct err *e)
{
	uint64_t left = x->xstate_bv & ~(BIT(XSAVE_X87) | BIT(XSAVE_SSE)), bv = x->xstate_bv;
	int ret;

	for (size_t i = 0; i < N_COMPONENTS; i++) {
		if ((ret = get_component(l, x, &components[i], area, e)) < 0)
			return ret;
		left &= ~BIT(components[i].nr);
		if (!has(l, &components[i], l->size))
			bv &= ~BIT(components[i].nr);
	}
	if (left)
		return err_say(e, ENOTSUP, "FP state: components 0x%llx have no place in an image",
			       (unsigned long long)left);
	if (!x->n_pkru && l->enabled & BIT(XSAVE_PKRU) && l->part[XSAVE_PKRU].at >= AREA_MIN &&
	    l->part[XSAVE_PKRU].at <= l->size - 8) {
		/* it comes from a CPU without keys: as if it had started here */
		memcpy(area + l->part[XSAVE_PKRU].at, &(uint32_t){PKRU_USUAL}, 4);
		bv |= BIT(XSAVE_PKRU);
	}
	memcpy(area + XSTATE_BV, &bv, 8);
	return 0;
}

static int get_legacy(const UserX86FpregsEntry *f, uint8_t *area, struct err *e)
{
	const uint32_t head[] = {f->cwd, f->swd, f->twd, f->fop};
	uint64_t bv = BIT(XSAVE_X87) | BIT(XSAVE_SSE);

	if (f->n_st_space != N_ST || f->n_xmm_space != N_XMM)
		return err_say(e, EBADMSG, "FP state: %zu x87 and %zu SSE words", f->n_st_space,
			       f->n_xmm_space);
	/* The kernel refuses reserved bits; by then it would be too late for a message. */
	if (f->mxcsr & ~0xffffu)
		return err_say(e, EBADMSG, "FP state: mxcsr 0x%x", f->mxcsr);
	for (int i = 0; i < 4; i++) {
		uint16_t v = (uint16_t)head[i];

		if (head[i] > UINT16_MAX)
			return err_say(e, EBADMSG, "FP state: control word 0x%x", head[i]);
		memcpy(area + 2 * i, &v, sizeof(v));
	}
	memcpy(area + 8, &f->rip, 8);
	memcpy(area + 16, &f->rdp, 8);
	memcpy(area + 24, &f->mxcsr, 4);
	memcpy(area + 28, &f->mxcsr_mask, 4);
	memcpy(area + ST_AT, f->st_space, N_ST * 4);
	memcpy(area + XMM_AT, f->xmm_space, N_XMM * 4);
	memcpy(area + XSTATE_BV, &bv, sizeof(bv));
	return 0;
}

int xsave_from_image(const struct xsave_layout *l, const UserX86FpregsEntry *f, uint8_t **out,
		     struct err *e)
{
	uint8_t *area = xcalloc(1, l->size);
	int ret = get_legacy(f, area, e);

	if (ret == 0 && f->xsave)
		ret = get_components(l, f->xsave, area, e);
	if (ret < 0) {
		free(area);
		return ret;
	}
	*out = area;
	return 0;
}

/* ---- signal frames ---- */

#define SW_AT  464          /* struct _fpx_sw_bytes, in the legacy part */
#define MAGIC1 0x46505853u
#define MAGIC2 0x46505845u

struct sw_bytes {
	uint32_t magic1, extended_size;
	uint64_t xfeatures;
	uint32_t xstate_size;
};

static bool is_frame(const uint8_t *area, size_t n, struct sw_bytes *sw)
{
	uint32_t magic2;

	if (n < AREA_MIN + sizeof(magic2))
		return false;
	memcpy(sw, area + SW_AT, sizeof(*sw));
	if (sw->magic1 != MAGIC1 || sw->xstate_size < AREA_MIN ||
	    sw->extended_size != sw->xstate_size + sizeof(magic2) || sw->extended_size > n)
		return false;
	memcpy(&magic2, area + sw->xstate_size, sizeof(magic2));
	return magic2 == MAGIC2;
}

size_t xsave_fix_frames(const struct xsave_layout *l, uint8_t *stack, size_t n)
{
	size_t fixed = 0;
	struct sw_bytes sw;

	for (size_t at = 0; at + AREA_MIN < n; at += 64) {
		uint64_t bv, keep;

		if (!is_frame(stack + at, n - at, &sw))
			continue;
		memcpy(&bv, stack + at + XSTATE_BV, sizeof(bv));
		keep = bv & l->enabled;
		if (keep == bv)
			continue;
		memcpy(stack + at + XSTATE_BV, &keep, sizeof(keep));
		sw.xfeatures &= l->enabled;
		memcpy(stack + at + SW_AT, &sw, sizeof(sw));
		fixed++;
	}
	return fixed;
}
