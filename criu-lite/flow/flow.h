/* SPDX-License-Identifier: Apache-2.0 */
/* The stories: one file each (flow_dump.c, flow_restore.c, flow_migrate.c, flow_receive.c). */
#pragma once

#include "kind.h"
#include "flow_qos.h"
#include "pages_tracker.h"

#define FLOW_ADDRESSES_MAX 16

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
	bool has_cpu_cap;
	unsigned cpu_cap;            /* CPU_CAP_* that a target must have */
	bool timens;                 /* the guest gets a time namespace in which its clocks go on */
	struct flow_qos qos;
	bool json, quiet;
	const char *progress;        /* "json", "plain"; NULL: what suits stderr */
	const char *report_file;     /* HTML */
	const char *guest_name;      /* of its policy */
	bool print_policy;           /* that, instead of a migration */
	const char *action_script;
	const char *move_address[FLOW_ADDRESSES_MAX], *map_address[FLOW_ADDRESSES_MAX];
	unsigned n_move_address, n_map_address;
};

int flow_dump(const struct flow_opts *o, struct err *e);
int flow_pre_dump(const struct flow_opts *o, struct err *e);
/* Without -d: waits for the guest and gives its exit code in *status (as wait4 does). */
int flow_restore(const struct flow_opts *o, int *status, struct err *e);
int flow_migrate(const struct flow_opts *o, struct err *e);
int flow_receive(const struct flow_opts *o, struct err *e);
/* Prints what this kernel can do. 0: all that is needed is there. */
int flow_check(struct err *e);
