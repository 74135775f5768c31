/* SPDX-License-Identifier: Apache-2.0 */
/* One policy file. libinih splits the lines; it is fed one by one, so that they can be counted. */
#include <errno.h>
#include <ini.h>
#include <stdlib.h>
#include <string.h>

#include "cleanup.h"
#include "flow_policy.h"
#include "vec.h"

struct reading {
	struct policy_file *f;
	const char *at, *end;
	unsigned line;
	bool failed;
	struct err *e;               /* of the first wrong line */
};

static void fail(struct reading *r, const char *remedy)
{
	r->failed = true;
	err_in(r->e, "%s:%u", r->f->path, r->line);
	if (remedy)
		err_remedy(r->e, "%s", remedy);
}

static bool is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\r';
}

/* fgets() for libinih. Blanks before a key go: for libinih it would go on with the line before. */
static char *next_line(char *out, int size, void *arg)
{
	struct reading *r = arg;
	size_t n = 0;

	if (r->failed || r->at >= r->end)
		return NULL;
	r->line++;
	while (r->at < r->end && is_blank(*r->at))
		r->at++;
	const char *stop = memchr(r->at, '\n', (size_t)(r->end - r->at));
	n = (size_t)((stop ? stop : r->end) - r->at);
	if (memchr(r->at, '\0', n) || n + 2 > (size_t)size) {
		bool binary = memchr(r->at, '\0', n);

		err_say(r->e, EINVAL, binary ? "this is no text" : "the line is too long");
		fail(r, binary ? "a policy has lines key = value" : "197 letters are allowed");
		return NULL;
	}
	memcpy(out, r->at, n);
	memcpy(out + n, "\n", 2);
	r->at += n + (stop != NULL);
	return out;
}

static int set_pattern(char **at, const char *name, const char *value, struct err *e)
{
	if (*at)
		return err_say(e, EINVAL, "%s is given twice", name);
	if (*value != '/' && *value != '*') {
		err_say(e, EINVAL, "%s = %s: this matches nothing", name, value);
		return err_remedy(e, "give an absolute path; * and ? stand for any letters");
	}
	*at = xstrdup(value);
	return 0;
}

static int set_value(struct policy_file *f, unsigned line, const char *name, const char *value,
		     struct err *e)
{
	const struct qos_row *row = qos_find(name);
	char near[128];

	if (!strcmp(name, "executable"))
		return set_pattern(&f->executable, name, value, e);
	if (!strcmp(name, "cgroup"))
		return set_pattern(&f->cgroup, name, value, e);
	if (!row) {
		qos_nearest(name, near, sizeof(near));
		err_say(e, EINVAL, "unknown key %s", name);
		return err_remedy(e,
				  "like it: %s; a guest is matched by executable and cgroup; all "
				  "the others: criu-lite migrate --help",
				  near);
	}
	if (f->line[row - qos_table])
		return err_say(e, EINVAL, "%s is given twice, first in line %u", name,
			       f->line[row - qos_table]);
	if (qos_set(&f->qos, row, value, e) < 0)
		return err_in(e, "%s", name);
	f->line[row - qos_table] = line;
	return 0;
}

static int on_pair(void *arg, const char *section, const char *name, const char *value)
{
	struct reading *r = arg;
	_cleanup_free_ char *v = xstrdup(value);

	if (r->failed)
		return 0;
	/* libinih knows ; behind a value, but not # */
	for (char *c = v; *c; c++)
		if (*c == '#' && (c == v || is_blank(c[-1])))
			*c-- = '\0';
	for (size_t n = strlen(v); n > 0 && is_blank(v[n - 1]);)
		v[--n] = '\0';
	if (*section) {
		err_say(r->e, EINVAL, "a policy has no sections like [%s]", section);
		fail(r, "remove its line");
	} else if (set_value(r->f, r->line, name, v, r->e) < 0) {
		fail(r, NULL);
	}
	return !r->failed;
}

int policy_parse(struct policy_file *f, const char *path, const char *text, size_t n,
		 struct err *e)
{
	struct reading r = { .f = f, .at = text, .end = text + n, .e = e };

	*f = (struct policy_file){ .path = xstrdup(path) };
	int wrong = ini_parse_stream(next_line, &r, on_pair, &r);
	/* a line that libinih could not split comes before one that was split and refused */
	if (wrong && (!r.failed || (unsigned)wrong < r.line)) {
		err_say(e, EINVAL, "%s:%d: this is no line key = value", path, wrong);
		return err_remedy(e, "begin comments with #");
	}
	return r.failed ? -EINVAL : 0;
}

void policy_file_free(struct policy_file *f)
{
	free(f->path);
	free(f->executable);
	free(f->cgroup);
	*f = (struct policy_file){ 0 };
}
