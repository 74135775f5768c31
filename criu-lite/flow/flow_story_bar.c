/* SPDX-License-Identifier: Apache-2.0 */
/* Where the downtime went. */
#include "flow_story_int.h"

#include <string.h>

#define WIDTH   880.0
#define HEIGHT  34.0
#define COLOURS 8
#define NOISE   0.01                 /* of the downtime: what rounding leaves over */

static const struct {
	const char *name, *about;
} known[] = {
	{ "stop", "every thread of the guest is stopped" },
	{ "capture", "registers, descriptors, timers and the last dirty pages are found" },
	{ "shape", "the target makes its mappings the same" },
	{ "pages", "the last dirty pages are sent and placed" },
	{ "prepare", "the target puts descriptors, threads and timers in place" },
	{ "run", "the target is told to run, and says that it does" },
	{ "other", "between the parts" },
};

static const char *about(const char *name)
{
	for (unsigned i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (!strcmp(name, known[i].name))
			return known[i].about;
	return "";
}

static unsigned colour(size_t i) { return 1 + (unsigned)(i % COLOURS); }

static double draw_part(FILE *out, const char *name, double ms, double all, double x, size_t i)
{
	double w = WIDTH * ms / all;

	fprintf(out, "<rect class=\"f%u\" x=\"%.2f\" y=\"0\" width=\"%.2f\" height=\"%.0f\">"
		     "<title>", colour(i), x, w, HEIGHT);
	story_text(out, name);
	fprintf(out, ": %s</title></rect>\n", story_ms(ms).at);
	return x + w;
}

static void row(FILE *out, const char *name, double ms, double all, size_t i)
{
	fprintf(out, "<tr><td><span class=\"key\"><i class=\"f%u\"></i>", colour(i));
	story_text(out, name);
	fprintf(out,
		"</span></td><td class=\"n\">%s</td><td class=\"n\">%.0f %%</td>"
		"<td class=\"dim\">%s</td></tr>\n",
		story_ms(ms).at, 100 * ms / all, about(name));
}

void story_bar(FILE *out, const struct story *s)
{
	double sum = 0, x = 0, all, other;

	vec_each(&s->part, p)
		sum += p->ms;
	all = sum > s->result.downtime_ms ? sum : s->result.downtime_ms;
	other = all - sum;
	if (sum <= 0)
		return;
	fprintf(out, "<h2>The downtime and its parts</h2>\n<figure>\n"
		     "<svg viewBox=\"0 0 %.0f %.0f\" role=\"img\" "
		     "aria-label=\"parts of the downtime\">\n", WIDTH, HEIGHT);
	for (size_t i = 0; i < s->part.n; i++)
		x = draw_part(out, s->part.at[i].name, s->part.at[i].ms, all, x, i);
	if (other > NOISE * all)
		draw_part(out, "other", other, all, x, s->part.n);
	fputs("</svg>\n<table>\n", out);
	for (size_t i = 0; i < s->part.n; i++)
		row(out, s->part.at[i].name, s->part.at[i].ms, all, i);
	if (other > NOISE * all)
		row(out, "other", other, all, s->part.n);
	fprintf(out,
		"<tr><td>together</td><td class=\"n\">%s</td><td class=\"n\"></td>"
		"<td class=\"dim\">from stopping the guest here to running it there</td></tr>\n"
		"</table></figure>\n",
		story_ms(all).at);
}
