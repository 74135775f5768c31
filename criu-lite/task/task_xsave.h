/* SPDX-License-Identifier: Apache-2.0 */
/*
 * FP and vector registers: between the kernel's xsave area (standard format, as PTRACE_GETREGSET
 * NT_X86_XSTATE gives it) and CRIU's image messages. Pure: needs no guest.
 *
 *   area   := legacy header component*
 *   legacy := u16 cwd swd twd fop, u64 rip rdp, u32 mxcsr mxcsr_mask, st[8][16], xmm[16][16],
 *             96 bytes of padding                                        (512 bytes)
 *   header := u64 xstate_bv, u64 xcomp_bv (0), zeroes                     (64 bytes)
 *   component: where CPUID leaf 0xD says
 */
#pragma once

#include <stdint.h>

#include "core-x86.pb-c.h"
#include "err.h"

#define XSAVE_COMPONENTS 20

enum {
	XSAVE_X87, XSAVE_SSE, XSAVE_AVX, XSAVE_BNDREGS, XSAVE_BNDCSR, XSAVE_OPMASK,
	XSAVE_ZMM_HI256, XSAVE_HI16_ZMM, XSAVE_PT, XSAVE_PKRU, XSAVE_PASID, XSAVE_CET_U,
	XSAVE_CET_S, XSAVE_TILECFG = 17, XSAVE_TILEDATA = 18
};

struct xsave_layout {
	uint64_t enabled;    /* XCR0 */
	uint32_t size;       /* of the whole area */
	struct {
		uint32_t at, size;
	} part[XSAVE_COMPONENTS];
};

/* That of this machine. */
void xsave_layout_here(struct xsave_layout *l);

/* A new message, all of malloc. -ENOTSUP with remedy: a component in use has no place
 * in the image (AMX tiles, MPX). */
int xsave_to_image(const struct xsave_layout *l, const uint8_t *area, uint32_t len,
		   UserX86FpregsEntry **out, struct err *e);

/* Signal frames in a piece of stack (at a multiple of 64): components that `l` lacks are taken out
 * of their FP state, or the program would die of SIGSEGV when it returns from its handler. How many
 * were changed. */
size_t xsave_fix_frames(const struct xsave_layout *l, uint8_t *stack, size_t n);

/* A new area of l->size bytes. -EBADMSG: damaged; -ENOTSUP with remedy: this CPU
 * lacks a component that the message uses. */
int xsave_from_image(const struct xsave_layout *l, const UserX86FpregsEntry *f, uint8_t **out,
		     struct err *e);
