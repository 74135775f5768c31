/* SPDX-License-Identifier: Apache-2.0 */
/* /proc/PID/maps and smaps: pure parsers. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "err.h"
#include "vec.h"

/* VmFlags of smaps that matter, as bits. */
enum proc_vmflag {
	PROC_VF_AC = 1u << 0,  /* accountable */
	PROC_VF_DC = 1u << 1,  /* do not copy on fork */
	PROC_VF_DD = 1u << 2,  /* do not dump core */
	PROC_VF_DE = 1u << 3,  /* do not expand */
	PROC_VF_GD = 1u << 4,  /* grows down */
	PROC_VF_HG = 1u << 5,  /* MADV_HUGEPAGE */
	PROC_VF_NH = 1u << 6,  /* MADV_NOHUGEPAGE */
	PROC_VF_HT = 1u << 7,  /* hugetlb */
	PROC_VF_IO = 1u << 8,  /* memory mapped I/O */
	PROC_VF_PF = 1u << 9,  /* pure PFN */
	PROC_VF_LO = 1u << 10, /* locked */
	PROC_VF_LF = 1u << 11, /* lock on fault */
	PROC_VF_MG = 1u << 12, /* mergeable */
	PROC_VF_WF = 1u << 13, /* wipe on fork */
	PROC_VF_SR = 1u << 14, /* sequential read advised */
	PROC_VF_RR = 1u << 15, /* random read advised */
	PROC_VF_SH = 1u << 16, /* shared */
	PROC_VF_UW = 1u << 17, /* userfaultfd write-protect */
	PROC_VF_UM = 1u << 18, /* userfaultfd missing */
	PROC_VF_UI = 1u << 19, /* userfaultfd minor */
	PROC_VF_NR = 1u << 20, /* MAP_NORESERVE */
	PROC_VF_SS = 1u << 21, /* shadow stack */
	PROC_VF_SL = 1u << 22, /* sealed */
	PROC_VF_SF = 1u << 23, /* synchronous page faults */
	PROC_VF_DP = 1u << 24, /* droppable */
	PROC_VF_GU = 1u << 25, /* guard pages inside (6.15+) */
	PROC_VF_MW = 1u << 26, /* may be made writable */
};

struct proc_vma {
	uint64_t start, end, pgoff;   /* pgoff in bytes */
	uint32_t prot;                /* PROT_* */
	bool shared;
	uint32_t dev_major, dev_minor;
	uint64_t ino;
	const char *path;             /* into `paths`; "" if none; unescaped, " (deleted)" cut */
	bool deleted;
	uint32_t vmflags;             /* smaps only */
	uint64_t rss, swap, anonymous, locked;  /* smaps only, bytes */
	uint64_t pkey;                /* smaps only: of pkey_mprotect(2); 0 is everybody's */
};

struct proc_maps {
	VEC(struct proc_vma) vma;
	VEC(char *) paths;
};

/* -EBADMSG with the line that makes no sense; addresses must ascend. */
int proc_maps_parse(const char *text, size_t n, struct proc_maps *out, struct err *e);
int proc_smaps_parse(const char *text, size_t n, struct proc_maps *out, struct err *e);
void proc_maps_free(struct proc_maps *m);
