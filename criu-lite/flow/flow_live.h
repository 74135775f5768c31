/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A migration under way, as seen by those who watch and steer it: the control socket (a thread of
 * its own) and the progress display. flow_migrate.c fills it in and obeys it.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "flow_qos.h"

/* One look at a running migration. Rates are over the time since the last look. */
struct flow_sample {
	double elapsed;                  /* s since the start */
	const char *phase;               /* "setup", "round", "switch", "completed", "failed" */
	uint32_t round;
	uint64_t total_bytes;            /* the guest's memory */
	uint64_t remaining_bytes;        /* dirty and not placed yet, as far as is known */
	uint64_t wire_bytes;             /* sent so far */
	uint64_t pages, zero_pages, same_pages;
	double dirty_rate, wire_rate, placed_rate;  /* bytes per s; placed: of guest memory */
	double compression;              /* guest bytes per byte on the wire, zero pages left out */
	double throttle;                 /* %: part of the time that the guest is stopped */
	double predicted_ms;             /* downtime if it were stopped now */
	double allowed_ms;               /* max-downtime at this step */
};

struct flow_live {
	char id[33];                     /* of the migration, hexadecimal */
	char guest[64];                  /* name of its program */
	char target[128];
	pid_t pid;
	pthread_mutex_t lock;            /* for what follows */
	struct flow_qos qos;
	atomic_uint changes;             /* of qos, counted */
	struct flow_sample now;
	atomic_bool abort, force;        /* asked for: by ctl, ^C, a timeout */
};

void live_begin(struct flow_live *l);
void live_end(struct flow_live *l);
