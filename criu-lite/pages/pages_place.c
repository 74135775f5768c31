/* SPDX-License-Identifier: Apache-2.0 */
#include "pages_place.h"

#include <errno.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>
#include <xxhash.h>

#include "io.h"
#include "pages_send_read.h"

/* Ranges of one kind of a frame, and the bytes that go there. */
struct load {
	const struct pages_place *to;
	uint64_t limit;
	prange_vec missing;
	size_t n;
	struct prange r[FRAME_PAGES];
};

static size_t load_bytes(const struct load *l)
{
	size_t n = 0;

	for (size_t i = 0; i < l->n; i++)
		n += l->r[i].end - l->r[i].start;
	return n;
}

/* Read-only and PROT_NONE mappings take bytes only through here. EIO: there is no memory, or none
 * that could be (beyond the end of a file): the first page is left out. */
static ssize_t put_forced(struct load *l, const struct iovec *from, const struct iovec *at)
{
	uint64_t page = (uintptr_t)at->iov_base & ~(PAGE_SIZE - 1);
	ssize_t put = pwrite(l->to->mem_fd, from->iov_base, at->iov_len, (off_t)at->iov_base);

	if (put >= 0 || errno != EIO)
		return put;
	prange_add(&l->missing, page, page + PAGE_SIZE);
	return (ssize_t)(page + PAGE_SIZE - (uintptr_t)at->iov_base);
}

static int put_task(struct load *l, const uint8_t *p, struct err *e)
{
	size_t total = load_bytes(l);

	for (size_t done = 0; done < total;) {
		struct iovec local = { (void *)(p + done), total - done }, remote[FRAME_PAGES];
		size_t n = frame_iov(l->r, l->n, done, remote);
		ssize_t put = process_vm_writev(l->to->pid, &local, 1, remote, n, 0);

		if (put < 0 && errno != EFAULT)
			return err_set(e, errno, "write memory of task %d", l->to->pid);
		if (put <= 0)
			put = put_forced(l, &local, &remote[0]);
		if (put <= 0)
			return err_set(e, put < 0 ? errno : ESRCH, "write memory of task %d at %p",
				       l->to->pid, remote[0].iov_base);
		done += (size_t)put;
	}
	return 0;
}

static int put_shm(const struct load *l, const uint8_t *p, struct err *e)
{
	for (size_t i = 0; i < l->n; i++) {
		uint64_t end = l->r[i].end < l->limit ? l->r[i].end : l->limit;
		int ret = io_pwrite(l->to->fd, p, end - l->r[i].start, (off_t)l->r[i].start);

		if (ret < 0)
			return err_set(e, -ret, "write shared memory at %#lx", l->r[i].start);
		p += l->r[i].end - l->r[i].start;
	}
	return 0;
}

static int put_pages(int kind, struct load *l, const uint8_t *p, struct err *e)
{
	return kind == PAGES_TASK ? put_task(l, p, e) : put_shm(l, p, e);
}

/* Does the target read as zeros already? What cannot be read counts as no. */
static bool already_zero(int kind, const struct load *l, uint8_t *scratch)
{
	struct iovec local = { scratch, load_bytes(l) }, remote[FRAME_PAGES];
	size_t total = local.iov_len, n = frame_iov(l->r, l->n, 0, remote);

	if (kind == PAGES_TASK) {
		if (process_vm_readv(l->to->pid, &local, 1, remote, n, 0) != (ssize_t)total)
			return false;
	} else {
		uint8_t *at = scratch;

		for (size_t i = 0; i < n; i++) {
			if (pread(l->to->fd, at, remote[i].iov_len, (off_t)remote[i].iov_base) !=
			    (ssize_t)remote[i].iov_len)
				return false;
			at += remote[i].iov_len;
		}
	}
	for (size_t at = 0; at < total; at += PAGE_SIZE)
		if (!pages_is_zero(scratch + at))
			return false;
	return true;
}

/* What is at one range now. */
static int get_pages(int kind, const struct pages_place *from, const struct prange *r, uint8_t *p,
		     struct err *e)
{
	struct iovec local = { p, r->end - r->start }, remote = { (void *)r->start, local.iov_len };
	int ret;

	if (kind == PAGES_TASK &&
	    process_vm_readv(from->pid, &local, 1, &remote, 1, 0) == (ssize_t)local.iov_len)
		return 0;
	/* PROT_NONE mappings give bytes only through here. */
	memset(p, 0, local.iov_len);
	ret = io_pread(kind == PAGES_TASK ? from->mem_fd : from->fd, p, local.iov_len,
		       (off_t)r->start);
	if (ret == -ENODATA && kind == PAGES_SHM) /* beyond the end of an object: zeros */
		return 0;
	return ret < 0 ? err_set(e, -ret, "read what is at %#lx", r->start) : 0;
}

/* Delta pages come as the difference to what is there. */
static int add_deltas(const struct placing *p, struct err *e)
{
	const struct frame *f = p->frame;
	uint8_t *at = p->raw;

	for (uint32_t i = 0; i < f->head.ranges; i++) {
		const struct frame_range *r = &f->ranges[i];
		size_t n = r->type == FRAME_ZERO ? 0 : r->pages * PAGE_SIZE;

		if (r->type == FRAME_DELTA) {
			struct prange here = { r->start, r->start + n };
			int ret = get_pages(f->head.kind, &p->to, &here, p->scratch, e);

			if (ret < 0)
				return ret;
			pages_xor(at, p->scratch, n);
		}
		at += n;
	}
	if (f->head.pages != XXH3_64bits(p->raw, frame_raw(f)))
		return err_say(e, EBADMSG, "pages of %s %u are not as the source believes",
			       f->head.kind == PAGES_TASK ? "task" : "shared memory object",
			       f->head.space);
	return 0;
}

static int put_some(const struct placing *p, bool payload, const uint8_t *from,
		    prange_vec *missing, struct err *e)
{
	const struct frame_head *h = &p->frame->head;
	struct load l = { .to = &p->to, .limit = h->limit };
	int ret = 0;

	l.n = frame_ranges(p->frame, payload, l.r);
	/* Where nothing was before, looking is cheaper than filling memory with zeros. */
	if (!l.n || (!payload && (h->flags & FRAME_FRESH) && already_zero(h->kind, &l, p->raw)))
		return 0;
	ret = put_pages(h->kind, &l, from, e);
	prange_merge(missing, &l.missing);
	vec_free(&l.missing);
	return ret;
}

int pages_place(const struct placing *p, prange_vec *missing, struct err *e)
{
	int ret = frame_pages(p->frame, FRAME_DELTA) ? add_deltas(p, e) : 0;

	if (ret == 0)
		ret = put_some(p, true, p->raw, missing, e);
	if (ret == 0)
		ret = put_some(p, false, p->zeros, missing, e);
	return ret;
}
