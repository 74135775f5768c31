/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files with a name: regular files, directories, device nodes without state, and whatever
 * was opened with O_PATH. Also /proc, /sys and the like.
 */
#include "kind_reg.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "kind_fown.h"
#include "kind_ident.h"
#include "kind_remap.h"
#include "kind_util.h"

#define O_TMPFILE_BIT (O_TMPFILE & ~O_DIRECTORY)

static bool reg_match(const struct fd_view *v)
{
	mode_t mode = v->st.st_mode;

	if (v->link[0] != '/')
		return false;
	if (v->flags & O_PATH)
		return true;
	return S_ISREG(mode) || S_ISDIR(mode) ||
	       (S_ISCHR(mode) && kind_stateless_node(v->st.st_rdev));
}

static int reg_check(struct kind_dump *c, const struct fd_view *v, struct err *e)
{
	struct statfs fs;

	if (fstatfs(v->local, &fs) == 0 && (uint32_t)fs.f_type == SECRETMEM_MAGIC)
		return kind_refuse(v, e);
	if (S_ISCHR(v->st.st_mode) && !strcmp(kind_stateless_node(v->st.st_rdev) ?: "", "tty") &&
	    !(v->flags & O_PATH) && !kind_dump_opts(c)->shell_job) {
		err_say(e, ENOTSUP, "%s: the terminal does not go along", v->link);
		return err_remedy(e, "use --shell-job, or run the program without a terminal");
	}
	if (!v->deleted && !kind_remap_gone(v->link, v->local, &v->st))
		return 0;
	return kind_remap_check(c, v->link, &v->st, e);
}

int kind_reg_build(struct kind_dump *c, const struct kind_source *s, RegFileEntry **out,
		   struct err *e)
{
	RegFileEntry *r = kind_msg(RegFileEntry, reg_file_entry__init);
	int ret = 0;

	r->id = s->id;
	r->flags = s->flags & ~(uint32_t)(O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_CLOEXEC |
					  O_TMPFILE_BIT);
	if (!S_ISDIR(s->st->st_mode))
		r->flags &= ~(uint32_t)O_DIRECTORY;
	r->pos = (uint64_t)s->pos;
	r->name = xstrdup(s->path);
	r->fown = kind_fown_dump(s->local);
	kind_ident_fill(c, r, s->local, s->st);
	if (kind_remap_gone(s->path, s->local, s->st)) {
		ret = kind_remap_check(c, s->path, s->st, e);
		if (!ret)
			ret = kind_remap_dump(c, s->id, s->local, s->path, s->st, e);
	}
	if (ret)
		reg_file_entry__free_unpacked(r, NULL);
	else
		*out = r;
	return ret;
}

int kind_reg_put(struct kind_dump *c, const struct kind_source *s, struct err *e)
{
	FileEntry fe = FILE_ENTRY__INIT;

	if (!kind_first(c, KIND_SPACE_FILE, s->id))
		return 0;
	fe.type = FD_TYPES__REG;
	fe.id = s->id;
	int ret = kind_reg_build(c, s, &fe.reg, e);
	if (ret)
		return ret;
	img_put(kind_dump_set(c), IMG_FILES, 0, &fe.base);
	reg_file_entry__free_unpacked(fe.reg, NULL);
	return 0;
}

static bool reg_preview(const struct fd_view *v)
{
	return !v->deleted && !kind_remap_gone(v->link, v->local, &v->st);
}

static int reg_dump(struct kind_dump *c, const struct fd_view *v, FileEntry *fe, struct err *e)
{
	struct kind_source s = {
		.id = v->id, .local = v->local, .path = v->link, .st = &v->st,
		.flags = (uint32_t)v->flags, .pos = v->pos,
	};

	return kind_reg_build(c, &s, &fe->reg, e);
}

static int open_named(const RegFileEntry *r, struct err *e)
{
	int flags = O_PATH | O_CLOEXEC;

	if (r->has_mode && S_ISLNK(r->mode))
		flags |= O_NOFOLLOW;
	int fd = open(r->name, flags);
	if (fd >= 0)
		return fd;
	int code = errno;
	err_set(e, code, "%s", r->name);
	if (code == ENOENT || code == ENOTDIR)
		err_remedy(e, "copy %s to the target or use shared storage", r->name);
	return -code;
}

int kind_reg_find(struct kind_restore *c, const RegFileEntry *r, bool now, struct err *e)
{
	bool ghost = false;

	if (kind_remap_is(c, r->id, &ghost)) {
		int base = kind_remap_base(c, r, e);

		if (base < 0)
			return base;
		int fd = fcntl(base, F_DUPFD_CLOEXEC, 0);
		if (fd < 0)
			return err_set(e, errno, "%s", r->name);
		return fd;
	}
	_cleanup_close_ int fd = open_named(r, e);
	if (fd < 0)
		return fd;
	int ret = kind_ident_verify(r, fd, now, e);
	return ret ? ret : steal_fd(fd);
}

static int reg_verify(struct kind_restore *c, const FileEntry *fe, struct err *e)
{
	const RegFileEntry *r = fe->reg;

	if (kind_remap_is(c, r->id, NULL))
		return kind_remap_verify(c, r, e);
	_cleanup_close_ int fd = open_named(r, e);
	if (fd < 0)
		return fd;
	return kind_ident_verify(r, fd, false, e);
}

/* A link of /proc cannot be opened with O_NOFOLLOW, the file itself can: by its name, if that still
 * leads to what was looked at. Where it does not (the name is gone) only the flag is lost. */
static int open_again(const RegFileEntry *r, int path, uint32_t flags)
{
	struct stat st, want;

	if (!(flags & O_NOFOLLOW))
		return kind_reopen(path, (int)flags);
	if (fstat(path, &want) == 0 && lstat(r->name, &st) == 0 && st.st_dev == want.st_dev &&
	    st.st_ino == want.st_ino) {
		_cleanup_close_ int fd = open(r->name, (int)flags | O_CLOEXEC | O_NOCTTY);

		if (fd < 0)
			return -errno;
		if (fstat(fd, &st) == 0 && st.st_dev == want.st_dev && st.st_ino == want.st_ino)
			return steal_fd(fd);
	}
	return kind_reopen(path, (int)(flags & ~(uint32_t)O_NOFOLLOW));
}

int kind_reg_open(struct kind_restore *c, const RegFileEntry *r, struct err *e)
{
	uint32_t drop = O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_ASYNC | O_TMPFILE_BIT;

	/* The file is found and looked at first: opening the wrong one could do something. */
	_cleanup_close_ int path = kind_reg_find(c, r, false, e);
	if (path < 0)
		return path;
	if ((r->flags & O_PATH) && !kind_remap_is(c, r->id, NULL) &&
	    r->has_mode && S_ISLNK(r->mode))
		return steal_fd(path);
	/* Never waits, whatever the file turns out to be. */
	uint32_t flags = (r->flags & ~drop) | (r->flags & O_PATH ? 0 : O_NONBLOCK);
	_cleanup_close_ int fd = open_again(r, path, flags);
	if (fd < 0)
		return err_set(e, -fd, "%s: open with flags 0%o", r->name, r->flags);
	if (r->flags & O_PATH)
		return steal_fd(fd);
	if (r->pos && lseek(fd, (off_t)r->pos, SEEK_SET) < 0 && errno != ESPIPE)
		return err_set(e, errno, "%s: seek to %llu", r->name,
			       (unsigned long long)r->pos);
	int ret = kind_set_flags(fd, r->flags, e);
	if (ret)
		return err_in(e, "%s", r->name);
	return steal_fd(fd);
}

static int reg_create(struct kind_restore *c, const FileEntry *fe, int *fd, struct err *e)
{
	int ret = kind_reg_open(c, fe->reg, e);

	if (ret < 0)
		return ret;
	*fd = ret;
	return 0;
}

/* The guest stands still: whatever was still being written to must be the same now. */
static int reg_finish(struct kind_restore *c, const FileEntry *fe, int fd, struct err *e)
{
	bool ghost = false;

	/* A build-id was compared when it was opened, and such a file is not written to. */
	if ((kind_remap_is(c, fe->id, &ghost) && ghost) || fe->reg->n_build_id)
		return 0;
	return kind_ident_verify(fe->reg, fd, true, e);
}

const struct kind kind_reg = {
	.name = "file",
	.type = FD_TYPES__REG,
	.match = reg_match,
	.check = reg_check,
	.preview = reg_preview,
	.dump = reg_dump,
	.verify = reg_verify,
	.create = reg_create,
	.finish = reg_finish,
};
