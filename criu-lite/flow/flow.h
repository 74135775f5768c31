/* SPDX-License-Identifier: Apache-2.0 */
/* The stories: one file each (flow_dump.c, flow_restore.c, flow_migrate.c, flow_receive.c). */
#pragma once

#include "kind.h"
#include "pages_send.h"
#include "pages_tracker.h"

struct flow_opts {
	struct kind_opts kinds;

	pid_t pid;                   /* -t */
	const char *images_dir;      /* -D */
	const char *work_dir;        /* -W: log and stats; NULL: images_dir */
	const char *prev_images_dir; /* relative to images_dir, as CRIU's */
	const char *pidfile;
	bool leave_running, leave_stopped, restore_detached, restore_sibling, track_mem;
	enum tracker_kind tracker;

	const char *where;           /* peer of migrate, address of receive */
	bool once;
	unsigned connections;
	struct pages_opts pages;
	uint64_t max_downtime_ms;
	unsigned max_rounds;
	bool json;
};

int flow_dump(const struct flow_opts *o, struct err *e);
int flow_pre_dump(const struct flow_opts *o, struct err *e);
/* Without -d: waits for the guest and gives its exit code in *status (as wait4 does). */
int flow_restore(const struct flow_opts *o, int *status, struct err *e);
int flow_migrate(const struct flow_opts *o, struct err *e);
int flow_receive(const struct flow_opts *o, struct err *e);
/* Prints what this kernel can do. 0: all that is needed is there. */
int flow_check(struct err *e);
