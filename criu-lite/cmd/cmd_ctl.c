/* SPDX-License-Identifier: Apache-2.0 */
/* ctl: watches and steers a migration that runs on this host. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "cmd.h"
#include "flow_ctl.h"
#include "flow_host.h"
#include "vec.h"

#define MIB (1024.0 * 1024)

static double number(const json_t *o, const char *key)
{
	return json_number_value(json_object_get(o, key));
}

static const char *text(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? s : "";
}

static void print_json(const json_t *o)
{
	json_dumpf(o, stdout, JSON_ENSURE_ASCII | JSON_REAL_PRECISION(9) | JSON_COMPACT);
	putchar('\n');
}

static void print_policy(const json_t *policy)
{
	for (const struct qos_row *r = qos_table; r->name; r++) {
		const json_t *v = json_object_get(policy, r->name);
		char *s = json_dumps(v, JSON_ENCODE_ANY);

		if (json_is_boolean(v))
			printf("  %-27s = %s\n", r->name, json_is_true(v) ? "yes" : "no");
		else
			printf("  %-27s = %s\n", r->name,
			       json_is_string(v) ? json_string_value(v) : s);
		free(s);
	}
}

static void print_status(const json_t *o)
{
	printf("%s: %s, pid %.0f, to %s\n", text(o, "ctl"), text(o, "guest"), number(o, "pid"),
	       text(o, "target"));
	printf("phase        %s, round %.0f, %.1f s\n", text(o, "phase"), number(o, "round"),
	       number(o, "elapsed"));
	printf("memory       %.1f MiB, remaining %.1f MiB\n", number(o, "total_bytes") / MIB,
	       number(o, "remaining_bytes") / MIB);
	printf("sent         %.1f MiB; pages %.0f, zero %.0f, unchanged %.0f\n",
	       number(o, "wire_bytes") / MIB, number(o, "pages"), number(o, "zero_pages"),
	       number(o, "same_pages"));
	printf("rates        dirty %.1f, placed %.1f, wire %.1f MiB/s; compression %.2f\n",
	       number(o, "dirty_rate") / MIB, number(o, "placed_rate") / MIB,
	       number(o, "wire_rate") / MIB, number(o, "compression"));
	printf("throttle     %.0f %%\n", number(o, "throttle"));
	printf("downtime     predicted %.0f ms, allowed %.0f ms\n", number(o, "predicted_ms"),
	       number(o, "allowed_ms"));
	if (json_is_true(json_object_get(o, "abort")))
		printf("it is being aborted\n");
	else if (json_is_true(json_object_get(o, "force")))
		printf("it is being completed by force\n");
	printf("policy\n");
	print_policy(json_object_get(o, "policy"));
}

/* ---- requests ---- */

static int ask(const struct cmd_line *l, const char *id, json_t *request, struct err *e)
{
	json_t *answer = NULL;
	int ret = ctl_ask(NULL, id, request, &answer, e);

	json_decref(request);
	if (ret < 0)
		return ret;
	if (l->flow.json)
		print_json(answer);
	else if (json_object_get(answer, "said"))
		printf("%s: %s\n", text(answer, "ctl"), text(answer, "said"));
	else
		print_status(answer);
	json_decref(answer);
	return 0;
}

static int request_set(char **args, int n, json_t **request, struct err *e)
{
	json_t *values = json_object();

	*request = json_pack("{s:s, s:o}", "cmd", "set", "values", values);
	for (int i = 0; i < n; i++) {
		char *equals = strchr(args[i], '=');
		_cleanup_free_ char *key = xstrdup(args[i]);

		if (!equals || equals == args[i]) {
			err_say(e, EINVAL, "ctl set %s: KEY=VALUE is expected", args[i]);
			return err_remedy(e, "criu-lite ctl status names the keys");
		}
		key[equals - args[i]] = '\0';
		json_t *value = json_string(equals + 1);
		if (!value || json_object_set_new(values, key, value) < 0)
			return err_say(e, EINVAL, "ctl set: %s is no text", args[i]);
	}
	return 0;
}

static int list(const struct cmd_line *l, const char *id, struct err *e)
{
	_cleanup_(ctl_ids_free) ctl_ids ids = { 0 };
	json_t *request = json_pack("{s:s}", "cmd", "status"), *all = json_array();
	int ret = ctl_list(NULL, &ids, e);

	vec_each(&ids, i) {
		struct err gone = ERR_INIT; /* it has ended meanwhile */
		json_t *o = NULL;

		if (ret < 0 || (id && strcmp(id, *i)) || ctl_ask(NULL, *i, request, &o, &gone) < 0)
			continue;
		json_array_append_new(all, o);
		if (l->flow.json)
			continue;
		if (json_array_size(all) == 1)
			printf("%-14s %8s %-16s %-28s %-10s %9s %12s\n", "ID", "PID", "GUEST",
			       "TARGET", "PHASE", "ELAPSED", "REMAINING");
		printf("%-14s %8.0f %-16s %-28s %-10s %7.1f s %8.1f MiB\n", *i, number(o, "pid"),
		       text(o, "guest"), text(o, "target"), text(o, "phase"), number(o, "elapsed"),
		       number(o, "remaining_bytes") / MIB);
	}
	if (ret == 0 && l->flow.json)
		print_json(all);
	json_decref(all);
	json_decref(request);
	return ret;
}

static int wrong(struct err *e)
{
	return err_remedy(e,
			  "say criu-lite ctl [ID] status, set KEY=VALUE, abort, force-complete or "
			  "list");
}

static bool is_verb(const char *s)
{
	static const char *const verbs[] = { "status", "set", "abort", "force-complete", "list" };

	for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++)
		if (!strcmp(verbs[i], s))
			return true;
	return false;
}

int cmd_ctl(struct cmd_line *l, struct err *e)
{
	const char *id = is_verb(l->args[0]) ? NULL : l->args[0];
	char **rest = l->args + (id != NULL);
	int n = l->n_args - (id != NULL), ret;
	json_t *request = NULL;

	if (n == 0 || !is_verb(rest[0])) {
		err_say(e, EINVAL, "ctl: what about %s?", n ? rest[0] : id);
		return wrong(e);
	}
	if ((n > 1) != !strcmp(rest[0], "set")) {
		err_say(e, EINVAL, "ctl %s: %s", rest[0],
			n > 1 ? "superfluous argument" : "set what?");
		return wrong(e);
	}
	if ((ret = flow_need_root(e)) < 0)
		return ret;
	if (!strcmp(rest[0], "list"))
		return list(l, id, e);
	if (strcmp(rest[0], "set"))
		return ask(l, id, json_pack("{s:s}", "cmd", rest[0]), e);
	if ((ret = request_set(rest + 1, n - 1, &request, e)) == 0)
		return ask(l, id, request, e);
	json_decref(request);
	return ret;
}
