/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The vDSO: code of the kernel's that every program calls at addresses which it found at its start.
 *
 * On another kernel the guest keeps that code, as plain memory at its old place; its entry points
 * jump into the vDSO of the new kernel, which is mapped elsewhere in the guest. In place of the old
 * data pages ([vvar]) stand zeros: to code that was half-way through (in a signal handler's caller)
 * these say VDSO_CLOCKMODE_NONE with another sequence count than it saw, so that it asks the
 * kernel. If a later move leads to a kernel with that very vDSO, it takes its old place again.
 *
 * This part is pure: it works on images in memory.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "err.h"

#define VDSO_IMAGE_MAX   65536
#define VDSO_ENTRIES_MAX 24
#define VDSO_PATCH_MAX   24   /* bytes of an entry that a patch may take */

struct vdso_entry {
	char name[32];        /* __vdso_... */
	uint32_t at, room;    /* offset; bytes from there that belong to it */
};

struct vdso {
	uint64_t id;          /* hash of what patches leave alone: tells kernels apart */
	uint32_t end;         /* of what the ELF headers know of; zeros follow */
	size_t n_entries;
	struct vdso_entry entry[VDSO_ENTRIES_MAX];
};

/* -EBADMSG: no such image. */
int vdso_parse(const uint8_t *image, size_t n, struct vdso *out, struct err *e);

/* Makes the entries of `image` (described by `old`) lead into the vDSO described by `now`, mapped
 * at `base`; those that it lacks make the system call themselves. May be done again, to the same
 * bytes. -ENOTSUP: an entry is too small. */
int vdso_patch(uint8_t *image, size_t n, const struct vdso *old, const struct vdso *now,
	       uint64_t base, struct err *e);

/* That of this process and kernel: its bytes (up to *n) and description. -ENOENT: it has none. */
int vdso_here(const uint8_t **image, size_t *n, struct vdso *out, struct err *e);
