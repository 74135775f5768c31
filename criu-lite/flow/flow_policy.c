/* SPDX-License-Identifier: Apache-2.0 */
/* Which policy files count for a guest, and what they make together. */
#include "flow_policy.h"

#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <jansson.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cleanup.h"
#include "io.h"

#define FILE_MAX_BYTES (64 * 1024)
#define SUFFIX ".conf"

/* ---- files ---- */

/* -ENOENT without words if there is none. */
static int read_file(struct policy_file *f, const char *path, struct err *e)
{
	_cleanup_(buf_free) struct buf text = { 0 };
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	struct stat st;
	int ret;

	*f = (struct policy_file){ 0 };
	if (fd < 0 && errno == ENOENT)
		return -ENOENT;
	if (fd < 0 || fstat(fd, &st) < 0) {
		err_set(e, errno, "policy file %s", path);
		return err_remedy(e, "make it readable, or move it away");
	}
	if (!S_ISREG(st.st_mode) || st.st_size > FILE_MAX_BYTES) {
		err_say(e, EINVAL, "policy file %s: %s", path, S_ISREG(st.st_mode) ?
			"bigger than any policy" : "not a file");
		return err_remedy(e, "move it away");
	}
	if ((ret = io_slurp_fd(fd, &text)) < 0)
		return err_set(e, -ret, "policy file %s", path);
	return policy_parse(f, path, (char *)text.at, text.n, e);
}

static void take(struct policy *p, const struct policy_file *f)
{
	for (int i = 0; i < QOS_ROWS; i++) {
		const struct qos_row *row = &qos_table[i];
		size_t size = row->kind == QOS_NUMBER ? sizeof(int64_t) :
			      row->kind == QOS_BOOL ? sizeof(bool) : sizeof(int);

		if (!f->line[i])
			continue;
		memcpy((char *)&p->qos + row->at, (const char *)&f->qos + row->at, size);
		free(p->from[i]);
		p->from[i] = xasprintf("%s:%u", f->path, f->line[i]);
	}
}

static int take_default(struct policy *p, const char *dir, struct err *e)
{
	_cleanup_free_ char *path = xasprintf("%s/default" SUFFIX, dir);
	_cleanup_(policy_file_free) struct policy_file f = { 0 };
	int ret = read_file(&f, path, e);

	if (ret < 0)
		return ret == -ENOENT ? 0 : ret;
	if (f.executable || f.cgroup) {
		err_say(e, EINVAL,
			"%s: executable and cgroup have no place here: it counts for all", path);
		return err_remedy(e, "make a file in %s/guests.d of it", dir);
	}
	take(p, &f);
	return 0;
}

/* ---- which guest ---- */

struct guest_id {
	char executable[PATH_MAX];       /* "" : not known, matches nothing */
	struct buf cgroup;               /* /proc/PID/cgroup */
};

static int identify(pid_t pid, struct guest_id *g, struct err *e)
{
	static const char gone[] = " (deleted)";
	char path[64];
	struct err ignored = ERR_INIT;   /* who may not look will hear it in the preflight */

	snprintf(path, sizeof(path), "/proc/%d", pid);
	if (access(path, F_OK) < 0)
		return err_set(e, ESRCH, "pid %d", pid);
	snprintf(path, sizeof(path), "/proc/%d/exe", pid);
	ssize_t n = readlink(path, g->executable, sizeof(g->executable) - 1);
	g->executable[n > 0 ? n : 0] = '\0';
	if (n >= (ssize_t)sizeof(gone) && !strcmp(g->executable + n - (sizeof(gone) - 1), gone))
		g->executable[n - (ssize_t)(sizeof(gone) - 1)] = '\0';
	io_slurp(&g->cgroup, &ignored, "/proc/%d/cgroup", pid);
	return 0;
}

/* Lines are HIERARCHY:CONTROLLERS:PATH; one of them will do. */
static bool in_cgroup(const struct guest_id *g, const char *pattern)
{
	_cleanup_free_ char *text = xmemdup(g->cgroup.at ? (char *)g->cgroup.at : "",
					    g->cgroup.n + 1);
	char *rest = text, *line;

	while ((line = strsep(&rest, "\n"))) {
		char *path = strchr(line, ':');

		path = path ? strchr(path + 1, ':') : NULL;
		if (path && !fnmatch(pattern, path + 1, 0))
			return true;
	}
	return false;
}

static bool matches(const struct policy_file *f, const struct guest_id *g)
{
	if (!f->executable && !f->cgroup)
		return false;            /* by --guest only */
	return (!f->executable ||
		(g->executable[0] && !fnmatch(f->executable, g->executable, FNM_PATHNAME))) &&
	       (!f->cgroup || in_cgroup(g, f->cgroup));
}

static int is_policy(const struct dirent *d)
{
	size_t n = strlen(d->d_name);

	return d->d_name[0] != '.' && n > strlen(SUFFIX) &&
	       !strcmp(d->d_name + n - strlen(SUFFIX), SUFFIX);
}

struct names {
	struct dirent **at;
	int n;
};

static void names_free(struct names *l)
{
	while (l->n > 0)
		free(l->at[--l->n]);
	free(l->at);
}

static int list(const char *dir, struct names *l, struct err *e)
{
	_cleanup_free_ char *path = xasprintf("%s/guests.d", dir);

	l->n = scandir(path, &l->at, is_policy, alphasort);
	if (l->n >= 0)
		return 0;
	l->n = 0;
	if (errno == ENOENT)
		return 0;
	err_set(e, errno, "policy directory %s", path);
	return err_remedy(e, "make it readable, or move it away");
}

static int unknown_guest(const char *dir, const char *name, struct err *e)
{
	_cleanup_(names_free) struct names l = { 0 };
	struct err ignored = ERR_INIT;
	char all[300] = "";
	size_t n = 0;

	list(dir, &l, &ignored);
	for (int i = 0; i < l.n && n < sizeof(all); i++)
		n += (size_t)snprintf(all + n, sizeof(all) - n, "%s%.*s", i ? ", " : "",
				      (int)(strlen(l.at[i]->d_name) - strlen(SUFFIX)),
				      l.at[i]->d_name);
	err_say(e, ENOENT, "--guest %s: unknown guest", name);
	if (l.n)
		return err_remedy(e, "known are: %s", all);
	return err_remedy(e, "write %s/guests.d/%s" SUFFIX, dir, name);
}

static int take_named(struct policy *p, const char *dir, const char *name, struct err *e)
{
	_cleanup_(policy_file_free) struct policy_file f = { 0 };

	if (!*name || *name == '.' || strchr(name, '/') ||
	    strlen(name) > NAME_MAX - strlen(SUFFIX)) {
		err_say(e, EINVAL, "--guest %.64s: not a name", name);
		return err_remedy(e, "give the name of a file in %s/guests.d without " SUFFIX, dir);
	}
	_cleanup_free_ char *path = xasprintf("%s/guests.d/%s" SUFFIX, dir, name);
	int ret = read_file(&f, path, e);
	if (ret < 0)
		return ret == -ENOENT && !err_is(e) ? unknown_guest(dir, name, e) : ret;
	take(p, &f);
	p->guest = xstrdup(name);
	return 0;
}

/* All files are read: one that cannot be might be the one that is meant. */
static int take_matching(struct policy *p, const char *dir, pid_t pid, struct err *e)
{
	_cleanup_(names_free) struct names l = { 0 };
	struct guest_id g = { 0 };
	int ret = list(dir, &l, e);

	if (ret == 0 && l.n > 0)
		ret = identify(pid, &g, e);
	for (int i = 0; i < l.n && ret == 0; i++) {
		_cleanup_(policy_file_free) struct policy_file f = { 0 };
		_cleanup_free_ char *name = xstrdup(l.at[i]->d_name);
		_cleanup_free_ char *path = xasprintf("%s/guests.d/%s", dir, name);

		name[strlen(name) - strlen(SUFFIX)] = '\0';
		ret = read_file(&f, path, e);
		if (ret == -ENOENT && !err_is(e))
			ret = 0;         /* removed meanwhile */
		else if (ret == 0 && matches(&f, &g) && p->guest) {
			err_say(e, EINVAL, "pid %d matches the policies of two guests, %s and %s",
				pid, p->guest, name);
			ret = err_remedy(e,
					 "choose one with --guest, or make one of them narrower");
		} else if (ret == 0 && matches(&f, &g)) {
			take(p, &f);
			p->guest = steal_ptr(name);
		}
	}
	buf_free(&g.cgroup);
	return ret;
}

/* ---- together ---- */

static int take_given(struct policy *p, const char *const *given, struct err *e)
{
	for (int i = 0; given && i < QOS_ROWS; i++) {
		if (!given[i])
			continue;
		if (qos_set(&p->qos, &qos_table[i], given[i], e) < 0)
			return err_in(e, "--%s", qos_table[i].name);
		free(p->from[i]);
		p->from[i] = xstrdup("command line");
	}
	return 0;
}

int policy_load(struct policy *p, const struct policy_ask *ask, struct err *e)
{
	const char *dir = ask->dir ? ask->dir : POLICY_DIR;
	int ret;

	*p = (struct policy){ 0 };
	qos_defaults(&p->qos);
	for (int i = 0; i < QOS_ROWS; i++)
		p->from[i] = xstrdup("built-in");
	if (ask->dir && access(dir, R_OK | X_OK) < 0)
		return err_set(e, errno, "policy directory %s", dir);
	if ((ret = take_default(p, dir, e)) < 0)
		return ret;
	ret = ask->guest_name ? take_named(p, dir, ask->guest_name, e) :
	      ask->pid ? take_matching(p, dir, ask->pid, e) : 0;
	return ret < 0 ? ret : take_given(p, ask->given, e);
}

void policy_free(struct policy *p)
{
	for (int i = 0; i < QOS_ROWS; i++)
		free(p->from[i]);
	free(p->guest);
	*p = (struct policy){ 0 };
}

static void print_json(const struct policy *p, FILE *out)
{
	json_t *o = json_object(), *values = json_object();
	char text[64];

	for (int i = 0; i < QOS_ROWS; i++) {
		qos_text(&p->qos, &qos_table[i], text, sizeof(text));
		json_object_set_new(values, qos_table[i].name,
				    json_pack("{s:s, s:s+}", "value", text, "from", p->from[i],
					      ""));
	}
	json_object_set_new(o, "guest", p->guest ? json_string(p->guest) : json_null());
	json_object_set_new(o, "policy", values);
	json_dumpf(o, out, JSON_ENSURE_ASCII);
	fputc('\n', out);
	json_decref(o);
}

void policy_print(const struct policy *p, bool as_json, FILE *out)
{
	char text[64];

	if (as_json) {
		print_json(p, out);
		return;
	}
	fprintf(out, "# guest: %s\n", p->guest ? p->guest : "no policy of its own");
	for (int i = 0; i < QOS_ROWS; i++) {
		qos_text(&p->qos, &qos_table[i], text, sizeof(text));
		fprintf(out, "%-27s = %-8s # %s\n", qos_table[i].name, text, p->from[i]);
	}
}
