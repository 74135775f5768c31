/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When to stop the guest, and how much to slow it down until then. Pure arithmetic over what the
 * rounds measured; the rules are QEMU's and Nova's. Nothing here touches a guest.
 */
#pragma once

#include "flow_qos.h"

/* A round: its scan found `dirty` bytes, written in the `interval_ns` since the scan before it;
 * then they were sent and placed in `send_ns`. */
struct converge_round {
	uint32_t number;             /* from 1 up */
	uint64_t dirty;
	uint64_t interval_ns;        /* 0 for the first */
	uint64_t send_ns;
	double ran;                  /* part of it in which the guest ran: 1 without throttle */
	uint64_t fixed_ns;           /* what a switch takes besides the pages, as measured so far */
};

struct converge {
	uint64_t memory, begun_ns;
	double placed;               /* bytes per s, as the last rounds measured it; 0: not yet */
	double full_rate;            /* bytes per s that the guest would change unthrottled */
	uint64_t best;               /* least bytes that a round found dirty */
	unsigned stalls;             /* rounds since then */
	unsigned high;               /* rounds in which dirtying outran sending */
	unsigned throttle;           /* %, 0: none */
	uint64_t last_dirty;
	double predicted_ms;         /* downtime, if the guest were stopped now */
};

enum converge_what {
	CONVERGE_GO_ON,
	CONVERGE_SWITCH,             /* more rounds gain nothing; if much is left, it must fit */
	CONVERGE_ENOUGH,             /* more rounds are not wanted: it need not fit */
};

void converge_begin(struct converge *c, uint64_t memory, uint64_t now_ns);

/* Longest downtime that is allowed now: max-downtime, reached in steps. */
double converge_allowed_ms(const struct converge *c, const struct flow_qos *q, uint64_t now_ns);
/* When the migration is to be complete; 0: no limit. */
uint64_t converge_deadline_ns(const struct converge *c, const struct flow_qos *q);

/* After each round: what now? Sets c->throttle and c->predicted_ms. */
enum converge_what converge_next(struct converge *c, const struct flow_qos *q,
				 const struct converge_round *r, uint64_t now_ns);

/* Downtime if `bytes` had to be placed in it. 0 while no rate is known. */
double converge_downtime_ms(const struct converge *c, const struct flow_qos *q, double bytes,
			    uint64_t fixed_ns);
