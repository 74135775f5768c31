/* SPDX-License-Identifier: Apache-2.0 */
/* A migration on its source, for the files that tell its story: flow_migrate.c, flow_rounds.c. */
#pragma once

#include "flow_converge.h"
#include "flow_guest.h"
#include "flow_links.h"
#include "flow_report.h"
#include "flow_throttle.h"
#include "flow_watch.h"

#define ANSWER_MS   120000          /* the target works: shells, files, memory */

/* What a switch is made of besides the pages, measured while the guest runs. */
struct switch_costs {
	uint64_t stop_ns;            /* all tasks held, once */
	uint64_t scan_ns;            /* page tables looked through */
	uint64_t look_ns;            /* mappings and descriptors captured */
	uint64_t answer_ns;          /* a message there and its answer back, least */
	uint64_t shape_ns;           /* the target follows a changed shape, last */
};

struct migration {
	const struct flow_opts *o;
	struct guest guest;
	struct wire_id id;
	int control;
	struct links links;
	struct pages_sender *sender;
	struct buf last_state;          /* skeleton as the target has it */
	struct flow_report report;
	struct flow_watch watch;
	struct converge converge;
	struct throttle *throttle;
	struct switch_costs costs;

	uint32_t round;
	uint64_t scan_at;               /* when the last scan began */
	double ran;                     /* part of the time since then that the guest ran */
	guest_pages_vec carry;          /* scanned, but not (all) sent: due with what comes next */
	unsigned retreats;
	bool last_said;                 /* the target expects no more rounds */
	double predicted_ms;            /* downtime, as estimated before the switch */
	uint64_t last_dirty;            /* of the last round: told when the guest runs again */
	struct pages_stats last_stats;

	/* Told by us, read by the watch; under watch.live.lock. */
	const char *phase;
	uint32_t round_now;
	double looked_s;                /* the watch's own, with the next two */
	struct pages_stats looked;
	unsigned followed;              /* changes of the policy */
	uint64_t to_send;               /* dirty bytes that the last scan found, */
	bool sending;                   /* which are in the sender's queue now; guest running */
	uint64_t dirty_rate;
	bool cancelable;                /* nothing that cannot be taken back was said */
	pages_left_vec left;            /* taken back by force */
};

/* The policy as it is now. */
struct flow_qos migration_qos(struct migration *m);
/* Why it is to end, if the user or the clock wants that: -ECANCELED or -ETIMEDOUT; else 0. */
int migration_wanted(struct migration *m, struct err *e);

/* Limits of the connections as the policy has them; those of the last copy. */
void migration_sender_set(struct migration *m, const struct flow_qos *q, bool switching);

/* ---- flow_rounds.c ---- */

/* Guest running: what changed goes to the target. */
int round_live(struct migration *m, struct converge_round *r, struct err *e);
/* Guest frozen. -EAGAIN before m->last_said: too much is left (unless `final`), or its state cannot
 * be told at this moment: to be thawed, and rounds to go on. */
int round_last(struct migration *m, bool final, struct err *e);
void round_count(struct migration *m, uint64_t dirty, const struct pages_stats *st, uint64_t ns);
uint64_t round_fixed_ns(const struct migration *m);
void round_forget(struct migration *m);
