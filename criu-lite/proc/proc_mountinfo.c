/* SPDX-License-Identifier: Apache-2.0 */
/* mountinfo of proc_task.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "proc_task.h"
#include "proc_text.h"

/* Fields are separated by exactly one space: an empty source leaves two in a row. */
static bool take_string(struct ptext *t, char **out)
{
	struct ptext field;

	if (!ptext_field(t, ' ', &field))
		return false;
	*out = ptext_string(&field, " \t\n\\#");
	return true;
}

/* Optional fields ("shared:12 master:3 ...") end at "-". */
static bool skip_optional(struct ptext *t)
{
	struct ptext field;

	while (ptext_field(t, ' ', &field))
		if (ptext_is(&field, "-"))
			return true;
	return false;
}

/* "25 24 0:23 / /dev/shm rw,relatime shared:3 - tmpfs tmpfs rw,size=24684084k" */
static bool take_mount(struct ptext t, struct proc_mount *m)
{
	if (!ptext_i32(&t, &m->id) || !ptext_i32(&t, &m->parent) ||
	    !ptext_u32(&t, 10, &m->major) || !ptext_char(&t, ':') ||
	    !ptext_u32(&t, 10, &m->minor) || !ptext_char(&t, ' '))
		return false;
	return take_string(&t, &m->root) && take_string(&t, &m->point) &&
	       take_string(&t, &m->options) && skip_optional(&t) &&
	       take_string(&t, &m->fstype) && take_string(&t, &m->source) &&
	       take_string(&t, &m->super_options);
}

int proc_mountinfo_parse(const char *text, size_t n, proc_mount_vec *out, struct err *e)
{
	struct ptext all = {text, text + n}, line;

	memset(out, 0, sizeof(*out));
	while (ptext_line(&all, &line)) {
		if (take_mount(line, vec_new(out)))
			continue;
		proc_mountinfo_free(out);
		return ptext_bad(&line, "mountinfo", e);
	}
	return 0;
}

void proc_mountinfo_free(proc_mount_vec *v)
{
	vec_each(v, m) {
		free(m->root);
		free(m->point);
		free(m->fstype);
		free(m->source);
		free(m->options);
		free(m->super_options);
	}
	vec_free(v);
}
