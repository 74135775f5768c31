/* SPDX-License-Identifier: Apache-2.0 */
/* eventfd: a counter. Its value is read from fdinfo, so that nothing is consumed. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>

#include "io.h"
#include "kind.h"
#include "kind_fown.h"
#include "kind_util.h"

/* The highest value that write() may set; the kernel itself may go one further (overflow). */
#define COUNTER_MAX (UINT64_MAX - 1)

static bool eventfd_match(const struct fd_view *v)
{
	return !strcmp(v->link, "anon_inode:[eventfd]");
}

static int take(int fd, uint64_t *n, struct err *e)
{
	struct iovec v = { n, sizeof(*n) };

	/* O_NONBLOCK is the guest's, too; what must not wait is this read. */
	if (preadv2(fd, &v, 1, -1, RWF_NOWAIT) != sizeof(*n))
		return err_set(e, errno, "reading the counter");
	return 0;
}

static int add(int fd, uint64_t n, struct err *e)
{
	int ret = n ? io_write(fd, &n, sizeof(n)) : 0;

	return ret < 0 ? err_set(e, -ret, "setting the counter") : 0;
}

/*
 * Before Linux 6.5 nothing tells EFD_SEMAPHORE but a read: it takes 1 from a semaphore, all from
 * another. The guest stands still. The counter, of at least 2 while it is read, gets its value
 * back; writes cannot wait, as it is never above the larger of 2 and that value.
 */
static int find_semaphore(int fd, uint64_t n, bool *yes, struct err *e)
{
	uint64_t more = n < 2 ? 2 - n : 0, got, rest;

	*yes = false;
	/* One that has overflown cannot be written to. */
	if (n > COUNTER_MAX)
		return 0;
	if (add(fd, more, e) < 0 || take(fd, &got, e) < 0)
		return -e->code;
	*yes = got == 1;
	rest = n + more - got;
	return rest > n ? take(fd, &got, e) : add(fd, n - rest, e);
}

static int is_semaphore(const struct fd_view *v, bool *yes, struct err *e)
{
	*yes = v->info.eventfd_semaphore;
	if (v->info.has_eventfd_semaphore)
		return 0;
	return find_semaphore(v->local, v->info.eventfd_count, yes, e);
}

/* Bit 0 of the flags is the lower bit of the access mode in the kernel, which is always
 * O_RDWR here: it is free to carry EFD_SEMAPHORE. */
static int eventfd_dump(struct kind_dump *c, const struct fd_view *v, FileEntry *fe, struct err *e)
{
	EventfdFileEntry *m = kind_msg(EventfdFileEntry, eventfd_file_entry__init);
	bool semaphore;

	fe->efd = m;
	m->id = v->id;
	m->flags = (uint32_t)v->flags;
	if (is_semaphore(v, &semaphore, e) < 0)
		return -e->code;
	if (semaphore)
		m->flags |= EFD_SEMAPHORE;
	m->counter = v->info.eventfd_count;
	m->fown = kind_fown_dump(v->local);
	return 0;
}

static int eventfd_create(struct kind_restore *c, const FileEntry *fe, int *out, struct err *e)
{
	const EventfdFileEntry *m = fe->efd;
	_cleanup_close_ int fd = eventfd(0, EFD_CLOEXEC | (int)(m->flags & EFD_SEMAPHORE));
	uint64_t n = m->counter > COUNTER_MAX ? COUNTER_MAX : m->counter;
	int ret;

	if (fd < 0)
		return err_set(e, errno, "eventfd");
	if (n && (ret = io_write(fd, &n, sizeof(n))) < 0)
		return err_set(e, -ret, "setting the counter");
	if (kind_set_flags(fd, m->flags, e) < 0)
		return -e->code;
	*out = steal_fd(fd);
	return 0;
}

const struct kind kind_eventfd = {
	.name = "eventfd",
	.type = FD_TYPES__EVENTFD,
	.match = eventfd_match,
	.dump = eventfd_dump,
	.create = eventfd_create,
};
