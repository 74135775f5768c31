/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The target's shells take the shape of the guest: processes with their pids, parents, sessions
 * and groups; mappings at their final addresses. Called again while the guest runs on and changes,
 * it makes only what differs.
 */
#pragma once

#include "mm.pb-c.h"
#include "task.h"

struct shape_task;             /* what one shell looks like now */

struct shape {
	VEC(struct shape_task *) task;  /* parents before children */
	uint64_t shell_flags;           /* CLONE_PARENT for --restore-sibling */
	bool shell_job;                 /* session and group are the restorer's */
	bool timens;                    /* shells are born into a time namespace of the guest's: */
	char timens_offsets[128];       /* its file of that name */
	VEC(struct grange) avoid;       /* where the guest has mappings: no place for the stub */
};

struct task *shape_find(const struct shape *s, pid_t pid);
/* The i-th task, NULL past the end. */
struct task *shape_at(const struct shape *s, size_t i);
/* As task_is_first(). */
bool shape_is_first(const struct shape *s, const struct task *t, enum kcmp_type what);

/* Is every pid, session and group that the tree needs free here? All complaints. */
int shape_check(const struct img_set *set, bool shell_job,
		void (*complain)(void *arg, const struct err *e), void *arg);

/* Can the guest's vDSO be kept on this kernel, if that has another? */
int shape_vdso_check(const struct img_set *set, struct err *e);

/* Processes as in pstree.img and ids-*.img: missing ones are made, surplus ones killed. */
int shape_tree(struct shape *s, const struct img_set *set, struct err *e);

/* Mappings of every task as in its mm-PID.img. Files come from c (kind_fd, shm_get). */
int shape_memory(struct shape *s, struct kind_restore *c, const struct img_set *set,
		 struct err *e);

/* Drops the contents of ranges (the source says they are void). Ranges without mapping are fine. */
int shape_drop(struct task *t, const struct grange *r, size_t n, struct err *e);

/* Shells of zombies end as the zombies did. */
int shape_zombies(struct shape *s, const struct img_set *set, struct err *e);

/* The vDSO, guard regions (MADV_GUARD_INSTALL), mlock: when all pages are placed. */
int shape_finish(struct shape *s, struct task *t, const struct img_set *set, struct err *e);

/* mm fields, exe link, fs: cwd, root, umask. */
int shape_mm_fields(struct task *t, struct kind_restore *c, const struct img_set *set,
		    struct err *e);
int shape_fs(struct task *t, struct kind_restore *c, const struct img_set *set, struct err *e);

/* Shells take precedence over other work of this host until their state is applied (niceness). */
void shape_hurry(struct shape *s);

/* The processes run (after task_state_arm), or die. */
void shape_release(struct shape *s);
void shape_kill(struct shape *s);
