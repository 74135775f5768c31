/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's tasks in a cgroup that can be frozen: one of ours below each cgroup that they are in
 * (v1's freezer hierarchy, which has no other purpose, or v2), for as long as the throttle is in
 * use.
 */
#pragma once

#include <limits.h>
#include <stdbool.h>

#include "err.h"
#include "task.h"

#define FREEZER_PLACES 8

/* Plain data: the guard has a copy of it in shared memory. */
struct freezer {
	unsigned n;
	struct freezer_place {
		char home[512];      /* the cgroup's directory as we found it, */
		char ours[560];      /* and the one below it */
		bool v2;
	} place[FREEZER_PLACES];
};

/* Where the tasks of the tree will go; nothing is changed. */
int freezer_plan(struct freezer *f, const struct tree *t, struct err *e);
/* Moves them. On error freezer_end() is due. */
int freezer_begin(struct freezer *f, pid_t root, struct err *e);
/* All places, also if one of them fails. */
int freezer_freeze(const struct freezer *f, bool on, struct err *e);
/* Thaws, moves back whoever is there now, and removes ours. What is not there is no error. */
void freezer_end(const struct freezer *f);
