/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest as a tree of tasks, on either side. One struct task is one process; its threads
 * are those of its remote. The state of each task travels as records of an img_set:
 * pstree.img, core-TID.img, mm-PID.img, ids-PID.img, fs-PID.img, rlimits in core, creds-...
 */
#pragma once

#include <linux/kcmp.h>
#include <sys/types.h>

#include "core.pb-c.h"
#include "img.h"
#include "kind.h"
#include "proc_task.h"
#include "remote.h"

#define TASK_ALIVE   1u   /* core.tc.task_state, as in CRIU */
#define TASK_DEAD    2u
#define TASK_STOPPED 3u
#define TASK_HELPER  4u

struct task {
	pid_t pid, ppid, pgid, sid;
	uint64_t start_time;        /* of /proc/PID/stat: tells a pid's next owner apart */
	bool seen;                  /* by the scan under way */
	char comm[64];
	uint32_t state;             /* TASK_* */
	int32_t exit_code;          /* of a zombie, as wait4 gives it */
	struct remote *remote;      /* while held; NULL for zombies */
	uint32_t vm_id, files_id, fs_id, sighand_id;  /* kobj ids: equal means shared */
	struct task_mm *mm;         /* source: task_mm.h */
	struct task_watch *watch;   /* source: what its threads sleep in, see task_state.h */
	pid_vec tids;               /* target: its threads, leader first */
	bool clock_goes_on;         /* target: in a time namespace, its clocks are as they were */
};

struct tree {
	VEC(struct task *) task;    /* parents before children, root first */
};

/* Source: reads the tree below `root` from /proc. Nothing is stopped. -ESRCH, or a refusal
 * (kernel thread, ourselves inside the tree, other user...) with its remedy.
 * Called again, it updates: tasks that are gone disappear, new ones are added. */
int task_tree_scan(struct tree *t, pid_t root, struct err *e);
void task_tree_free(struct tree *t);
struct task *task_find(const struct tree *t, pid_t pid);

/* Source: holds every task of the tree (and any that appear meanwhile); thaw undoes it. */
int task_tree_freeze(struct tree *t, struct err *e);
void task_tree_thaw(struct tree *t);
void task_tree_kill(struct tree *t);

/* Which tasks share mm, files, fs and signal handlers (kcmp): fills the kobj ids. Frozen or not. */
int task_tree_share(struct tree *t, struct err *e);
/* By these ids: KCMP_VM, KCMP_FILES or KCMP_FS. */
bool task_shares(const struct task *a, const struct task *b, enum kcmp_type what);
/* Alive, and the first in the tree of those alive that share it: what is done once, it does. */
bool task_is_first(const struct tree *t, const struct task *k, enum kcmp_type what);

/* pstree.img, ids-PID.img and back. On the target, tasks come without remotes. */
void task_tree_put(const struct tree *t, struct img_set *set);
int task_tree_get(struct tree *t, const struct img_set *set, struct err *e);
