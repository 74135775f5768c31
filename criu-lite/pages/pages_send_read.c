/* SPDX-License-Identifier: Apache-2.0 */
#include "pages_send_read.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <xxhash.h>

#include "cleanup.h"
#include "io.h"

/* What became of each page of a slice. */
enum fate { FATE_DATA, FATE_ZERO, FATE_GONE, FATE_SAME, FATE_DELTA };

bool pages_is_zero(const void *page)
{
	const uint64_t *p = page, *end = p + PAGE_SIZE / 8;

	for (; p < end; p += 16) {
		uint64_t any = 0;

		for (int i = 0; i < 16; i++)
			any |= p[i];
		if (any)
			return false;
	}
	return true;
}

void pages_xor(uint8_t *to, const uint8_t *with, size_t n)
{
	uint64_t *t = (uint64_t *)to;
	const uint64_t *w = (const uint64_t *)with;

	for (size_t i = 0; i < n / 8; i++)
		t[i] ^= w[i];
}

/* Three quarters of it are as they were: then the difference compresses better than the page. */
static bool is_alike(const uint8_t *page, const uint8_t *old)
{
	const uint64_t *p = (const uint64_t *)page, *o = (const uint64_t *)old;
	size_t equal = 0;

	for (size_t i = 0; i < PAGE_SIZE / 8; i++)
		equal += p[i] == o[i];
	return equal >= PAGE_SIZE / 8 * 3 / 4;
}

static size_t slice_bytes(const struct pages_slice *s)
{
	size_t n = 0;

	for (size_t i = 0; i < s->n; i++)
		n += s->r[i].end - s->r[i].start;
	return n;
}

static int task_error(const struct pages_slice *s, int code, const void *at, struct err *e)
{
	return err_set(e, code, "task %d: read memory at %p", s->from.pid, at);
}

/* PROT_NONE and write-only mappings have contents too, which process_vm_readv() does not give but
 * /proc/PID/mem does. Whole pages read, 0: nothing there, or -errno. */
static ssize_t read_forced(const struct pages_slice *s, int *mem, void *p, const struct iovec *at)
{
	char path[32];

	if (*mem < 0) {
		snprintf(path, sizeof(path), "/proc/%d/mem", s->from.pid);
		*mem = open(path, O_RDONLY | O_CLOEXEC);
	}
	if (*mem < 0)
		return errno == ENOENT || errno == ESRCH ? 0 : -errno;
	ssize_t n = pread(*mem, p, at->iov_len, (off_t)at->iov_base);
	if (n < 0)
		return errno == EIO || errno == EFAULT ? 0 : -errno;
	return n & ~(ssize_t)(PAGE_SIZE - 1);
}

static int read_task(const struct pages_slice *s, uint8_t *buf, uint8_t *fate, struct err *e)
{
	size_t total = slice_bytes(s);
	_cleanup_close_ int mem = -1;

	for (size_t done = 0; done < total;) {
		struct iovec local = { buf + done, total - done }, remote[FRAME_PAGES];
		size_t n = frame_iov(s->r, s->n, done, remote);
		ssize_t got = process_vm_readv(s->from.pid, &local, 1, remote, n, 0);

		if (got < 0 && errno == ESRCH && s->live) {
			memset(fate + done / PAGE_SIZE, FATE_GONE, (total - done) / PAGE_SIZE);
			return 0;
		}
		if (got < 0 && errno != EFAULT)
			return task_error(s, errno, remote[0].iov_base, e);
		got = got < 0 ? 0 : got & ~(ssize_t)(PAGE_SIZE - 1);
		if (got == 0)
			got = read_forced(s, &mem, buf + done, &remote[0]);
		if (got < 0)
			return task_error(s, (int)-got, remote[0].iov_base, e);
		if (got == 0 && !s->live)
			return task_error(s, EFAULT, remote[0].iov_base, e);
		if (got == 0) {
			fate[done / PAGE_SIZE] = FATE_GONE;
			got = PAGE_SIZE;
		}
		done += (size_t)got;
	}
	return 0;
}

/* The sums of what was read, which is what the target gets. Not beyond the end of the object, where
 * it gets nothing and keeps what an earlier round brought, nor beyond the end that it knows of,
 * where it may cut. */
static void sum_pages(const struct pages_space *of, const struct prange *r, uint64_t limit,
		      const uint8_t *buf)
{
	if (limit != of->told)
		limit = (limit < of->told ? limit : of->told) & ~(PAGE_SIZE - 1);
	for (uint64_t at = r->start; at < r->end; at += PAGE_SIZE, buf += PAGE_SIZE)
		if (at / PAGE_SIZE < of->n_sums)
			of->sums[at / PAGE_SIZE] = at < limit ? XXH3_64bits(buf, PAGE_SIZE)
							      : PAGES_NO_SUM;
}

static int read_shm(const struct pages_slice *s, uint8_t *buf, uint8_t *fate, uint64_t *limit,
		    struct err *e)
{
	struct stat st;

	if (fstat(s->from.fd, &st) < 0)
		return err_set(e, errno, "shared memory object %u", s->from.id);
	*limit = (uint64_t)st.st_size;
	for (size_t i = 0; i < s->n; i++) {
		size_t len = s->r[i].end - s->r[i].start, done = 0;

		while (done < len) {
			ssize_t n = pread(s->from.fd, buf + done, len - done,
					  (off_t)(s->r[i].start + done));
			if (n < 0)
				return err_set(e, errno, "shared memory object %u: read at %#lx",
					       s->from.id, s->r[i].start + done);
			if (n == 0)
				break;
			done += (size_t)n;
		}
		/* Beyond the end: the rest of the last page is zero, pages after it are gone. */
		memset(buf + done, 0, len - done);
		sum_pages(&s->from, &s->r[i], *limit, buf);
		for (size_t page = 0; page < len / PAGE_SIZE; page++) {
			if (s->r[i].start + page * PAGE_SIZE < *limit)
				continue;
			if (!s->live)
				return err_say(e, EFAULT,
					       "shared memory object %u ends at %#lx, before %#lx",
					       s->from.id, *limit, s->r[i].end);
			fate[page] = FATE_GONE;
		}
		buf += len;
		fate += len / PAGE_SIZE;
	}
	return 0;
}

/* Appends a page to the frame's ranges: to the last one if it continues it. */
static void add_page(struct frame *f, uint64_t at, enum frame_type type)
{
	uint32_t n = f->head.ranges;
	struct frame_range *last = n ? &f->ranges[n - 1] : NULL;

	if (last && last->type == type && last->start + last->pages * PAGE_SIZE == at)
		last->pages++;
	else
		f->ranges[f->head.ranges++] = (struct frame_range){ at, 1, type };
}

static void mark_zeros(uint8_t *fate, size_t n, const uint8_t *buf)
{
	for (size_t i = 0; i < n; i++)
		if (fate[i] == FATE_DATA && pages_is_zero(buf + i * PAGE_SIZE))
			fate[i] = FATE_ZERO;
}

/* Pages that the target holds as they are, or nearly so. What has gone may come back as something
 * else. copy[]: by page, where its contents are to be kept. */
static void mark_known(const struct pages_slice *s, const struct slice_known *known, uint8_t *fate,
		       const uint8_t *buf, uint8_t **copy)
{
	struct same_page p[FRAME_PAGES];
	uint16_t whose[FRAME_PAGES];
	size_t n = 0, page = 0;

	for (size_t i = 0; i < s->n; i++) {
		for (uint64_t a = s->r[i].start; a < s->r[i].end; a += PAGE_SIZE, page++) {
			if (fate[page] == FATE_GONE) {
				same_forget(known->same, s->from.kind, s->from.id,
					    &(struct prange){ a, a + PAGE_SIZE }, 1);
				continue;
			}
			p[n].at = a;
			p[n].keep = known->delta && fate[page] == FATE_DATA;
			p[n].hash = fate[page] == FATE_ZERO
				? same_hash_zero(known->same)
				: same_hash(known->same, buf + page * PAGE_SIZE);
			whose[n++] = (uint16_t)page;
		}
	}
	same_check(known->same, s->from.kind, s->from.id, p, n);
	for (size_t i = 0; i < n; i++) {
		page = whose[i];
		copy[page] = p[i].copy;
		if (p[i].same)
			fate[page] = FATE_SAME;
		else if (p[i].valid && is_alike(buf + page * PAGE_SIZE, p[i].copy))
			fate[page] = FATE_DELTA;
	}
}

/* Sorts the pages into ranges and closes the gaps that all but data leaves in buf. */
static void sort_pages(const struct pages_slice *s, const uint8_t *fate, struct frame *f,
		       uint8_t *buf, struct slice_stats *st)
{
	uint8_t *from = buf, *to = buf;

	for (size_t i = 0; i < s->n; i++) {
		for (uint64_t at = s->r[i].start; at < s->r[i].end; at += PAGE_SIZE) {
			st->gone += *fate == FATE_GONE;
			st->same += *fate == FATE_SAME;
			if (*fate != FATE_GONE && *fate != FATE_SAME)
				add_page(f, at, *fate == FATE_ZERO ? FRAME_ZERO :
						*fate == FATE_DELTA ? FRAME_DELTA : FRAME_DATA);
			if (*fate == FATE_DATA || *fate == FATE_DELTA) {
				if (to != from)
					memcpy(to, from, PAGE_SIZE);
				to += PAGE_SIZE;
			}
			from += PAGE_SIZE;
			fate++;
		}
	}
}

/* Pages become differences, and copies what is sent. */
static void make_deltas(const uint8_t *fate, size_t n, uint8_t *const *copy, struct frame *f,
			uint8_t *buf)
{
	if (frame_pages(f, FRAME_DELTA))
		f->head.pages = XXH3_64bits(buf, frame_raw(f));
	for (size_t page = 0; page < n; page++) {
		uint8_t new[PAGE_SIZE];

		if (fate[page] != FATE_DATA && fate[page] != FATE_DELTA)
			continue;
		if (copy[page]) {
			memcpy(new, buf, PAGE_SIZE);
			if (fate[page] == FATE_DELTA)
				pages_xor(buf, copy[page], PAGE_SIZE);
			memcpy(copy[page], new, PAGE_SIZE);
		}
		buf += PAGE_SIZE;
	}
}

int pages_slice_read(const struct pages_slice *s, const struct slice_known *known,
		     struct frame *f, uint8_t *buf, struct slice_stats *st, struct err *e)
{
	uint8_t fate[FRAME_PAGES] = { 0 }, *copy[FRAME_PAGES] = { NULL };
	size_t n = slice_bytes(s) / PAGE_SIZE;
	uint64_t limit = 0;
	int ret = s->from.kind == PAGES_TASK ? read_task(s, buf, fate, e)
					     : read_shm(s, buf, fate, &limit, e);

	if (ret < 0)
		return ret;
	mark_zeros(fate, n, buf);
	/* The first time a page is sent nothing is known, and most are never sent again. */
	if (known->same && !s->fresh && (s->from.kind == PAGES_TASK || s->from.fixed))
		mark_known(s, known, fate, buf, copy);
	f->head = (struct frame_head){
		.magic = FRAME_MAGIC,
		.kind = s->from.kind,
		.space = s->from.id,
		.flags = s->fresh ? FRAME_FRESH : 0,
		.limit = limit,
	};
	*st = (struct slice_stats){ 0 };
	sort_pages(s, fate, f, buf, st);
	make_deltas(fate, n, copy, f, buf);
	return 0;
}
