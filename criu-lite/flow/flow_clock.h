/* SPDX-License-Identifier: Apache-2.0 */
/* The monotonic clocks of a guest from one host to the next (task_clock.h). */
#pragma once

#include <stdbool.h>

#include "inventory.pb-c.h"
#include "task_shape.h"

/* Source: the clocks as the guest sees them now, and whether it has a time namespace of its own. */
void flow_clock_put(InventoryEntry *in, pid_t root);

/* Target, before the first shell, as soon as the message is there: shells will be born into a time
 * namespace where the guest's clocks go on, if that is wanted (--timens) or the guest had one. */
int flow_clock_adopt(const InventoryEntry *in, struct shape *s, struct err *e);

/* Target, before the guest runs: its clocks must not go back behind what it has seen at the
 * capture. The way here took some time, and clocks differ in their rates: waits for what is
 * missing. */
int flow_clock_wait(const struct img_set *set, struct task *root, struct err *e);
