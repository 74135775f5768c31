/* SPDX-License-Identifier: Apache-2.0 */
/* Facts about this host that a guest depends on. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "err.h"
#include "img.h"
#include "inventory.pb-c.h"

int flow_need_root(struct err *e);
/* Descriptor limit as high as it may be: shells inherit it. */
void flow_raise_limits(void);
/* All threads of this process before other work of the machine (SCHED_FIFO), or as usual. */
void flow_hurry(bool on);
/* What the target must have in common with this host and the guest, or must know of them. The
 * message points into memory of this process. */
void flow_describe_host(InventoryEntry *in, pid_t root);
/* Preflight: names what the guest uses and this kernel lacks, all of it. */
int flow_kernel_check(const struct img_set *set, struct err *e);
uint64_t flow_memory_available(void);   /* bytes; cgroup limits included */
