/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a program may have found of the CPU when it started, and whether another has it. In CRIU's
 * message of cpuinfo.img; capability words are those of Linux (arch/x86/include/asm/cpufeatures.h).
 */
#pragma once

#include <stdbool.h>

#include "cpuinfo.pb-c.h"
#include "err.h"

#define CPU_WORDS 20

/* --cpu-cap */
#define CPU_CAP_FPU 1u   /* registers that the kernel saves */
#define CPU_CAP_CPU 2u   /* the same CPU */
#define CPU_CAP_INS 4u   /* instructions */
#define CPU_CAP_ALL (CPU_CAP_FPU | CPU_CAP_CPU | CPU_CAP_INS)
#define CPU_CAP_DEFAULT (CPU_CAP_FPU | CPU_CAP_INS)

/* "fpu,ins", "^cpu", "none"; "" is all. -EINVAL with remedy. */
int cpu_cap_parse(const char *text, unsigned *out, struct err *e);

/* That of this machine, as a program may use it: without what the kernel has not enabled. A new
 * message, to be freed by cpuinfo_x86_entry__free_unpacked. */
CpuinfoX86Entry *cpu_here(void);
CpuinfoX86Entry *cpu_copy(const CpuinfoX86Entry *c);

/* What `c` has or `add` has. */
void cpu_join(CpuinfoX86Entry *c, const CpuinfoX86Entry *add);
bool cpu_same(const CpuinfoX86Entry *a, const CpuinfoX86Entry *b);

/* 0 if a guest that needs `need` can live here. -ENOTSUP: names what is missing, remedy given. */
int cpu_check(const CpuinfoX86Entry *need, const CpuinfoX86Entry *here, unsigned cap,
	      struct err *e);
