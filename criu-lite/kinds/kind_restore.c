/* SPDX-License-Identifier: Apache-2.0 */
/* The target side: entries of a set, the descriptors made of them, and who holds them. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "cleanup.h"
#include "kind_fown.h"
#include "kind_locks.h"
#include "kind_priv.h"
#include "kind_remap.h"
#include "kind_util.h"

struct kind_restore *kind_restore_new(const struct kind_opts *opts)
{
	struct kind_restore *c = xcalloc(1, sizeof(*c));

	c->opts = *opts;
	return c;
}

static void free_files(kind_file_vec *files)
{
	vec_each(files, f) {
		if (f->fd >= 0)
			close(f->fd);
		if (f->fe)
			file_entry__free_unpacked(f->fe, NULL);
		vec_free(&f->holder);
	}
	vec_free(files);
}

void kind_restore_free(struct kind_restore *c)
{
	if (!c)
		return;
	kind_slots_free(&c->kept);
	kind_index_free(c);
	free_files(&c->file);
	kind_remap_free(c);
	kind_shm_free(c);
	vec_free(&c->process);
	free(c);
}

const struct kind_opts *kind_restore_opts(const struct kind_restore *c)
{
	return &c->opts;
}

const struct img_set *kind_restore_set(const struct kind_restore *c)
{
	return c->set;
}

static int by_id(const void *a, const void *b)
{
	const struct kind_file *x = a, *y = b;

	return x->id < y->id ? -1 : x->id > y->id;
}

static int load_files(const struct img_set *set, kind_file_vec *files, struct err *e)
{
	size_t n = img_count(set, IMG_FILES, 0);

	for (size_t i = 0; i < n; i++) {
		struct kind_file *f = vec_new(files);

		f->fd = -1;
		int ret = img_get(set, IMG_FILES, 0, i, &f->fe, e);
		if (ret)
			return ret;
		f->id = f->fe->id;
		f->kind = kind_of_type(f->fe->type);
		if (f->kind && !kind_message(f->fe))
			return err_set(e, EBADMSG, "files.img: entry %u has no %s part", f->id,
				       f->kind->name);
	}
	if (n)
		qsort(files->at, n, sizeof(*files->at), by_id);
	for (size_t i = 1; i < n; i++)
		if (files->at[i].id == files->at[i - 1].id)
			return err_set(e, EBADMSG, "files.img: two entries have id %u",
				       files->at[i].id);
	return 0;
}

static struct kind_file *find(const kind_file_vec *files, uint32_t id)
{
	struct kind_file want = { .id = id };

	return files->n ? bsearch(&want, files->at, files->n, sizeof(want), by_id) : NULL;
}

static bool same_file(const RegFileEntry *a, const RegFileEntry *b)
{
	return !strcmp(a->name, b->name) && a->flags == b->flags && a->mode == b->mode &&
	       a->n_build_id == b->n_build_id &&
	       (!a->n_build_id ||
		!memcmp(a->build_id, b->build_id, a->n_build_id * sizeof(*a->build_id)));
}

/* Takes over what may stay open: regular files, which may be mapped already. */
static void keep_open(kind_file_vec *old, kind_file_vec *new)
{
	vec_each(new, f) {
		struct kind_file *was = find(old, f->id);

		if (!was || was->fd < 0 || f->fe->type != FD_TYPES__REG ||
		    was->fe->type != FD_TYPES__REG || was->remapped != f->remapped)
			continue;
		const RegFileEntry *a = was->fe->reg, *b = f->fe->reg;
		if (!same_file(a, b))
			continue;
		/* Where there is no position (a device) there was none to keep. */
		if (a->pos != b->pos && lseek(was->fd, (off_t)b->pos, SEEK_SET) < 0)
			continue;
		f->fd = steal_fd(was->fd);
	}
}

int kind_restore_begin(struct kind_restore *c, const struct img_set *set, struct err *e)
{
	kind_file_vec new = { 0 };

	int ret = load_files(set, &new, e);
	if (ret) {
		free_files(&new);
		return ret;
	}
	kind_slots_free(&c->kept);
	kind_index_free(c);
	c->set = set;
	ret = kind_remap_begin(c, e);
	if (!ret) {
		vec_each(&new, f)
			f->remapped = kind_remap_is(c, f->id, NULL);
		keep_open(&c->file, &new);
	}
	free_files(&c->file);
	c->file = new;
	return ret ? ret : kind_shm_begin(c, e);
}

int kind_restore_check(struct kind_restore *c, void (*complain)(void *arg, const struct err *e),
		       void *arg)
{
	int n = 0;

	vec_each(&c->file, f) {
		struct err e = ERR_INIT;

		if (!f->kind)
			err_say(&e, ENOTSUP, "file %u: kind %d is not supported", f->id,
				f->fe->type);
		else if (f->kind->verify && f->kind->verify(c, f->fe, &e) < 0 &&
			 f->fe->type != FD_TYPES__REG)
			err_in(&e, "%s %u", f->kind->name, f->id);
		if (!err_is(&e))
			continue;
		complain(arg, &e);
		n++;
	}
	return n;
}

const FileEntry *kind_entry(const struct kind_restore *c, uint32_t id)
{
	const struct kind_file *f = find(&c->file, id);

	return f ? f->fe : NULL;
}

const FileEntry *kind_entry_at(const struct kind_restore *c, size_t i)
{
	return i < c->file.n ? c->file.at[i].fe : NULL;
}

void kind_give(struct kind_restore *c, uint32_t id, int fd)
{
	struct kind_file *f = find(&c->file, id);

	if (!f || f->fd >= 0)
		close(fd);
	else
		f->fd = fd;
}

int kind_fd(struct kind_restore *c, uint32_t id, struct err *e)
{
	struct kind_file *f = find(&c->file, id);
	int fd = -1;

	if (!f)
		return err_set(e, EBADMSG, "files.img: there is no entry %u", id);
	if (f->fd >= 0)
		return f->fd;
	if (!f->kind)
		return err_say(e, ENOTSUP, "file %u: kind %d is not supported", id, f->fe->type);
	if (f->busy)
		return err_set(e, EBADMSG, "files.img: entry %u needs itself", id);
	f->busy = true;
	int ret = f->kind->create(c, f->fe, &fd, e);
	f->busy = false;
	if (ret) {
		cleanup_close(&fd);
		return err_in(e, "%s %u", f->kind->name, id);
	}
	f->fd = fd;
	return fd;
}

void kind_hold(struct kind_restore *c, uint32_t id, struct kind_holder h)
{
	struct kind_file *f = find(&c->file, id);

	if (f)
		vec_push(&f->holder, h);
}

const struct kind_holder *kind_holders(const struct kind_restore *c, uint32_t id, size_t *n)
{
	const struct kind_file *f = find(&c->file, id);

	*n = f ? f->holder.n : 0;
	return f ? f->holder.at : NULL;
}

struct remote *kind_process(const struct kind_restore *c, pid_t pid)
{
	vec_each(&c->process, p)
		if (p->pid == pid)
			return p->remote;
	return NULL;
}

void kind_set_process(struct kind_restore *c, pid_t pid, struct remote *r)
{
	vec_each(&c->process, p) {
		if (p->pid == pid) {
			p->remote = r;
			return;
		}
	}
	vec_push(&c->process, (struct kind_process){ pid, r });
}

static int finish_file(struct kind_restore *c, struct kind_file *f, struct err *e)
{
	FownEntry **fown = kind_fown_slot(f->fe);
	int ret = 0;

	if (f->kind->finish)
		ret = f->kind->finish(c, f->fe, f->fd, e);
	if (!ret && fown && *fown)
		ret = kind_fown_restore(f->fd, *fown, e);
	return ret ? err_in(e, "%s %u", f->kind->name, f->id) : 0;
}

int kind_finish(struct kind_restore *c, struct err *e)
{
	int ret = 0;

	vec_each(&c->file, f) {
		if (f->fd < 0 || f->finished)
			continue;
		ret = finish_file(c, f, e);
		if (ret)
			return ret;
		f->finished = true;
	}
	ret = kind_shm_seal(c, e);
	return ret ? ret : kind_locks_restore(c, e);
}

void kind_restore_done(struct kind_restore *c)
{
	vec_each(&c->file, f)
		if (f->fd >= 0 && f->kind->done)
			f->kind->done(c, f->fe);
	kind_remap_done(c);
	kind_shm_done(c);
}
