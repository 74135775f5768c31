/* SPDX-License-Identifier: Apache-2.0 */
/* What the control socket says to a request. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "flow_ctl.h"
#include "flow_samples.h"

static json_t *line_to_json(struct buf *line)
{
	json_t *o = json_loadb((const char *)line->at, line->n, 0, NULL);

	json_object_del(o, "type");
	json_object_del(o, "time");
	buf_free(line);
	return o;
}

static bool is_over(const struct flow_live *l)
{
	return !strcmp(l->now.phase, "completed") || !strcmp(l->now.phase, "failed");
}

/* The same words for the same things as in the samples of --progress json. */
static int say_status(struct flow_live *l, const json_t *q, json_t *out, struct err *e)
{
	struct buf head = { 0 }, sample = { 0 };
	json_t *more;

	pthread_mutex_lock(&l->lock);
	samples_begin(&head, l);
	samples_sample(&sample, &l->now);
	more = json_pack("{s:i, s:b, s:b}", "changes", (int)l->changes, "abort", (int)l->abort,
			 "force", (int)l->force);
	pthread_mutex_unlock(&l->lock);
	json_object_update_new(out, line_to_json(&head));
	json_object_update_new(out, line_to_json(&sample));
	json_object_update_new(out, more);
	return 0;
}

static int value_text(const char *key, const json_t *v, char *buf, size_t size, struct err *e)
{
	if (json_is_string(v))
		snprintf(buf, size, "%s", json_string_value(v));
	else if (json_is_integer(v))
		snprintf(buf, size, "%lld", (long long)json_integer_value(v));
	else if (json_is_boolean(v))
		snprintf(buf, size, "%s", json_is_true(v) ? "yes" : "no");
	else
		return err_say(e, EINVAL, "%s: a text, a number or true or false is expected", key);
	return 0;
}

static int unknown_key(const char *key, struct err *e)
{
	char near[128];

	qos_nearest(key, near, sizeof(near));
	err_say(e, EINVAL, "unknown key %.64s", key);
	return err_remedy(e, "like it: %s; criu-lite ctl status names them all", near);
}

static int not_live(const char *key, struct err *e)
{
	char all[400];
	size_t n = 0;

	for (const struct qos_row *r = qos_table; r->name && n < sizeof(all); r++)
		if (r->live)
			n += (size_t)snprintf(all + n, sizeof(all) - n, "%s%s", n ? ", " : "",
					      r->name);
	err_say(e, EINVAL, "%s is fixed when a migration begins", key);
	return err_remedy(e, "these can be changed while it runs: %s", all);
}

static int set_one(struct flow_qos *q, const char *key, const json_t *v, char *said, size_t size,
		   struct err *e)
{
	const struct qos_row *row = qos_find(key);
	char text[128], was[64], is[64];
	int ret;

	if (!row)
		return unknown_key(key, e);
	if (!row->live)
		return not_live(key, e);
	if ((ret = value_text(key, v, text, sizeof(text), e)) < 0)
		return ret;
	qos_text(q, row, was, sizeof(was));
	if (qos_set(q, row, text, e) < 0)
		return err_in(e, "%s", key);
	qos_text(q, row, is, sizeof(is));
	size_t n = strlen(said);
	snprintf(said + n, size - n, "%s%s: %s, was %s", n ? "; " : "", key, is, was);
	return 0;
}

static int set_values(struct flow_live *l, const json_t *request, json_t *out, struct err *e)
{
	json_t *values = json_object_get(request, "values"), *v;
	struct flow_qos q = l->qos;
	char said[1024] = "";
	const char *key;
	int ret;

	if (!json_object_size(values)) {
		err_say(e, EINVAL, "set: nothing to set");
		return err_remedy(e, "give KEY=VALUE; criu-lite ctl status names the keys");
	}
	if (!strcmp(l->now.phase, "switch") || is_over(l))
		return err_say(e, EBUSY, "too late: the guest is being switched, or has been");
	json_object_foreach(values, key, v)
		if ((ret = set_one(&q, key, v, said, sizeof(said), e)) < 0)
			return ret;
	if ((ret = qos_check(&q, e)) < 0)
		return ret;
	l->qos = q;
	l->changes++;
	json_object_set_new(out, "said", json_string(said));
	return 0;
}

static int do_set(struct flow_live *l, const json_t *request, json_t *out, struct err *e)
{
	pthread_mutex_lock(&l->lock);
	int ret = set_values(l, request, out, e);
	pthread_mutex_unlock(&l->lock);
	return ret;
}

static int do_abort(struct flow_live *l, const json_t *request, json_t *out, struct err *e)
{
	pthread_mutex_lock(&l->lock);
	bool over = is_over(l), switching = !strcmp(l->now.phase, "switch");
	pthread_mutex_unlock(&l->lock);
	if (over)
		return err_say(e, EBUSY, "too late: the migration is over");
	l->abort = true;
	json_object_set_new(out, "said", json_string(switching ?
		"the guest stands still for the switch already: it runs on here, unless the target "
		"has been told to run it" :
		"the migration ends now; the guest runs on here at full speed"));
	return 0;
}

static int do_force(struct flow_live *l, const json_t *request, json_t *out, struct err *e)
{
	char said[160];

	pthread_mutex_lock(&l->lock);
	bool late = is_over(l) || !strcmp(l->now.phase, "switch");
	double ms = l->now.predicted_ms;
	pthread_mutex_unlock(&l->lock);
	if (late)
		return err_say(e, EBUSY, "too late: the guest is being switched, or has been");
	if (l->abort)
		return err_say(e, EBUSY, "the migration is being aborted");
	l->force = true;
	snprintf(said, sizeof(said),
		 "the guest is stopped now, whatever max-downtime says, the rest is "
		 "copied, and it runs on the target; predicted downtime: %.0f ms",
		 ms);
	json_object_set_new(out, "said", json_string(said));
	return 0;
}

static const struct {
	const char *name;
	int (*run)(struct flow_live *l, const json_t *request, json_t *out, struct err *e);
} commands[] = {
	{ "status", say_status }, { "set", do_set }, { "abort", do_abort },
	{ "force-complete", do_force },
};

static int run(struct flow_live *l, const char *line, size_t n, json_t *out, struct err *e)
{
	json_error_t why;
	json_t *request = json_loadb(line, n, JSON_REJECT_DUPLICATES, &why);
	const char *name = json_string_value(json_object_get(request, "cmd"));
	int ret = -EINVAL;

	if (!request)
		err_say(e, EINVAL, "the request is no JSON: %s", why.text);
	else if (!name)
		err_say(e, EINVAL, "the request has no \"cmd\"");
	else
		err_say(e, EINVAL, "unknown command %.64s", name);
	err_remedy(e, "status, set, abort and force-complete are known");
	for (size_t i = 0; name && i < sizeof(commands) / sizeof(commands[0]); i++) {
		if (strcmp(commands[i].name, name))
			continue;
		err_clear(e);
		ret = commands[i].run(l, request, out, e);
	}
	json_decref(request);
	return ret;
}

char *ctl_answer(struct flow_live *l, const char *line, size_t n)
{
	struct err e = ERR_INIT;
	json_t *out = json_object();

	if (run(l, line, n, out, &e) < 0) {
		json_object_clear(out);
		json_object_set_new(out, "ok", json_false());
		/* what was quoted may have been cut within a letter */
		json_t *text = json_string(e.text);
		json_object_set_new(out, "error", text ? text : json_string("this cannot be said"));
		json_object_set_new(out, "remedy", json_string(e.remedy));
	} else {
		json_object_set_new(out, "ok", json_true());
	}
	char *said = json_dumps(out, JSON_COMPACT | JSON_ENSURE_ASCII | JSON_REAL_PRECISION(9));
	json_decref(out);
	char *answer = xasprintf("%s\n", said ? said : "{\"ok\":false}");
	free(said);
	return answer;
}
