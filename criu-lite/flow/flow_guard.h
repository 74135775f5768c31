/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guard: a small process that outlives us if we are killed, and then takes out of the guest what
 * the dead-man tail had to leave there.
 */
#pragma once

#include <sys/types.h>

#include "err.h"

struct flow_guard {
	pid_t pid;
	int line;                    /* its end of file tells the guard that we are gone */
};

int flow_guard_begin(struct flow_guard *g, pid_t root, struct err *e);
/* All is well: the guard goes home. */
void flow_guard_end(struct flow_guard *g);
