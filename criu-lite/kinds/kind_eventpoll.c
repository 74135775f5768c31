/* SPDX-License-Identifier: Apache-2.0 */
/*
 * epoll: what is watched. The kernel keys a member by (file, descriptor number at the time of
 * EPOLL_CTL_ADD), so members are added inside the process that holds them, under the
 * numbers they had, when all its descriptors stand in their places.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>

#include "io.h"
#include "kind.h"
#include "kind_fown.h"
#include "kind_util.h"

/* What stays of a member's events when EPOLLONESHOT has fired (EP_PRIVATE_BITS). */
#define PRIVATE_BITS ((uint32_t)(EPOLLWAKEUP | EPOLLONESHOT | EPOLLET | EPOLLEXCLUSIVE))

static bool eventpoll_match(const struct fd_view *v)
{
	return !strcmp(v->link, "anon_inode:[eventpoll]");
}

static int by_number(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

static int refuse_member(uint32_t tfd, const char *why, struct err *e)
{
	err_say(e, ENOTSUP, "epoll: watches descriptor %u, %s", tfd, why);
	return err_remedy(e, "remove a descriptor from the epoll set before closing it");
}

/* A member outlives its number where the file was duplicated and the number closed. It could
 * be watched only under a number that is free or another file's now. */
static int eventpoll_check(struct kind_dump *c, const struct fd_view *v, struct err *e)
{
	size_t n = v->info.epoll.n;
	_cleanup_free_ uint32_t *tfds = xcalloc(n + 1, sizeof(*tfds));

	for (size_t i = 0; i < n; i++) {
		struct kcmp_epoll_slot slot = { .efd = (uint32_t)v->fd,
						.tfd = v->info.epoll.at[i].tfd };
		long r = syscall(SYS_kcmp, v->pid, v->pid, KCMP_EPOLL_TFD, slot.tfd, &slot);

		tfds[i] = slot.tfd;
		if (r < 0 && errno == EBADF)
			return refuse_member(slot.tfd, "which is closed", e);
		if (r > 0)
			return refuse_member(slot.tfd, "which is another file now", e);
		/* ENOENT: removed since fdinfo was read, ENOSYS: cannot be told. */
	}
	qsort(tfds, n, sizeof(*tfds), by_number);
	for (size_t i = 1; i < n; i++)
		if (tfds[i] == tfds[i - 1])
			return refuse_member(tfds[i], "as two different files", e);
	return 0;
}

static int eventpoll_dump(struct kind_dump *c, const struct fd_view *v, FileEntry *fe,
			  struct err *e)
{
	EventpollFileEntry *m = kind_msg(EventpollFileEntry, eventpoll_file_entry__init);

	fe->epfd = m;
	m->id = v->id;
	m->flags = (uint32_t)v->flags;
	m->fown = kind_fown_dump(v->local);
	m->tfd = xcalloc(v->info.epoll.n + 1, sizeof(*m->tfd));
	for (size_t i = 0; i < v->info.epoll.n; i++) {
		const struct proc_epoll_member *from = &v->info.epoll.at[i];
		EventpollTfdEntry *t = kind_msg(EventpollTfdEntry, eventpoll_tfd_entry__init);

		m->tfd[m->n_tfd++] = t;
		t->id = v->id;
		t->tfd = from->tfd;
		t->events = from->events;
		t->data = from->data;
		t->has_dev = t->has_inode = t->has_pos = 1;
		t->dev = (uint32_t)from->sdev;
		t->inode = from->ino;
		t->pos = from->pos;
	}
	return eventpoll_check(c, v, e);
}

static int eventpoll_create(struct kind_restore *c, const FileEntry *fe, int *out, struct err *e)
{
	_cleanup_close_ int fd = epoll_create1(EPOLL_CLOEXEC);

	if (fd < 0)
		return err_set(e, errno, "epoll_create1");
	if (kind_set_flags(fd, fe->epfd->flags, e) < 0)
		return -e->code;
	*out = steal_fd(fd);
	return 0;
}

/* ---- members ---- */

static bool is_disarmed(const EventpollTfdEntry *t)
{
	return (t->events & EPOLLONESHOT) && !(t->events & ~PRIVATE_BITS);
}

struct ctl {
	const struct kind_holder *holder;
	struct batch b;
};

static int ctl_run(struct ctl *k, struct err *e)
{
	int ret = 0;

	if (k->b.call.n) {
		ret = batch_run(&k->b, e);
		batch_reset(&k->b);
	}
	return ret;
}

static int ctl_add(struct ctl *k, int op, const EventpollTfdEntry *t, uint32_t events,
		   struct err *e)
{
	struct epoll_event ev = { .events = events, .data.u64 = t->data };

	if (!k->holder->in) {
		if (epoll_ctl(k->holder->fd, op, (int)t->tfd, &ev) < 0)
			return err_set(e, errno, "epoll_ctl of %u", t->tfd);
		return 0;
	}
	if (!batch_room(&k->b, 1, sizeof(ev)) && ctl_run(k, e) < 0)
		return -e->code;
	batch_call(&k->b, "epoll_ctl", SYS_epoll_ctl, k->holder->fd, op, t->tfd,
		   batch_in(&k->b, &ev, sizeof(ev)));
	return 0;
}

/* Is the member `tfd` of our epoll still waiting for something but errors? */
static bool still_armed(const struct proc_fdinfo *info, uint32_t tfd)
{
	for (size_t i = 0; i < info->epoll.n; i++)
		if (info->epoll.at[i].tfd == tfd)
			return info->epoll.at[i].events & (EPOLLIN | EPOLLOUT);
	return false;
}

static int fire(int fd, struct proc_fdinfo *info, struct err *e)
{
	_cleanup_(buf_free) struct buf text = {0};
	struct epoll_event ev[64];
	char path[64];

	while (epoll_wait(fd, ev, 64, 0) > 0)
		;
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	if (io_slurp_at(AT_FDCWD, path, &text, e) < 0)
		return -e->code;
	return proc_fdinfo_parse((const char *)text.at, text.n, info, e);
}

/*
 * A member whose EPOLLONESHOT has fired waits for nothing, not even EPOLLERR and EPOLLHUP, but
 * epoll_ctl() cannot make one so: it always adds these two. So let it fire: wait for what is
 * most likely there. If it is not, errors stay armed and may be reported once too often.
 */
static int add_disarmed(struct ctl *k, const EventpollFileEntry *m, int fd, struct err *e)
{
	_cleanup_(proc_fdinfo_free) struct proc_fdinfo info = {0};
	bool any = false;

	for (size_t i = 0; i < m->n_tfd; i++) {
		if (!is_disarmed(m->tfd[i]))
			continue;
		any = true;
		if (ctl_add(k, EPOLL_CTL_ADD, m->tfd[i],
			    m->tfd[i]->events | EPOLLIN | EPOLLOUT, e) < 0)
			return -e->code;
	}
	if (!any)
		return 0;
	if (ctl_run(k, e) < 0 || fire(fd, &info, e) < 0)
		return -e->code;
	for (size_t i = 0; i < m->n_tfd; i++)
		if (is_disarmed(m->tfd[i]) && still_armed(&info, m->tfd[i]->tfd) &&
		    ctl_add(k, EPOLL_CTL_MOD, m->tfd[i], m->tfd[i]->events, e) < 0)
			return -e->code;
	return ctl_run(k, e);
}

static int add_all(struct ctl *k, const EventpollFileEntry *m, int fd, struct err *e)
{
	if (add_disarmed(k, m, fd, e) < 0)
		return -e->code;
	for (size_t i = 0; i < m->n_tfd; i++)
		if (!is_disarmed(m->tfd[i]) &&
		    ctl_add(k, EPOLL_CTL_ADD, m->tfd[i], m->tfd[i]->events, e) < 0)
			return -e->code;
	return ctl_run(k, e);
}

static int eventpoll_finish(struct kind_restore *c, const FileEntry *fe, int fd, struct err *e)
{
	const EventpollFileEntry *m = fe->epfd;
	size_t n;
	const struct kind_holder *h = kind_holders(c, fe->id, &n);
	struct ctl k;
	int ret;

	if (!m->n_tfd)
		return 0;
	if (!n)
		return err_say(e, EINVAL, "epoll %u has members but is no process's", fe->id);
	k = (struct ctl){ .holder = h, .b = BATCH(h->in ? remote_leader(h->in) : NULL) };
	ret = add_all(&k, m, fd, e);
	batch_free(&k.b);
	return ret < 0 ? err_in(e, "epoll at %d", h->fd) : 0;
}

const struct kind kind_eventpoll = {
	.name = "epoll",
	.type = FD_TYPES__EVENTPOLL,
	.match = eventpoll_match,
	.check = eventpoll_check,
	.dump = eventpoll_dump,
	.create = eventpoll_create,
	.finish = eventpoll_finish,
};
