/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Descriptors of the guest. Which of them share one open file description is asked of the
 * kernel (kcmp), whose answers are an order: a search tree over all descriptions seen.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "flow_guest.h"
#include "log.h"

struct description {
	pid_t pid;
	int fd;
	uint32_t id;
};

static int order(const void *pa, const void *pb)
{
	const struct description *a = pa, *b = pb;
	long r = syscall(SYS_kcmp, a->pid, b->pid, KCMP_FILE, a->fd, b->fd);

	return r == 0 ? 0 : r == 1 ? -1 : 1;
}

void guest_fds_forget(struct guest *g)
{
	tdestroy(g->descriptions, free);
	g->descriptions = NULL;
}

static uint32_t description_id(struct guest *g, pid_t pid, int fd)
{
	struct description *d = xcalloc(1, sizeof(*d));

	d->pid = pid;
	d->fd = fd;
	struct description **at = tsearch(d, &g->descriptions, order);
	if (*at != d)
		free(d);
	else
		d->id = kind_number(g->kinds, KIND_SPACE_FILE, (uint64_t)pid, (uint64_t)fd, 0);
	return (*at)->id;
}

/* A descriptor in flight is ours for a while: it is looked up as any other. */
uint32_t guest_fd_id(void *guest, pid_t pid, int fd)
{
	return description_id(guest, pid, fd);
}

typedef VEC(int) int_vec;

static bool ours(const struct guest *g, const struct task *t, int fd)
{
	vec_each(&g->tree.task, it)
		if ((*it)->remote && (*it)->files_id == t->files_id &&
		    remote_own_fd((*it)->remote) == fd)
			return true;
	return false;
}

static int compare_int(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

static int list(struct guest *g, struct task *t, int_vec *out, struct err *e)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/fd", t->pid);
	_cleanup_closedir_ DIR *d = opendir(path);
	if (!d)
		return err_set(e, errno == ENOENT ? ESRCH : errno, "%s", path);
	for (struct dirent *de; (de = readdir(d));)
		if (de->d_name[0] != '.' && !ours(g, t, atoi(de->d_name)))
			vec_push(out, atoi(de->d_name));
	if (out->n)
		qsort(out->at, out->n, sizeof(int), compare_int);
	return 0;
}

static int in_task(const struct task *t, struct err *e)
{
	return err_in(e, "pid %d (%s)", t->pid, t->comm);
}

/* Into memory of the guest such a file is read by the device, past all trackers. */
static void note_direct(struct guest *g, const struct fd_view *v)
{
	g->direct |= (v->flags & O_DIRECT) && !(v->flags & O_PATH) &&
		     (S_ISREG(v->st.st_mode) || S_ISBLK(v->st.st_mode));
}

/* Each descriptor of a running task. One that is closed meanwhile is no matter. */
static int look_at_all(struct guest *g, struct task *t,
		       int (*f)(struct kind_dump *c, struct fd_view *v, struct err *e),
		       struct err *e)
{
	_cleanup_close_ int pidfd = (int)syscall(SYS_pidfd_open, t->pid, 0);
	int_vec fds = { 0 };
	int ret = pidfd < 0 ? err_set(e, errno, "pid %d", t->pid) : list(g, t, &fds, e);

	for (size_t i = 0; ret == 0 && i < fds.n; i++) {
		struct fd_view v;
		_cleanup_close_ int local = (int)syscall(SYS_pidfd_getfd, pidfd, fds.at[i], 0);

		if (local < 0 && errno == EBADF)
			continue;
		if (local < 0) {
			ret = err_set(e, errno, "fd %d", fds.at[i]);
			err_remedy(e, "CAP_SYS_PTRACE over the guest is needed");
			in_task(t, e);
			break;
		}
		if (kind_view(t->pid, fds.at[i], local, &v, e) < 0) {
			err_clear(e);
			continue;
		}
		v.id = description_id(g, t->pid, fds.at[i]);
		note_direct(g, &v);
		ret = f(g->kinds, &v, e);
		kind_view_free(&v);
	}
	vec_free(&fds);
	return ret;
}

static int check_fd(struct kind_dump *c, struct fd_view *v, struct err *e)
{
	return kind_check(c, v, e);
}

int guest_fds_check(struct guest *g, struct task *t, struct err *e)
{
	return look_at_all(g, t, check_fd, e);
}

int guest_fds_preview(struct guest *g, struct err *e)
{
	int ret = 0;

	for (size_t i = 0; ret == 0 && i < g->tree.task.n; i++) {
		struct task *t = g->tree.task.at[i];

		if (t->state != TASK_DEAD)
			ret = look_at_all(g, t, kind_preview_fd, e);
		if (ret == -ESRCH) {
			err_clear(e);
			ret = 0;
		}
	}
	guest_fds_forget(g);
	return ret;
}

static int capture_fd(struct guest *g, struct task *t, int fd, struct img_set *set, struct err *e)
{
	FdinfoEntry fe = FDINFO_ENTRY__INIT;
	struct fd_view v;
	_cleanup_close_ int local = remote_fd_get(t->remote, fd, e);

	if (local < 0)
		return local;
	int ret = kind_view(t->pid, fd, local, &v, e);
	if (ret < 0)
		return in_task(t, e);
	v.id = description_id(g, t->pid, fd);
	note_direct(g, &v);
	ret = kind_dump_fd(g->kinds, &v, e);
	if (ret == 0 && (ret = kind_type(&v, &fe.type)) < 0)
		ret = err_say(e, ENOTSUP, "pid %d: fd %d: unknown kind", t->pid, fd);
	if (ret == 0) {
		fe.id = v.id;
		fe.fd = (uint32_t)fd;
		fe.flags = v.info.flags & O_CLOEXEC ? FD_CLOEXEC : 0;
		img_put(set, IMG_FDINFO, t->files_id, &fe.base);
	}
	kind_view_free(&v);
	return ret;
}

int guest_fds_capture(struct guest *g, struct task *t, struct img_set *set, struct err *e)
{
	int_vec fds = { 0 };
	int ret = list(g, t, &fds, e);

	for (size_t i = 0; ret == 0 && i < fds.n; i++)
		ret = capture_fd(g, t, fds.at[i], set, e);
	vec_free(&fds);
	return ret;
}

void guest_fds_hang_up(struct task *t)
{
	char path[64];
	struct err ignored = ERR_INIT;

	snprintf(path, sizeof(path), "/proc/%d/fd", t->pid);
	_cleanup_closedir_ DIR *d = opendir(path);
	for (struct dirent *de; d && (de = readdir(d));) {
		char link[32] = "";
		struct tcp_info info;
		socklen_t n = sizeof(info);

		if (readlinkat(dirfd(d), de->d_name, link, sizeof(link) - 1) < 0 ||
		    strncmp(link, "socket:", 7))
			continue;
		_cleanup_close_ int fd = remote_fd_get(t->remote, atoi(de->d_name), &ignored);
		if (fd >= 0 && getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &n) == 0 &&
		    info.tcpi_state != TCP_LISTEN)
			shutdown(fd, SHUT_RDWR);
	}
}
