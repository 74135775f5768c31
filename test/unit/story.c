/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The story of a migration: lines written, lines read, and the page made of them.
 *
 * story --make NAME writes samples to look at (report_browser.py): completed, one, none, long,
 * failed, running, hostile.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <math.h>
#include <string.h>

#include "cleanup.h"
#include "flow_samples.h"
#include "flow_story.h"
#include "io.h"

#define MIB 1048576.0
#define HOSTILE "</title><script>alert(1)</script>\"'&\x1b[31m"

/* ---- made-up migrations ---- */

static struct flow_live live_of(const char *guest)
{
	struct flow_live l = { .id = "00112233445566778899aabbccddeeff", .target = "10.9.0.2:9400",
			       .pid = 1012 };

	snprintf(l.guest, sizeof(l.guest), "%s", guest);
	qos_defaults(&l.qos);
	return l;
}

static struct flow_report report_of(double seconds)
{
	struct flow_report r = { .start_ns = io_now_ns() - (uint64_t)(seconds * 1e9),
				 .total_bytes = 1024 * 1048576ull, .rounds = 8,
				 .dirty_bytes = 2048 * 1048576ull, .wire_bytes = 900 * 1048576ull,
				 .pages = 524288, .zero_pages = 131072 };
	static const char *const names[] = { "stop", "capture", "shape", "pages", "prepare",
					     "run" };
	static const uint64_t us[] = { 212, 1930, 344, 1210, 902, 263 };

	r.freeze_ns = r.start_ns + (uint64_t)(seconds * 1e9) - 4961000;
	r.thaw_ns = r.freeze_ns + 4961000;
	for (unsigned i = 0; i < 6; i++) {
		r.mark[i].name = names[i];
		r.mark[i].ns = us[i] * 1000;
	}
	r.marks = 6;
	return r;
}

/* A guest of 1 GiB that is slowed down when it dirties too fast. */
static struct flow_sample sample_of(double t, double end)
{
	double left = 1024 * exp(-6 * t / end);
	double throttle = t < end / 3 ? 0 : 20 + 10 * floor(9 * t / end - 3);

	return (struct flow_sample){
		.elapsed = t, .phase = "round", .round = (uint32_t)(1 + 8 * t / end),
		.total_bytes = 1024 * 1048576ull,
		.remaining_bytes = (uint64_t)((left + 30 * (1 + sin(60 * t / end))) * MIB),
		.wire_bytes = (uint64_t)(t * 110 * MIB), .dirty_rate = (90 - throttle * 0.8) * MIB,
		.wire_rate = (105 + 10 * sin(47 * t / end)) * MIB,
		.placed_rate = (230 + 30 * cos(31 * t)) * MIB,
		.compression = 2.1, .throttle = throttle,
		.predicted_ms = t < end / 8 ? 0 : left * 12 + 4,
		.allowed_ms = t < end / 2 ? 150 : 300,
	};
}

static void make(struct buf *b, const char *name)
{
	bool many = !strcmp(name, "long"), one = !strcmp(name, "one"), none = !strcmp(name, "none");
	double end = many ? 1740 : one ? 0.21 : none ? 0.05 : 4.5;
	unsigned n = many ? 10000 : one ? 1 : none ? 0 : 45;
	struct flow_live l = live_of(!strcmp(name, "hostile") ? HOSTILE : "redis-server");
	struct flow_report r = report_of(end);
	struct samples_more more = { .same_pages = 20000, .predicted_ms = 5.5 };
	struct err why = ERR_INIT;

	samples_begin(b, &l);
	for (unsigned i = 0, rounds = many ? 300 : 8, round = 1; i < n; i++) {
		struct flow_sample s = sample_of(end * i / n, end);

		for (; i && round < rounds * i / n; round++)
			samples_round(b, s.elapsed, round, (uint64_t)(1e9 / round), 40u << 20,
				      end / rounds);
		samples_sample(b, &s);
	}
	if (!strcmp(name, "running"))
		return;
	if (strcmp(name, "failed") && strcmp(name, "hostile")) {
		samples_result(b, &r, "completed", &more, NULL);
		return;
	}
	r.freeze_ns = r.thaw_ns = r.marks = 0;
	err_say(&why, EIO, "fd 7: %s: the target has no such file",
		strcmp(name, "failed") ? HOSTILE : "/srv/data.db");
	err_remedy(&why, "copy it, or mount it there");
	samples_result(b, &r, "failed", &more, &why);
}

/* ---- the page as a string ---- */

static char *page_of(const char *text, size_t n, int want, struct err *e)
{
	char *page = NULL;
	size_t size = 0;
	FILE *f = open_memstream(&page, &size);

	*e = (struct err)ERR_INIT;
	assert_int_equal(story_html(text, n, f, e), want);
	fclose(f);
	if (want)
		assert_int_equal(size, 0);
	return page;
}

static char *page_of_made(const char *name)
{
	_cleanup_(buf_free) struct buf b = { 0 };
	struct err e;

	make(&b, name);
	return page_of((const char *)b.at, b.n, 0, &e);
}

static unsigned count(const char *page, const char *what)
{
	unsigned n = 0;

	for (; (page = strstr(page, what)); page += strlen(what))
		n++;
	return n;
}

#define assert_has(page, what) \
	do { if (!strstr(page, what)) fail_msg("the page lacks: %s", what); } while (0)
#define assert_not(page, what) \
	do { if (strstr(page, what)) fail_msg("the page has: %s", what); } while (0)

/* Whether elements are closed in order, and attributes are quoted: a small XML of HTML. */
static void check_nesting(const char *page)
{
	char open[64][16];
	unsigned depth = 0;

	for (const char *p = page; (p = strchr(p, '<')); p++) {
		char name[16];
		const char *end = p;
		bool quoted = false;
		int len = 0;

		for (; *end && (quoted || *end != '>'); end++)
			quoted ^= *end == '"';
		assert_int_equal(*end, '>');
		assert_false(quoted);
		if (p[1] == '!' || end[-1] == '/' || !strncmp(p, "<meta", 5))
			continue;
		assert_int_equal(sscanf(p + 1 + (p[1] == '/'), "%15[a-z0-9]%n", name, &len), 1);
		if (p[1] != '/') {
			assert_true(depth < 64);
			strcpy(open[depth++], name);
			continue;
		}
		assert_true(depth > 0);
		assert_string_equal(open[--depth], name);
	}
	assert_int_equal(depth, 0);
}

static void check_common(const char *page)
{
	check_nesting(page);
	assert_not(page, "nan");
	assert_not(page, "inf\"");
	assert_not(page, "-inf");
	assert_not(page, "<script");
	assert_not(page, "http://");
	assert_not(page, "https://");
	assert_has(page, "default-src 'none'");
}

static void test_completed(void **state)
{
	_cleanup_free_ char *page = page_of_made("completed");

	check_common(page);
	assert_has(page, "<b>completed</b> after 4.50 s, in 8 rounds; the guest was stopped for "
			 "4.96 ms");
	assert_has(page, "Migration of <bdi>redis-server</bdi> (pid 1012) to "
			 "<bdi>10.9.0.2:9400</bdi>");
	assert_has(page, "4.96 ms; predicted 5.50 ms, which was 0.54 ms too much");
	assert_has(page, "<td>1.00 GiB</td>");
	assert_has(page, "900 MiB, 1 byte for 2.28 of memory");
	assert_has(page, "524,288, of them zero 131,072 (25 %), unchanged 20,000 (4 %)");
	assert_has(page, "<tr><th>max-downtime</th><td>300</td>");
	assert_has(page, "capture</span></td><td class=\"n\">1.93 ms</td>"
			 "<td class=\"n\">39 %</td>");
	assert_has(page, "<td class=\"n\">0.10 ms</td><td class=\"n\">2 %</td>"); /* other */
	assert_int_equal(count(page, "<svg"), 5);
	assert_int_equal(count(page, "class=\"switch\""), 4);
	assert_int_equal(count(page, "class=\"round\""), 4 * 6);
	assert_int_equal(count(page, "class=\"hit\""), 4 * 45);
	assert_has(page, ">MiB/s</text>");
	assert_has(page, ">time since the start (s)</text>");
}

static void test_few(void **state)
{
	_cleanup_free_ char *one = page_of_made("one"), *none = page_of_made("none");

	check_common(one);
	check_common(none);
	assert_has(one, "time since the start (ms)");
	assert_has(one, "The guest was not throttled.");
	assert_has(one, "<circle");
	assert_has(none, "No sample was taken");
	assert_int_equal(count(none, "<svg"), 1);
}

/* A single sample of zeros at the very beginning: every division is by nothing. */
static void test_zeros(void **state)
{
	const char *text = "{\"type\":\"sample\",\"elapsed\":0}\n"
			   "{\"type\":\"result\",\"status\":\"failed\","
			   "\"downtime_parts_ms\":{\"stop\":0}}";
	struct err e;
	_cleanup_free_ char *page = page_of(text, strlen(text), 0, &e);

	check_common(page);
	assert_has(page, "Migration of <bdi>a guest</bdi>");
	assert_int_equal(count(page, "<svg"), 0);
}

static void test_many(void **state)
{
	_cleanup_free_ char *page = page_of_made("long");

	check_common(page);
	assert_true(strlen(page) < 600000);
	assert_has(page, "Made by criu-lite report from 10000 samples.");
	assert_has(page, "time since the start (min)");
	assert_has(page, "the last 200 of 298");
	assert_int_equal(count(page, "class=\"hit\""), 4 * 150);
}

/* A peak of one sample in 10000 is still to be seen: the line reaches the top of the plot. */
static void test_peak(void **state)
{
	_cleanup_(buf_free) struct buf b = { 0 };
	struct err e;

	for (unsigned i = 0; i < 10000; i++) {
		struct flow_sample s = { .elapsed = i * 0.1, .phase = "round",
					 .throttle = i == 5003 ? 100 : 10 };

		samples_sample(&b, &s);
	}
	_cleanup_free_ char *page = page_of((const char *)b.at, b.n, 0, &e);
	char *line = strstr(page, "<path class=\"line s4\"");

	assert_non_null(line);
	*strchr(line, '\n') = 0;
	assert_has(line, "V20.0");
}

static void test_failed(void **state)
{
	_cleanup_free_ char *page = page_of_made("failed");

	check_common(page);
	assert_has(page, "class=\"outcome failed\"");
	assert_has(page, "fd 7: /srv/data.db: the target has no such file");
	assert_has(page, "Remedy: copy it, or mount it there");
	assert_not(page, "<th>Downtime</th>");
	assert_int_equal(count(page, "class=\"switch\""), 0);
	assert_int_equal(count(page, "<svg"), 4);
}

static void test_hostile(void **state)
{
	_cleanup_free_ char *page = page_of_made("hostile");

	check_common(page);
	assert_not(page, "alert(1)</script>");
	assert_not(page, "\x1b");
	assert_has(page, "<bdi>&lt;/title&gt;&lt;script&gt;alert(1)&lt;/script&gt;"
			 "&quot;&#39;&amp;&#65533;[31m");
	assert_int_equal(count(page, "</title><script>"), 0);
}

/* In every place where the samples have a text. */
static void test_hostile_keys(void **state)
{
	const char *text =
		"{\"type\":\"begin\",\"id\":\"<x1>\",\"guest\":\"<x2>\",\"target\":\"<x3>\","
		"\"time\":\"<x4>\","
		"\"policy\":{\"<x5>\":\"<x6>\"}}\n"
		"{\"type\":\"sample\",\"elapsed\":1,\"phase\":\"<x7>\"}\n"
		"{\"type\":\"result\",\"status\":\"<x8>\",\"error\":\"<x9>\",\"remedy\":\"<x10>\","
		"\"downtime_parts_ms\":{\"<x11>\":3}}\n";
	struct err e;
	_cleanup_free_ char *page = page_of(text, strlen(text), 0, &e);

	assert_not(page, "<x");
	/* guest in the title, too; a part twice; no phase */
	assert_int_equal(count(page, "&lt;x"), 12);
}

static void test_running(void **state)
{
	_cleanup_(buf_free) struct buf b = { 0 };
	struct err e;

	make(&b, "running");
	_cleanup_free_ char *page = page_of((const char *)b.at, b.n, 0, &e);
	assert_has(page, "<b>no result</b>: what was recorded ends after 4.40 s");
	/* Killed in the middle of a line. */
	_cleanup_free_ char *cut = page_of((const char *)b.at, b.n - 9, 0, &e);
	assert_has(cut, "is cut off and was left out");
	check_common(cut);
}

static const struct {
	const char *text, *error;
} damaged[] = {
	{ "", "no migration in it" },
	{ "\n\n", "no migration in it" },
	{ "{\"rounds\":3}\n", "no migration in it" },
	{ "{\"type\":\"weather\"}\n", "no migration in it" },
	{ "hello\n", "line 1: no JSON" },
	{ "\n\n[1,2]\n", "line 3: no JSON object" },
	{ "{\"type\":\"sam", "line 1: no JSON" },
	{ "{\"type\":\"begin\"}\n{\"type\":\"sam\n{}\n", "line 2: no JSON" },
	{ "{\"type\":\"begin\"}\n\xff\xfe\n{}\n", "line 2: no JSON" },
	{ "{\"type\":\"sample\"}\n", "line 1: a sample without \"elapsed\"" },
	{ "{\"type\":\"sample\",\"elapsed\":\"1\"}\n", "line 1: \"elapsed\" is no number" },
	{ "{\"type\":\"sample\",\"elapsed\":-1}\n", "line 1: \"elapsed\" is no number" },
	{ "{\"type\":\"sample\",\"elapsed\":1,\"dirty_rate\":1e300}\n",
	    "line 1: \"dirty_rate\" is no number" },
	{ "{\"type\":\"round\",\"seconds\":[]}\n", "line 1: \"seconds\" is no number" },
	{ "{\"type\":\"begin\",\"guest\":7}\n", "line 1: \"guest\" is no text" },
	{ "{\"type\":\"begin\"}\n{\"type\":\"begin\"}\n", "line 2: a second migration" },
	{ "{\"type\":\"result\"}\n", "line 1: a result without \"status\"" },
	{ "{\"type\":\"result\",\"status\":\"failed\"}\n"
	  "{\"type\":\"result\",\"status\":\"failed\"}\n",
	  "line 2: a second result" },
	{ "{\"type\":\"result\",\"status\":\"failed\",\"downtime_parts_ms\":{\"stop\":\"x\"}}\n",
	  "line 1: a part of the downtime is no number" },
};

static void test_damaged(void **state)
{
	for (unsigned i = 0; i < sizeof(damaged) / sizeof(damaged[0]); i++) {
		struct err e;
		free(page_of(damaged[i].text, strlen(damaged[i].text), -EINVAL, &e));
		if (strncmp(e.text, damaged[i].error, strlen(damaged[i].error)))
			fail_msg("%s: said \"%s\", not \"%s\"", damaged[i].text, e.text,
				 damaged[i].error);
		assert_true(e.remedy[0]);
	}
}

/* Every prefix of good samples is a page or a clear error; so is one with a byte changed. */
static void test_mangled(void **state)
{
	_cleanup_(buf_free) struct buf b = { 0 };
	uint32_t x = 12345;

	make(&b, "failed");
	for (unsigned i = 0; i < 600; i++) {
		_cleanup_free_ char *copy = xmemdup(b.at, b.n), *page = NULL;
		size_t size, n = i < 300 ? (i * 37) % b.n : b.n;
		FILE *f = open_memstream(&page, &size);
		struct err e = ERR_INIT;

		x = x * 1664525 + 1013904223;
		if (i >= 300)
			copy[x % b.n] = (char)(x >> 24);
		int ret = story_html(copy, n, f, &e);
		fclose(f);
		assert_true(ret == 0 || (ret == -EINVAL && e.text[0] && size == 0));
		if (ret == 0)
			check_nesting(page);
	}
}

static void test_long_line(void **state)
{
	size_t n = 2u << 20;
	_cleanup_free_ char *text = xmalloc(n);
	struct err e;

	memset(text, 'x', n);
	free(page_of(text, n, -EINVAL, &e));
	assert_non_null(strstr(e.text, "line 1: longer than"));
}

/* A text of any length is cut, between characters. */
static void test_long_text(void **state)
{
	_cleanup_(buf_free) struct buf b = { 0 };
	struct err e;

	buf_put(&b, "{\"type\":\"begin\",\"guest\":\"a", 26);
	for (unsigned i = 0; i < 100000; i++)
		buf_put(&b, "\xc3\xa4", 2);
	buf_put(&b, "\"}\n", 3);
	_cleanup_free_ char *page = page_of((const char *)b.at, b.n, 0, &e);
	assert_true(strlen(page) < 20000);
	assert_has(page, "\xc3\xa4</bdi>");
}

static void test_save(void **state)
{
	char dir[] = "/tmp/story.XXXXXX";
	struct err e = ERR_INIT;

	assert_non_null(mkdtemp(dir));
	_cleanup_free_ char *path = xasprintf("%s/page.html", dir);
	const char *good = "{\"type\":\"begin\",\"guest\":\"g\"}\n";

	assert_int_equal(story_save(good, strlen(good), path, &e), 0);
	_cleanup_(buf_free) struct buf before = { 0 }, after = { 0 };
	assert_int_equal(io_slurp_at(-1, path, &before, &e), 0);
	/* A page that is there outlives samples that are none. */
	assert_int_equal(story_save("x\n", 2, path, &e), -EINVAL);
	assert_int_equal(io_slurp_at(-1, path, &after, &e), 0);
	assert_int_equal(before.n, after.n);
	unlink(path);
	rmdir(dir);
	assert_int_equal(story_save(good, strlen(good), path, &e), -ENOENT);
	assert_non_null(strstr(e.text, path));
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_completed), cmocka_unit_test(test_few),
		cmocka_unit_test(test_zeros), cmocka_unit_test(test_many),
		cmocka_unit_test(test_peak), cmocka_unit_test(test_failed),
		cmocka_unit_test(test_hostile), cmocka_unit_test(test_hostile_keys),
		cmocka_unit_test(test_running), cmocka_unit_test(test_damaged),
		cmocka_unit_test(test_mangled), cmocka_unit_test(test_long_line),
		cmocka_unit_test(test_long_text), cmocka_unit_test(test_save),
	};

	if (argc == 3 && !strcmp(argv[1], "--make")) {
		_cleanup_(buf_free) struct buf b = { 0 };

		make(&b, argv[2]);
		return fwrite(b.at, 1, b.n, stdout) != b.n;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
