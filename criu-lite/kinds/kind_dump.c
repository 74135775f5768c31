/* SPDX-License-Identifier: Apache-2.0 */
/* The source side: numbers, passes, and one descriptor after the other. */
#include <errno.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "io.h"
#include "kind_fown.h"
#include "kind_locks.h"
#include "kind_priv.h"
#include "kind_reg.h"
#include "kind_util.h"

struct kind_dump *kind_dump_new(const struct kind_opts *opts)
{
	struct kind_dump *c = xcalloc(1, sizeof(*c));

	c->opts = *opts;
	return c;
}

void kind_dump_free(struct kind_dump *c)
{
	if (!c)
		return;
	kind_shm_free_dump(c);
	for (size_t i = 0; i < KIND_SPACES; i++)
		vec_free(&c->first[i]);
	vec_free(&c->pipe);
	vec_free(&c->lock);
	vec_free(&c->build_id);
	vec_each(&c->link, l)
		free(*l);
	vec_free(&c->link);
	kind_slots_free(&c->kept);
	kind_flight_close(c);
	vec_free(&c->flight);
	free(c->slot);
	free(c);
}

void kind_dump_undo(struct kind_dump *c)
{
	for (const struct kind *const *k = kind_table; *k; k++)
		if ((*k)->undo)
			(*k)->undo(c);
	vec_each(&c->link, l) {
		unlink(*l);
		free(*l);
	}
	vec_free(&c->link);
}

const struct kind_opts *kind_dump_opts(const struct kind_dump *c)
{
	return &c->opts;
}

void kind_dump_begin(struct kind_dump *c, struct img_set *set)
{
	c->set = set;
	c->pass++;
	c->lock.n = 0;
	c->pipe.n = 0;
	kind_flight_close(c);
	kind_shm_begin_dump(c);
}

struct img_set *kind_dump_set(struct kind_dump *c)
{
	return c->set;
}

static struct kind_number_slot *find_slot(struct kind_number_slot *slot, size_t slots,
					  const struct kind_number_slot *want)
{
	uint64_t hash = XXH3_64bits_withSeed(want->key, sizeof(want->key), want->space);

	for (size_t i = hash & (slots - 1);; i = (i + 1) & (slots - 1))
		if (!slot[i].number || (slot[i].space == want->space &&
					!memcmp(slot[i].key, want->key, sizeof(want->key))))
			return &slot[i];
}

static void grow_slots(struct kind_dump *c)
{
	size_t slots = c->slots ? c->slots * 2 : 256;
	struct kind_number_slot *slot = xcalloc(slots, sizeof(*slot));

	for (size_t i = 0; i < c->slots; i++)
		if (c->slot[i].number)
			*find_slot(slot, slots, &c->slot[i]) = c->slot[i];
	free(c->slot);
	c->slot = slot;
	c->slots = slots;
}

uint32_t kind_number(struct kind_dump *c, enum kind_space space, uint64_t key1, uint64_t key2,
		     uint64_t key3)
{
	struct kind_number_slot want = { .key = { key1, key2, key3 }, .space = space };

	if (c->numbers * 2 >= c->slots)
		grow_slots(c);
	struct kind_number_slot *s = find_slot(c->slot, c->slots, &want);
	if (!s->number) {
		*s = want;
		s->number = ++c->last[space];
		c->numbers++;
	}
	return s->number;
}

bool kind_first(struct kind_dump *c, enum kind_space space, uint32_t number)
{
	__typeof__(&c->first[0]) first = &c->first[space];

	while (first->n <= number)
		vec_push(first, 0);
	if (first->at[number] == c->pass)
		return false;
	first->at[number] = c->pass;
	return true;
}

static int in_fd(const struct fd_view *v, struct err *e)
{
	struct buf comm = { 0 };
	struct err ignored = ERR_INIT;

	if (io_slurp(&comm, &ignored, "/proc/%d/comm", v->pid) == 0 && comm.n) {
		int n = (int)strcspn((char *)comm.at, "\n");

		err_in(e, "pid %d (%.*s): fd %d", v->pid, n, (char *)comm.at, v->fd);
	} else {
		err_in(e, "pid %d: fd %d", v->pid, v->fd);
	}
	buf_free(&comm);
	return -e->code;
}

static int check_fd(struct kind_dump *c, const struct kind *k, const struct fd_view *v,
		    struct err *e)
{
	if (!k)
		return kind_refuse(v, e);
	if (k->check) {
		int ret = k->check(c, v, e);
		if (ret)
			return ret;
	}
	return kind_locks_check(c, v, e);
}

int kind_check(struct kind_dump *c, const struct fd_view *v, struct err *e)
{
	return check_fd(c, kind_match(v), v, e) ? in_fd(v, e) : 0;
}

int kind_type(const struct fd_view *v, FdTypes *type)
{
	const struct kind *k = kind_match(v);

	if (!k)
		return -ENOTSUP;
	*type = k->type;
	return 0;
}

static int dump_entry(struct kind_dump *c, const struct kind *k, const struct fd_view *v,
		      struct err *e)
{
	FileEntry *fe = kind_msg(FileEntry, file_entry__init);

	fe->type = k->type;
	fe->id = v->id;
	int ret = k->dump(c, v, fe, e);
	if (ret == KIND_PUT_LATER)
		return 0;
	if (!ret) {
		FownEntry **fown = kind_fown_slot(fe);

		if (fown && !*fown)
			*fown = kind_fown_dump(v->local);
		img_put(c->set, IMG_FILES, 0, &fe->base);
	}
	file_entry__free_unpacked(fe, NULL);
	return ret;
}

int kind_dump_fd(struct kind_dump *c, struct fd_view *v, struct err *e)
{
	const struct kind *k = kind_match(v);
	int ret = check_fd(c, k, v, e);

	if (!ret)
		ret = kind_locks_dump(c, v, e);
	if (!ret && kind_first(c, KIND_SPACE_FILE, v->id))
		ret = dump_entry(c, k, v, e);
	return ret ? in_fd(v, e) : 0;
}

int kind_preview_fd(struct kind_dump *c, struct fd_view *v, struct err *e)
{
	const struct kind *k = kind_match(v);

	if (!k || !k->preview || !k->preview(v) || !kind_first(c, KIND_SPACE_FILE, v->id))
		return 0;
	return dump_entry(c, k, v, e) ? in_fd(v, e) : 0;
}

int kind_dump_path(struct kind_dump *c, int local, const char *path, int flags, uint32_t *id,
		   struct err *e)
{
	_cleanup_free_ char *name = xstrdup(path);
	struct stat st;

	if (fstat(local, &st) < 0)
		return err_set(e, errno, "%s", path);
	kind_cut_deleted(name, &st);
	uint64_t hash = XXH3_64bits_withSeed(name, strlen(name), (uint64_t)flags);
	struct kind_source s = {
		.id = kind_number(c, KIND_SPACE_FILE, KIND_KEY_OWN | st.st_dev, st.st_ino, hash),
		.local = local, .path = name, .st = &st, .flags = (uint32_t)flags,
	};
	*id = s.id;
	return kind_reg_put(c, &s, e);
}
