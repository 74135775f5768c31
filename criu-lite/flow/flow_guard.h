/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guard: a small process that outlives us if we are killed, and then takes out of the guest
 * what the dead-man tail had to leave there, and lets it go on if it was throttled; or ends it, if
 * it runs on the target already. On the target one takes back what was done to the network.
 */
#pragma once

#include <sys/types.h>

#include "err.h"
#include "flow_freezer.h"
#include "task.h"

struct guard_board;

struct flow_guard {
	pid_t pid;
	int line;                    /* its end of file tells the guard that we are gone */
	struct guard_board *board;   /* shared with it */
};

int flow_guard_begin(struct flow_guard *g, pid_t root, struct err *e);
int flow_guard_target(struct flow_guard *g, struct err *e);
/* The target runs the guest: should we die before all of it has ended here, the guard ends it. */
void flow_guard_over(struct flow_guard *g, const struct tree *t);
/* Said before the throttle stops tasks by SIGSTOP, and after it has let them go on again. */
void flow_guard_stopped(struct flow_guard *g, size_t i, pid_t pid, uint64_t start_time);
void flow_guard_stopped_count(struct flow_guard *g, size_t n);
size_t flow_guard_room(void);
/* Said before tasks are moved to cgroups of ours; f->n == 0: no more. */
void flow_guard_freezer(struct flow_guard *g, const struct freezer *f);
/* All is well: the guard goes home. Nothing, if it never began. */
void flow_guard_end(struct flow_guard *g);
