/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which CPU a guest needs. A program looks at its CPU when it starts: what it has found there it
 * may use wherever it is later. So a host keeps in mind what CPU its guests have come with; a task
 * that has called exec since knows the new one.
 */
#pragma once

#include "task.h"
#include "task_cpu.h"

/* Source: cpuinfo.img. `here`: of cpu_here(). */
void flow_cpu_put(const struct tree *t, CpuinfoX86Entry *here, struct img_set *set);

/* Target, preflight. `cap`: --cpu-cap. *other: the guest knows another CPU than this. */
int flow_cpu_check(const struct img_set *set, unsigned cap, bool *other, struct err *e);

/* Target, the tasks are complete, and know another CPU: that is kept in mind. Best effort: without
 * it, the guest counts as one that was started here. */
void flow_cpu_remember(const struct img_set *set, struct task *const *task, size_t n);
