/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A thread beside a migration: takes a sample ten times a second, shows it, keeps it for the
 * report, serves the control socket, and passes on what the user wants (^C, ctl) and what the clock
 * says.
 */
#pragma once

#include "flow.h"
#include "flow_ctl.h"
#include "flow_live.h"
#include "outlet.h"
#include "flow_samples.h"

struct flow_watch {
	struct flow_live live;
	const struct flow_opts *o;
	/* From this thread: fills in where the migration stands; returns when it is to be complete
	 * (0: any time). */
	uint64_t (*look)(void *arg, struct flow_sample *now);
	/* From this thread, at each tick while live.abort or live.force is set. */
	void (*obey)(void *arg);
	void *arg;

	struct ctl *ctl;
	pthread_t thread;
	bool started;
	int signals, end;            /* signalfd, eventfd */
	uint64_t begun_ns, last_line_ns, last_kept_ns;
	bool terminal;               /* stderr is one: a line that is drawn again and again */
	bool drawn;                  /* there is such a line now */
	bool timed_out, interrupted; /* why live.abort is set, if not by ctl */
	struct buf story;            /* JSON lines, for --report */
	pthread_mutex_t out;         /* for what is printed, and the story */
	struct outlet to_stdout, to_stderr;
};

/* From here on ^C and SIGTERM are wishes, and ^Z does nothing. w->live's id, guest, target, pid,
 * qos are filled in. */
int watch_begin(struct flow_watch *w, const struct flow_opts *o, struct err *e);
/* A round is over. */
void watch_round(struct flow_watch *w, uint32_t number, uint64_t dirty, uint64_t wire, double s);
/* The end: status as samples_result() has it. Prints the last JSON line, writes the report. */
int watch_result(struct flow_watch *w, const struct flow_report *r, const char *status,
		 const struct samples_more *more, const struct err *why, struct err *e);
/* No more samples; a line on the terminal is finished. Called by watch_result(), too. */
void watch_end(struct flow_watch *w);
/* When nothing waits for us any more: what could not be printed yet. */
void watch_flush(struct flow_watch *w);
