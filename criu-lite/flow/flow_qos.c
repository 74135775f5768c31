/* SPDX-License-Identifier: Apache-2.0 */
#include "flow_qos.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "vec.h"

/* In the order of the enums in flow_qos.h and of enum comp_method. */
static const char *const modes[] = { "ramp", "model", NULL };
static const char *const throttles[] = { "sigstop", "freezer", NULL };
static const char *const methods[] = { "none", "zstd", "auto", NULL };
static const char *const actions[] = { "abort", "suspend", NULL };

#define DAYS (24 * 60 * 60)
#define AT(field) offsetof(struct flow_qos, field)
#define NUMBER(name, field, min, max, unit, live, about) \
	{ name, QOS_NUMBER, AT(field), min, max, NULL, unit, live, about }
#define CHOICE(name, field, choices, unit, live, about) \
	{ name, QOS_CHOICE, AT(field), 0, 0, choices, unit, live, about }

const struct qos_row qos_table[QOS_ROWS + 1] = {
	NUMBER("max-downtime", max_downtime, 1, 2000000, "MS", true,
	       "the guest may stand still so long (default 300)"),
	NUMBER("downtime-steps", downtime_steps, 1, 1000, "N", false,
	       "allow max-downtime in N growing steps (default 1)"),
	NUMBER("downtime-delay", downtime_delay, 0, 30 * DAYS, "SECONDS", false,
	       "per GiB from one step to the next (default 75)"),
	{ "auto-converge", QOS_BOOL, AT(auto_converge), 0, 1, NULL, "yes|no", true,
	  "slow a guest that outruns the link (default yes)" },
	NUMBER("auto-converge-initial", ac_initial, 1, 99, "PCT", true,
	       "the first throttle (default 20)"),
	NUMBER("auto-converge-increment", ac_increment, 1, 99, "PCT", true,
	       "more of it each time (default 10)"),
	NUMBER("auto-converge-max", ac_max, 1, 99, "PCT", true,
	       "never more than this (default 99)"),
	NUMBER("throttle-trigger-threshold", ac_threshold, 1, 100, "PCT", true,
	       "dirtied of sent bytes that start it (default 50)"),
	CHOICE("auto-converge-mode", ac_mode, modes, "MODE", true,
	       "ramp (default) or model: how much is found"),
	CHOICE("throttle", throttle, throttles, "MEANS", false, "sigstop (default) or freezer"),
	NUMBER("bandwidth", bandwidth, 0, 1 << 20, "MIBS", true,
	       "MiB/s, all connections together (default 0: no limit)"),
	NUMBER("switchover-bandwidth", switchover_bandwidth, QOS_SAME, 1 << 20, "MIBS", true,
	       "the same while the guest stands still (default same)"),
	NUMBER("parallel-connections", connections, 1, 64, "N", true, "for pages (default 2)"),
	CHOICE("comp-method", comp_method, methods, "METHOD", true, "none, zstd or auto (default)"),
	NUMBER("comp-level", comp_level, 1, 19, "N", true, "of zstd (default 1)"),
	NUMBER("timeout", timeout, 0, 365 * DAYS, "SECONDS", true,
	       "the whole may take so long (default 0: no limit)"),
	NUMBER("timeout-per-gib", timeout_per_gib, 0, 365 * DAYS, "SECONDS", true,
	       "and so long per GiB, 2 at least (default 0)"),
	CHOICE("timeout-action", timeout_action, actions, "ACTION", true,
	       "then abort (default), or suspend: switch at once"),
	NUMBER("max-rounds", max_rounds, 0, 100000, "N", false,
	       "switch after N rounds in any case (default 0: never)"),
};

void qos_defaults(struct flow_qos *q)
{
	*q = (struct flow_qos){
		.max_downtime = 300, .downtime_steps = 1, .downtime_delay = 75,
		.auto_converge = true, .ac_initial = 20, .ac_increment = 10, .ac_max = 99,
		.ac_threshold = 50, .ac_mode = CONVERGE_RAMP, .throttle = THROTTLE_SIGSTOP,
		.switchover_bandwidth = QOS_SAME, .connections = 2,
		.comp_method = COMP_AUTO,
		.comp_level = 1, .timeout_action = TIMEOUT_ABORT,
	};
}

const struct qos_row *qos_find(const char *name)
{
	for (const struct qos_row *r = qos_table; r->name; r++)
		if (!strcmp(r->name, name))
			return r;
	return NULL;
}

void qos_allowed(const struct qos_row *row, char *buf, size_t size)
{
	bool same = row->kind == QOS_NUMBER && row->min == QOS_SAME;
	size_t n = 0;

	switch (row->kind) {
	case QOS_BOOL:
		snprintf(buf, size, "yes or no");
		break;
	case QOS_NUMBER:
		snprintf(buf, size, "a number from %ld to %ld%s", (long)(same ? 0 : row->min),
			 (long)row->max, same ? ", or same" : "");
		break;
	case QOS_CHOICE:
		for (size_t i = 0; row->choices[i] && n < size; i++)
			n += (size_t)snprintf(buf + n, size - n, "%s%s", i ? ", " : "",
					      row->choices[i]);
		break;
	}
}

static bool read_bool(const char *text, bool *out)
{
	static const char *const words[] = { "no", "yes", "false", "true", "0", "1" };

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		if (!strcmp(words[i], text)) {
			*out = i & 1;
			return true;
		}
	}
	return false;
}

static bool read_number(const struct qos_row *row, const char *text, int64_t *out)
{
	bool same = row->min == QOS_SAME;
	char *end;

	if (same && !strcmp(text, "same")) {
		*out = QOS_SAME;
		return true;
	}
	/* strtoll skips white space and takes a sign: neither is a number here */
	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	long long n = strtoll(text, &end, 10);
	if (errno || *end || n < (same ? 0 : row->min) || n > row->max)
		return false;
	*out = n;
	return true;
}

static bool read_choice(const struct qos_row *row, const char *text, int *out)
{
	for (int i = 0; row->choices[i]; i++) {
		if (!strcmp(row->choices[i], text)) {
			*out = i;
			return true;
		}
	}
	return false;
}

int qos_set(struct flow_qos *q, const struct qos_row *row, const char *text, struct err *e)
{
	void *at = (char *)q + row->at;
	char allowed[128];
	bool good = row->kind == QOS_BOOL ? read_bool(text, at) :
		    row->kind == QOS_NUMBER ? read_number(row, text, at) :
		    read_choice(row, text, at);

	if (good)
		return 0;
	qos_allowed(row, allowed, sizeof(allowed));
	err_say(e, EINVAL, "%.100s: wrong value", *text ? text : "\"\"");
	return err_remedy(e, "allowed for %s: %s", row->name, allowed);
}

void qos_text(const struct flow_qos *q, const struct qos_row *row, char *buf, size_t size)
{
	const void *at = (const char *)q + row->at;
	int64_t n;

	switch (row->kind) {
	case QOS_BOOL:
		snprintf(buf, size, "%s", *(const bool *)at ? "yes" : "no");
		break;
	case QOS_NUMBER:
		n = *(const int64_t *)at;
		if (n == QOS_SAME)
			snprintf(buf, size, "same");
		else
			snprintf(buf, size, "%ld", (long)n);
		break;
	case QOS_CHOICE:
		snprintf(buf, size, "%s", row->choices[*(const int *)at]);
		break;
	}
}

int qos_check(const struct flow_qos *q, struct err *e)
{
	if (q->ac_initial > q->ac_max) {
		err_say(e, EINVAL, "auto-converge-initial %ld is above auto-converge-max %ld",
			(long)q->ac_initial, (long)q->ac_max);
		return err_remedy(e, "lower the one or raise the other");
	}
	return 0;
}

/* How many letters must be changed, added or left out to make one of the other (Levenshtein), and
 * nothing if one is a part of the other. */
static unsigned distance(const char *a, const char *b)
{
	unsigned row[64];
	size_t n = strlen(b);

	if (strstr(b, a) || strstr(a, b))
		return 0;
	for (size_t j = 0; j <= n; j++)
		row[j] = (unsigned)j;
	for (size_t i = 1; a[i - 1]; i++) {
		unsigned corner = row[0];

		row[0] = (unsigned)i;
		for (size_t j = 1; j <= n; j++) {
			unsigned best = corner + (a[i - 1] != b[j - 1]);

			corner = row[j];
			if (row[j] + 1 < best)
				best = row[j] + 1;
			if (row[j - 1] + 1 < best)
				best = row[j - 1] + 1;
			row[j] = best;
		}
	}
	return row[n];
}

void qos_nearest(const char *wrong, char *buf, size_t size)
{
	char word[64];
	unsigned best = ~0u;
	size_t n = 0;

	snprintf(word, sizeof(word), "%s", wrong);
	for (char *c = word; *c; c++)
		if (*c == '_')
			*c = '-';
	for (const struct qos_row *r = qos_table; r->name; r++)
		if (distance(word, r->name) < best)
			best = distance(word, r->name);
	for (const struct qos_row *r = qos_table; r->name && n < size; r++)
		if (distance(word, r->name) == best)
			n += (size_t)snprintf(buf + n, size - n, "%s%s", n ? ", " : "", r->name);
}
