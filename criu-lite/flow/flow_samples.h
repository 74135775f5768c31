/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The story of a migration as JSON lines: what `migrate --progress json` prints and `report` reads.
 * Plain ASCII, one object per line, each with a "type":
 *
 *   begin   id guest pid target time policy{...}         once, first
 *   sample  elapsed phase round ... as struct flow_sample
 *   round   elapsed round dirty_bytes wire_bytes seconds  when a round is over
 *   result  status error remedy rounds total_seconds downtime_ms ...  once, last
 *
 * Sizes are bytes, rates bytes per second. A reader skips types and keys that it does not know.
 */
#pragma once

#include "flow_live.h"
#include "flow_report.h"

/* Each appends one line with its newline. */
void samples_begin(struct buf *out, const struct flow_live *l);
void samples_sample(struct buf *out, const struct flow_sample *s);
void samples_round(struct buf *out, double elapsed, uint32_t round, uint64_t dirty_bytes,
		   uint64_t wire_bytes, double seconds);

/* What the report itself does not hold. */
struct samples_more {
	uint64_t same_pages;
	double predicted_ms;         /* downtime, as estimated before the switch; 0: it was not */
};
/* status: "completed", "failed", "aborted". `why` may be NULL. */
void samples_result(struct buf *out, const struct flow_report *r, const char *status,
		    const struct samples_more *more, const struct err *why);
