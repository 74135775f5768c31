/* SPDX-License-Identifier: Apache-2.0 */
/* Pages of a shell's mapping, saved and put back. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>

#include "io.h"
#include "task_shape_priv.h"

#define PM_PRESENT (1ull << 63)
#define PM_SWAPPED (1ull << 62)
#define PM_FILE    (1ull << 61)
#define ENTRIES    4096

int shape_read_maps(const struct task *t, struct proc_maps *out, struct err *e)
{
	_cleanup_(buf_free) struct buf text = { 0 };
	int ret = io_slurp(&text, e, "/proc/%d/maps", t->pid);

	return ret < 0 ? ret : proc_maps_parse((char *)text.at, text.n, out, e);
}

bool shape_is_single(const struct proc_maps *m, const struct shape_vma *w)
{
	vec_each(&m->vma, v)
		if (v->start <= w->start && v->end >= w->end)
			return true;
	return false;
}

static int save_some(struct task *t, uint64_t at, const uint64_t *entry, size_t n,
		     struct shape_saved *s, struct err *e)
{
	for (size_t i = 0; i < n; i++) {
		if (!(entry[i] & (PM_PRESENT | PM_SWAPPED)) || entry[i] & PM_FILE)
			continue;
		s->pages.at = vec_grow(s->pages.at, &s->pages.cap, s->pages.n + PAGE_SIZE, 1);
		int ret = remote_read(t->remote, at + i * PAGE_SIZE, s->pages.at + s->pages.n,
				      PAGE_SIZE, e);
		if (ret < 0)
			return ret;
		s->pages.n += PAGE_SIZE;
		vec_push(&s->at, at + i * PAGE_SIZE);
	}
	return 0;
}

int shape_save_pages(struct task *t, const struct shape_vma *w, struct shape_saved *s,
		     struct err *e)
{
	char path[64];
	uint64_t entry[ENTRIES];

	if (w->flags & MAP_SHARED)
		return 0; /* the object has them */
	snprintf(path, sizeof(path), "/proc/%d/pagemap", t->pid);
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return err_set(e, errno, "%s", path);
	for (uint64_t at = w->start; at < w->end;) {
		size_t n = (w->end - at) / PAGE_SIZE;

		n = n < ENTRIES ? n : ENTRIES;
		int ret = io_pread(fd, entry, n * 8, (off_t)(at / PAGE_SIZE * 8));
		if (ret < 0)
			return err_set(e, -ret, "%s", path);
		if ((ret = save_some(t, at, entry, n, s, e)) < 0)
			return ret;
		at += n * PAGE_SIZE;
	}
	return 0;
}

int shape_put_pages(struct task *t, const struct shape_saved *s, struct err *e)
{
	for (size_t i = 0; i < s->at.n; i++) {
		int ret = remote_write(t->remote, s->at.at[i], s->pages.at + i * PAGE_SIZE,
				       PAGE_SIZE, e);

		if (ret < 0)
			return ret;
	}
	return 0;
}

void shape_saved_free(struct shape_saved *s)
{
	vec_free(&s->at);
	buf_free(&s->pages);
}
