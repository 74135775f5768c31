/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an operator controls of a migration. One table (flow_qos.c) has a row for each value: its
 * name is the option of `migrate`, the key in a policy file and the key of `ctl set`.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "err.h"
#include "pages_send.h"

enum qos_mode { CONVERGE_RAMP, CONVERGE_MODEL };
enum qos_throttle { THROTTLE_SIGSTOP, THROTTLE_FREEZER };
enum qos_action { TIMEOUT_ABORT, TIMEOUT_SUSPEND };
#define QOS_SAME (-1)

struct flow_qos {
	int64_t max_downtime;            /* ms: 300 */
	int64_t downtime_steps;          /* 1: max-downtime from the start */
	int64_t downtime_delay;          /* s per GiB of guest (2 at least) and step: 75 */
	bool auto_converge;              /* yes */
	int64_t ac_initial, ac_increment, ac_max, ac_threshold;  /* %: 20, 10, 99, 50 */
	int ac_mode;                     /* enum qos_mode: ramp */
	int throttle;                    /* enum qos_throttle: sigstop */
	int64_t bandwidth;               /* MiB/s over all connections, 0: unlimited */
	int64_t switchover_bandwidth;    /* the same for the last copy; QOS_SAME: as bandwidth */
	int64_t connections;             /* 2 */
	int comp_method;                 /* enum comp_method: auto */
	int64_t comp_level;              /* 1 */
	int64_t timeout, timeout_per_gib; /* s, 0: none; both: the later one counts */
	int timeout_action;              /* enum qos_action: abort */
	int64_t max_rounds;              /* 0: no limit */
};

struct qos_row {
	const char *name;
	enum { QOS_BOOL, QOS_NUMBER, QOS_CHOICE } kind;
	size_t at;                       /* offset in struct flow_qos */
	int64_t min, max;
	const char *const *choices;      /* ends with NULL */
	const char *unit;                /* for help: MS, MIBS, SECONDS, N, PERCENT, ... */
	bool live;                       /* `ctl set` may change it while the migration runs */
	const char *about;               /* one line of help, with the default */
};
#define QOS_ROWS 19
extern const struct qos_row qos_table[QOS_ROWS + 1];   /* ends with a NULL name */

void qos_defaults(struct flow_qos *q);
const struct qos_row *qos_find(const char *name);
/* "yes"/"no"/"true"/"false"/"1"/"0" for a bool; 'same' for a number that may be QOS_SAME. -EINVAL
 * with what is allowed: "TEXT: wrong value; ...", to which the caller puts the name as it was given
 * to him. Nothing is changed then. */
int qos_set(struct flow_qos *q, const struct qos_row *row, const char *text, struct err *e);
void qos_text(const struct flow_qos *q, const struct qos_row *row, char *buf, size_t size);
/* What is allowed, in words: "a number from 1 to 64". */
void qos_allowed(const struct qos_row *row, char *buf, size_t size);
/* The names that look most like a wrong one: "bandwidth, switchover-bandwidth". */
void qos_nearest(const char *wrong, char *buf, size_t size);
/* What only several values together tell: initial above max ... -EINVAL with remedy. */
int qos_check(const struct flow_qos *q, struct err *e);
