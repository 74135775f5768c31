/* SPDX-License-Identifier: Apache-2.0 */
#include "pages_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "cleanup.h"
#include "io.h"

/* Pieces small enough to be in the cache when they are written, big enough that a system call
 * does not matter. */
#define PIECE ((size_t)1 << 20)
#define PIECES 4
#define PIECE_RANGES (PIECE / PAGE_SIZE)

static enum img_type type_of(const struct pages_space *s)
{
	return s->kind == PAGES_TASK ? IMG_PAGEMAP : IMG_SHMEM_PAGEMAP;
}

static int mem_open(pid_t pid, int flags)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	return open(path, flags | O_CLOEXEC);
}

/* ---- dump: one thread reads into a ring of pieces, the caller writes them out ---- */

struct ring {
	pthread_mutex_t lock;
	pthread_cond_t moved;
	size_t filled, emptied;         /* pieces, ever */
	bool stop;                      /* the writer failed */
	uint8_t *at;                    /* PIECES * PIECE bytes */
	size_t len[PIECES];             /* 0: the end */
	const struct pages_space *from;
	const prange_vec *ranges;
	int mem_fd;
	struct img_pages_out *out;      /* is shown a piece while the caches still have it */
	struct img_known *known;
	struct err err;                 /* the reader's */
};

static int read_hard(const struct ring *r, uint8_t *to, size_t len, uint64_t at)
{
	int ret = io_pread(r->mem_fd, to, len, (off_t)at);

	if (ret == 0 || !r->from->live)
		return ret;
	for (size_t i = 0; i < len; i += PAGE_SIZE) /* some of it may have been unmapped */
		if (io_pread(r->mem_fd, to + i, PAGE_SIZE, (off_t)(at + i)) < 0)
			memset(to + i, 0, PAGE_SIZE);
	return 0;
}

/* What process_vm_readv refuses (PROT_NONE mappings) /proc/PID/mem gives. */
static int read_task(struct ring *r, uint8_t *to, const struct iovec *want, size_t n, size_t len)
{
	struct iovec local = { to, len };
	ssize_t got = process_vm_readv(r->from->pid, &local, 1, want, n, 0);
	size_t done = got < 0 ? 0 : (size_t)got;

	if (done == len)
		return 0;
	if (got < 0 && errno == ESRCH && !r->from->live)
		return -ESRCH;
	for (size_t i = 0, at = 0; i < n; at += want[i++].iov_len) {
		size_t skip = done <= at ? 0 : done - at;

		if (skip >= want[i].iov_len)
			continue;
		int ret = read_hard(r, to + at + skip, want[i].iov_len - skip,
				    (uintptr_t)want[i].iov_base + skip);
		if (ret < 0)
			return ret;
	}
	return 0;
}

/* What lies past the object's end in its last page is zero. */
static int read_object(int fd, uint8_t *to, const struct iovec *want, size_t n)
{
	for (size_t i = 0; i < n; to += want[i++].iov_len)
		for (size_t at = 0; at < want[i].iov_len;) {
			ssize_t got = pread(fd, to + at, want[i].iov_len - at,
					    (off_t)((uintptr_t)want[i].iov_base + at));
			if (got < 0 && errno != EINTR)
				return -errno;
			if (got == 0) {
				memset(to + at, 0, want[i].iov_len - at);
				break;
			}
			at += got > 0 ? (size_t)got : 0;
		}
	return 0;
}

/* Waits for an empty piece; NULL: give up. */
static uint8_t *ring_empty(struct ring *r)
{
	pthread_mutex_lock(&r->lock);
	while (r->filled - r->emptied == PIECES && !r->stop)
		pthread_cond_wait(&r->moved, &r->lock);
	bool stop = r->stop;
	pthread_mutex_unlock(&r->lock);
	return stop ? NULL : r->at + r->filled % PIECES * PIECE;
}

static void ring_put(struct ring *r, size_t len)
{
	pthread_mutex_lock(&r->lock);
	r->len[r->filled++ % PIECES] = len;
	pthread_cond_signal(&r->moved);
	pthread_mutex_unlock(&r->lock);
}

static void *read_pieces(void *arg)
{
	struct ring *r = arg;
	struct iovec want[PIECE_RANGES];
	size_t i = 0, part = 0;

	for (;;) {
		uint8_t *to = ring_empty(r);
		size_t n = 0, len = 0;

		if (!to)
			return NULL;
		while (i < r->ranges->n && len < PIECE) {
			const struct prange *p = &r->ranges->at[i];
			size_t take = p->end - p->start - part;

			if (take > PIECE - len)
				take = PIECE - len;
			want[n++] = (struct iovec){ (void *)(uintptr_t)(p->start + part), take };
			len += take;
			part += take;
			if (p->start + part == p->end) {
				part = 0;
				i++;
			}
		}
		int ret = len == 0 ? 0
			: r->from->kind == PAGES_TASK ? read_task(r, to, want, n, len)
						      : read_object(r->from->fd, to, want, n);
		if (ret < 0)
			err_set(&r->err, -ret, "memory from %" PRIx64 " on: read",
				(uint64_t)(uintptr_t)want[0].iov_base);
		else if (len)
			img_pages_seen(r->out, r->known, to, len);
		ring_put(r, ret < 0 ? 0 : len);
		if (ret < 0 || len == 0)
			return NULL;
	}
}

static int write_pieces(struct ring *r, int fd, struct err *e)
{
	int ret = 0;

	while (ret == 0) {
		pthread_mutex_lock(&r->lock);
		while (r->filled == r->emptied)
			pthread_cond_wait(&r->moved, &r->lock);
		size_t i = r->emptied % PIECES, len = r->len[i];
		pthread_mutex_unlock(&r->lock);
		if (len == 0)
			return 0;
		ret = io_write(fd, r->at + i * PIECE, len);
		pthread_mutex_lock(&r->lock);
		r->emptied++;
		r->stop = ret < 0;
		pthread_cond_signal(&r->moved);
		pthread_mutex_unlock(&r->lock);
	}
	return err_set(e, -ret, "pages: write");
}

static int copy_ranges(const struct pages_space *from, const prange_vec *ranges,
		       struct img_pages_out *out, struct img_known *known, struct err *e)
{
	struct ring r = { .from = from, .ranges = ranges, .out = out, .known = known };
	_cleanup_close_ int mem_fd = from->kind == PAGES_TASK ? mem_open(from->pid, O_RDONLY) : -1;
	pthread_t reader;

	if (from->kind == PAGES_TASK && mem_fd < 0 && !from->live)
		return err_set(e, errno, "/proc/%d/mem", from->pid);
	r.mem_fd = mem_fd;
	r.at = mmap(NULL, PIECES * PIECE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		    0);
	if (r.at == MAP_FAILED)
		return err_set(e, errno, "mmap");
	pthread_mutex_init(&r.lock, NULL);
	pthread_cond_init(&r.moved, NULL);
	int ret = pthread_create(&reader, NULL, read_pieces, &r);
	if (ret > 0) {
		ret = err_set(e, ret, "thread");
	} else {
		ret = write_pieces(&r, img_pages_fd(out), e);
		pthread_join(reader, NULL);
	}
	if (ret == 0 && err_is(&r.err)) {
		*e = r.err;
		ret = -r.err.code;
	}
	pthread_cond_destroy(&r.moved);
	pthread_mutex_destroy(&r.lock);
	munmap(r.at, PIECES * PIECE);
	return ret;
}

/* Enters both lists in the pagemap, in order of addresses. */
static int enter_runs(struct img_pages_out *out, const prange_vec *dirty, const prange_vec *clean,
		      struct err *e)
{
	size_t i = 0, j = 0, n_clean = clean ? clean->n : 0;
	int ret = 0;

	while ((i < dirty->n || j < n_clean) && ret == 0) {
		bool is_dirty = j >= n_clean ||
				(i < dirty->n && dirty->at[i].start < clean->at[j].start);
		const struct prange *r = is_dirty ? &dirty->at[i++] : &clean->at[j++];

		ret = img_pages_add(out, r->start, (r->end - r->start) / PAGE_SIZE,
				    is_dirty ? IMG_PE_PRESENT : IMG_PE_PARENT, e);
	}
	return ret;
}

int pages_dump(const struct pages_space *from, const struct scan *s, const prange_vec *clean,
	       int dirfd, uint32_t pages_id, struct img_known *known, struct pages_stats *stats,
	       struct err *e)
{
	uint64_t began = io_now_ns(), bytes = prange_bytes(&s->dirty);
	struct img_pages_out *out;
	struct err second = ERR_INIT;

	int ret = img_pages_create(&out, dirfd, type_of(from), from->id, pages_id, e);
	if (ret < 0)
		return ret;
	ret = enter_runs(out, &s->dirty, clean, e);
	if (ret == 0)
		ret = copy_ranges(from, &s->dirty, out, known, e);
	int closed = img_pages_close(out, ret < 0 ? &second : e);
	if (ret == 0)
		ret = closed;
	if (ret < 0)
		return err_in(e, "%s %u", from->kind == PAGES_TASK ? "pid" : "shared memory",
			      from->id);
	stats->pages += bytes / PAGE_SIZE;
	stats->bytes_raw += bytes;
	stats->bytes_wire += bytes;
	stats->ns += io_now_ns() - began;
	return 0;
}

/* ---- load: threads take batches of ranges and place them, in any order ---- */

#define LOADERS 2
#define BATCH_RANGES 256
#define BATCH_BYTES ((size_t)1 << 20)

struct window {
	int fd;
	const uint8_t *at;
	size_t len;
};

struct load {
	const struct pages_space *what;
	const struct pages_place *to;
	VEC(struct window) windows;
	const struct img_run *run;
	size_t n_runs;

	pthread_mutex_t lock;           /* of what follows */
	size_t next;                    /* run */
	uint64_t part;                  /* of it taken, bytes */
	struct err err;
};

struct load_batch {
	struct iovec from[BATCH_RANGES], where[BATCH_RANGES];
	size_t n;
};

/* The file's bytes as memory: a page is copied once, by the kernel, straight from the page
 * cache. Should the file shrink under us, that is EFAULT, not a signal. */
static int open_windows(struct load *l, struct err *e)
{
	struct stat st;

	for (size_t i = 0; i < l->n_runs; i++) {
		int fd = l->run[i].fd;
		bool known = false;

		vec_each(&l->windows, w)
			known |= w->fd == fd;
		if (known || l->run[i].npages == 0)
			continue;
		if (fstat(fd, &st) < 0)
			return err_set(e, errno, "pages: stat");
		void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
		if (p == MAP_FAILED)
			return err_set(e, errno, "pages: mmap");
		vec_push(&l->windows, (struct window){ fd, p, (size_t)st.st_size });
	}
	return 0;
}

static const uint8_t *contents_of(const struct load *l, const struct img_run *r)
{
	const struct window *w = l->windows.at;

	while (w->fd != r->fd)
		w++;
	return w->at + r->offset;
}

/* Places n pieces; those in mappings that are not writable through /proc/PID/mem. */
static int place_task(const struct pages_place *to, const struct iovec *from,
		      const struct iovec *where, size_t n, struct err *e)
{
	for (size_t i = 0; i < n;) {
		ssize_t put = process_vm_writev(to->pid, from + i, n - i, where + i, n - i, 0);
		size_t left = put < 0 ? 0 : (size_t)put;

		if (put < 0 && errno != EFAULT)
			return err_set(e, errno, "pid %d: write to its memory", to->pid);
		while (i < n && left >= from[i].iov_len)
			left -= from[i++].iov_len;
		if (i == n)
			return 0;
		int ret = io_pwrite(to->mem_fd, (uint8_t *)from[i].iov_base + left,
				    from[i].iov_len - left,
				    (off_t)((uintptr_t)where[i].iov_base + left));
		if (ret < 0)
			return err_set(e, -ret, "pid %d: write to its memory at %" PRIx64, to->pid,
				       (uint64_t)(uintptr_t)where[i].iov_base + left);
		i++;
	}
	return 0;
}

static int place_object(int fd, const struct iovec *from, const struct iovec *where, size_t n,
			struct err *e)
{
	for (size_t i = 0; i < n; i++) {
		int ret = io_pwrite(fd, from[i].iov_base, from[i].iov_len,
				    (off_t)(uintptr_t)where[i].iov_base);
		if (ret < 0)
			return err_set(e, -ret, "shared memory: write");
	}
	return 0;
}

/* False: nothing is left, or somebody failed. */
static bool take_batch(struct load *l, struct load_batch *b)
{
	size_t bytes = 0;

	b->n = 0;
	pthread_mutex_lock(&l->lock);
	while (!err_is(&l->err) && l->next < l->n_runs && b->n < BATCH_RANGES &&
	       bytes < BATCH_BYTES) {
		const struct img_run *r = &l->run[l->next];
		uint64_t left = r->npages * PAGE_SIZE - l->part;
		size_t take = left < BATCH_BYTES - bytes ? left : BATCH_BYTES - bytes;

		if (take > 0) {
			b->from[b->n] = (struct iovec){ (void *)(contents_of(l, r) + l->part),
							take };
			b->where[b->n++] = (struct iovec){ (void *)(uintptr_t)(r->vaddr + l->part),
							   take };
		}
		bytes += take;
		l->part += take;
		if (take == left) {
			l->part = 0;
			l->next++;
		}
	}
	pthread_mutex_unlock(&l->lock);
	return b->n > 0;
}

static void *load_batches(void *arg)
{
	struct load *l = arg;
	struct load_batch b;
	struct err e = ERR_INIT;
	int ret = 0;

	while (ret == 0 && take_batch(l, &b))
		ret = l->what->kind == PAGES_TASK
			      ? place_task(l->to, b.from, b.where, b.n, &e)
			      : place_object(l->to->fd, b.from, b.where, b.n, &e);
	if (ret < 0) {
		pthread_mutex_lock(&l->lock);
		if (!err_is(&l->err))
			l->err = e;
		pthread_mutex_unlock(&l->lock);
	}
	return NULL;
}

/* The caller is one of the loaders; a thread more that does not start is no loss. */
static int load_all(struct load *l, struct err *e)
{
	pthread_t thread[LOADERS - 1];
	int started = 0;

	pthread_mutex_init(&l->lock, NULL);
	while (started < LOADERS - 1 &&
	       pthread_create(&thread[started], NULL, load_batches, l) == 0)
		started++;
	load_batches(l);
	while (started > 0)
		pthread_join(thread[--started], NULL);
	pthread_mutex_destroy(&l->lock);
	if (!err_is(&l->err))
		return 0;
	*e = l->err;
	return -e->code;
}

int pages_load(int dirfd, const struct pages_space *what, const struct pages_place *to,
	       struct pages_stats *stats, struct err *e)
{
	uint64_t began = io_now_ns();
	struct load l = { .what = what, .to = to };
	struct img_pages_in *in;

	int ret = img_pages_open(&in, dirfd, type_of(what), what->id, e);
	if (ret < 0)
		return ret;
	l.run = img_pages_runs(in, &l.n_runs);
	ret = open_windows(&l, e);
	if (ret == 0)
		ret = load_all(&l, e);
	for (size_t i = 0; i < l.n_runs; i++) {
		stats->pages += l.run[i].npages;
		stats->bytes_raw += l.run[i].npages * PAGE_SIZE;
	}
	vec_each(&l.windows, w)
		munmap((void *)w->at, w->len);
	vec_free(&l.windows);
	img_pages_free(in);
	stats->ns += io_now_ns() - began;
	if (ret < 0)
		return err_in(e, "%s %u", what->kind == PAGES_TASK ? "pid" : "shared memory",
			      what->id);
	return 0;
}
