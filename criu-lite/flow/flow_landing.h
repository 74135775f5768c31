/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest where it lands, from a directory or from a stream: shells take its shape, pages
 * are put there by the caller, the rest of its state follows, and it runs.
 */
#pragma once

#include "flow.h"
#include "kind_shm.h"
#include "task_shape.h"

struct landing {
	const struct flow_opts *o;
	struct shape shape;
	struct kind_restore *kinds;
	struct img_set *set;         /* the state in force (owned) */
	VEC(struct img_set *) old;   /* sets that entries may still point into */
	bool other_cpu;              /* the guest knows another than this host's */
	pid_t pid;                   /* of the guest's root, also after it runs */
};

void landing_begin(struct landing *l, const struct flow_opts *o, const struct kind_opts *k,
		   uint64_t shell_flags);
/* Kills what there is of the guest and frees. After landing_run() it only frees. */
void landing_end(struct landing *l);

/* Would it work? Files, pids, kernel, CPU: all complaints at once, in one error text. */
int landing_check(struct landing *l, struct img_set *set, struct err *e);

/* Shells and mappings as in `set` (taken over). Again for each round. */
int landing_shape(struct landing *l, struct img_set *set, struct err *e);

/* Shared memory objects that only descriptors lead to (memfds that are not mapped) are made too. */
int landing_objects(struct landing *l, struct err *e);

/* Where the pages of a space go. -ENOENT. */
int landing_place(struct landing *l, const struct pages_space *what, struct pages_place *to,
		  struct err *e);

/* All state but memory; `set` is complete now, pages may still be arriving. */
int landing_fill(struct landing *l, struct err *e);
/* All pages are in place: locks, guards, credentials. After this only landing_run() is left. */
int landing_seal(struct landing *l, struct err *e);
/* Runs it. */
int landing_run(struct landing *l, struct err *e);
pid_t landing_pid(const struct landing *l);
