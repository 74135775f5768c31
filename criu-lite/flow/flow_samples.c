/* SPDX-License-Identifier: Apache-2.0 */
#include "flow_samples.h"

#include <jansson.h>
#include <math.h>
#include <string.h>
#include <time.h>

#include "cleanup.h"
#include "io.h"

/* Nine digits: a byte count below 1 GB/s is exact, and 0.1 stays "0.1". */
#define DIGITS 9

static void put_line(struct buf *out, json_t *line)
{
	_cleanup_free_ char *text = json_dumps(line, JSON_COMPACT | JSON_ENSURE_ASCII |
						     JSON_REAL_PRECISION(DIGITS));

	if (!text)
		abort(); /* no memory: all values are valid by construction */
	buf_put(out, text, strlen(text));
	buf_put(out, "\n", 1);
	json_decref(line);
}

/* A program may have any bytes as its name; JSON has only UTF-8. */
static json_t *text_of(const char *s)
{
	json_t *j = json_string(s);
	_cleanup_free_ char *copy = NULL;

	if (j)
		return j;
	copy = xstrdup(s);
	for (char *p = copy; *p; p++)
		if (*p & 0x80)
			*p = '?';
	return json_string(copy);
}

static void set_text(json_t *o, const char *key, const char *s)
{
	json_object_set_new(o, key, text_of(s));
}

static void set_count(json_t *o, const char *key, uint64_t n)
{
	json_object_set_new(o, key, json_integer((json_int_t)n));
}

/* A rate over no time is no number. */
static void set_real(json_t *o, const char *key, double d)
{
	json_object_set_new(o, key, json_real(isfinite(d) ? d : 0));
}

static json_t *line_of(const char *type)
{
	json_t *o = json_object();

	set_text(o, "type", type);
	return o;
}

static json_t *policy_of(const struct flow_qos *q)
{
	json_t *o = json_object();

	for (const struct qos_row *row = qos_table; row->name; row++) {
		const char *at = (const char *)q + row->at;
		char text[64];

		qos_text(q, row, text, sizeof(text));
		if (row->kind == QOS_BOOL)
			json_object_set_new(o, row->name, json_boolean(*(const bool *)at));
		else if (row->kind == QOS_NUMBER && *(const int64_t *)at != QOS_SAME)
			json_object_set_new(o, row->name, json_integer(*(const int64_t *)at));
		else
			set_text(o, row->name, text);
	}
	return o;
}

void samples_begin(struct buf *out, const struct flow_live *l)
{
	json_t *o = line_of("begin");
	time_t now = time(NULL);
	char when[32];
	struct tm tm;

	strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
	set_text(o, "id", l->id);
	set_text(o, "guest", l->guest);
	set_count(o, "pid", (uint64_t)l->pid);
	set_text(o, "target", l->target);
	set_text(o, "time", when);
	json_object_set_new(o, "policy", policy_of(&l->qos));
	put_line(out, o);
}

void samples_sample(struct buf *out, const struct flow_sample *s)
{
	json_t *o = line_of("sample");

	set_real(o, "elapsed", s->elapsed);
	set_text(o, "phase", s->phase ? s->phase : "");
	set_count(o, "round", s->round);
	set_count(o, "total_bytes", s->total_bytes);
	set_count(o, "remaining_bytes", s->remaining_bytes);
	set_count(o, "wire_bytes", s->wire_bytes);
	set_count(o, "pages", s->pages);
	set_count(o, "zero_pages", s->zero_pages);
	set_count(o, "same_pages", s->same_pages);
	set_real(o, "dirty_rate", s->dirty_rate);
	set_real(o, "wire_rate", s->wire_rate);
	set_real(o, "placed_rate", s->placed_rate);
	set_real(o, "compression", s->compression);
	set_real(o, "throttle", s->throttle);
	set_real(o, "predicted_ms", s->predicted_ms);
	set_real(o, "allowed_ms", s->allowed_ms);
	put_line(out, o);
}

void samples_round(struct buf *out, double elapsed, uint32_t round, uint64_t dirty_bytes,
		   uint64_t wire_bytes, double seconds)
{
	json_t *o = line_of("round");

	set_real(o, "elapsed", elapsed);
	set_count(o, "round", round);
	set_count(o, "dirty_bytes", dirty_bytes);
	set_count(o, "wire_bytes", wire_bytes);
	set_real(o, "seconds", seconds);
	put_line(out, o);
}

/* Parts of the same name (a mark in a loop) are one part. */
static json_t *parts_of(const struct flow_report *r)
{
	json_t *o = json_object();

	for (unsigned i = 0; i < r->marks; i++) {
		double ms = (double)r->mark[i].ns / 1e6;

		set_real(o, r->mark[i].name,
			 ms + json_real_value(json_object_get(o, r->mark[i].name)));
	}
	return o;
}

void samples_result(struct buf *out, const struct flow_report *r, const char *status,
		    const struct samples_more *more, const struct err *why)
{
	json_t *o = line_of("result");
	bool stood = r->freeze_ns && r->thaw_ns > r->freeze_ns;
	uint64_t end = stood ? r->thaw_ns : io_now_ns();

	set_text(o, "status", status);
	if (why && err_is(why)) {
		set_text(o, "error", why->text);
		set_text(o, "remedy", why->remedy);
	}
	set_count(o, "rounds", r->rounds);
	set_real(o, "total_seconds", r->start_ns ? (double)(end - r->start_ns) / 1e9 : 0);
	set_real(o, "downtime_ms", stood ? (double)(r->thaw_ns - r->freeze_ns) / 1e6 : 0);
	set_real(o, "predicted_ms", more->predicted_ms);
	json_object_set_new(o, "downtime_parts_ms", parts_of(r));
	set_count(o, "memory_bytes", r->total_bytes);
	set_count(o, "dirty_bytes", r->dirty_bytes);
	set_count(o, "wire_bytes", r->wire_bytes);
	set_count(o, "pages", r->pages);
	set_count(o, "zero_pages", r->zero_pages);
	set_count(o, "same_pages", more->same_pages);
	put_line(out, o);
}
