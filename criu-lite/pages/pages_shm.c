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
#include "pages_extents.h"
#include "pages_send.h"
#include "pages_tripwire.h"

#define PIECE (1ul << 20)
#define TIME_SLACK_NS 20000000

struct shm_track {
	uint32_t id;
	bool looked;
	bool racy;                  /* the object changed just before the last look */
	struct timespec mtime, ctime, atime;
	uint64_t told;              /* the size, as the target was told last */
	struct tripwire wire;
	prange_vec data;            /* extents at the last look */
	uint64_t *hash;             /* by page, of what was sent last, or PAGES_NO_SUM */
	size_t hashes;
};

struct shm_track *shm_track_new(uint32_t id)
{
	struct shm_track *t = xcalloc(1, sizeof(*t));

	t->id = id;
	t->wire.fd = -1;
	return t;
}

void shm_track_free(struct shm_track *t)
{
	if (!t)
		return;
	tripwire_lift(&t->wire);
	vec_free(&t->data);
	free(t->hash);
	free(t);
}

uint32_t shm_track_id(const struct shm_track *t) { return t->id; }

uint64_t *shm_track_sums(struct shm_track *t, size_t *n)
{
	*n = t->hashes;
	return t->hash;
}

static int all_extents(int fd, const struct stat *st, prange_vec *out, struct err *e)
{
	struct extents x = { .fd = fd };
	uint64_t size = ((uint64_t)st->st_size + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1);
	int ret = extents_add(&x, 0, size, 0, out);

	return ret < 0 ? err_set(e, -ret, "extents") : 0;
}

/* No page was lost, and none came but where a store was seen: less work than a walk through the
 * whole object. */
static int more_extents(const struct shm_track *t, int fd, const prange_vec *stored,
			prange_vec *out, struct err *e)
{
	prange_vec where = { 0 }, more = { 0 };
	struct extents x = { .fd = fd };
	int ret = 0;

	prange_minus(stored, &t->data, &where);
	for (size_t i = 0; ret == 0 && i < where.n; i++)
		ret = extents_add(&x, where.at[i].start, where.at[i].end, 0, &more);
	prange_or(&t->data, &more, out);
	vec_free(&where);
	vec_free(&more);
	return ret < 0 ? err_set(e, -ret, "extents") : 0;
}

static bool same_time(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

/* The next change may get the same time: inode times come from the clock that stands still from
 * tick to tick (which may be long in a virtual machine), and are set a moment later. */
static bool just_now(const struct timespec *t)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME_COARSE, &now);
	return (now.tv_sec - t->tv_sec) * 1000000000ll + now.tv_nsec - t->tv_nsec < TIME_SLACK_NS;
}

/* Anonymous memory has no descriptor but MADV_REMOVE; F_SEAL_WRITE is against both. Cut and made
 * long again, it has lost pages. */
static bool sealed(const struct shm_object *o)
{
	int seals = o->memfd ? fcntl(o->fd, F_GET_SEALS) : -1;

	return seals >= 0 && (seals & F_SEAL_WRITE) && (seals & F_SEAL_SHRINK);
}

/* Those whose hash is another than that of what was sent last go to `changed`. */
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

				uint64_t was = t->hash[(at + k) / PAGE_SIZE];

				if (was != h || was == PAGES_NO_SUM)
					prange_add(changed, at + k, at + k + PAGE_SIZE);
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
	size_t before = t->hashes;
	t->hash = vec_grow(t->hash, &t->hashes, pages, sizeof(*t->hash));
	memset(&t->hash[before], 0, (t->hashes - before) * sizeof(*t->hash));
}

/* Pages that changed behind the trackers' backs. `known`: those reported in any case. They are not
 * hashed here: the guest may change them until they are read, and change them back after that.
 * Whoever reads them does it (shm_track_sums). */
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
	vec_free(&rest);
	return ret;
}

/* The target has cut it: what was there before may be there no more. */
static void forget_cut(struct shm_track *t, uint64_t told)
{
	size_t first = told / PAGE_SIZE;

	if (told < t->told && first < t->hashes)
		memset(&t->hash[first], 0, (t->hashes - first) * sizeof(*t->hash));
	t->told = told;
}
_Static_assert(PAGES_NO_SUM == 0, "as memset leaves it");

/* What only one look tells. */
struct finding {
	bool intact;                 /* the tripwire stands: nothing but stores */
	bool verify;                 /* there may be changes that nobody saw */
	prange_vec stored;           /* by the trackers */
	prange_vec data;
};

static int compare(struct shm_track *t, const struct shm_look *l, const struct finding *f,
		   struct scan *out, struct err *e)
{
	prange_vec fresh = { 0 }, known = { 0 }, changed = { 0 }, all = { 0 };

	if (!t->looked) {
		prange_or(&f->data, &all, &out->dirty);
		room_for_hashes(t, &f->data);
		return 0;
	}
	prange_minus(&t->data, &f->data, &out->reset);
	prange_and(&f->stored, &f->data, &known);
	prange_minus(&f->data, &t->data, &fresh);
	prange_or(&known, &fresh, &all);
	int ret = behind_our_back(t, l, f->verify, &all, &f->data, &changed, e);
	prange_or(&all, &changed, &out->dirty);
	vec_free(&fresh);
	vec_free(&known);
	vec_free(&changed);
	vec_free(&all);
	return ret;
}

/* Children that lived too briefly for a tracker store through mappings that they inherit, or that
 * they make: mmap(2) moves the access time (our own descriptor has O_NOATIME). */
static bool by_children(const struct shm_track *t, const struct shm_look *l, const struct stat *st)
{
	return l->forks &&
	       (l->inherited || t->racy || !same_time(&st->st_atim, &t->atime));
}

static void judge(struct shm_track *t, const struct shm_look *l, const struct stat *st,
		  struct finding *f)
{
	bool moved = t->racy || !same_time(&st->st_mtim, &t->mtime) ||
		     !same_time(&st->st_ctim, &t->ctime);
	bool works = t->wire.works;

	f->intact = l->last ? tripwire_stands(&t->wire) : tripwire_intact(&t->wire);
	f->verify = l->strangers && (l->inherited || !same_time(&st->st_atim, &t->atime));
	f->verify |= moved && (l->hidden || l->lost || by_children(t, l, st));
	f->verify |= l->lost_new; /* which store without a fault, so that no time moves */
	f->verify |= works ? !f->intact : moved && !sealed(l->object);
	prange_or(l->written, l->unsure, &f->stored);
}

/* The times as they are now, after the tripwire was set. */
static int remember(struct shm_track *t, int fd, struct err *e)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return err_set(e, errno, "shared memory object");
	t->racy = just_now(&st.st_mtim) || just_now(&st.st_ctim) || just_now(&st.st_atim);
	t->mtime = st.st_mtim;
	t->ctime = st.st_ctim;
	t->atime = st.st_atim;
	return 0;
}

static int look(struct shm_track *t, const struct shm_look *l, struct finding *f,
		struct scan *out, struct err *e)
{
	int fd = l->object->fd, ret;
	struct stat st;

	forget_cut(t, l->object->size);
	if (!t->looked && !l->last)
		tripwire_init(&t->wire, fd);
	if (fstat(fd, &st) < 0)
		return err_set(e, errno, "shared memory object");
	judge(t, l, &st, f);
	if ((ret = remember(t, fd, e)) < 0)
		return ret;
	if (t->looked && f->intact && !f->verify) /* stores that nobody saw make data, too */
		ret = more_extents(t, fd, &f->stored, &f->data, e);
	else
		ret = all_extents(fd, &st, &f->data, e);
	return ret < 0 ? ret : compare(t, l, f, out, e);
}

int shm_track_look(struct shm_track *t, const struct shm_look *l, struct scan *out, struct err *e)
{
	struct finding f = { 0 };
	int ret = look(t, l, &f, out, e);

	t->looked = true;
	vec_free(&t->data);
	t->data = f.data;
	vec_free(&f.stored);
	return ret < 0 ? err_in(e, "shared memory object %u", t->id) : 0;
}
