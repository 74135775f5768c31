/* SPDX-License-Identifier: Apache-2.0 */
/* Inside the shaping of shells. */
#pragma once

#include "proc_maps.h"
#include "task_mm.h"
#include "task_shape.h"

struct shape_vma {
	uint64_t start, end, pgoff, id, madv;
	uint32_t prot, flags, status;
};

typedef VEC(struct shape_vma) shape_vma_vec;

#define SHAPE_SPECIAL (VMA_VDSO | VMA_VVAR | VMA_VSYSCALL)
#define SHAPE_USER_END 0x7ffffffff000ull

struct shape_task {
	struct task task;
	bool ready;                      /* session and group are final */
	enum { VDSO_AS_IT_IS, VDSO_IS_KEPT, VDSO_GOES_HOME } vdso;
	shape_vma_vec vma;               /* mapped now */
};

/* ---- task_vdso_shape.c: the guest's vDSO on this kernel (task_vdso.h) ---- */

/* Makes plain mappings of the guest's [vdso] and [vvar] in `want` where ours do not fit. */
int shape_vdso_want(struct shape_task *st, const MmEntry *mm, shape_vma_vec *want, struct err *e);
/* Puts this kernel's to their places, or aside, between the guest's mappings; *moved says whether
 * anything was. What the guest has no longer is unmapped already. */
int shape_vdso_place(struct shape_task *st, const shape_vma_vec *want, bool *moved, struct err *e);
/* All pages are there: a kept vDSO leads into this kernel's, or gives way to it (*moved). */
int shape_vdso_finish(struct shape_task *st, const struct img_set *set,
		      const MmEntry *mm, bool *moved, struct err *e);
/* All that share the memory of a task are told that its vDSO has moved. */
void shape_vdso_moved(struct shape *s, const struct shape_task *st);

/* ---- task_shape_pages.c: pages of a mapping that is made anew ---- */

struct shape_saved {
	VEC(uint64_t) at;                /* addresses */
	struct buf pages;                /* their contents, in that order */
};

int shape_read_maps(const struct task *t, struct proc_maps *out, struct err *e);
bool shape_is_single(const struct proc_maps *m, const struct shape_vma *w);
int shape_save_pages(struct task *t, const struct shape_vma *w, struct shape_saved *s,
		     struct err *e);
int shape_put_pages(struct task *t, const struct shape_saved *s, struct err *e);
void shape_saved_free(struct shape_saved *s);

/* A batch that runs by itself when it is full. The first error sticks. */
struct pump {
	struct batch b;
	struct err *e;
	int ret;
};

#define PUMP(remote, err) { .b = BATCH(remote_leader(remote)), .e = (err) }
void pump_call_(struct pump *p, const char *name, uint64_t nr, uint64_t a0, uint64_t a1,
		uint64_t a2, uint64_t a3, uint64_t a4, uint64_t a5);
#define PUMP_7TH_(p, name, nr, a0, a1, a2, a3, a4, a5, ...) \
	pump_call_(p, name, nr, (uint64_t)(a0), (uint64_t)(a1), (uint64_t)(a2), (uint64_t)(a3), \
		   (uint64_t)(a4), (uint64_t)(a5))
#define pump_call(p, name, ...) PUMP_7TH_(p, name, __VA_ARGS__, 0, 0, 0, 0, 0, 0, 0)
int pump_end(struct pump *p);       /* runs what is left; frees */
