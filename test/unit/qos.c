/* SPDX-License-Identifier: Apache-2.0 */
/* The table of limits: names, defaults, what is taken and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "flow_qos.h"

/* Name, default, and whether `ctl set` may change it. */
static const struct {
	const char *name, *is;
	bool live;
} expected[] = {
	{ "max-downtime", "300", true }, { "downtime-steps", "1", false },
	{ "downtime-delay", "75", false }, { "auto-converge", "yes", true },
	{ "auto-converge-initial", "20", true }, { "auto-converge-increment", "10", true },
	{ "auto-converge-max", "99", true }, { "throttle-trigger-threshold", "50", true },
	{ "auto-converge-mode", "ramp", true }, { "throttle", "sigstop", false },
	{ "bandwidth", "0", true }, { "switchover-bandwidth", "same", true },
	{ "parallel-connections", "2", true }, { "comp-method", "auto", true },
	{ "comp-level", "1", true }, { "timeout", "0", true }, { "timeout-per-gib", "0", true },
	{ "timeout-action", "abort", true }, { "max-rounds", "0", false },
};

static void test_defaults(void **state)
{
	struct flow_qos q;
	char text[64];
	size_t n = 0;

	qos_defaults(&q);
	for (const struct qos_row *r = qos_table; r->name; r++, n++) {
		assert_string_equal(r->name, expected[n].name);
		qos_text(&q, r, text, sizeof(text));
		assert_string_equal(text, expected[n].is);
		assert_int_equal(r->live, expected[n].live);
		assert_non_null(r->about);
		assert_non_null(r->unit);
		assert_ptr_equal(qos_find(r->name), r);
	}
	assert_int_equal(n, QOS_ROWS);
	assert_int_equal(n, sizeof(expected) / sizeof(expected[0]));
	assert_null(qos_find("max_downtime"));
	assert_null(qos_find(""));
}

/* Each value goes where its row says and nowhere else. */
static void test_round_trip(void **state)
{
	struct err e = ERR_INIT;

	for (const struct qos_row *r = qos_table; r->name; r++) {
		const char *want = r->kind == QOS_BOOL     ? "no"
				   : r->kind == QOS_NUMBER ? "7"
							   : r->choices[1];
		struct flow_qos q, before;
		char text[64], other[64];

		qos_defaults(&q);
		before = q;
		assert_int_equal(qos_set(&q, r, want, &e), 0);
		qos_text(&q, r, text, sizeof(text));
		assert_string_equal(text, want);
		for (const struct qos_row *o = qos_table; o->name; o++) {
			if (o == r)
				continue;
			qos_text(&q, o, text, sizeof(text));
			qos_text(&before, o, other, sizeof(other));
			assert_string_equal(text, other);
		}
	}
}

static const struct {
	const char *name, *text;
	bool good;
} values[] = {
	{ "max-downtime", "1", true }, { "max-downtime", "0", false },
	{ "max-downtime", "2000000", true }, { "max-downtime", "2000001", false },
	{ "max-downtime", "-1", false }, { "max-downtime", "+1", false },
	{ "max-downtime", " 1", false }, { "max-downtime", "1 ", false },
	{ "max-downtime", "", false }, { "max-downtime", "1.5", false },
	{ "max-downtime", "0x10", false }, { "max-downtime", "same", false },
	{ "max-downtime", "99999999999999999999", false },
	{ "auto-converge-max", "99", true }, { "auto-converge-max", "100", false },
	{ "auto-converge-initial", "100", false }, { "auto-converge-initial", "0", false },
	{ "throttle-trigger-threshold", "100", true },
	{ "throttle-trigger-threshold", "101", false },
	{ "bandwidth", "0", true }, { "bandwidth", "-1", false }, { "bandwidth", "1048577", false },
	{ "switchover-bandwidth", "same", true }, { "switchover-bandwidth", "-1", false },
	{ "switchover-bandwidth", "0", true }, { "switchover-bandwidth", "sam", false },
	{ "parallel-connections", "0", false }, { "parallel-connections", "64", true },
	{ "parallel-connections", "65", false }, { "comp-level", "0", false },
	{ "comp-level", "20", false }, { "comp-method", "lz4", false },
	{ "comp-method", "auto", true }, { "comp-method", "AUTO", false },
	{ "auto-converge", "true", true }, { "auto-converge", "0", true },
	{ "auto-converge", "maybe", false }, { "auto-converge", "2", false },
	{ "timeout-action", "suspend", true }, { "timeout-action", "kill", false },
	{ "max-rounds", "0", true },
};

static void test_values(void **state)
{
	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
		struct err e = ERR_INIT;
		struct flow_qos q, before;

		qos_defaults(&q);
		memcpy(&before, &q, sizeof(q));
		int ret = qos_set(&q, qos_find(values[i].name), values[i].text, &e);
		if ((ret == 0) != values[i].good)
			fail_msg("%s = %s: %s", values[i].name, values[i].text, e.text);
		if (ret == 0)
			continue;
		assert_int_equal(ret, -EINVAL);
		assert_memory_equal(&before, &q, sizeof(q));
		assert_non_null(strstr(e.remedy, values[i].name));
	}
}

static void test_allowed(void **state)
{
	char text[128];

	qos_allowed(qos_find("parallel-connections"), text, sizeof(text));
	assert_string_equal(text, "a number from 1 to 64");
	qos_allowed(qos_find("switchover-bandwidth"), text, sizeof(text));
	assert_string_equal(text, "a number from 0 to 1048576, or same");
	qos_allowed(qos_find("comp-method"), text, sizeof(text));
	assert_string_equal(text, "none, zstd, auto");
	qos_allowed(qos_find("auto-converge"), text, sizeof(text));
	assert_string_equal(text, "yes or no");
	qos_allowed(qos_find("comp-method"), text, 7);      /* cut, not overrun */
	assert_string_equal(text, "none, ");
}

static void test_together(void **state)
{
	struct err e = ERR_INIT;
	struct flow_qos q;

	qos_defaults(&q);
	assert_int_equal(qos_check(&q, &e), 0);
	q.ac_initial = q.ac_max = 30;
	assert_int_equal(qos_check(&q, &e), 0);
	q.ac_max = 29;
	assert_int_equal(qos_check(&q, &e), -EINVAL);
	assert_non_null(strstr(e.text, "auto-converge-initial"));
	assert_true(*e.remedy);
}

static void test_nearest(void **state)
{
	char text[128];

	qos_nearest("bandwith", text, sizeof(text));
	assert_string_equal(text, "bandwidth");
	qos_nearest("max_downtime", text, sizeof(text));
	assert_string_equal(text, "max-downtime");
	qos_nearest("comp", text, sizeof(text));
	assert_string_equal(text, "comp-method, comp-level");
	qos_nearest("", text, sizeof(text));
	qos_nearest("........................................"
		    "........................................", text, sizeof(text));
	qos_nearest("timeout", text, 5);
	assert_string_equal(text, "time");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_defaults), cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_values), cmocka_unit_test(test_allowed),
		cmocka_unit_test(test_together), cmocka_unit_test(test_nearest),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
