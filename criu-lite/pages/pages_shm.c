/* SPDX-License-Identifier: Apache-2.0 */
#include "pages_shm.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#include "io.h"

#define PIECE (1ul << 20)
/* Inode times are coarse (a tick); a change this close to the last look may have come after it. */
#define TIME_GRAIN_NS 20000000

struct shm_track {
	uint32_t id;
	bool looked;
	bool racy;                  /* the object changed just before the last look */
	struct timespec mtime, ctime;
	prange_vec data;            /* extents at the last look */
	uint64_t *hash;             /* by page; only of objects that write(2) can reach */
	size_t hashes;
};

struct shm_track *shm_track_new(uint32_t id)
{
	struct shm_track *t = xcalloc(1, sizeof(*t));

	t->id = id;
	return t;
}

void shm_track_free(struct shm_track *t)
{
	if (!t)
		return;
	vec_free(&t->data);
	free(t->hash);
	free(t);
}

uint32_t shm_track_id(const struct shm_track *t) { return t->id; }

int shm_extents(int fd, prange_vec *out, struct err *e)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return err_set(e, errno, "shared memory object");
	for (off_t at = 0; at < st.st_size;) {
		off_t data = lseek(fd, at, SEEK_DATA);
		if (data < 0 && errno == ENXIO)
			break;
		off_t hole = data < 0 ? -1 : lseek(fd, data, SEEK_HOLE);
		if (hole < 0)
			return err_set(e, errno, "shared memory object: extents");
		prange_add(out, (uint64_t)data & ~(PAGE_SIZE - 1),
			   ((uint64_t)hole + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1));
		at = hole;
	}
	return 0;
}

static bool same_time(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

static bool just_now(const struct timespec *t)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (now.tv_sec - t->tv_sec) * 1000000000ll + now.tv_nsec - t->tv_nsec < TIME_GRAIN_NS;
}

static bool writable_by_fd(const struct shm_object *o)
{
	int seals = o->memfd ? fcntl(o->fd, F_GET_SEALS) : F_SEAL_WRITE;

	return seals < 0 || !(seals & F_SEAL_WRITE);
}

/* Hashes the pages of `r`; those whose hash is another than before go to `changed` (if wanted). */
static int hash_pages(struct shm_track *t, int fd, const prange_vec *r, prange_vec *changed,
		      struct err *e)
{
	_cleanup_free_ uint8_t *piece = xmalloc(PIECE);

	for (size_t i = 0; i < r->n; i++)
		for (uint64_t at = r->at[i].start; at < r->at[i].end;) {
			size_t want = r->at[i].end - at < PIECE ? r->at[i].end - at : PIECE;
			ssize_t got = pread(fd, piece, want, (off_t)at);

			if (got < 0)
				return err_set(e, errno, "shared memory object: read");
			memset(piece + got, 0, want - (size_t)got); /* cut meanwhile */
			for (size_t k = 0; k < want; k += PAGE_SIZE) {
				uint64_t h = XXH3_64bits(piece + k, PAGE_SIZE);
				uint64_t *slot = &t->hash[(at + k) / PAGE_SIZE];

				if (changed && *slot != h)
					prange_add(changed, at + k, at + k + PAGE_SIZE);
				*slot = h;
			}
			at += want;
		}
	return 0;
}

static void room_for_hashes(struct shm_track *t, const prange_vec *data)
{
	size_t pages = data->n ? data->at[data->n - 1].end / PAGE_SIZE : 0;

	if (pages <= t->hashes)
		return;
	t->hash = vec_grow(t->hash, &t->hashes, pages, sizeof(*t->hash));
}

/* Pages that changed behind the trackers' backs. `known`: those reported, to be hashed anew. */
static int behind_our_back(struct shm_track *t, const struct shm_look *l, bool verify,
			   const prange_vec *known, const prange_vec *data, prange_vec *changed,
			   struct err *e)
{
	prange_vec rest = { 0 };
	int ret = 0;

	room_for_hashes(t, data);
	if (verify) {
		prange_minus(data, known, &rest);
		ret = hash_pages(t, l->object->fd, &rest, changed, e);
	}
	if (ret == 0 && !l->last)
		ret = hash_pages(t, l->object->fd, known, NULL, e);
	vec_free(&rest);
	return ret;
}

static int compare(struct shm_track *t, const struct shm_look *l, bool moved,
		   const prange_vec *data, struct scan *out, struct err *e)
{
	prange_vec reported = { 0 }, fresh = { 0 }, known = { 0 }, changed = { 0 }, all = { 0 };
	bool verify = moved && (l->forks || writable_by_fd(l->object));

	if (!t->looked) {
		prange_or(data, &all, &out->dirty);
		room_for_hashes(t, data);
		return l->last ? 0 : hash_pages(t, l->object->fd, data, NULL, e);
	}
	prange_minus(&t->data, data, &out->reset);
	prange_or(l->written, l->unsure, &reported);
	prange_and(&reported, data, &known);
	prange_minus(data, &t->data, &fresh);
	prange_or(&known, &fresh, &all);
	int ret = behind_our_back(t, l, verify, &all, data, &changed, e);
	prange_or(&all, &changed, &out->dirty);
	vec_free(&reported);
	vec_free(&fresh);
	vec_free(&known);
	vec_free(&changed);
	vec_free(&all);
	return ret;
}

int shm_track_look(struct shm_track *t, const struct shm_look *l, struct scan *out, struct err *e)
{
	prange_vec data = { 0 };
	struct stat st;
	int ret;

	if (fstat(l->object->fd, &st) < 0)
		return err_set(e, errno, "shared memory object %u", t->id);
	if ((ret = shm_extents(l->object->fd, &data, e)) < 0) {
		vec_free(&data);
		return ret;
	}
	bool moved = t->racy || !same_time(&st.st_mtim, &t->mtime) ||
		     !same_time(&st.st_ctim, &t->ctime);
	bool racy = just_now(&st.st_mtim) || just_now(&st.st_ctim);

	ret = compare(t, l, moved, &data, out, e);
	t->looked = true;
	t->racy = racy;
	t->mtime = st.st_mtim;
	t->ctime = st.st_ctim;
	vec_free(&t->data);
	t->data = data;
	return ret < 0 ? err_in(e, "shared memory object %u", t->id) : 0;
}
