/* SPDX-License-Identifier: Apache-2.0 */
#include "flow_report.h"

#include <stdio.h>

#include "io.h"
#include "log.h"

#define MIB (1024.0 * 1024.0)

void flow_report_round(struct flow_report *r, uint32_t number, uint64_t dirty,
		       const struct pages_stats *st, uint64_t ns)
{
	r->rounds = number;
	r->dirty_bytes += dirty;
	r->wire_bytes += st->bytes_wire;
	r->pages += st->pages;
	r->zero_pages += st->zero_pages;
	log_info("round %u: %.1f MiB dirty, %.1f MiB sent, %.1f ms", number, (double)dirty / MIB,
		 (double)st->bytes_wire / MIB, (double)ns / 1e6);
}

void flow_report_freeze(struct flow_report *r)
{
	r->freeze_ns = r->last_mark_ns = io_now_ns();
	r->marks = 0;
}

void flow_report_mark(struct flow_report *r, const char *name)
{
	uint64_t now = io_now_ns();

	if (r->marks < REPORT_MARKS) {
		r->mark[r->marks].name = name;
		r->mark[r->marks++].ns = now - r->last_mark_ns;
	}
	r->last_mark_ns = now;
}

void flow_report_thaw(struct flow_report *r) { r->thaw_ns = io_now_ns(); }

static void print_json(const struct flow_report *r, double total_s, double down_ms)
{
	printf("{\"rounds\": %u, \"total_seconds\": %.3f, \"downtime_ms\": %.3f, "
	       "\"predicted_ms\": %.3f, \"memory_bytes\": %lu, \"dirty_bytes\": %lu, "
	       "\"wire_bytes\": %lu, \"pages\": %lu, "
	       "\"zero_pages\": %lu, \"downtime_parts_ms\": {",
	       r->rounds, total_s, down_ms, r->predicted_ms, r->total_bytes, r->dirty_bytes,
	       r->wire_bytes, r->pages, r->zero_pages);
	for (unsigned i = 0; i < r->marks; i++)
		printf("%s\"%s\": %.3f", i ? ", " : "", r->mark[i].name,
		       (double)r->mark[i].ns / 1e6);
	printf("}}\n");
}

void flow_report_print(const struct flow_report *r, bool json)
{
	double total_s = (double)(r->thaw_ns - r->start_ns) / 1e9;
	double down_ms = (double)(r->thaw_ns - r->freeze_ns) / 1e6;

	if (json) {
		print_json(r, total_s, down_ms);
		return;
	}
	printf("migrated in %u rounds, %.2f s\n", r->rounds, total_s);
	printf("downtime:    %.2f ms (", down_ms);
	for (unsigned i = 0; i < r->marks; i++)
		printf("%s%s %.2f", i ? ", " : "", r->mark[i].name, (double)r->mark[i].ns / 1e6);
	printf(")\nestimated:   %.2f ms (off by %+.0f %%)\n"
	       "memory:      %.1f MiB in the guest, %.1f MiB read, %.1f MiB on the wire\n",
	       r->predicted_ms, down_ms > 0 ? (r->predicted_ms / down_ms - 1) * 100 : 0,
	       (double)r->total_bytes / MIB, (double)r->dirty_bytes / MIB,
	       (double)r->wire_bytes / MIB);
	printf("pages:       %lu, of them zero %lu\n", r->pages, r->zero_pages);
}

void flow_report_free(struct flow_report *r) { *r = (struct flow_report){ 0 }; }
