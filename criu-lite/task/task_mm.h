/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The address space of a task on the source: its mappings as /proc shows them, and
 * their form in mm-PID.img.
 */
#pragma once

#include "mm.pb-c.h"
#include "proc_maps.h"
#include "task.h"

/* VmaEntry.status bits, as in CRIU. */
#define VMA_REGULAR      (1u << 0)
#define VMA_STACK        (1u << 1)
#define VMA_VSYSCALL     (1u << 2)
#define VMA_VDSO         (1u << 3)
#define VMA_HEAP         (1u << 5)
#define VMA_FILE_PRIVATE (1u << 6)
#define VMA_FILE_SHARED  (1u << 7)
#define VMA_ANON_SHARED  (1u << 8)
#define VMA_ANON_PRIVATE (1u << 9)
#define VMA_SYSVIPC      (1u << 10)
#define VMA_VVAR         (1u << 12)
#define VMA_MEMFD        (1u << 14)

/* Bits of ours in VmaEntry.madv, above those of MADV_*. */
#define VMA_MADV_ACCOUNTED (1ull << 62)  /* VmFlags ac: was writable once */
#define VMA_MADV_ONFAULT   (1ull << 61)  /* mlock2(MLOCK_ONFAULT) */
#define VMA_MADV_RDONLY    (1ull << 59)  /* attached with SHM_RDONLY */
#define VMA_MADV_GUARDS    (1ull << 60)  /* VmFlags gu: guard regions inside (where: cl_guard) */

struct task_mm {
	struct proc_maps maps;       /* of smaps: with VmFlags */
	struct buf text;             /* of /proc/PID/maps at the same look */
	uint64_t looked_ns, cost_ns; /* when the look ended, how long it took */
	VEC(struct grange) guard;    /* guard regions: set by the caller that scanned pages */
};

void task_mm_free(struct task_mm *m);

/* Reads the mappings (smaps; slow for big guests: while they run). Stub mapping left out.
 * -EAGAIN: a running task was met in the middle of an exec or of a change of its mappings. */
int task_mm_look(struct task *t, struct err *e);

/* Running guest: as task_mm_look(), but while the mappings stay the same, smaps is read for a small
 * part of the time only: it takes 5 ms per GiB, in which the guest cannot change its mappings. */
int task_mm_look_again(struct task *t, struct err *e);

/* After task_mm_check() of every task: System V segments are attached as a whole, and by nobody
 * outside the tree. -EAGAIN: somebody is; or a task that runs has attached one since its mappings
 * were read. */
int task_sysv_check(const struct tree *t, struct err *e);

/* Only the mappings, at this moment (no VmFlags); for a task that stands still. */
int task_mm_now(const struct task *t, struct proc_maps *out, struct err *e);

/* Frozen guest: looks again only if the mappings are not those of the last look. */
int task_mm_refresh(struct task *t, struct err *e);

/* Preflight: refuses mappings that cannot be carried over (devices, hugetlb, io_uring,
 * foreign userfaultfd ...), naming address and remedy. */
int task_mm_check(const struct task *t, struct err *e);

/* Puts mm-PID.img, with the files and objects that are mapped. `frozen`: asks the guest for its brk
 * and dumpable; else these are left as known from /proc (skeleton for the target's shells). */
int task_mm_capture(struct task *t, struct kind_dump *c, bool frozen, struct img_set *set,
		    struct err *e);

/* Which vDSO the program calls: a new message, NULL if it has none. mm: with its auxv. */
VdsoImageEntry *task_vdso_look(const struct task *t, const MmEntry *mm);

/* What a mapping holds is private pages (to be tracked by address). */
bool task_vma_private(const struct proc_vma *v);
/* A mapping of a shared memory object (anonymous shared or memfd, shared). */
bool task_vma_object(const struct proc_vma *v);
bool task_vma_sysv(const struct proc_vma *v);
/* [vdso], [vvar], [vsyscall] */
bool task_vma_special(const struct proc_vma *v);

/* Our fd for the file behind a mapping (through map_files). fd or -errno. */
int task_vma_open(const struct task *t, const struct proc_vma *v, int flags, struct err *e);

/* cwd, root, umask: fs-PID.img. */
int task_fs_capture(struct task *t, struct kind_dump *c, struct img_set *set, struct err *e);
