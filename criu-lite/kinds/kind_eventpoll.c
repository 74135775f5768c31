/* SPDX-License-Identifier: Apache-2.0 */
/*
 * epoll: what is watched. The kernel keys a member by (file, descriptor number at the time of
 * EPOLL_CTL_ADD), so members are added inside a process that holds them, under the
 * numbers they had, when all its descriptors stand in their places. Several processes may hold
 * the epoll, and the number may stand for the file in some of them only: a child shares the epoll
 * of its parent, but not what happens to the descriptors after fork().
 */
#include <errno.h>
#include <linux/kcmp.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>

#include "io.h"
#include "kind.h"
#include "kind_fown.h"
#include "kind_priv.h"
#include "kind_util.h"

/* What stays of a member's events when EPOLLONESHOT has fired (EP_PRIVATE_BITS). */
#define PRIVATE_BITS ((uint32_t)(EPOLLWAKEUP | EPOLLONESHOT | EPOLLET | EPOLLEXCLUSIVE))

static bool eventpoll_match(const struct fd_view *v)
{
	return !strcmp(v->link, "anon_inode:[eventpoll]");
}

/* ---- source side ---- */

struct member {
	struct proc_epoll_member is;
	uint32_t nth;            /* of those with this number */
	pid_t pid;               /* in which the number is the file; 0: not met yet */
	bool other;              /* the number is another file somewhere */
};

/* An epoll of this pass. Which processes hold it is known at the end. */
struct watch {
	uint32_t id;
	pid_t pid;               /* the first holder met */
	int fd;
	VEC(struct member) member;
	size_t unmet;
	FileEntry *fe;           /* NULL: preflight */
};

extern const struct kind kind_eventpoll;

struct watches {
	uint32_t pass;
	VEC(struct watch) at;
};

static void forget(struct watches *w)
{
	vec_each(&w->at, it) {
		vec_free(&it->member);
		if (it->fe)
			file_entry__free_unpacked(it->fe, NULL);
	}
	vec_free(&w->at);
}

static void release_watches(void *arg)
{
	forget(arg);
	free(arg);
}

/* Those of this pass: one that failed has left its own behind. */
static struct watches *watches_of(struct kind_dump *c)
{
	void **slot = kind_dump_slot(c, &kind_eventpoll, release_watches);

	if (!*slot)
		*slot = xcalloc(1, sizeof(struct watches));
	struct watches *w = *slot;
	if (w->pass != c->pass)
		forget(w);
	w->pass = c->pass;
	return w;
}

static int by_number(const void *a, const void *b)
{
	const uint32_t *x = a, *y = b;

	if (x[0] != y[0])
		return x[0] < y[0] ? -1 : 1;
	return x[1] < y[1] ? -1 : x[1] > y[1];
}

/* The kernel tells members of one number apart by their order, which is that of fdinfo. */
static void count_same_numbers(struct watch *w)
{
	_cleanup_free_ uint32_t (*order)[2] = xcalloc(w->member.n + 1, sizeof(*order));

	for (uint32_t i = 0; i < w->member.n; i++) {
		order[i][0] = w->member.at[i].is.tfd;
		order[i][1] = i;
	}
	qsort(order, w->member.n, sizeof(*order), by_number);
	for (size_t i = 1; i < w->member.n; i++)
		if (order[i][0] == order[i - 1][0])
			w->member.at[order[i][1]].nth = w->member.at[order[i - 1][1]].nth + 1;
}

static struct watch *watch_of(struct kind_dump *c, const struct fd_view *v)
{
	struct watches *all = watches_of(c);

	vec_each(&all->at, w)
		if (w->id == v->id)
			return w;

	struct watch *w = vec_new(&all->at);
	w->id = v->id;
	w->pid = v->pid;
	w->fd = v->fd;
	for (size_t i = 0; i < v->info.epoll.n; i++)
		vec_push(&w->member, (struct member){ .is = v->info.epoll.at[i] });
	w->unmet = w->member.n;
	count_same_numbers(w);
	return w;
}

/* Which members can be added in this holder? Whether there is a better one for the others only
 * eventpoll_end() can tell. */
static int eventpoll_check(struct kind_dump *c, const struct fd_view *v, struct err *e)
{
	struct watch *w = watch_of(c, v);

	for (size_t i = 0; w->unmet && i < w->member.n; i++) {
		struct member *m = &w->member.at[i];
		struct kcmp_epoll_slot slot = { .efd = (uint32_t)v->fd, .tfd = m->is.tfd,
						.toff = m->nth };

		if (m->pid)
			continue;
		long r = syscall(SYS_kcmp, v->pid, v->pid, KCMP_EPOLL_TFD, slot.tfd, &slot);
		m->other |= r > 0;
		if (r > 0 || (r < 0 && errno == EBADF))
			continue;
		/* ENOENT: removed since fdinfo was read, ENOSYS: cannot be told. */
		m->pid = v->pid;
		w->unmet--;
	}
	return 0;
}

/* The entry is complete when all holders have been met: eventpoll_end() puts it. */
static int eventpoll_dump(struct kind_dump *c, const struct fd_view *v, FileEntry *fe,
			  struct err *e)
{
	EventpollFileEntry *m = kind_msg(EventpollFileEntry, eventpoll_file_entry__init);

	fe->epfd = m;
	m->id = v->id;
	m->flags = (uint32_t)v->flags;
	m->fown = kind_fown_dump(v->local);
	watch_of(c, v)->fe = fe;
	return KIND_PUT_LATER;
}

static void put_members(const struct watch *w, EventpollFileEntry *m)
{
	m->tfd = xcalloc(w->member.n + 1, sizeof(*m->tfd));
	vec_each(&w->member, from) {
		EventpollTfdEntry *t = kind_msg(EventpollTfdEntry, eventpoll_tfd_entry__init);

		m->tfd[m->n_tfd++] = t;
		t->id = w->id;
		t->tfd = from->is.tfd;
		t->events = from->is.events;
		t->data = from->is.data;
		t->has_dev = t->has_inode = t->has_pos = t->has_cl_pid = 1;
		t->dev = (uint32_t)from->is.sdev;
		t->inode = from->is.ino;
		t->pos = from->is.pos;
		t->cl_pid = (uint32_t)from->pid;
	}
}

/* A member outlives its number where the file was duplicated and the number closed. If no holder
 * has the file under that number, it could be watched only under one that is free or another
 * file's now. */
static int refuse_unmet(const struct watch *w, struct err *e)
{
	vec_each(&w->member, m) {
		if (m->pid)
			continue;
		err_say(e, ENOTSUP, "pid %d: fd %d: epoll: watches descriptor %u, %s", w->pid,
			w->fd, m->is.tfd,
			m->other ? "which is another file now" : "which is closed");
		return err_remedy(e, "remove a descriptor from the epoll set before closing it");
	}
	return 0;
}

static int eventpoll_end(struct kind_dump *c, struct err *e)
{
	struct watches *all = watches_of(c);
	int ret = 0;

	vec_each(&all->at, w) {
		ret = refuse_unmet(w, e);
		if (ret)
			break;
		if (!w->fe)
			continue;
		put_members(w, w->fe->epfd);
		img_put(c->set, IMG_FILES, 0, &w->fe->base);
	}
	forget(all);
	return ret;
}

/* ---- target side ---- */

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

/* Is a member `tfd` of our epoll still waiting for something but errors? */
static bool still_armed(const struct proc_fdinfo *info, uint32_t tfd)
{
	for (size_t i = 0; i < info->epoll.n; i++)
		if (info->epoll.at[i].tfd == tfd &&
		    (info->epoll.at[i].events & (EPOLLIN | EPOLLOUT)))
			return true;
	return false;
}

static int fire(int fd, struct proc_fdinfo *info, struct err *e)
{
	_cleanup_(buf_free) struct buf text = {0};
	struct epoll_event ev[64];

	while (epoll_wait(fd, ev, 64, 0) > 0)
		;
	if (io_slurp(&text, e, "/proc/self/fdinfo/%d", fd) < 0)
		return -e->code;
	return proc_fdinfo_parse((const char *)text.at, text.n, info, e);
}

struct adding {
	const EventpollFileEntry *m;
	const struct kind_holder *holder, **in;  /* all; by member, the one to add it in */
	size_t holders;
	struct proc_fdinfo fired;                /* after fire() */
};

/* What is to be done with a member in this step; 0: nothing. */
typedef int step_fn(const struct adding *a, const EventpollTfdEntry *t, uint32_t *events);

static int step_fire(const struct adding *a, const EventpollTfdEntry *t, uint32_t *events)
{
	*events = t->events | EPOLLIN | EPOLLOUT;
	return is_disarmed(t) ? EPOLL_CTL_ADD : 0;
}

static int step_calm(const struct adding *a, const EventpollTfdEntry *t, uint32_t *events)
{
	*events = t->events;
	return is_disarmed(t) && still_armed(&a->fired, t->tfd) ? EPOLL_CTL_MOD : 0;
}

static int step_add(const struct adding *a, const EventpollTfdEntry *t, uint32_t *events)
{
	*events = t->events;
	return is_disarmed(t) ? 0 : EPOLL_CTL_ADD;
}

static int step_in(const struct adding *a, const struct kind_holder *h, step_fn *step,
		   struct err *e)
{
	struct ctl k = { .holder = h, .b = BATCH(h->in ? remote_leader(h->in) : NULL) };
	int ret = 0;

	for (size_t i = 0; !ret && i < a->m->n_tfd; i++) {
		uint32_t events;
		int op = a->in[i] == h ? step(a, a->m->tfd[i], &events) : 0;

		if (op)
			ret = ctl_add(&k, op, a->m->tfd[i], events, e);
	}
	if (!ret)
		ret = ctl_run(&k, e);
	batch_free(&k.b);
	return ret < 0 ? err_in(e, "epoll at %d", h->fd) : 0;
}

static int step_all(const struct adding *a, step_fn *step, struct err *e)
{
	int ret = 0;

	for (size_t i = 0; !ret && i < a->holders; i++)
		ret = step_in(a, &a->holder[i], step, e);
	return ret;
}

/*
 * A member whose EPOLLONESHOT has fired waits for nothing, not even EPOLLERR and EPOLLHUP, but
 * epoll_ctl() cannot make one so: it always adds these two. So let it fire: wait for what is
 * most likely there. If it is not, errors stay armed and may be reported once too often.
 */
static int add_disarmed(struct adding *a, int fd, struct err *e)
{
	bool any = false;

	for (size_t i = 0; i < a->m->n_tfd; i++)
		any |= is_disarmed(a->m->tfd[i]);
	if (!any)
		return 0;
	int ret = step_all(a, step_fire, e);
	if (!ret)
		ret = fire(fd, &a->fired, e);
	return ret ? ret : step_all(a, step_calm, e);
}

/* The holder in which a member is to be added; images of others do not tell. */
static const struct kind_holder *holder_for(const struct kind_restore *c, const struct adding *a,
					    const EventpollTfdEntry *t)
{
	const struct remote *in = kind_process(c, (pid_t)t->cl_pid);

	if (!t->has_cl_pid)
		return a->holder;
	for (size_t i = 0; i < a->holders; i++)
		if (a->holder[i].in == in)
			return &a->holder[i];
	return NULL;
}

static int choose(const struct kind_restore *c, struct adding *a, struct err *e)
{
	for (size_t i = 0; i < a->m->n_tfd; i++) {
		const EventpollTfdEntry *t = a->m->tfd[i], *before = i ? a->m->tfd[i - 1] : NULL;
		bool same = before && before->has_cl_pid == t->has_cl_pid &&
			    before->cl_pid == t->cl_pid;

		a->in[i] = same ? a->in[i - 1] : holder_for(c, a, t);
		if (!a->in[i])
			return err_say(e, EBADMSG, "descriptor %u is to be watched in task %u, "
				       "which does not hold the epoll", t->tfd, t->cl_pid);
	}
	return 0;
}

static int eventpoll_finish(struct kind_restore *c, const FileEntry *fe, int fd, struct err *e)
{
	_cleanup_free_ const struct kind_holder **in = xcalloc(fe->epfd->n_tfd + 1, sizeof(*in));
	struct adding a = { .m = fe->epfd, .in = in };

	a.holder = kind_holders(c, fe->id, &a.holders);
	if (!a.m->n_tfd)
		return 0;
	if (!a.holders)
		return err_say(e, EINVAL, "epoll %u has members but is no process's", fe->id);
	int ret = choose(c, &a, e);
	if (!ret)
		ret = add_disarmed(&a, fd, e);
	if (!ret)
		ret = step_all(&a, step_add, e);
	proc_fdinfo_free(&a.fired);
	return ret;
}

const struct kind kind_eventpoll = {
	.name = "epoll",
	.type = FD_TYPES__EVENTPOLL,
	.match = eventpoll_match,
	.check = eventpoll_check,
	.dump = eventpoll_dump,
	.end = eventpoll_end,
	.create = eventpoll_create,
	.finish = eventpoll_finish,
};
