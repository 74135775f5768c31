/* SPDX-License-Identifier: Apache-2.0 */
/* signalfd: a mask. The signals themselves are pending in the tasks, not in the file. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>

#include "kind.h"
#include "kind_fown.h"
#include "kind_util.h"

static bool signalfd_match(const struct fd_view *v)
{
	return !strcmp(v->link, "anon_inode:[signalfd]");
}

static int signalfd_dump(struct kind_dump *c, const struct fd_view *v, FileEntry *fe,
			 struct err *e)
{
	SignalfdEntry *m = kind_msg(SignalfdEntry, signalfd_entry__init);

	fe->sgfd = m;
	m->id = v->id;
	m->flags = (uint32_t)v->flags;
	m->sigmask = v->info.sigmask;
	m->fown = kind_fown_dump(v->local);
	return 0;
}

/* libc's signalfd() takes a sigset_t; the kernel's mask is 8 bytes. */
static int signalfd_create(struct kind_restore *c, const FileEntry *fe, int *out, struct err *e)
{
	const SignalfdEntry *m = fe->sgfd;
	_cleanup_close_ int fd = (int)syscall(SYS_signalfd4, -1, &m->sigmask, sizeof(uint64_t),
					      O_CLOEXEC);

	if (fd < 0)
		return err_set(e, errno, "signalfd4");
	if (kind_set_flags(fd, m->flags, e) < 0)
		return -e->code;
	*out = steal_fd(fd);
	return 0;
}

const struct kind kind_signalfd = {
	.name = "signalfd",
	.type = FD_TYPES__SIGNALFD,
	.match = signalfd_match,
	.dump = signalfd_dump,
	.create = signalfd_create,
};
