/* SPDX-License-Identifier: Apache-2.0 */
/* The page, from top to bottom. */
#include "flow_story.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "flow_qos.h"
#include "flow_story_int.h"
#include "io.h"

/* More rounds than anybody reads: the last ones are shown. */
#define ROUNDS_SHOWN 200

static __attribute__((format(printf, 3, 4))) void fact(FILE *out, const char *name,
						       const char *fmt, ...)
{
	char *text;
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&text, fmt, ap) < 0)
		abort();
	va_end(ap);
	fprintf(out, "<tr><th>%s</th><td>", name);
	story_text(out, text);
	fputs("</td></tr>\n", out);
	free(text);
}

/* ---- outcome ---- */

static const char *guest_of(const struct story *s) { return s->guest ? s->guest : "a guest"; }

static void put_title(FILE *out, const struct story *s)
{
	fputs("Migration of <bdi>", out);
	story_text(out, guest_of(s));
	fputs("</bdi>", out);
	if (s->pid > 0)
		fprintf(out, " (pid %.0f)", s->pid);
	if (s->target) {
		fputs(" to <bdi>", out);
		story_text(out, s->target);
		fputs("</bdi>", out);
	}
}

static void put_head(FILE *out, const struct story *s)
{
	fputs("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
	      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
	      "style-src 'unsafe-inline'\">\n"
	      "<meta name=\"viewport\" content=\"width=device-width\">\n<title>Migration of ", out);
	story_text(out, guest_of(s));
	fprintf(out, "</title>\n<style>%s</style></head>\n<body>\n<h1>", story_style);
	put_title(out, s);
	fputs("</h1>\n", out);
}

static const char *outcome_class(const struct story *s)
{
	static const char *const known[] = { "completed", "failed", "aborted" };

	for (unsigned i = 0; s->status && i < sizeof(known) / sizeof(known[0]); i++)
		if (!strcmp(s->status, known[i]))
			return known[i];
	return "unknown";
}

static void put_outcome(FILE *out, const struct story *s)
{
	const struct story_result *r = &s->result;

	fprintf(out, "<div class=\"outcome %s\"><p><b>", outcome_class(s));
	if (s->status)
		story_text(out, s->status);
	else
		fputs("no result", out);
	fputs("</b>", out);
	if (!s->status)
		fprintf(out, ": what was recorded ends after %s; the migration was still going on "
			     "then, or criu-lite was killed", story_ms(story_end(s) * 1e3).at);
	else
		fprintf(out, " after %s, in %.0f round%s", story_ms(r->total_s * 1e3).at, r->rounds,
			r->rounds == 1 ? "" : "s");
	if (r->downtime_ms > 0)
		fprintf(out, "; the guest was stopped for %s", story_ms(r->downtime_ms).at);
	fputs("</p>\n", out);
	if (s->error) {
		fputs("<p>", out);
		story_text(out, s->error);
		fputs("</p>\n", out);
	}
	if (s->remedy && s->remedy[0]) {
		fputs("<p>Remedy: ", out);
		story_text(out, s->remedy);
		fputs("</p>\n", out);
	}
	fputs("</div>\n", out);
	if (s->cut_line)
		fprintf(out, "<p class=\"dim\">Line %zu of the samples is cut off and was left out."
			     "</p>\n", s->cut_line);
}

/* ---- facts ---- */

static void fact_downtime(FILE *out, const struct story *s)
{
	const struct story_result *r = &s->result;
	double allowed = s->sample.n ? s->sample.at[s->sample.n - 1].allowed : 0;
	double off = r->downtime_ms - r->predicted_ms;
	char more[160] = "";

	if (r->downtime_ms <= 0)
		return;
	if (r->predicted_ms > 0)
		snprintf(more, sizeof(more), "; predicted %s, which was %s too %s",
			 story_ms(r->predicted_ms).at, story_ms(fabs(off)).at,
			 off > 0 ? "little" : "much");
	fact(out, "Downtime", "%s%s", story_ms(r->downtime_ms).at, more);
	if (allowed > 0)
		fact(out, "Downtime allowed", "%s%s", story_ms(allowed).at,
		     r->downtime_ms > allowed ? " (it took longer)" : "");
}

static void fact_memory(FILE *out, const struct story_result *r)
{
	if (r->memory > 0)
		fact(out, "Memory of the guest", "%s", story_bytes(r->memory).at);
	if (r->dirty > 0)
		fact(out, "Read from it", "%s%s", story_bytes(r->dirty).at,
		     r->rounds > 1 ? " in all rounds" : "");
	if (r->wire > 0 && r->dirty > 0)
		fact(out, "Sent", "%s, 1 byte for %.3g of memory", story_bytes(r->wire).at,
		     r->dirty / r->wire);
	else if (r->wire > 0)
		fact(out, "Sent", "%s", story_bytes(r->wire).at);
	if (r->pages > 0)
		fact(out, "Pages", "%s, of them zero %s (%.0f %%), unchanged %s (%.0f %%)",
		     story_count(r->pages).at, story_count(r->zero).at, 100 * r->zero / r->pages,
		     story_count(r->same).at, 100 * r->same / r->pages);
}

static void fact_samples(FILE *out, const struct story *s)
{
	double throttle = 0, dirty = 0;

	vec_each(&s->sample, m) {
		throttle = fmax(throttle, m->throttle);
		dirty = fmax(dirty, m->dirty_rate);
	}
	if (s->sample.n)
		fact(out, "Highest throttle", "%.0f %%", throttle);
	if (dirty > 0)
		fact(out, "Highest dirty rate", "%s", story_rate(dirty).at);
}

static void put_facts(FILE *out, const struct story *s)
{
	fputs("<table class=\"facts\">\n", out);
	if (s->time)
		fact(out, "Begun", "%s", s->time);
	if (s->id)
		fact(out, "Migration", "%s", s->id);
	fact(out, "Time", "%s", story_ms(story_end(s) * 1e3).at);
	fact_downtime(out, s);
	fact_memory(out, &s->result);
	fact_samples(out, s);
	fputs("</table>\n", out);
}

/* ---- rounds and policy ---- */

static void put_rounds(FILE *out, const struct story *s)
{
	size_t from = s->round.n > ROUNDS_SHOWN ? s->round.n - ROUNDS_SHOWN : 0;

	if (!s->round.n)
		return;
	fprintf(out, "<h2>Rounds</h2>\n<details%s><summary>%s%zu of %zu</summary><table>\n"
		     "<tr><th class=\"n\">round</th><th class=\"n\">over after</th>"
		     "<th class=\"n\">took</th><th class=\"n\">dirty</th><th class=\"n\">sent</th>"
		     "<th class=\"n\">dirty per second of it</th></tr>\n",
		s->round.n <= 20 ? " open" : "", from ? "the last " : "", s->round.n - from,
		s->round.n);
	for (size_t i = from; i < s->round.n; i++) {
		const struct story_round *r = &s->round.at[i];

		fprintf(out, "<tr><td class=\"n\">%.0f</td><td class=\"n\">%s</td>"
			     "<td class=\"n\">%s</td><td class=\"n\">%s</td>"
			     "<td class=\"n\">%s</td><td class=\"n\">%s</td></tr>\n", r->number,
			story_ms(r->elapsed * 1e3).at, story_ms(r->seconds * 1e3).at,
			story_bytes(r->dirty).at, story_bytes(r->wire).at,
			r->seconds > 0 ? story_rate(r->dirty / r->seconds).at : "");
	}
	fputs("</table></details>\n", out);
}

static void put_policy(FILE *out, const struct story *s)
{
	if (!s->policy.n)
		return;
	fputs("<h2>Policy in force at the start</h2>\n<table class=\"facts\">\n", out);
	vec_each(&s->policy, p) {
		const struct qos_row *row = qos_find(p->key);

		fputs("<tr><th>", out);
		story_text(out, p->key);
		fputs("</th><td>", out);
		story_text(out, p->value);
		fputs("</td><td class=\"dim\">", out);
		story_text(out, row ? row->about : "");
		fputs("</td></tr>\n", out);
	}
	fputs("</table>\n", out);
}

/* ---- the whole ---- */

static void put_page(FILE *out, const struct story *s)
{
	put_head(out, s);
	put_outcome(out, s);
	put_facts(out, s);
	story_bar(out, s);
	story_charts(out, s);
	put_rounds(out, s);
	put_policy(out, s);
	fprintf(out, "<p class=\"dim\">Made by criu-lite report from %zu samples.</p>\n"
		     "</body></html>\n", s->sample.n);
}

int story_html(const char *jsonl, size_t n, FILE *out, struct err *e)
{
	_cleanup_(story_free) struct story s = { 0 };
	int ret = story_read(&s, jsonl, n, e);

	if (ret < 0)
		return ret;
	put_page(out, &s);
	if (fflush(out) || ferror(out))
		return err_set(e, errno ? errno : EIO, "cannot write the report");
	return 0;
}

int story_save(const char *jsonl, size_t n, const char *path, struct err *e)
{
	_cleanup_free_ char *page = NULL;
	_cleanup_close_ int fd = -1;
	size_t size = 0;
	FILE *f = open_memstream(&page, &size);
	int ret;

	if (!f)
		return err_set(e, errno, "open_memstream");
	ret = story_html(jsonl, n, f, e);
	fclose(f);
	if (ret < 0)
		return ret;
	fd = !strcmp(path, "-") ? dup(1)
				: open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0)
		return err_set(e, errno, "cannot write %s", path);
	ret = io_write(fd, page, size);
	return ret < 0 ? err_set(e, -ret, "cannot write %s", path) : 0;
}

static char *page_name(const char *from)
{
	size_t n = strlen(from);

	if (n > 5 && !strcmp(from + n - 5, ".json"))
		n -= 5;
	return xasprintf("%.*s.html", (int)n, from);
}

int story_report(const char *from, const char *to, struct err *e)
{
	_cleanup_(buf_free) struct buf samples = { 0 };
	_cleanup_free_ char *name = to ? xstrdup(to) : page_name(from);
	int ret = io_slurp_at(AT_FDCWD, from, &samples, e);

	if (ret < 0)
		return err_remedy(e, "name a file with what `criu-lite migrate --progress json` "
				     "printed");
	if ((ret = story_save((const char *)samples.at, samples.n, name, e)) < 0)
		return e->code == EINVAL ? err_in(e, "%s", from) : ret;
	if (!to)
		printf("%s\n", name);
	return 0;
}
