/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CLOCK_MONOTONIC and CLOCK_BOOTTIME count from the boot of a host, so they differ from host to
 * host.
 *
 * What the kernel keeps of timers and sleeps travels as the time that is left. A system call that
 * waits until a moment of such a clock has that moment in the program's memory: there it is moved
 * along, unless the guest lands in a time namespace in which its clocks go on as they were.
 */
#pragma once

#include "task.h"

/* In ns. Coarse is CLOCK_MONOTONIC_COARSE, which lags behind by up to a tick of the host. */
struct clocks {
	int64_t monotonic, boottime, coarse;
};

/* What the clocks of a task's time namespace are ahead of those of the initial one. All zero on
 * kernels without time namespaces. */
int task_clock_offsets(pid_t pid, struct clocks *out, struct err *e);

/* Both clocks as a task sees them now, and whether it has a time namespace other than ours. */
int task_clock_now(pid_t pid, struct clocks *out, bool *own, struct err *e);

/* The same of a task that is held, by asking inside it. */
int task_clock_ask(struct task *t, struct clocks *out, struct err *e);

/* Preflight: all tasks of a guest must be in one time namespace. */
int task_clock_check(const struct task *t, pid_t root, struct err *e);

/* What to write to the file timens_offsets of a new time namespace, so that its clocks show `now`
 * at this moment. Fails, with a remedy, where there are none. */
int task_clock_text(const struct clocks *now, char *out, size_t size, struct err *e);
