/* SPDX-License-Identifier: Apache-2.0 */
#include "flow_freezer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "cleanup.h"
#include "io.h"

#define LOOKS_MAX 20    /* tasks that are born while others are moved */

/* Where hierarchies are mounted on every system we know. */
#define V1_MOUNT "/sys/fs/cgroup/freezer"
static const char *const v2_mounts[] = { "/sys/fs/cgroup", "/sys/fs/cgroup/unified" };

static int put(const char *dir, const char *file, const char *text)
{
	char path[700];

	snprintf(path, sizeof(path), "%s/%s", dir, file);
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		return -errno;
	return 0;
}

static bool has(const char *dir, const char *file)
{
	char path[700];

	snprintf(path, sizeof(path), "%s/%s", dir, file);
	return access(path, F_OK) == 0;
}

/* The line of /proc/PID/cgroup that begins with "N:controllers:" or, for v2, "0::". */
static bool path_of(const char *text, bool v2, char *out, size_t size)
{
	for (const char *line = text; line && *line;
	     line = strchr(line, '\n'), line += line != NULL) {
		const char *names = strchr(line, ':'),
			   *path = names ? strchr(names + 1, ':') : NULL;
		size_t n = path ? strcspn(path + 1, "\n") : 0;

		if (!path || n + 1 > size)
			continue;
		if (v2 ? strncmp(line, "0::", 3) != 0 : strncmp(names, ":freezer:", 9) != 0)
			continue;
		memcpy(out, path + 1, n);
		out[n] = '\0';
		return true;
	}
	return false;
}

static int find_home(pid_t pid, struct freezer_place *p, struct err *e)
{
	char path[400];
	_cleanup_(buf_free) struct buf b = { 0 };
	int ret = io_slurp(&b, e, "/proc/%d/cgroup", pid);

	if (ret < 0)
		return ret;
	if (path_of((char *)b.at, false, path, sizeof(path)) && has(V1_MOUNT, "cgroup.procs")) {
		snprintf(p->home, sizeof(p->home), "%s%s", V1_MOUNT, path);
		return 0;
	}
	p->v2 = true;
	for (size_t i = 0; i < 2; i++) {
		if (!has(v2_mounts[i], "cgroup.controllers") ||
		    !path_of((char *)b.at, true, path, sizeof(path)))
			continue;
		snprintf(p->home, sizeof(p->home), "%s%s", v2_mounts[i], path);
		return 0;
	}
	err_say(e, ENOTSUP, "pid %d: no cgroup freezer is mounted here", pid);
	return err_remedy(e, "mount cgroup2 at /sys/fs/cgroup, or use --throttle sigstop");
}

/* The place for a task's home, known or new; *there: it is in ours already. */
static int place_of(struct freezer *f, pid_t pid, struct freezer_place **out, bool *there,
		    struct err *e)
{
	struct freezer_place p = { 0 };
	int ret = find_home(pid, &p, e);

	if (ret < 0)
		return ret;
	for (unsigned i = 0; i < f->n; i++) {
		*there = !strcmp(f->place[i].ours, p.home);
		*out = &f->place[i];
		if (*there || !strcmp(f->place[i].home, p.home))
			return 0;
	}
	*there = false;
	if (f->n == FREEZER_PLACES) {
		err_say(e, E2BIG, "the guest's tasks are in more than %d cgroups", FREEZER_PLACES);
		return err_remedy(e, "use --throttle sigstop");
	}
	snprintf(p.ours, sizeof(p.ours), "%s%scriu-lite-%d", p.home,
		 p.home[strlen(p.home) - 1] == '/' ? "" : "/", getpid());
	f->place[f->n] = p;
	*out = &f->place[f->n++];
	return 0;
}

static int move(struct freezer *f, pid_t pid, bool *moved, struct err *e)
{
	struct freezer_place *p;
	char text[16];
	bool there;
	int ret = place_of(f, pid, &p, &there, e);

	if (ret < 0 || there)
		return ret;
	if (mkdir(p->ours, 0755) < 0 && errno != EEXIST) {
		err_set(e, errno, "make cgroup %s", p->ours);
		return err_remedy(e, "use --throttle sigstop");
	}
	snprintf(text, sizeof(text), "%d", pid);
	*moved = true;
	ret = put(p->ours, "cgroup.procs", text);
	return ret < 0 ? err_set(e, -ret, "pid %d: move to cgroup %s", pid, p->ours) : 0;
}

int freezer_plan(struct freezer *f, const struct tree *t, struct err *e)
{
	int ret = 0;

	f->n = 0;
	for (size_t i = 0; ret == 0 && i < t->task.n; i++) {
		struct freezer_place *p;
		bool there;

		if (t->task.at[i]->state != TASK_DEAD)
			ret = place_of(f, t->task.at[i]->pid, &p, &there, e);
		if (ret == -ENOENT || ret == -ESRCH) {
			err_clear(e); /* exited meanwhile */
			ret = 0;
		}
	}
	return ret;
}

int freezer_begin(struct freezer *f, pid_t root, struct err *e)
{
	struct tree now = { 0 };
	bool moved = true;
	int ret = 0;

	for (int i = 0; ret == 0 && moved && i < LOOKS_MAX; i++) {
		moved = false;
		ret = task_tree_scan(&now, root, e);
		for (size_t k = 0; ret == 0 && k < now.task.n; k++)
			if (now.task.at[k]->state != TASK_DEAD)
				ret = move(f, now.task.at[k]->pid, &moved, e);
		if (ret == -ENOENT || ret == -ESRCH) {
			err_clear(e);
			ret = 0;
			moved = true;
		}
	}
	task_tree_free(&now);
	return ret;
}

int freezer_freeze(const struct freezer *f, bool on, struct err *e)
{
	int failed = 0;

	for (unsigned i = 0; i < f->n; i++) {
		const struct freezer_place *p = &f->place[i];
		int ret = p->v2 ? put(p->ours, "cgroup.freeze", on ? "1" : "0")
				: put(p->ours, "freezer.state", on ? "FROZEN" : "THAWED");

		/* planned, but whoever was to go there exited before */
		if (ret < 0 && ret != -ENOENT)
			failed = err_set(e, -ret, "%s cgroup %s", on ? "freeze" : "thaw", p->ours);
	}
	return failed;
}

static void move_back(const struct freezer_place *p)
{
	_cleanup_(buf_free) struct buf b = { 0 };
	struct err ignored = ERR_INIT;
	char *at, *line, *save = NULL;

	if (io_slurp(&b, &ignored, "%s/cgroup.procs", p->ours) < 0)
		return;
	for (at = (char *)b.at; (line = strtok_r(at, "\n", &save)); at = NULL)
		put(p->home, "cgroup.procs", line);
}

void freezer_end(const struct freezer *f)
{
	struct err ignored = ERR_INIT;

	freezer_freeze(f, false, &ignored);
	for (unsigned i = 0; i < f->n; i++) {
		const struct freezer_place *p = &f->place[i];

		/* exiting tasks keep it busy for a moment */
		for (int tries = 0; tries < LOOKS_MAX; tries++) {
			move_back(p);
			if (rmdir(p->ours) == 0 || errno == ENOENT)
				break;
			nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
		}
	}
}
