/* SPDX-License-Identifier: Apache-2.0 */
/* What a migration did: numbers for the user. */
#pragma once

#include "pages_send.h"

#define REPORT_MARKS 16

struct flow_report {
	uint64_t start_ns, total_bytes;
	uint32_t rounds;
	uint64_t dirty_bytes, wire_bytes, pages, zero_pages;
	double predicted_ms;         /* downtime, as estimated with the guest stopped */
	uint64_t freeze_ns, thaw_ns, last_mark_ns;
	struct {
		const char *name;
		uint64_t ns;
	} mark[REPORT_MARKS];
	unsigned marks;
};

void flow_report_round(struct flow_report *r, uint32_t number, uint64_t dirty,
		       const struct pages_stats *st, uint64_t ns);
void flow_report_freeze(struct flow_report *r);          /* the guest is about to stop */
void flow_report_mark(struct flow_report *r, const char *name);  /* a part of the downtime ends */
void flow_report_thaw(struct flow_report *r);            /* it runs again */
void flow_report_print(const struct flow_report *r, bool json);
void flow_report_free(struct flow_report *r);
