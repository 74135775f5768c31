/* SPDX-License-Identifier: Apache-2.0 */
/* Parts of flow_story: what is read (flow_story_read.c), drawn (_chart.c) and written (_text.c). */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "flow_story.h"
#include "vec.h"

struct story_sample {
	double elapsed, round, total, remaining, dirty_rate, wire_rate, placed_rate, throttle,
		compression, predicted, allowed;
};

struct story_round {
	double elapsed, number, dirty, wire, seconds;
};

struct story_result {
	double rounds, total_s, downtime_ms, predicted_ms, memory, dirty, wire, pages, zero, same;
};

struct story_pair {
	char *key, *value;
};

struct story_part {
	char *name;
	double ms;
};

/* Texts are NULL if they were not said. */
struct story {
	char *id, *guest, *target, *time;
	double pid;
	VEC(struct story_pair) policy;
	VEC(struct story_sample) sample;     /* elapsed never falls */
	VEC(struct story_round) round;
	VEC(struct story_part) part;         /* of the downtime */
	char *status, *error, *remedy;       /* of the result; status NULL: there was none */
	struct story_result result;
	size_t cut_line;                     /* number of a last line that is not whole; 0: none */
};

int story_read(struct story *s, const char *jsonl, size_t n, struct err *e);
void story_free(struct story *s);
double story_end(const struct story *s);     /* s: where the time axis ends */

/* ---- charts ---- */

void story_charts(FILE *out, const struct story *s);
/* The downtime as a bar of its parts, with a legend. */
void story_bar(FILE *out, const struct story *s);

/* ---- text ---- */

extern const char story_style[];

/* Escaped for element content and quoted attributes; control characters become U+FFFD. */
void story_text(FILE *out, const char *s);

struct story_num {
	char at[40];
};
struct story_num story_bytes(double bytes);       /* "12.3 MiB" */
struct story_num story_rate(double bytes_per_s);  /* "12.3 MiB/s" */
struct story_num story_ms(double ms);             /* "4.90 ms", "1.25 s" */
struct story_num story_count(double n);           /* "1,234" */
