/* SPDX-License-Identifier: Apache-2.0 */
#include "flow_host.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "cleanup.h"
#include "flow_clock.h"
#include "io.h"
#include "task_vdso.h"

int flow_need_root(struct err *e)
{
	if (geteuid() == 0)
		return 0;
	err_say(e, EPERM, "this needs root (user id is %u)", geteuid());
	return err_remedy(e, "run it with sudo");
}

void flow_raise_limits(void)
{
	struct rlimit r;

	if (getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur < r.rlim_max) {
		r.rlim_cur = r.rlim_max;
		setrlimit(RLIMIT_NOFILE, &r);
	}
}

void flow_hurry(bool on)
{
	struct sched_param p = { .sched_priority = on ? 1 : 0 };
	_cleanup_closedir_ DIR *d = opendir("/proc/self/task");

	for (struct dirent *de; d && (de = readdir(d));)
		if (de->d_name[0] != '.')
			sched_setscheduler(atoi(de->d_name),
					   on ? SCHED_FIFO | SCHED_RESET_ON_FORK : SCHED_OTHER, &p);
}

void flow_describe_host(InventoryEntry *in, pid_t root)
{
	struct err ignored = ERR_INIT;
	const uint8_t *image;
	struct vdso v;

	if (vdso_here(&image, &in->cl_vdso_image.len, &v, &ignored) == 0) {
		in->has_cl_vdso_image = true;
		in->cl_vdso_image.data = (uint8_t *)image;
	}
	flow_clock_put(in, root);
}

static uint64_t number_in(const char *path, const char *key)
{
	_cleanup_(buf_free) struct buf b = { 0 };
	struct err e = ERR_INIT;

	if (io_slurp_at(AT_FDCWD, path, &b, &e) < 0)
		return UINT64_MAX;
	const char *at = key ? strstr((char *)b.at, key) : (char *)b.at;
	if (!at)
		return UINT64_MAX;
	at += key ? strlen(key) : 0;
	char *end;
	uint64_t n = strtoull(at, &end, 10);
	return end == at ? UINT64_MAX : n; /* "max" */
}

/* What the cgroups above us leave (v2 and v1). */
static uint64_t cgroup_room(void)
{
	_cleanup_(buf_free) struct buf b = { 0 };
	struct err e = ERR_INIT;
	uint64_t room = UINT64_MAX;

	if (io_slurp_at(AT_FDCWD, "/proc/self/cgroup", &b, &e) < 0)
		return room;
	for (char *line = strtok((char *)b.at, "\n"); line; line = strtok(NULL, "\n")) {
		bool v2 = !strncmp(line, "0::", 3), v1 = strstr(line, ":memory:");
		char *path = strrchr(line, ':') + 1;

		while ((v1 || v2) && *path) {
			char limit[600], usage[600];
			const char *base = v2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory";

			snprintf(limit, sizeof(limit), "%s%.400s/%s", base, path,
				 v2 ? "memory.max" : "memory.limit_in_bytes");
			snprintf(usage, sizeof(usage), "%s%.400s/%s", base, path,
				 v2 ? "memory.current" : "memory.usage_in_bytes");
			uint64_t max = number_in(limit, NULL), now = number_in(usage, NULL);
			if (max != UINT64_MAX && now != UINT64_MAX && max - now < room)
				room = max > now ? max - now : 0;
			char *slash = strrchr(path, '/');
			if (!slash)
				break;
			*slash = '\0';
		}
	}
	return room;
}

uint64_t flow_memory_available(void)
{
	uint64_t kib = number_in("/proc/meminfo", "MemAvailable:");
	uint64_t room = cgroup_room(), all = kib == UINT64_MAX ? UINT64_MAX : kib * 1024;

	return all < room ? all : room;
}
