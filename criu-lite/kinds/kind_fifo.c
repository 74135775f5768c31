/* SPDX-License-Identifier: Apache-2.0 */
/* Named pipes: a path (an entry of its own, regf_id, holds flags and name) and the contents. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "fifo.pb-c.h"
#include "kind_fown.h"
#include "kind_pipedata.h"
#include "kind_reg.h"
#include "kind_remap.h"
#include "kind_util.h"

static bool fifo_match(const struct fd_view *v)
{
	return S_ISFIFO(v->st.st_mode) && !(v->flags & O_PATH) && v->link[0] == '/';
}

static int fifo_check(struct kind_dump *c, const struct fd_view *v, struct err *e)
{
	if (!v->deleted && !kind_remap_gone(v->link, v->local, &v->st))
		return 0;
	return kind_remap_check(c, v->link, &v->st, e);
}

static int fifo_dump(struct kind_dump *c, const struct fd_view *v, FileEntry *fe, struct err *e)
{
	FifoEntry *f = kind_msg(FifoEntry, fifo_entry__init);
	struct kind_source s = {
		.local = v->local, .path = v->link, .st = &v->st, .flags = (uint32_t)v->flags,
	};

	fe->fifo = f;
	f->id = v->id;
	f->pipe_id = kind_number(c, KIND_SPACE_PIPE, v->st.st_dev, v->st.st_ino, 0);
	f->has_regf_id = true;
	f->regf_id = s.id = kind_number(c, KIND_SPACE_FILE, KIND_KEY_OWN | v->st.st_dev,
					v->st.st_ino, v->id);
	int ret = kind_reg_put(c, &s, e);
	if (ret || !kind_first(c, KIND_SPACE_PIPE, f->pipe_id))
		return ret;
	return kind_pipedata_dump(c, IMG_FIFO_DATA, f->pipe_id, v->local, e);
}

static const RegFileEntry *name_of(struct kind_restore *c, const FileEntry *fe, struct err *e)
{
	const FileEntry *named = fe->fifo->has_regf_id ? kind_entry(c, fe->fifo->regf_id) : NULL;

	if (named && named->reg && named->reg->has_mode && S_ISFIFO(named->reg->mode))
		return named->reg;
	err_set(e, EBADMSG, "files.img: fifo %u has no name", fe->id);
	return NULL;
}

static int open_end(int path, const RegFileEntry *r, struct err *e)
{
	_cleanup_close_ int fd = kind_reopen(path, (int)(r->flags & O_ACCMODE) | O_NONBLOCK);

	if (fd < 0)
		return err_set(e, -fd, "%s", r->name);
	int ret = kind_set_flags(fd, r->flags, e);
	return ret ? err_in(e, "%s", r->name) : steal_fd(fd);
}

/* All descriptions of the FIFO, while `both` keeps it alive with what is in it. */
static int share(struct kind_restore *c, const FileEntry *own, int both, int *fd, struct err *e)
{
	const struct kind_indexed *at;
	size_t n;

	int ret = kind_index(c, KIND_INDEX_FIFO, own->fifo->pipe_id, &at, &n, e);
	for (size_t k = 0; !ret && k < n; k++) {
		const FileEntry *fe = kind_entry_at(c, at[k].i);
		const RegFileEntry *r = name_of(c, fe, e);

		if (!r)
			return -e->code;
		int end = open_end(both, r, e);
		if (end < 0)
			return end;
		if (fe == own)
			*fd = end;
		else
			kind_give(c, fe->id, end);
	}
	return ret;
}

static int fifo_create(struct kind_restore *c, const FileEntry *fe, int *fd, struct err *e)
{
	const RegFileEntry *r = name_of(c, fe, e);

	if (!r)
		return -e->code;
	_cleanup_close_ int path = kind_reg_find(c, r, false, e);
	if (path < 0)
		return path;
	/* Opened for both, it neither waits for a peer nor misses one. */
	_cleanup_close_ int both = kind_reopen(path, O_RDWR | O_NONBLOCK);
	if (both < 0)
		return err_set(e, -both, "%s", r->name);
	bool packets = (r->flags & O_DIRECT) && (r->flags & O_ACCMODE) != O_RDONLY;
	int ret = kind_pipedata_restore(c, IMG_FIFO_DATA, fe->fifo->pipe_id, both, packets, e);
	if (ret)
		return err_in(e, "%s", r->name);
	return share(c, fe, both, fd, e);
}

static int fifo_finish(struct kind_restore *c, const FileEntry *fe, int fd, struct err *e)
{
	const RegFileEntry *r = name_of(c, fe, e);

	if (!r)
		return -e->code;
	return r->fown ? kind_fown_restore(fd, r->fown, e) : 0;
}

const struct kind kind_fifo = {
	.name = "fifo",
	.type = FD_TYPES__FIFO,
	.match = fifo_match,
	.check = fifo_check,
	.dump = fifo_dump,
	.create = fifo_create,
	.finish = fifo_finish,
};
