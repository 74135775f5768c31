/* SPDX-License-Identifier: Apache-2.0 */
#include "flow_cpu.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "guest-cpu.pb-c.h"
#include "io.h"
#include "log.h"

#define DIR_NAME "/run/criu-lite/cpu"

static void cpu_cleanup(CpuinfoX86Entry **c)
{
	if (*c)
		cpuinfo_x86_entry__free_unpacked(*c, NULL);
}
#define _cleanup_cpu_ _cleanup_(cpu_cleanup)

static bool read_stat(pid_t pid, struct proc_stat *s)
{
	_cleanup_(buf_free) struct buf text = { 0 };
	struct err ignored = ERR_INIT;

	return io_slurp(&text, &ignored, "/proc/%d/stat", pid) == 0 &&
	       proc_stat_parse((char *)text.at, text.n, s, &ignored) == 0;
}

/* These go along through fork and from host to host; an exec gives others. */
static void record_name(const struct proc_stat *s, char out[80])
{
	const uint64_t v[] = { s->start_code, s->end_code, s->start_data, s->start_stack,
			       s->start_brk };

	snprintf(out, 80, DIR_NAME "/%016llx", (unsigned long long)XXH3_64bits(v, sizeof(v)));
}

static GuestCpu *read_record(const char *path)
{
	_cleanup_(buf_free) struct buf b = { 0 };
	struct err ignored = ERR_INIT;

	if (io_slurp_at(AT_FDCWD, path, &b, &ignored) < 0)
		return NULL;
	return guest_cpu__unpack(NULL, b.n, b.at);
}

/* ---- source ---- */

static void need_of(const struct tree *t, const CpuinfoX86Entry *here, CpuinfoX86Entry **need)
{
	for (size_t i = 0; i < t->task.n; i++) {
		struct proc_stat s;
		GuestCpu *g = NULL;
		char path[80];

		if (t->task.at[i]->state == TASK_DEAD || !read_stat(t->task.at[i]->pid, &s))
			continue;
		record_name(&s, path);
		g = read_record(path);
		if (!*need)
			*need = cpu_copy(g ? g->cpu : here);
		else
			cpu_join(*need, g ? g->cpu : here);
		if (g)
			guest_cpu__free_unpacked(g, NULL);
	}
}

void flow_cpu_put(const struct tree *t, CpuinfoX86Entry *here, struct img_set *set)
{
	_cleanup_cpu_ CpuinfoX86Entry *need = NULL;
	CpuinfoEntry m = CPUINFO_ENTRY__INIT;

	if (access(DIR_NAME, F_OK) == 0)
		need_of(t, here, &need);
	m.n_x86_entry = 1;
	m.x86_entry = need ? &need : &here;
	img_drop(set, IMG_CPUINFO, 0);
	img_put(set, IMG_CPUINFO, 0, &m.base);
}

/* ---- target ---- */

static void forget_gone(void)
{
	_cleanup_closedir_ DIR *d = opendir(DIR_NAME);
	struct dirent *de;

	while (d && (de = readdir(d))) {
		char path[sizeof(DIR_NAME) + 258];
		struct proc_stat s;

		if (de->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), DIR_NAME "/%s", de->d_name);
		GuestCpu *g = read_record(path);
		if (!g || !read_stat((pid_t)g->pid, &s) || s.start_time != g->start_time)
			unlink(path);
		if (g)
			guest_cpu__free_unpacked(g, NULL);
	}
}

int flow_cpu_check(const struct img_set *set, unsigned cap, bool *other, struct err *e)
{
	_cleanup_cpu_ CpuinfoX86Entry *here = NULL;
	_cleanup_msg_ CpuinfoEntry *m = NULL;
	int ret;

	*other = false;
	forget_gone();
	if (!img_count(set, IMG_CPUINFO, 0))
		return 0;
	if ((ret = img_get(set, IMG_CPUINFO, 0, 0, &m, e)) < 0)
		return ret;
	if (m->n_x86_entry != 1) {
		err_say(e, ENOTSUP, "the guest comes from a CPU that is not an x86");
		return err_remedy(e, "move it to a host with such a CPU");
	}
	here = cpu_here();
	*other = !cpu_same(m->x86_entry[0], here);
	return cpu_check(m->x86_entry[0], here, cap, e);
}

static void write_record(pid_t pid, CpuinfoX86Entry *cpu)
{
	GuestCpu g = GUEST_CPU__INIT;
	struct proc_stat s;
	char path[80];

	if (!read_stat(pid, &s))
		return;
	g.cpu = cpu;
	g.pid = (uint32_t)pid;
	g.start_time = s.start_time;
	record_name(&s, path);
	size_t n = guest_cpu__get_packed_size(&g);
	_cleanup_free_ uint8_t *p = xmalloc(n);

	guest_cpu__pack(&g, p);
	unlink(path);
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0 || io_write(fd, p, n) < 0)
		log_warn("%s: %s; the guest may be refused by the CPU that it came from", path,
			 strerror(errno));
}

void flow_cpu_remember(const struct img_set *set, struct task *const *task, size_t n)
{
	_cleanup_msg_ CpuinfoEntry *m = NULL;
	struct err ignored = ERR_INIT;

	if (!img_count(set, IMG_CPUINFO, 0) || img_get(set, IMG_CPUINFO, 0, 0, &m, &ignored) < 0 ||
	    m->n_x86_entry != 1)
		return;
	mkdir("/run/criu-lite", 0700);
	mkdir(DIR_NAME, 0700);
	for (size_t i = 0; i < n; i++)
		if (task[i]->state != TASK_DEAD)
			write_record(task[i]->pid, m->x86_entry[0]);
}
