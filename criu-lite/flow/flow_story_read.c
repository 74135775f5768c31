/* SPDX-License-Identifier: Apache-2.0 */
/* Samples as JSON lines to struct story: line by line, so that only numbers stay in memory. */
#include "flow_story_int.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "cleanup.h"

/* Of foreign input: no line that migrate writes comes near them. */
#define LINE_MAX_BYTES (1u << 20)
#define TEXT_MAX       2000
#define PAIRS_MAX      200
#define NUMBER_MAX     1e18

struct key {
	const char *name;
	size_t at;
};

#define KEY(type, name, field) { name, offsetof(struct type, field) }

static const struct key sample_keys[] = {
	KEY(story_sample, "elapsed", elapsed), KEY(story_sample, "round", round),
	KEY(story_sample, "total_bytes", total), KEY(story_sample, "remaining_bytes", remaining),
	KEY(story_sample, "dirty_rate", dirty_rate), KEY(story_sample, "wire_rate", wire_rate),
	KEY(story_sample, "placed_rate", placed_rate),
	KEY(story_sample, "throttle", throttle), KEY(story_sample, "compression", compression),
	KEY(story_sample, "predicted_ms", predicted), KEY(story_sample, "allowed_ms", allowed),
	{ 0 },
};

static const struct key round_keys[] = {
	KEY(story_round, "elapsed", elapsed), KEY(story_round, "round", number),
	KEY(story_round, "dirty_bytes", dirty), KEY(story_round, "wire_bytes", wire),
	KEY(story_round, "seconds", seconds), { 0 },
};

static const struct key result_keys[] = {
	KEY(story_result, "rounds", rounds), KEY(story_result, "total_seconds", total_s),
	KEY(story_result, "downtime_ms", downtime_ms),
	KEY(story_result, "predicted_ms", predicted_ms),
	KEY(story_result, "memory_bytes", memory), KEY(story_result, "dirty_bytes", dirty),
	KEY(story_result, "wire_bytes", wire), KEY(story_result, "pages", pages),
	KEY(story_result, "zero_pages", zero), KEY(story_result, "same_pages", same), { 0 },
};

static bool sane(const json_t *j)
{
	double d = json_number_value(j);

	return json_is_number(j) && isfinite(d) && d >= 0 && d <= NUMBER_MAX;
}

/* A number that is not there is 0: earlier and later versions say less or more. */
static int read_number(const json_t *o, const char *name, double *to, struct err *e)
{
	const json_t *j = json_object_get(o, name);

	if (!j || json_is_null(j))
		return 0;
	if (!sane(j))
		return err_say(e, EINVAL, "\"%s\" is no number from 0 to %.0e", name, NUMBER_MAX);
	*to = json_number_value(j);
	return 0;
}

static int read_numbers(const json_t *o, const struct key *keys, void *to, struct err *e)
{
	int ret = 0;

	for (; ret == 0 && keys->name; keys++)
		ret = read_number(o, keys->name, (double *)((char *)to + keys->at), e);
	return ret;
}

/* A copy that does not end in the middle of a UTF-8 character. */
static char *short_copy(const char *s)
{
	size_t n = strlen(s);

	if (n > TEXT_MAX)
		for (n = TEXT_MAX; n && (s[n] & 0xc0) == 0x80; n--)
			;
	char *copy = xmalloc(n + 1);
	memcpy(copy, s, n);
	copy[n] = 0;
	return copy;
}

static int read_text(const json_t *o, const char *name, char **to, struct err *e)
{
	const json_t *j = json_object_get(o, name);

	if (!j || json_is_null(j))
		return 0;
	if (!json_is_string(j))
		return err_say(e, EINVAL, "\"%s\" is no text", name);
	free(*to);
	*to = short_copy(json_string_value(j));
	return 0;
}

static char *value_text(const json_t *j)
{
	if (json_is_string(j))
		return short_copy(json_string_value(j));
	if (json_is_boolean(j))
		return xstrdup(json_is_true(j) ? "yes" : "no");
	if (json_is_integer(j))
		return xasprintf("%lld", (long long)json_integer_value(j));
	return json_is_real(j) ? xasprintf("%g", json_real_value(j)) : NULL;
}

static int read_begin(struct story *s, json_t *o, struct err *e)
{
	json_t *policy = json_object_get(o, "policy"), *j;
	const char *key;
	int ret;

	if (s->guest)
		return err_say(e, EINVAL, "a second migration begins; a story is of one");
	if ((ret = read_text(o, "id", &s->id, e)) < 0 ||
	    (ret = read_text(o, "guest", &s->guest, e)) < 0 ||
	    (ret = read_text(o, "target", &s->target, e)) < 0 ||
	    (ret = read_text(o, "time", &s->time, e)) < 0 ||
	    (ret = read_number(o, "pid", &s->pid, e)) < 0)
		return ret;
	if (!s->guest)
		s->guest = xstrdup("a guest");
	json_object_foreach(policy, key, j) {
		char *value = value_text(j);

		if (value && s->policy.n < PAIRS_MAX)
			vec_push(&s->policy, (struct story_pair){ short_copy(key), value });
		else
			free(value);
	}
	return 0;
}

static int read_sample(struct story *s, json_t *o, struct err *e)
{
	struct story_sample got = { 0 };
	int ret = read_numbers(o, sample_keys, &got, e);

	if (ret < 0)
		return ret;
	if (!json_object_get(o, "elapsed"))
		return err_say(e, EINVAL, "a sample without \"elapsed\"");
	/* Two threads of migrate may have written theirs in the other order. */
	if (s->sample.n && got.elapsed < s->sample.at[s->sample.n - 1].elapsed)
		got.elapsed = s->sample.at[s->sample.n - 1].elapsed;
	vec_push(&s->sample, got);
	return 0;
}

static int read_round(struct story *s, json_t *o, struct err *e)
{
	struct story_round got = { 0 };
	int ret = read_numbers(o, round_keys, &got, e);

	if (ret == 0)
		vec_push(&s->round, got);
	return ret;
}

static int read_result(struct story *s, json_t *o, struct err *e)
{
	json_t *parts = json_object_get(o, "downtime_parts_ms"), *j;
	const char *key;
	int ret;

	if (s->status)
		return err_say(e, EINVAL, "a second result; a story is of one migration");
	if ((ret = read_text(o, "status", &s->status, e)) < 0 ||
	    (ret = read_text(o, "error", &s->error, e)) < 0 ||
	    (ret = read_text(o, "remedy", &s->remedy, e)) < 0 ||
	    (ret = read_numbers(o, result_keys, &s->result, e)) < 0)
		return ret;
	if (!s->status)
		return err_say(e, EINVAL, "a result without \"status\"");
	json_object_foreach(parts, key, j) {
		if (!sane(j))
			return err_say(e, EINVAL, "a part of the downtime is no number");
		if (s->part.n < PAIRS_MAX)
			vec_push(&s->part, (struct story_part){ short_copy(key),
								json_number_value(j) });
	}
	return 0;
}

static const struct {
	const char *type;
	int (*read)(struct story *s, json_t *o, struct err *e);
} readers[] = {
	{ "begin", read_begin }, { "sample", read_sample },
	{ "round", read_round }, { "result", read_result },
};

/* 1: of a known type, 0: of none, -EINVAL, or -ENODATA if it is no JSON. */
static int read_line(struct story *s, const char *line, size_t n, struct err *e)
{
	json_error_t why;
	json_t *o = n > LINE_MAX_BYTES ? NULL : json_loadb(line, n, 0, &why);
	int ret = 0;

	if (!o && n > LINE_MAX_BYTES)
		return err_say(e, EINVAL, "longer than %u bytes", LINE_MAX_BYTES);
	if (!o) {
		char *quote = strstr(why.text, " near "); /* quotes bytes that no one checked */

		if (quote)
			*quote = 0;
		return err_say(e, ENODATA, "no JSON: %s at column %d", why.text, why.column);
	}
	const char *type = json_string_value(json_object_get(o, "type"));
	if (!json_is_object(o))
		ret = err_say(e, EINVAL, "no JSON object");
	for (size_t i = 0; type && i < sizeof(readers) / sizeof(readers[0]); i++)
		if (!strcmp(type, readers[i].type)) {
			ret = readers[i].read(s, o, e);
			ret = ret < 0 ? ret : 1;
			break;
		}
	json_decref(o);
	return ret;
}

static bool blank(const char *line, size_t n)
{
	while (n && strchr(" \t\r", line[n - 1]) && line[n - 1])
		n--;
	return n == 0;
}

int story_read(struct story *s, const char *jsonl, size_t n, struct err *e)
{
	const char *end = jsonl + n, *line = jsonl;
	size_t known = 0;

	for (size_t number = 1; line < end; number++) {
		const char *stop = memchr(line, '\n', (size_t)(end - line));
		size_t len = (size_t)((stop ? stop : end) - line);
		int ret = blank(line, len) ? 0 : read_line(s, line, len, e);

		if (ret == -ENODATA && !stop && known) {
			s->cut_line = number;
			err_clear(e);
			break;
		}
		if (ret < 0) {
			err_in(e, "line %zu", number);
			e->code = EINVAL;
			return err_remedy(e,
					  "give what `criu-lite migrate --progress json` printed "
					  "for one migration");
		}
		known += ret > 0;
		line = stop ? stop + 1 : end;
	}
	if (known)
		return 0;
	err_say(e, EINVAL, "no migration in it");
	return err_remedy(e, "give what `criu-lite migrate --progress json` printed");
}

double story_end(const struct story *s)
{
	double end = s->result.total_s;

	if (s->sample.n && s->sample.at[s->sample.n - 1].elapsed > end)
		end = s->sample.at[s->sample.n - 1].elapsed;
	vec_each(&s->round, r)
		if (r->elapsed > end)
			end = r->elapsed;
	return end;
}

void story_free(struct story *s)
{
	char *texts[] = { s->id, s->guest, s->target, s->time, s->status, s->error, s->remedy };

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		free(texts[i]);
	vec_each(&s->policy, p) {
		free(p->key);
		free(p->value);
	}
	vec_each(&s->part, p)
		free(p->name);
	vec_free(&s->policy);
	vec_free(&s->sample);
	vec_free(&s->round);
	vec_free(&s->part);
	*s = (struct story){ 0 };
}
