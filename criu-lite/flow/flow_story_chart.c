/* SPDX-License-Identifier: Apache-2.0 */
/* Charts over time as SVG. A series has at most some points per column of pixels: the first, the
 * least, the greatest and the last of what falls into it, so that no peak gets lost. */
#include "flow_story_int.h"

#include <math.h>
#include <stddef.h>

#define WIDTH   880.0
#define HEIGHT  200.0
#define LEFT    64.0
#define RIGHT   14.0
#define TOP     20.0
#define BOTTOM  36.0
#define PLOT_W  (WIDTH - LEFT - RIGHT)
#define PLOT_H  (HEIGHT - TOP - BOTTOM)
#define COLUMN  2.0                  /* pixels in which points are joined */
#define DOTS    40                   /* up to so many samples are marked each */
#define BANDS   150                  /* places that tell their values when pointed at */
#define LABEL_W 28.0                 /* between two labels of rounds */
#define LINES   60                   /* of more rounds there are ticks at the top only */
#define TICK_H  5.0
#define TICK_W  4.0                  /* between two ticks */
#define SERIES_MAX 3

struct unit {
	double size;
	const char *name;
};

static const struct unit byte_units[] = {
	{ 1, "bytes" }, { 1024.0, "KiB" }, { 1048576.0, "MiB" }, { 1073741824.0, "GiB" },
	{ 1099511627776.0, "TiB" }, { 0 },
};
static const struct unit rate_units[] = {
	{ 1, "bytes/s" }, { 1024.0, "KiB/s" }, { 1048576.0, "MiB/s" }, { 1073741824.0, "GiB/s" },
	{ 0 },
};
static const struct unit percent_units[] = { { 1, "%" }, { 0 } };
static const struct unit ms_units[] = { { 1, "ms" }, { 0 } };
static const struct unit time_units[] = {
	{ 1e-3, "ms" }, { 1, "s" }, { 60, "min" }, { 3600, "h" }, { 0 },
};

struct chart {
	const char *title, *nothing;     /* nothing: said instead of a chart without values */
	const struct unit *units;
	double top;                      /* of the axis; 0: by the values */
	bool log;
	struct {
		const char *name;
		size_t at;               /* in struct story_sample */
		unsigned colour;
		bool area, step;
		bool unknown0;           /* 0: not known */
	} series[SERIES_MAX];
};

#define AT(field) offsetof(struct story_sample, field)

static const struct chart charts[] = {
	{ "Memory that remains to be moved", "The samples name no memory.", byte_units, 0, false,
	  { { "remaining", AT(remaining), 1, true, false, false } } },
	{ "Rates", "The samples name no rates.", rate_units, 0, false,
	  { { "dirtied by the guest", AT(dirty_rate), 2, false, false, false },
	    { "placed on the target", AT(placed_rate), 3, false, false, false },
	    { "on the wire", AT(wire_rate), 1, false, false, false } } },
	{ "Throttle", "The guest was not throttled.", percent_units, 100, false,
	  { { "time that the guest is stopped", AT(throttle), 4, true, true, false } } },
	{ "Downtime if stopped then", "No downtime was predicted.", ms_units, 0, true,
	  { { "predicted", AT(predicted), 2, false, false, true },
	    { "allowed", AT(allowed), 3, false, true, true } } },
};

struct axis {
	struct unit unit;
	double min, max, step;           /* in units */
	bool log;
};

static double value_of(const struct story_sample *s, size_t at)
{
	return *(const double *)((const char *)s + at);
}

static struct unit unit_for(const struct unit *u, double max)
{
	while (u[1].name && u[1].size <= max)
		u++;
	return *u;
}

/* 1, 2 or 5 times a power of ten, so that about `n` of them reach max. */
static double nice_step(double max, double n)
{
	double raw = max / n, ten = pow(10, floor(log10(raw)));
	double f = raw / ten;

	return ten * (f <= 1 ? 1 : f <= 2 ? 2 : f <= 5 ? 5 : 10);
}

static struct axis axis_for(const struct chart *c, double least, double max)
{
	struct axis a = { .unit = unit_for(c->units, max), .log = c->log };

	if (a.log && least * 20 < max) {
		a.min = floor(log10(least));
		a.max = fmax(ceil(log10(max)), a.min + 1);
		a.step = ceil((a.max - a.min) / 7);
		return a;
	}
	a.log = false;
	a.max = c->top > 0 ? c->top : max / a.unit.size;
	a.step = nice_step(a.max, 5);
	a.max = a.step * ceil(a.max / a.step - 1e-9);
	return a;
}

static double y_of(const struct axis *a, double v)
{
	double u = a->log ? fmax(log10(v), a->min) : v / a->unit.size;

	return TOP + PLOT_H * (1 - (u - a->min) / (a->max - a->min));
}

static double x_of(double t, double end) { return LEFT + PLOT_W * t / end; }

/* ---- what lies behind the series ---- */

static void draw_y_axis(FILE *out, const struct axis *a)
{
	unsigned n = (unsigned)lround((a->max - a->min) / a->step);

	for (unsigned i = 0; i <= n; i++) {
		double u = a->min + i * a->step;
		double y = TOP + PLOT_H * (1 - (u - a->min) / (a->max - a->min));

		if (u > a->max + 1e-9)
			break;
		fprintf(out, "<path class=\"grid\" d=\"M%.0f %.1fH%.0f\"/>"
			     "<text x=\"%.0f\" y=\"%.1f\" text-anchor=\"end\">%.6g</text>\n",
			LEFT, y, WIDTH - RIGHT, LEFT - 6, y + 4, a->log ? pow(10, u) : u);
	}
	fprintf(out, "<text x=\"4\" y=\"11\">%s</text>\n", a->unit.name);
}

static void draw_x_axis(FILE *out, double end)
{
	struct unit u = unit_for(time_units, end / 3);
	double step = nice_step(end / u.size, 8);

	for (unsigned i = 0; i * step * u.size <= end * (1 + 1e-9); i++) {
		double x = x_of(i * step * u.size, end);

		fprintf(out, "<path class=\"grid\" d=\"M%.1f %.0fv5\"/><text x=\"%.1f\" y=\"%.0f\" "
			     "text-anchor=\"middle\">%.6g</text>\n",
			x, HEIGHT - BOTTOM, x, HEIGHT - BOTTOM + 17, i * step);
	}
	fprintf(out, "<text x=\"%.0f\" y=\"%.0f\" text-anchor=\"end\">time since the start (%s)"
		     "</text>\n", WIDTH - RIGHT, HEIGHT - 5, u.name);
}

static void draw_rounds(FILE *out, const struct story *s, double end)
{
	double line = LEFT - TICK_W, label = LEFT - LABEL_W;
	double bottom = s->round.n > LINES ? TOP + TICK_H : HEIGHT - BOTTOM;

	vec_each(&s->round, r) {
		double x = x_of(r->elapsed, end);

		if (x < line + TICK_W)
			continue;
		fprintf(out, "<path class=\"round\" d=\"M%.1f %.0fV%.0f\"/>\n", x, TOP, bottom);
		line = x;
		if (x < label + LABEL_W)
			continue;
		fprintf(out, "<text x=\"%.1f\" y=\"%.0f\" text-anchor=\"middle\">%.0f</text>\n", x,
			TOP - 6, r->number);
		label = x;
	}
	if (s->result.downtime_ms > 0 && s->result.total_s > 0) {
		double x = x_of(fmax(0, s->result.total_s - s->result.downtime_ms / 1e3), end);

		fprintf(out, "<path class=\"switch\" d=\"M%.1f %.0fV%.0f\"/>\n", x, TOP,
			HEIGHT - BOTTOM);
	}
}

/* ---- series ---- */

struct pen {
	FILE *out;
	bool step, down;                 /* down: a line is being drawn */
	double column, first, least, most, last;  /* of the column that is being joined */
	bool any;
	double x_first, x_last, x_end;   /* x_end: of the line so far */
	double x_begin;
};

static void pen_to(struct pen *p, double x, double y)
{
	if (!p->down) {
		fprintf(p->out, "M%.1f %.1f", x, y);
		p->x_begin = x;
	} else if (p->step) {
		fprintf(p->out, "H%.1fV%.1f", x, y);
	} else {
		fprintf(p->out, "L%.1f %.1f", x, y);
	}
	p->down = true;
	p->x_end = x;
}

static void pen_flush(struct pen *p)
{
	if (!p->any)
		return;
	pen_to(p, p->x_first, p->first);
	if (p->least < fmin(p->first, p->last))
		pen_to(p, p->x_first, p->least);
	if (p->most > fmax(p->first, p->last))
		pen_to(p, p->x_first, p->most);
	if (p->x_last > p->x_first || p->last != p->first)
		pen_to(p, p->x_last, p->last);
	p->any = false;
}

static void pen_put(struct pen *p, double x, double y)
{
	double column = floor(x / COLUMN);

	if (p->any && column != p->column)
		pen_flush(p);
	if (!p->any) {
		p->first = p->least = p->most = y;
		p->x_first = x;
		p->column = column;
		p->any = true;
	}
	p->last = y;
	p->x_last = x;
	p->least = fmin(p->least, y);
	p->most = fmax(p->most, y);
}

static void draw_series(FILE *out, const struct chart *c, unsigned k, const struct story *s,
			const struct axis *a, double end, bool area)
{
	struct pen p = { .out = out, .step = c->series[k].step };

	fprintf(out, "<path class=\"%s %c%u\" d=\"", area ? "area" : "line", area ? 'f' : 's',
		c->series[k].colour);
	vec_each(&s->sample, m) {
		double v = value_of(m, c->series[k].at);

		if (v <= 0 && (c->series[k].unknown0 || a->log)) {
			pen_flush(&p);
			p.down = false;
			continue;
		}
		pen_put(&p, x_of(m->elapsed, end), y_of(a, v));
	}
	pen_flush(&p);
	if (area && p.down)
		fprintf(out, "V%.1fH%.1fZ", TOP + PLOT_H, p.x_begin);
	fputs("\"/>\n", out);
	for (size_t i = 0; !area && s->sample.n <= DOTS && i < s->sample.n; i++) {
		double v = value_of(&s->sample.at[i], c->series[k].at);

		if (v > 0 || !(c->series[k].unknown0 || a->log))
			fprintf(out, "<circle class=\"f%u\" cx=\"%.1f\" cy=\"%.1f\" r=\"2.6\"/>\n",
				c->series[k].colour, x_of(s->sample.at[i].elapsed, end),
				y_of(a, v));
	}
}

static struct story_num tell(const struct chart *c, double v)
{
	struct story_num n;

	if (c->units == byte_units)
		return story_bytes(v);
	if (c->units == rate_units)
		return story_rate(v);
	if (c->units == ms_units)
		return story_ms(v);
	snprintf(n.at, sizeof(n.at), "%.0f %%", v);
	return n;
}

/* Invisible bands over the plot: pointing at one shows its sample, without any script. */
static void draw_bands(FILE *out, const struct chart *c, const struct story *s, double end)
{
	size_t n = s->sample.n, bands = n < BANDS ? n : BANDS;
	double left = LEFT;

	for (size_t b = 0; b < bands; b++) {
		const struct story_sample *m = &s->sample.at[(2 * b + 1) * n / (2 * bands)];
		const struct story_sample *next = b + 1 < bands ?
			&s->sample.at[(2 * b + 3) * n / (2 * bands)] : NULL;
		double right = next ? x_of((m->elapsed + next->elapsed) / 2, end) : WIDTH - RIGHT;

		if (right <= left)
			continue;
		fprintf(out,
			"<rect class=\"hit\" x=\"%.1f\" y=\"%.0f\" width=\"%.1f\" "
			"height=\"%.0f\"><title>%s, round %.0f",
			left, TOP, right - left, PLOT_H, story_ms(m->elapsed * 1e3).at, m->round);
		for (unsigned k = 0; k < SERIES_MAX && c->series[k].name; k++)
			fprintf(out, "\n%s: %s", c->series[k].name,
				tell(c, value_of(m, c->series[k].at)).at);
		fputs("</title></rect>\n", out);
		left = right;
	}
}

static void draw_key(FILE *out, const struct chart *c, const struct story *s)
{
	fprintf(out, "<figcaption><b>%s</b> ", c->title);
	for (unsigned k = 0; k < SERIES_MAX && c->series[k].name; k++) {
		double most = 0;

		vec_each(&s->sample, m)
			most = fmax(most, value_of(m, c->series[k].at));
		fprintf(out, "<span class=\"key\"><i class=\"f%u\"></i>%s <small>up to %s</small>"
			     "</span> ", c->series[k].colour, c->series[k].name, tell(c, most).at);
	}
	fputs("</figcaption>\n", out);
}

static void draw(FILE *out, const struct chart *c, const struct story *s, double end)
{
	double least = INFINITY, max = 0;

	vec_each(&s->sample, m)
		for (unsigned k = 0; k < SERIES_MAX && c->series[k].name; k++) {
			double v = value_of(m, c->series[k].at);

			max = fmax(max, v);
			if (v > 0)
				least = fmin(least, v);
		}
	if (max <= 0) {
		fprintf(out, "<p class=\"dim\"><b>%s</b>: %s</p>\n", c->title, c->nothing);
		return;
	}
	struct axis a = axis_for(c, fmax(least, max / 1e7), max);

	fputs("<figure>", out);
	draw_key(out, c, s);
	fprintf(out, "<svg viewBox=\"0 0 %.0f %.0f\" role=\"img\" "
		     "aria-label=\"%s over time\">\n", WIDTH, HEIGHT, c->title);
	draw_y_axis(out, &a);
	draw_x_axis(out, end);
	draw_rounds(out, s, end);
	for (unsigned k = 0; k < SERIES_MAX && c->series[k].name; k++) {
		if (c->series[k].area)
			draw_series(out, c, k, s, &a, end, true);
		draw_series(out, c, k, s, &a, end, false);
	}
	draw_bands(out, c, s, end);
	fputs("</svg></figure>\n", out);
}

void story_charts(FILE *out, const struct story *s)
{
	double end = fmax(story_end(s), 1e-3);

	fputs("<h2>Over time</h2>\n", out);
	if (!s->sample.n) {
		fputs("<p>No sample was taken: the migration was too short, or it did not get that "
		      "far.</p>\n", out);
		return;
	}
	fputs("<p class=\"dim\">", out);
	if (s->round.n)
		fputs("Numbers above: the end of each round.", out);
	if (s->result.downtime_ms > 0)
		fputs(" Red line: the guest is stopped for the switch.", out);
	fputs("</p>\n", out);
	for (size_t i = 0; i < sizeof(charts) / sizeof(charts[0]); i++)
		draw(out, &charts[i], s, end);
}
