/* SPDX-License-Identifier: Apache-2.0 */
#include "img_dir.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>

#include "img_file.h"
#include "img_path.h"
#include "img_sum.h"
#include "inventory.pb-c.h"
#include "io.h"
#include "pstree.pb-c.h"

#define IMG_VERSION 2u

static int save_group(const struct img_group *g, int dirfd, struct err *e)
{
	_cleanup_(buf_free) struct buf out = { 0 };
	_cleanup_close_ int fd = -1;
	char name[64];

	img_file_name(g->type, g->id, name, sizeof(name));
	img_file_put_header(g->type, &out);
	vec_each(&g->records, r) {
		if (img_magic(g->type))
			buf_put(&out, &r->len, sizeof(r->len));
		buf_put(&out, r->data, r->len);
		buf_put(&out, r->extra, r->extra_len);
	}
	int ret = img_file_create(dirfd, name, &fd, e);
	if (ret < 0)
		return ret;
	ret = io_write(fd, out.at, out.n);
	return ret < 0 ? err_set(e, -ret, "%s: write", name) : 0;
}

int img_dir_save(const struct img_set *s, int dirfd, struct err *e)
{
	if (unlinkat(dirfd, IMG_SUM_FILE, 0) < 0 && errno != ENOENT)
		return err_set(e, errno, IMG_SUM_FILE ": remove");
	vec_each(&s->groups, g) {
		int ret = save_group(g, dirfd, e);
		if (ret < 0)
			return ret;
	}
	return 0;
}

static int load_file(struct img_set *s, int dirfd, const char *name, enum img_type type,
		     uint64_t id, struct img_sums *sums, struct err *e)
{
	_cleanup_(buf_free) struct buf file = { 0 };
	int ret = img_file_read(dirfd, name, &file, e);

	if (ret == 0)
		ret = img_sums_check(sums, name, &file, e);
	if (ret == 0) {
		ret = img_file_parse(img_group_make(s, type, id), &file, e);
		if (img_count(s, type, id) == 0)
			img_drop(s, type, id);
	}
	return ret < 0 ? err_in(e, "%s", name) : 0;
}

static int check_inventory(const struct img_set *s, struct err *e)
{
	_cleanup_msg_ InventoryEntry *inventory = NULL;
	int ret = img_get(s, IMG_INVENTORY, 0, 0, &inventory, e);

	if (ret < 0)
		return ret;
	if (inventory->img_version != IMG_VERSION)
		return err_say(e, EPROTO,
			       "inventory.img: image version %u is not supported, only %u",
			       inventory->img_version, IMG_VERSION);
	return 0;
}

static int check_has(const struct img_set *s, enum img_type type, uint64_t id, struct err *e)
{
	char name[64];

	if (img_count(s, type, id) > 0)
		return 0;
	img_file_name(type, id, name, sizeof(name));
	return err_say(e, EBADMSG, "%s: missing", name);
}

/* A pre-dump has no tree and no cores; otherwise every thread of the tree has a core. */
static int check_tree(const struct img_set *s, struct err *e)
{
	enum img_type type;
	uint64_t id;

	for (size_t it = 0; img_next(s, &it, &type, &id);)
		if (type == IMG_CORE && check_has(s, IMG_PSTREE, 0, e) < 0)
			return -e->code;
	for (size_t i = 0; i < img_count(s, IMG_PSTREE, 0); i++) {
		_cleanup_msg_ PstreeEntry *task = NULL;
		int ret = img_get(s, IMG_PSTREE, 0, i, &task, e);

		if (ret == 0)
			ret = check_has(s, IMG_CORE, task->pid, e);
		for (size_t t = 0; ret == 0 && t < task->n_threads; t++)
			ret = check_has(s, IMG_CORE, task->threads[t], e);
		if (ret < 0)
			return ret;
	}
	return 0;
}

int img_dir_load_file(struct img_set **out, int dirfd, enum img_type type, uint64_t id,
		      struct err *e)
{
	_cleanup_(img_sums_free) struct img_sums sums = { 0 };
	_cleanup_img_set_ struct img_set *s = img_set_new();
	char name[64];
	int ret;

	img_file_name(type, id, name, sizeof(name));
	if ((ret = img_sums_load(&sums, dirfd, e)) < 0 ||
	    (ret = load_file(s, dirfd, name, type, id, &sums, e)) < 0)
		return ret;
	if (type == IMG_INVENTORY && (ret = check_inventory(s, e)) < 0)
		return ret;
	*out = steal_ptr(s);
	return 0;
}

int img_dir_load(struct img_set **out, int dirfd, struct err *e)
{
	_cleanup_(img_sums_free) struct img_sums sums = { 0 };
	_cleanup_img_names_ struct img_names names = { 0 };
	_cleanup_img_set_ struct img_set *s = img_set_new();
	int ret;

	if ((ret = img_sums_load(&sums, dirfd, e)) < 0 ||
	    (ret = load_file(s, dirfd, "inventory.img", IMG_INVENTORY, 0, &sums, e)) < 0 ||
	    (ret = check_inventory(s, e)) < 0 || (ret = img_names_read(&names, dirfd, e)) < 0)
		return ret;
	vec_each(&names.files, f) {
		if (f->type == IMG_INVENTORY)
			continue;
		if (img_type_in_set(f->type))
			ret = load_file(s, dirfd, f->name, f->type, f->id, &sums, e);
		else if ((ret = img_sums_check_file(&sums, dirfd, f->name, e)) < 0)
			err_in(e, "%s", f->name);
		if (ret < 0)
			return ret;
	}
	if ((ret = img_sums_check_rest(&sums, dirfd, e)) < 0 ||
	    (ret = img_sums_check_parents(dirfd, e)) < 0 || (ret = check_tree(s, e)) < 0)
		return ret;
	*out = steal_ptr(s);
	return 0;
}
