/* SPDX-License-Identifier: Apache-2.0 */
/* eventfd: a counter. It is read from fdinfo, so that nothing is consumed. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>

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

/* Bit 0 of the flags is the lower bit of the access mode in the kernel, which is always
 * O_RDWR here: it is free to carry EFD_SEMAPHORE. */
static int eventfd_dump(struct kind_dump *c, const struct fd_view *v, FileEntry *fe, struct err *e)
{
	EventfdFileEntry *m = kind_msg(EventfdFileEntry, eventfd_file_entry__init);

	fe->efd = m;
	m->id = v->id;
	m->flags = (uint32_t)v->flags;
	if (v->info.eventfd_semaphore)
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
