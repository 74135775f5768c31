/* SPDX-License-Identifier: Apache-2.0 */
#include "flow_host.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "cleanup.h"
#include "flow_clock.h"
#include "io.h"
#include "task_mm.h"
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

	if (io_slurp(&b, &e, "/proc/self/cgroup") < 0)
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

/* ---- what a kernel may lack ---- */

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif
#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08
#endif

static bool try_map(int flags, int advice)
{
	void *p = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
	bool ok = p != MAP_FAILED && (!advice || madvise(p, PAGE_SIZE, advice) == 0);

	if (p != MAP_FAILED)
		munmap(p, PAGE_SIZE);
	return ok;
}

static bool has_guards(void) { return try_map(MAP_PRIVATE, MADV_GUARD_INSTALL); }
static bool has_droppable(void) { return try_map(MAP_DROPPABLE, 0); }
static bool has_wipe(void) { return try_map(MAP_PRIVATE, MADV_WIPEONFORK); }

static bool uses_guards(const VmaEntry *v) { return v->madv & VMA_MADV_GUARDS; }
static bool uses_droppable(const VmaEntry *v) { return (v->flags & MAP_TYPE) == MAP_DROPPABLE; }
static bool uses_wipe(const VmaEntry *v) { return v->madv >> MADV_WIPEONFORK & 1; }

static const struct {
	const char *name;
	bool (*uses)(const VmaEntry *v);
	bool (*has)(void);
} kernel_features[] = {
	{ "guard regions (MADV_GUARD_INSTALL, Linux 6.13)", uses_guards, has_guards },
	{ "mappings that may be dropped (MAP_DROPPABLE, Linux 6.11)", uses_droppable,
	  has_droppable },
	{ "mappings that are wiped on fork (MADV_WIPEONFORK, Linux 4.14)", uses_wipe, has_wipe },
};
#define KERNEL_FEATURES (sizeof(kernel_features) / sizeof(kernel_features[0]))

static int note_used(const struct img_set *set, bool used[KERNEL_FEATURES], struct err *e)
{
	enum img_type type;
	uint64_t pid;

	for (size_t it = 0; img_next(set, &it, &type, &pid);) {
		_cleanup_msg_ MmEntry *mm = NULL;
		int ret = type == IMG_MM ? img_get(set, IMG_MM, pid, 0, &mm, e) : 0;

		if (ret < 0)
			return ret;
		for (size_t i = 0; mm && i < mm->n_vmas; i++)
			for (size_t k = 0; k < KERNEL_FEATURES; k++)
				used[k] |= kernel_features[k].uses(mm->vmas[i]);
	}
	return 0;
}

int flow_kernel_check(const struct img_set *set, struct err *e)
{
	bool used[KERNEL_FEATURES] = { false };
	char names[400] = "";
	size_t n = 0;
	int ret = note_used(set, used, e);

	if (ret < 0)
		return ret;
	for (size_t k = 0; k < KERNEL_FEATURES; k++)
		if (used[k] && !kernel_features[k].has())
			n += (size_t)snprintf(names + n, sizeof(names) - n, "%s%s", n ? ", " : "",
					      kernel_features[k].name);
	if (!n)
		return 0;
	err_say(e, ENOTSUP, "this kernel lacks what the guest uses: %s", names);
	return err_remedy(e, "move it to a host with a kernel that has that");
}
