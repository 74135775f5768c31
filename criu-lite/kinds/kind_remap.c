/* SPDX-License-Identifier: Apache-2.0 */
/* Files without a name, target side. */
#include "kind_remap.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "ghost-file.pb-c.h"
#include "io.h"
#include "kind_ident.h"
#include "kind_priv.h"
#include "kind_util.h"
#include "log.h"
#include "remap-file-path.pb-c.h"

#define GHOST_FLAG (1u << 31)  /* in remap_id, before there was remap_type */

static const struct kind_remap *find_remap(const struct kind_restore *c, uint32_t id)
{
	size_t low = 0, high = c->remap.n;

	while (low < high) {
		size_t mid = (low + high) / 2;

		if (c->remap.at[mid].orig_id < id)
			low = mid + 1;
		else
			high = mid;
	}
	return low < c->remap.n && c->remap.at[low].orig_id == id ? &c->remap.at[low] : NULL;
}

bool kind_remap_is(const struct kind_restore *c, uint32_t id, bool *ghost)
{
	const struct kind_remap *r = find_remap(c, id);

	if (r && ghost)
		*ghost = r->ghost;
	return r != NULL;
}

static uint64_t ghost_hash(const struct img_set *set, uint32_t id)
{
	uint64_t hash = 0;

	for (size_t i = 0; i < img_count(set, IMG_GHOST_FILE, id); i++) {
		const struct img_record *r = img_record(set, IMG_GHOST_FILE, id, i);

		hash = XXH3_64bits_withSeed(r->data, r->len, hash);
		hash = XXH3_64bits_withSeed(r->extra, r->extra_len, hash);
	}
	return hash;
}

/* Zeroes what lies between chunks. */
static int clear_gap(int fd, uint64_t start, uint64_t end)
{
	static const uint8_t zero[4096];

	if (start >= end)
		return 0;
	if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)start,
		      (off_t)(end - start)) == 0)
		return 0;
	while (start < end) {
		size_t n = end - start < sizeof(zero) ? end - start : sizeof(zero);
		int ret = io_pwrite(fd, zero, n, (off_t)start);

		if (ret)
			return ret;
		start += n;
	}
	return 0;
}

/* Chunks in ascending order; unless it is fresh, the file has held something else before. */
static int fill_chunks(const struct img_set *set, uint32_t id, int fd, uint64_t size, bool fresh,
		       struct err *e)
{
	size_t n = img_count(set, IMG_GHOST_FILE, id);
	uint64_t at = 0;

	for (size_t i = 1; i < n; i++) {
		const struct img_record *rec = img_record(set, IMG_GHOST_FILE, id, i);
		_cleanup_msg_ GhostChunkEntry *chunk = NULL;
		int ret = img_get(set, IMG_GHOST_FILE, id, i, &chunk, e);

		if (ret)
			return ret;
		if (chunk->len != rec->extra_len || chunk->off < at || chunk->off > size ||
		    chunk->len > size - chunk->off)
			return err_set(e, EBADMSG, "ghost-file-%x.img: chunk %zu is out of place",
				       id, i);
		ret = fresh ? 0 : clear_gap(fd, at, chunk->off);
		if (!ret)
			ret = io_pwrite(fd, rec->extra, rec->extra_len, (off_t)chunk->off);
		if (ret)
			return err_set(e, -ret, "deleted file");
		at = chunk->off + chunk->len;
	}
	int ret = fresh ? 0 : clear_gap(fd, at, size);
	return ret ? err_set(e, -ret, "deleted file") : 0;
}

static int fill_ghost(const struct kind_restore *c, uint32_t id, int fd, const GhostFileEntry *g,
		      struct err *e)
{
	const struct img_record *rec = img_record(c->set, IMG_GHOST_FILE, id, 0);
	struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, { .tv_nsec = UTIME_OMIT } };
	uint64_t size = g->has_size ? g->size : rec->extra_len;
	struct stat was;
	int ret = 0;

	if (fstat(fd, &was) < 0 || size > INT64_MAX || ftruncate(fd, (off_t)size) < 0)
		return err_set(e, errno, "deleted file of %llu bytes", (unsigned long long)size);
	if (g->has_chunks && g->chunks) {
		ret = fill_chunks(c->set, id, fd, size, !was.st_size, e);
	} else if (rec->extra_len > size) {
		ret = err_set(e, EBADMSG, "ghost-file-%x.img: longer than it says", id);
	} else if (rec->extra_len) {
		ret = io_pwrite(fd, rec->extra, rec->extra_len, 0);
		if (ret)
			err_set(e, -ret, "deleted file");
	}
	if (g->atim)
		times[0] = (struct timespec){ (time_t)g->atim->tv_sec,
					      (long)(g->atim->tv_usec % 1000000) * 1000 };
	if (g->mtim)
		times[1] = (struct timespec){ (time_t)g->mtim->tv_sec,
					      (long)(g->mtim->tv_usec % 1000000) * 1000 };
	if (!ret && futimens(fd, times) < 0)
		log_debug("deleted file: times: %s", strerror(errno));
	return ret;
}

/* Where the ghost gets its short-lived name: at its old place if that is free, so that
 * readlink of /proc/PID/fd/N says the same as before; the nearest directory that exists
 * otherwise. */
static char *ghost_name(const char *name, unsigned int attempt)
{
	_cleanup_free_ char *dir = xstrdup(name);
	const char *slash = strrchr(name, '/');
	const char *base = slash ? slash + 1 : name;
	char *cut;

	while ((cut = strrchr(dir, '/')) != NULL) {
		*cut = '\0';
		if (access(*dir ? dir : "/", F_OK) == 0)
			break;
	}
	return attempt ? xasprintf("%s/%s.criu-lite.%u", dir, base, attempt)
		       : xasprintf("%s/%s", dir, base);
}

/* Creates it under a name, opens it, takes the name away again. */
static int create_node(const char *name, mode_t mode)
{
	int fd = -1;

	if (S_ISREG(mode)) {
		fd = open(name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
		if (fd >= 0)
			unlink(name);
	} else if (S_ISDIR(mode)) {
		if (mkdir(name, 0700) == 0) {
			fd = open(name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
			rmdir(name);
		}
	} else if (S_ISFIFO(mode)) {
		if (mkfifo(name, 0600) == 0) {
			fd = open(name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
			unlink(name);
		}
	} else {
		errno = ENOTSUP;
	}
	return fd < 0 ? -errno : fd;
}

static int create_ghost(const struct kind_restore *c, const RegFileEntry *r, uint32_t id,
			struct err *e)
{
	_cleanup_msg_ GhostFileEntry *g = NULL;
	_cleanup_close_ int fd = -EEXIST;

	int ret = img_get(c->set, IMG_GHOST_FILE, id, 0, &g, e);
	if (ret)
		return ret;
	for (unsigned int i = 0; fd == -EEXIST && i < 100; i++) {
		_cleanup_free_ char *name = ghost_name(r->name, i);

		fd = create_node(name, g->mode);
	}
	if (fd < 0) {
		err_set(e, -fd, "%s: deleted file cannot be made again", r->name);
		return err_remedy(e, "make its directory on the target, writable");
	}
	if (fchownat(fd, "", g->uid, g->gid, AT_EMPTY_PATH) < 0)
		return err_set(e, errno, "%s: owner %u:%u", r->name, g->uid, g->gid);
	char link[32];
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	if (chmod(link, g->mode & 07777) < 0)
		return err_set(e, errno, "%s: mode 0%o", r->name, g->mode);
	ret = S_ISREG(g->mode) ? fill_ghost(c, id, fd, g, e) : 0;
	return ret ? err_in(e, "%s", r->name) : steal_fd(fd);
}

static const RegFileEntry *link_entry(const struct kind_restore *c, uint32_t id, struct err *e)
{
	const FileEntry *fe = kind_entry(c, id);

	if (fe && fe->reg)
		return fe->reg;
	err_set(e, EBADMSG, "remap-fpath.img: names file %u, which is none", id);
	return NULL;
}

/* Opens the file by the name that --link-remap made, through its old name if that is free. */
static int open_link(const struct kind_restore *c, const RegFileEntry *r, uint32_t id,
		     struct err *e)
{
	const RegFileEntry *l = link_entry(c, id, e);
	int flags = O_PATH | O_NOFOLLOW | O_CLOEXEC;

	if (!l)
		return -e->code;
	bool renamed = link(l->name, r->name) == 0;
	_cleanup_close_ int fd = open(renamed ? r->name : l->name, flags);
	int code = errno;
	if (renamed)
		unlink(r->name);
	if (fd < 0) {
		err_set(e, code, "%s: its other name %s", r->name, l->name);
		return err_remedy(e, "use storage that both hosts share, or dump again");
	}
	int ret = kind_ident_verify(r, fd, false, e);
	return ret ? ret : steal_fd(fd);
}

int kind_remap_base(struct kind_restore *c, const RegFileEntry *r, struct err *e)
{
	const struct kind_remap *m = find_remap(c, r->id);

	vec_each(&c->base, b)
		if (b->remap_id == m->remap_id && b->ghost == m->ghost)
			return b->fd;
	int fd = m->ghost ? create_ghost(c, r, m->remap_id, e) : open_link(c, r, m->remap_id, e);
	if (fd < 0)
		return fd;
	struct kind_base *b = vec_new(&c->base);
	b->remap_id = m->remap_id;
	b->ghost = m->ghost;
	b->hash = m->ghost ? ghost_hash(c->set, m->remap_id) : 0;
	b->fd = fd;
	return fd;
}

int kind_remap_verify(const struct kind_restore *c, const RegFileEntry *r, struct err *e)
{
	const struct kind_remap *m = find_remap(c, r->id);

	if (m->ghost) {
		_cleanup_msg_ GhostFileEntry *g = NULL;

		return img_get(c->set, IMG_GHOST_FILE, m->remap_id, 0, &g, e);
	}
	const RegFileEntry *l = link_entry(c, m->remap_id, e);
	if (!l)
		return -e->code;
	_cleanup_close_ int fd = open(l->name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0) {
		err_set(e, errno, "%s: its other name %s", r->name, l->name);
		return err_remedy(e, "use storage that both hosts share, or dump again");
	}
	return kind_ident_verify(r, fd, false, e);
}

static int by_orig(const void *a, const void *b)
{
	const struct kind_remap *x = a, *y = b;

	return x->orig_id < y->orig_id ? -1 : x->orig_id > y->orig_id;
}

static int load_remaps(struct kind_restore *c, struct err *e)
{
	size_t n = img_count(c->set, IMG_REMAP_FPATH, 0);

	c->remap.n = 0;
	for (size_t i = 0; i < n; i++) {
		_cleanup_msg_ RemapFilePathEntry *m = NULL;
		int ret = img_get(c->set, IMG_REMAP_FPATH, 0, i, &m, e);

		if (ret)
			return ret;
		bool ghost = m->has_remap_type ? m->remap_type == REMAP_TYPE__GHOST
					       : (m->remap_id & GHOST_FLAG) != 0;
		if (m->has_remap_type && m->remap_type == REMAP_TYPE__PROCFS)
			return err_say(e, ENOTSUP, "file %u is of a process that is gone",
				       m->orig_id);
		vec_push(&c->remap, (struct kind_remap){
			.orig_id = m->orig_id, .ghost = ghost,
			.remap_id = m->has_remap_type ? m->remap_id : m->remap_id & ~GHOST_FLAG });
	}
	if (n)
		qsort(c->remap.at, n, sizeof(*c->remap.at), by_orig);
	return 0;
}

/* The same object as in the last round, perhaps with other contents: it may be mapped already. */
static int refill(struct kind_restore *c, struct kind_base *b, struct err *e)
{
	_cleanup_msg_ GhostFileEntry *g = NULL;
	uint64_t hash = ghost_hash(c->set, b->remap_id);

	if (!img_count(c->set, IMG_GHOST_FILE, b->remap_id) || hash == b->hash)
		return 0;
	int ret = img_get(c->set, IMG_GHOST_FILE, b->remap_id, 0, &g, e);
	if (ret || !S_ISREG(g->mode))
		return ret;
	b->hash = hash;
	return fill_ghost(c, b->remap_id, b->fd, g, e);
}

int kind_remap_begin(struct kind_restore *c, struct err *e)
{
	int ret = load_remaps(c, e);

	for (size_t i = 0; !ret && i < c->base.n; i++)
		if (c->base.at[i].ghost)
			ret = refill(c, &c->base.at[i], e);
	return ret;
}

void kind_remap_done(struct kind_restore *c)
{
	vec_each(&c->remap, m) {
		struct err e = ERR_INIT;
		const RegFileEntry *l = m->ghost ? NULL : link_entry(c, m->remap_id, &e);

		if (l)
			unlink(l->name);
	}
}

void kind_remap_free(struct kind_restore *c)
{
	vec_each(&c->base, b)
		close(b->fd);
	vec_free(&c->base);
	vec_free(&c->remap);
}
