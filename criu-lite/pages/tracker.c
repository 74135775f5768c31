/* SPDX-License-Identifier: Apache-2.0 */
#include "pages_tracker.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "cleanup.h"
#include "io.h"
#include "pages_extents.h"
#include "pages_tracker_int.h"

const char *tracker_name(enum tracker_kind k)
{
	static const char *const names[] = {
		[TRACKER_AUTO] = "auto",
		[TRACKER_SOFT_DIRTY] = "soft-dirty",
		[TRACKER_UFFD_WP] = "uffd-wp",
	};

	return names[k];
}

int tracker_probe(enum tracker_kind *k, struct err *e)
{
	struct err why = ERR_INIT;

	if (*k == TRACKER_SOFT_DIRTY)
		return soft_probe(e);
	if (*k == TRACKER_UFFD_WP)
		return uffd_probe(e);
	if (uffd_probe(&why) == 0) {
		*k = TRACKER_UFFD_WP;
		return 0;
	}
	if (soft_probe(e) == 0) {
		*k = TRACKER_SOFT_DIRTY;
		return 0;
	}
	err_in(e, "no way to track memory: %s", why.text);
	return err_remedy(e, "use Linux 6.7 or later, or a kernel with CONFIG_MEM_SOFT_DIRTY");
}

int tracker_start_with_fd(struct tracker **out, enum tracker_kind k, pid_t pid, int uffd,
			  struct err *e)
{
	struct tracker *t = xcalloc(1, sizeof(*t));
	int ret;

	*t = (struct tracker){ .kind = k, .pid = pid, .uffd = uffd };
	if (k == TRACKER_UFFD_WP)
		ret = uffd_begin(t, e);
	else
		ret = soft_begin(t, e);
	if (ret < 0) {
		tracker_free(t);
		return ret;
	}
	*out = t;
	return 0;
}

int tracker_start(struct tracker **t, enum tracker_kind k, struct remote *held, struct err *e)
{
	int uffd = -1, ret = 0;

	if (k == TRACKER_AUTO)
		ret = tracker_probe(&k, e);
	if (ret == 0 && k == TRACKER_UFFD_WP)
		ret = uffd = uffd_inject(held, e);
	if (ret < 0)
		return ret;
	return tracker_start_with_fd(t, k, remote_pid(held), uffd, e);
}

void tracker_free(struct tracker *t)
{
	if (!t)
		return;
	if (t->uffd >= 0)
		close(t->uffd); /* the kernel lifts all protection */
	pm_zeros_free(&t->zeros);
	vec_free(&t->known);
	vec_free(&t->tables);
	vec_free(&t->device);
	vec_free(&t->seen);
	vec_free(&t->quirk);
	vec_free(&t->fresh);
	free(t);
}

pid_t tracker_pid(const struct tracker *t) { return t->pid; }
void tracker_set_born(struct tracker *t, uint64_t start_time) { t->born = start_time; }
uint64_t tracker_born(const struct tracker *t) { return t->born; }
const prange_vec *tracker_known(const struct tracker *t) { return &t->known; }

/* ---- which mappings ---- */

static bool kernel_owned(const struct proc_vma *vma)
{
	static const char *const names[] = { "[vdso]", "[vvar]", "[vvar_vclock]", "[vsyscall]",
					     "[uprobes]" };

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		if (!strcmp(vma->path, names[i]))
			return true;
	return vma->vmflags & (PROC_VF_IO | PROC_VF_PF);
}

static int map_file_open(pid_t pid, const struct proc_vma *vma)
{
	char path[80];

	snprintf(path, sizeof(path), "/proc/%d/map_files/%lx-%lx", pid, (long)vma->start,
		 (long)vma->end);
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	return fd < 0 ? -errno : fd;
}

/* What file system the file behind a mapping is on; 0: the mapping just changed. A device
 * number says it for all files there. */
static long fs_type(struct tracker *t, const struct proc_vma *vma)
{
	char path[80];
	struct statfs fs;

	vec_each(&t->device, d)
		if (d->major == vma->dev_major && d->minor == vma->dev_minor)
			return d->fs_type;
	snprintf(path, sizeof(path), "/proc/%d/map_files/%lx-%lx", t->pid, (long)vma->start,
		 (long)vma->end);
	if (statfs(path, &fs) < 0)
		return 0;
	vec_push(&t->device, (struct device){ vma->dev_major, vma->dev_minor, (long)fs.f_type });
	return (long)fs.f_type;
}

bool tracker_huge(struct tracker *t, const struct proc_vma *vma)
{
	return (vma->vmflags & PROC_VF_HT) ||
	       (tracker_file_backed(vma) && fs_type(t, vma) == HUGETLBFS_MAGIC);
}

/* In doubt yes, so that nothing is lost. */
static bool in_memory(struct tracker *t, const struct proc_vma *vma)
{
	long type = fs_type(t, vma);

	return type == 0 || type == TMPFS_MAGIC || type == HUGETLBFS_MAGIC;
}

bool tracker_leaves_out(struct tracker *t, const struct proc_vma *vma)
{
	return kernel_owned(vma) || (vma->shared && !in_memory(t, vma));
}

int tracker_data(pid_t pid, const struct proc_vma *vma, const prange_vec *want, prange_vec *out)
{
	_cleanup_close_ int fd = map_file_open(pid, vma);

	if (fd < 0)
		return fd;
	struct extents x = { .fd = fd };
	int ret = 0;
	vec_each(want, w)
		if (ret == 0)
			ret = extents_add(&x, w->start - vma->start + vma->pgoff,
					  w->end - vma->start + vma->pgoff,
					  vma->start - vma->pgoff, out);
	return ret;
}

/* ---- looking ---- */

int tracker_cover(struct tracker *t, const struct proc_vma *vmas, size_t n, struct err *e)
{
	if (t->kind != TRACKER_UFFD_WP)
		return 0;
	_cleanup_close_ int pm = pm_open(t->pid);
	if (pm < 0)
		return err_set(e, -pm, "pagemap of pid %d", t->pid);
	return uffd_cover(t, pm, vmas, n, e);
}

bool tracker_uncovered(const struct tracker *t) { return t->uncovered; }

/* What was known and lies in no private mapping any more is void. When there is one again, what is
 * in it must not be taken for what the other side had there before. */
static void add_vanished(const struct look *l, const struct proc_vma *vmas, size_t n)
{
	prange_vec private = { 0 }, gone = { 0 };

	for (size_t i = 0; i < n; i++)
		if (!vmas[i].shared)
			prange_add(&private, vmas[i].start, vmas[i].end);
	prange_minus(&l->t->known, &private, &gone);
	prange_merge(&l->out->reset, &gone);
	vec_free(&private);
	vec_free(&gone);
}

int tracker_scan(struct tracker *t, const struct proc_vma *vmas, size_t n, bool frozen,
		 struct scan *out, struct err *e)
{
	struct look l = { .t = t, .frozen = frozen, .out = out };
	_cleanup_close_ int pm = pm_open(t->pid);

	*out = (struct scan){ 0 };
	if (pm == -ESRCH)
		return err_set(e, ESRCH, "pid %d", t->pid);
	if (pm < 0)
		return err_set(e, -pm, "/proc/%d/pagemap", t->pid);
	l.pm = pm;
	tracker_remade(t, vmas, n, &l.remade);
	int ret = t->kind == TRACKER_UFFD_WP ? uffd_scan(&l, vmas, n, e)
					     : soft_scan(&l, vmas, n, e);
	vec_free(&l.remade);
	if (ret < 0) {
		vec_free(&l.known);
		scan_free(out);
		return err_in(e, "pid %d: %s", t->pid, tracker_name(t->kind));
	}
	add_vanished(&l, vmas, n);
	vec_free(&t->known);
	memcpy(&t->known, &l.known, sizeof(l.known));
	t->scanned = true;
	/* It is the lists of looks at the running guest that the other side follows. */
	if (!frozen)
		tracker_remember(t, vmas, n);
	return 0;
}

static int read_once(int pm, const struct proc_vma *vma, const struct pm_zeros *zeros,
		     struct scan *out)
{
	struct soft_pages now = { 0 };
	int ret = soft_read(pm, vma, zeros, &now);

	if (ret == 0) {
		prange_or(&now.content, &(prange_vec){ 0 }, &out->dirty);
		prange_or(&now.guard, &(prange_vec){ 0 }, &out->guard);
	}
	soft_pages_free(&now);
	return ret;
}

int tracker_scan_once(pid_t pid, const struct proc_vma *vmas, size_t n, struct scan *out,
		      struct err *e)
{
	_cleanup_close_ int pm = pm_open(pid);
	struct pm_zeros zeros = { 0 };
	bool guards;
	int ret = pm < 0 ? pm : 0;

	*out = (struct scan){ 0 };
	bool by_scan = pm_scan_works(&guards);
	if (!by_scan)
		pm_zeros_find(&zeros);
	for (size_t i = 0; i < n && ret == 0; i++) {
		if (vmas[i].shared || kernel_owned(&vmas[i]))
			continue;
		struct pm_query q = uffd_query(tracker_file_backed(&vmas[i]), guards);
		if (by_scan)
			ret = uffd_content(pm, &q, vmas[i].start, vmas[i].end, &out->dirty,
					   &out->guard);
		else
			ret = read_once(pm, &vmas[i], &zeros, out);
	}
	pm_zeros_free(&zeros);
	if (ret == 0)
		return 0;
	scan_free(out);
	return err_set(e, -ret, "/proc/%d/pagemap", pid);
}
