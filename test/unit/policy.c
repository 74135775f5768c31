/* SPDX-License-Identifier: Apache-2.0 */
/* Policy files: what wins over what, which guest is meant, and what is refused where. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cleanup.h"
#include "flow_policy.h"
#include "io.h"

/* ---- one file ---- */

static int parse(struct policy_file *f, const char *text, struct err *e)
{
	err_clear(e);
	return policy_parse(f, "p.conf", text, strlen(text), e);
}

static void test_parse(void **state)
{
	static const char text[] = "\xef\xbb\xbf# all of it\n; also\n\nbandwidth = 50 # MiB/s\n"
		"  max-downtime=500;no\n\tauto-converge : no\r\nexecutable = /usr/bin/re*#x\n"
		"comp-level = 3 ; good\ncgroup = */redis.service#";
	struct policy_file f;
	struct err e = ERR_INIT;

	/* a ; that touches the value belongs to it */
	assert_int_equal(parse(&f, text, &e), -EINVAL);
	assert_non_null(strstr(e.text, "p.conf:5: max-downtime: 500;no"));
	policy_file_free(&f);

	char *good = strdup(text);
	memcpy(strstr(good, ";no"), "   ", 3);
	assert_int_equal(parse(&f, good, &e), 0);
	assert_int_equal(f.qos.bandwidth, 50);
	assert_int_equal(f.qos.max_downtime, 500);
	assert_false(f.qos.auto_converge);
	assert_int_equal(f.qos.comp_level, 3);
	assert_int_equal(f.line[qos_find("bandwidth") - qos_table], 4);
	assert_int_equal(f.line[qos_find("comp-level") - qos_table], 8);
	assert_int_equal(f.line[qos_find("timeout") - qos_table], 0);
	assert_string_equal(f.executable, "/usr/bin/re*#x");
	assert_string_equal(f.cgroup, "*/redis.service#");
	policy_file_free(&f);
	free(good);
	assert_int_equal(parse(&f, "", &e), 0);
	policy_file_free(&f);
}

static const struct {
	const char *text, *say;
} wrong[] = {
	{ "\n\nbandwith = 5\n", "p.conf:3: unknown key bandwith" },
	{ "bandwidth 5\n", "p.conf:1:" },
	{ "bandwidth\n", "p.conf:1:" },
	{ "nonsense\nbandwith = 5\n", "p.conf:1:" },
	{ "bandwith = 5\nnonsense\n", "p.conf:1: unknown key" },
	{ "= 5\n", "p.conf:1: unknown key" },
	{ "bandwidth =\n", "p.conf:1: bandwidth" },
	{ "bandwidth = -5", "p.conf:1: bandwidth: -5: wrong value" },
	{ "auto-converge-max = 100", "p.conf:1: auto-converge-max: 100" },
	{ "bandwidth = 1\nbandwidth = 1\n", "p.conf:2: bandwidth is given twice, first in line 1" },
	{ "cgroup = /a\ncgroup = /a\n", "p.conf:2: cgroup is given twice" },
	{ "[guest]\nbandwidth = 1\n", "p.conf:2: a policy has no sections" },
	{ "executable = redis\n", "p.conf:1: executable = redis: this matches nothing" },
	{ "executable =\n", "p.conf:1:" },
};

static void test_wrong(void **state)
{
	char longer[300];

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		struct policy_file f;
		struct err e = ERR_INIT;

		if (parse(&f, wrong[i].text, &e) == 0 ||
		    strncmp(e.text, wrong[i].say, strlen(wrong[i].say)))
			fail_msg("%s: %s", wrong[i].text, e.text);
		policy_file_free(&f);
	}
	memset(longer, '#', sizeof(longer));
	memcpy(longer, "\n\n", 2);
	struct policy_file f;
	struct err e = ERR_INIT;
	assert_int_equal(policy_parse(&f, "p", longer, sizeof(longer), &e), -EINVAL);
	assert_non_null(strstr(e.text, "p:3: the line is too long"));
	policy_file_free(&f);
	assert_int_equal(policy_parse(&f, "p", "a\0b", 3, &e), -EINVAL);
	assert_non_null(strstr(e.text, "p:1: this is no text"));
	policy_file_free(&f);
}

/* ---- a directory ---- */

struct place {
	char dir[64];
};

static void put(const struct place *p, const char *name, const char *text)
{
	_cleanup_free_ char *path = xasprintf("%s/%s", p->dir, name);

	unlink(path);
	FILE *f = fopen(path, "we");
	assert_non_null(f);
	fputs(text, f);
	assert_int_equal(fclose(f), 0);
}

static void take_away(const struct place *p, const char *name)
{
	_cleanup_free_ char *path = xasprintf("%s/%s", p->dir, name);

	remove(path);
}

static int set_up(void **state)
{
	struct place *p = xcalloc(1, sizeof(*p));

	strcpy(p->dir, "/tmp/unit-policy.XXXXXX");
	if (!mkdtemp(p->dir))
		return -1;
	_cleanup_free_ char *guests = xasprintf("%s/guests.d", p->dir);
	*state = p;
	return mkdir(guests, 0700);
}

static int tear_down(void **state)
{
	static const char *const names[] = {
		"default.conf", "guests.d/us.conf", "guests.d/other.conf", "guests.d/.hidden.conf",
		"guests.d/note.txt", "guests.d", "",
	};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		take_away(*state, names[i]);
	free(*state);
	return 0;
}

static int load(const struct place *at, const char *guest, const char *const *given,
		struct policy *p, struct err *e)
{
	struct policy_ask ask = {
		.dir = at->dir, .guest_name = guest, .pid = getpid(), .given = given
	};

	err_clear(e);
	return policy_load(p, &ask, e);
}

static int64_t bandwidth_of(const struct place *at, const char *guest, const char *const *given,
			    const char *from)
{
	struct policy p;
	struct err e = ERR_INIT;
	int row = (int)(qos_find("bandwidth") - qos_table);

	if (load(at, guest, given, &p, &e) < 0)
		fail_msg("%s", e.text);
	if (!strstr(p.from[row], from))
		fail_msg("from %s, not %s", p.from[row], from);
	int64_t n = p.qos.bandwidth;
	policy_free(&p);
	return n;
}

/* This program, by its path. */
static char *own_rule(const char *bandwidth)
{
	char exe[4096];
	ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);

	assert_true(n > 0);
	exe[n] = '\0';
	char *base = strrchr(exe, '/');
	return xasprintf("bandwidth = %s\nexecutable = %.*s/%c*\n", bandwidth, (int)(base - exe),
			 exe, base[1]);
}

static void test_precedence(void **state)
{
	const struct place *at = *state;
	const char *given[QOS_ROWS] = { 0 };
	_cleanup_free_ char *rule = own_rule("70");

	assert_int_equal(bandwidth_of(at, NULL, given, "built-in"), 0);
	put(at, "default.conf", "# x\nbandwidth = 50\ntimeout = 9\n");
	assert_int_equal(bandwidth_of(at, NULL, given, "/default.conf:2"), 50);
	put(at, "guests.d/us.conf", rule);
	assert_int_equal(bandwidth_of(at, NULL, given, "/guests.d/us.conf:1"), 70);
	put(at, "guests.d/other.conf", "\nbandwidth = 80\nexecutable = /no/such\n");
	assert_int_equal(bandwidth_of(at, NULL, given, "/guests.d/us.conf:1"), 70);
	assert_int_equal(bandwidth_of(at, "other", given, "/guests.d/other.conf:2"), 80);
	given[qos_find("bandwidth") - qos_table] = "90";
	assert_int_equal(bandwidth_of(at, "other", given, "command line"), 90);

	struct policy p;
	struct err e = ERR_INIT;
	assert_int_equal(load(at, NULL, given, &p, &e), 0);
	assert_string_equal(p.guest, "us");
	assert_int_equal(p.qos.timeout, 9);          /* of default.conf */
	assert_int_equal(p.qos.max_downtime, 300);
	policy_free(&p);
}

static void refused(const struct place *at, const char *guest, const char *say)
{
	struct policy p;
	struct err e = ERR_INIT;

	if (load(at, guest, NULL, &p, &e) == 0 || !strstr(e.text, say))
		fail_msg("%s is missing: %s", say, e.text);
	assert_true(*e.remedy || strstr(e.text, "twice"));
	policy_free(&p);
}

static void test_refused(void **state)
{
	const struct place *at = *state;
	_cleanup_free_ char *rule = own_rule("70");

	put(at, "guests.d/us.conf", rule);
	put(at, "guests.d/.hidden.conf", "nonsense");
	put(at, "guests.d/note.txt", "nonsense");
	refused(at, "nobody", "unknown guest");
	refused(at, "../default", "not a name");
	refused(at, "", "not a name");
	put(at, "guests.d/other.conf", rule);
	refused(at, NULL, "matches the policies of two guests, other and us");
	put(at, "guests.d/other.conf", "\n\nnonsense\n");
	refused(at, NULL, "other.conf:3");
	take_away(at, "guests.d/other.conf");
	_cleanup_free_ char *path = xasprintf("%s/guests.d/other.conf", at->dir);
	assert_int_equal(mkdir(path, 0700), 0);
	refused(at, NULL, "not a file");
	take_away(at, "guests.d/other.conf");
	assert_int_equal(mkfifo(path, 0600), 0);     /* nobody writes: it must not wait */
	refused(at, NULL, "not a file");
	take_away(at, "guests.d/other.conf");
	put(at, "default.conf", "executable = /bin/sh\n");
	refused(at, NULL, "default.conf");
	put(at, "default.conf", "bandwidth = 1\n");
	_cleanup_free_ char *conf = xasprintf("%s/default.conf", at->dir);
	if (geteuid() != 0) {                        /* root may read all */
		chmod(conf, 0);
		refused(at, NULL, "Permission denied");
	}
}

static void test_cgroup(void **state)
{
	const struct place *at = *state;
	_cleanup_(buf_free) struct buf b = { 0 };
	struct err e = ERR_INIT;

	put(at, "guests.d/us.conf", "cgroup = /no/such/group\nbandwidth = 70\n");
	assert_int_equal(bandwidth_of(at, NULL, NULL, "built-in"), 0);
	if (io_slurp(&b, &e, "/proc/self/cgroup") < 0 || b.n == 0)
		skip();
	put(at, "guests.d/us.conf", "cgroup = /*\nbandwidth = 70\n");
	assert_int_equal(bandwidth_of(at, NULL, NULL, "us.conf"), 70);
	/* both must match where both are given */
	put(at, "guests.d/us.conf", "cgroup = /*\nexecutable = /no/such\nbandwidth = 70\n");
	assert_int_equal(bandwidth_of(at, NULL, NULL, "built-in"), 0);
}

/* What is printed is a policy file that makes the same. */
static void test_print(void **state)
{
	const struct place *at = *state;
	struct policy p;
	struct policy_file f;
	struct err e = ERR_INIT;
	char *text = NULL;
	size_t n = 0;

	put(at, "default.conf", "bandwidth = 50\nauto-converge = no\ncomp-method = zstd\n");
	assert_int_equal(load(at, NULL, NULL, &p, &e), 0);
	FILE *out = open_memstream(&text, &n);
	policy_print(&p, false, out);
	fclose(out);
	assert_int_equal(policy_parse(&f, "printed", text, n, &e), 0);
	for (int i = 0; i < QOS_ROWS; i++) {
		char was[64], is[64];

		assert_true(f.line[i] > 0);
		qos_text(&p.qos, &qos_table[i], was, sizeof(was));
		qos_text(&f.qos, &qos_table[i], is, sizeof(is));
		assert_string_equal(was, is);
	}
	assert_non_null(strstr(text, "default.conf:2"));
	policy_file_free(&f);
	policy_free(&p);
	free(text);
}

#define IN_PLACE(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_parse), cmocka_unit_test(test_wrong),
		IN_PLACE(test_precedence),
		IN_PLACE(test_refused), IN_PLACE(test_cgroup), IN_PLACE(test_print),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
