/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guard: a small process that outlives us if we are killed, and then takes out of the guest what
 * the dead-man tail had to leave there; or ends it, if it runs on the target already.
 */
#pragma once

#include <sys/types.h>

#include "err.h"
#include "task.h"

struct guard_board;

struct flow_guard {
	pid_t pid;
	int line;                    /* its end of file tells the guard that we are gone */
	struct guard_board *board;   /* shared with it */
};

int flow_guard_begin(struct flow_guard *g, pid_t root, struct err *e);
/* The target runs the guest: should we die before all of it has ended here, the guard ends it. */
void flow_guard_over(struct flow_guard *g, const struct tree *t);
/* All is well: the guard goes home. */
void flow_guard_end(struct flow_guard *g);
