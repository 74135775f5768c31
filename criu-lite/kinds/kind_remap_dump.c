/* SPDX-License-Identifier: Apache-2.0 */
/* Files without a name, source side. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "ghost-file.pb-c.h"
#include "io.h"
#include "kind_fown.h"
#include "kind_priv.h"
#include "kind_reg.h"
#include "kind_remap.h"
#include "kind_util.h"
#include "remap-file-path.pb-c.h"

#define CHUNK_MAX (1UL << 20)

bool kind_remap_gone(const char *path, int local, const struct stat *st)
{
	struct stat named;

	if (lstat(path, &named) < 0)
		return true;
	if (named.st_dev == st->st_dev && named.st_ino == st->st_ino)
		return false;
	/* Inodes of /proc come and go. */
	return !kind_on_pseudo_fs(local);
}

static uint64_t ghost_bytes(const struct stat *st)
{
	uint64_t used = (uint64_t)st->st_blocks * 512, size = (uint64_t)st->st_size;

	return S_ISREG(st->st_mode) ? (used < size ? used : size) : 0;
}

int kind_remap_check(const struct kind_dump *c, const char *path, const struct stat *st,
		     struct err *e)
{
	if (!strncmp(path, "/proc/", strlen("/proc/"))) {
		err_say(e, ENOTSUP, "%s: belongs to a process that is gone", path);
		return err_remedy(e, "let the program close it");
	}
	if (st->st_nlink && !S_ISDIR(st->st_mode)) {
		if (c->opts.link_remap)
			return 0;
		err_say(e, ENOTSUP, "%s: this name is gone, but the file has other names", path);
		return err_remedy(e, "use --link-remap");
	}
	if (!S_ISREG(st->st_mode) && !S_ISDIR(st->st_mode) && !S_ISFIFO(st->st_mode)) {
		err_say(e, ENOTSUP, "%s: was deleted and is no regular file", path);
		return err_remedy(e, "let the program close it");
	}
	if (ghost_bytes(st) <= c->opts.ghost_limit)
		return 0;
	/* Programs that delete big files hold them a moment longer, so as not to wait for it. */
	err_say(e, EAGAIN,
		"%s: was deleted, and its %" PRIu64 " bytes are over the limit of %" PRIu64, path,
		 ghost_bytes(st), c->opts.ghost_limit);
	return err_remedy(e, "use --ghost-limit %" PRIu64 " or more", ghost_bytes(st));
}

static int put_chunk(struct kind_dump *c, uint32_t id, int fd, off_t at, size_t n, uint8_t *buf,
		     struct err *e)
{
	GhostChunkEntry chunk = GHOST_CHUNK_ENTRY__INIT;

	int ret = io_pread(fd, buf, n, at);
	if (ret)
		return err_set(e, -ret, "deleted file");
	chunk.off = (uint64_t)at;
	chunk.len = n;
	img_put_extra(c->set, IMG_GHOST_FILE, id, &chunk.base, buf, n);
	return 0;
}

/* Only what is there: holes stay holes. */
static int put_contents(struct kind_dump *c, uint32_t id, int local, off_t size, struct err *e)
{
	_cleanup_close_ int fd = kind_reopen(local, O_RDONLY);
	_cleanup_free_ uint8_t *buf = xmalloc(CHUNK_MAX);
	off_t at = 0;

	if (fd < 0)
		return err_set(e, -fd, "deleted file");
	while (at < size) {
		off_t data = lseek(fd, at, SEEK_DATA);
		off_t hole = data < 0 ? -1 : lseek(fd, data, SEEK_HOLE);

		if (data < 0 && errno == ENXIO)
			return 0;
		if (hole < 0)
			return err_set(e, errno, "deleted file: SEEK_DATA");
		for (at = data; at < hole && at < size;) {
			off_t end = hole < size ? hole : size;
			size_t n = (size_t)(end - at) < CHUNK_MAX ? (size_t)(end - at) : CHUNK_MAX;
			int ret = put_chunk(c, id, fd, at, n, buf, e);

			if (ret)
				return ret;
			at += (off_t)n;
		}
	}
	return 0;
}

static int put_ghost(struct kind_dump *c, uint32_t id, int local, const struct stat *st,
		     struct err *e)
{
	GhostFileEntry g = GHOST_FILE_ENTRY__INIT;
	Timeval atim = TIMEVAL__INIT, mtim = TIMEVAL__INIT;

	atim.tv_sec = (uint64_t)st->st_atim.tv_sec;
	atim.tv_usec = (uint64_t)st->st_atim.tv_nsec / 1000;
	mtim.tv_sec = (uint64_t)st->st_mtim.tv_sec;
	mtim.tv_usec = (uint64_t)st->st_mtim.tv_nsec / 1000;
	g.uid = st->st_uid;
	g.gid = st->st_gid;
	g.mode = st->st_mode;
	g.has_dev = g.has_ino = true;
	g.dev = (uint32_t)st->st_dev;
	g.ino = st->st_ino;
	g.atim = &atim;
	g.mtim = &mtim;
	g.has_chunks = g.chunks = S_ISREG(st->st_mode);
	g.has_size = S_ISREG(st->st_mode);
	g.size = (uint64_t)st->st_size;
	img_put(c->set, IMG_GHOST_FILE, id, &g.base);
	return S_ISREG(st->st_mode) ? put_contents(c, id, local, st->st_size, e) : 0;
}

static void put_remap(struct kind_dump *c, uint32_t orig, uint32_t remap, RemapType type)
{
	RemapFilePathEntry r = REMAP_FILE_PATH_ENTRY__INIT;

	r.orig_id = orig;
	r.remap_id = remap;
	r.has_remap_type = true;
	r.remap_type = type;
	img_put(c->set, IMG_REMAP_FPATH, 0, &r.base);
}

/* A new name beside the old one. It stays the same from pass to pass. */
static int make_link(struct kind_dump *c, int local, const char *path, const struct stat *st,
		     char **out, struct err *e)
{
	const char *slash = strrchr(path, '/');
	_cleanup_free_ char *name = xasprintf("%.*s/.criu-lite-link.%" PRIx64,
					      slash ? (int)(slash - path) : 0, path,
					      (uint64_t)st->st_ino);
	char link[32];
	struct stat there;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", local);
	if (linkat(AT_FDCWD, link, AT_FDCWD, name, AT_SYMLINK_FOLLOW) == 0) {
		vec_push(&c->link, xstrdup(name));
	} else if (errno != EEXIST || lstat(name, &there) < 0 || there.st_dev != st->st_dev ||
		   there.st_ino != st->st_ino) {
		err_set(e, errno, "%s: cannot be given the name %s", path, name);
		return err_remedy(e, "let the program close the deleted file");
	}
	*out = steal_ptr(name);
	return 0;
}

static int put_link(struct kind_dump *c, uint32_t id, int local, const char *path,
		    const struct stat *st, struct err *e)
{
	_cleanup_free_ char *name = NULL;
	uint32_t link_id = kind_number(c, KIND_SPACE_FILE, KIND_KEY_OWN | st->st_dev, st->st_ino,
				       0);

	int ret = make_link(c, local, path, st, &name, e);
	if (ret)
		return ret;
	struct kind_source s = {
		.id = link_id, .local = local, .path = name, .st = st, .flags = O_RDONLY,
	};
	put_remap(c, id, link_id, REMAP_TYPE__LINKED);
	return kind_reg_put(c, &s, e);
}

int kind_remap_dump(struct kind_dump *c, uint32_t id, int local, const char *path,
		    const struct stat *st, struct err *e)
{
	if (st->st_nlink && !S_ISDIR(st->st_mode))
		return put_link(c, id, local, path, st, e);

	uint32_t ghost = kind_number(c, KIND_SPACE_INODE, st->st_dev, st->st_ino, 0);
	put_remap(c, id, ghost, REMAP_TYPE__GHOST);
	if (!kind_first(c, KIND_SPACE_INODE, ghost))
		return 0;
	int ret = put_ghost(c, ghost, local, st, e);
	return ret ? err_in(e, "%s", path) : 0;
}
