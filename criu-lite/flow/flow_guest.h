/* SPDX-License-Identifier: Apache-2.0 */
/* The guest on its source: looked at, held, captured, its pages scanned. */
#pragma once

#include <pthread.h>

#include "flow.h"
#include "flow_cpu.h"
#include "flow_guard.h"
#include "pages_shm.h"
#include "task_mm.h"

/* One address space and who tracks it. */
struct guest_mm {
	struct task *task;           /* the first task that has it */
	struct tracker *tracker;     /* NULL: none (plain dump) */
	pid_t pid;
	uint64_t start_time;
	bool fresh;                  /* not sent yet: the other side holds nothing valid */
	bool gone;                   /* exited under our eyes */
};

/* What one space has to give in a round. */
struct guest_pages {
	struct pages_space space;
	struct scan scan;
	bool fresh;
};
typedef VEC(struct guest_pages) guest_pages_vec;
void guest_pages_free(guest_pages_vec *v);

struct guest {
	const struct flow_opts *o;
	struct tree tree;
	struct kind_dump *kinds;
	VEC(struct guest_mm) mm;
	enum tracker_kind tracker;   /* in use */
	VEC(struct shm_track *) shm;
	void *descriptions;          /* flow_fds.c */
	struct flow_guard guard;
	CpuinfoX86Entry *cpu;        /* this host's: CPUID takes long inside a virtual machine */
	int64_t look_pid;            /* last pid of this host before the last look at the tree, */
	bool direct;                 /* a file is open with O_DIRECT, as far as was seen */
	bool strangers;              /* at the last scan some tasks, perhaps, had no tracker */
	bool lost;                   /* since then some that had one have ended, or called exec, */
	bool lost_new;               /* with mappings that were not tracked yet */
	int64_t last_pid;            /* before that which preceded the last scan; 0: none */
};

/* Reads the tree and refuses what cannot be done, before anything is touched: not root, no such
 * pid, mappings, descriptors, sessions ... */
int guest_open(struct guest *g, const struct flow_opts *o, struct err *e);
void guest_close(struct guest *g);

/* The guest runs: tree and mappings as they are now, into a set for the target's shells. */
int guest_skeleton(struct guest *g, struct img_set *set, struct err *e);

/* One guest_mm for each address space of the tree as it is now. */
void guest_match(struct guest *g);
/* The address space is there no more: what was stored from there is known by its tracker only. */
void guest_lose(struct guest *g, struct guest_mm *m);
/* Starts trackers where there is none yet (each with a short stop of its task). */
int guest_track(struct guest *g, enum tracker_kind k, struct err *e);
/* Would it stop any? */
bool guest_needs_stop(struct guest *g);
/* Does guest_scan_live() stop the guest? */
bool guest_scan_stops(const struct guest *g);

int guest_freeze(struct guest *g, struct err *e);
void guest_thaw(struct guest *g);
void guest_kill(struct guest *g);
/* The frozen guest stays stopped should we die from now on; and takes that back. */
int guest_pin(struct guest *g, struct err *e);
void guest_unpin(struct guest *g);

/* inventory.img: what the target must have in common with this host. */
void guest_put_inventory(const struct guest *g, struct img_set *set);

/* Frozen: the whole state, and (while that is captured, by another thread) the pages to read. */
int guest_capture(struct guest *g, struct img_set *set, guest_pages_vec *pages, struct err *e);

/* The guest runs: pages to read now. A tracker that needs it stopped (soft-dirty) gets that, for
 * the scan only. */
int guest_scan_live(struct guest *g, guest_pages_vec *out, struct err *e);

/* ---- flow_scan.c ---- */

struct guest_rseq {
	pid_t pid;                   /* of the address space */
	uint64_t at;
};

struct guest_scan {
	struct guest *g;
	bool frozen, forks, threaded;
	bool strangers;              /* tasks live that the look at the tree did not see */
	int64_t at_pid;              /* last pid of this host when it began */
	guest_pages_vec *out;
	VEC(struct guest_rseq) rseq; /* areas of all threads that may run a batch meanwhile */
	pthread_t thread;
	int ret;
	struct err err;
};

/* Address spaces; frozen: in a thread of their own, until guest_scan_wait(). Mappings must have
 * been looked at. */
void guest_scan_begin(struct guest_scan *s, struct guest *g, bool frozen, guest_pages_vec *out);
void guest_scan_wait(struct guest_scan *s);
/* The last pid that was given out on this host; -1: not known. */
int64_t guest_last_pid(void);
/* Then the shared memory objects that the pass over files and mappings has seen. */
int guest_scan_end(struct guest_scan *s, struct err *e);
/* Guard regions that the frozen scan found go into the mm images. */
int guest_put_guards(struct guest *g, struct img_set *set, struct err *e);

/* ---- flow_fds.c ---- */
int guest_fds_check(struct guest *g, struct task *t, struct err *e);
/* Puts what the target can look for beforehand, into the set of the skeleton. */
int guest_fds_preview(struct guest *g, struct err *e);
int guest_fds_capture(struct guest *g, struct task *t, struct img_set *set, struct err *e);
/* Ends the TCP connections of a task that is about to be killed. */
void guest_fds_hang_up(struct task *t);
void guest_fds_forget(struct guest *g);
/* The id of a description by one of its descriptors, the first time it is seen a new one. */
uint32_t guest_fd_id(void *guest, pid_t pid, int fd);
