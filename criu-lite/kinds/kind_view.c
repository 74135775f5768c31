/* SPDX-License-Identifier: Apache-2.0 */
/* One descriptor of a guest, looked at from outside. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "io.h"
#include "kind_util.h"

static int view_link(struct fd_view *v, struct err *e)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/fd/%d", v->pid, v->fd);
	ssize_t n = readlink(path, v->link, sizeof(v->link));
	if (n < 0)
		return err_set(e, errno, "%s", path);
	if ((size_t)n >= sizeof(v->link))
		return err_set(e, ENAMETOOLONG, "%s", path);
	v->link[n] = '\0';
	v->deleted = v->link[0] == '/' && kind_cut_deleted(v->link, &v->st);
	return 0;
}

static int view_info(struct fd_view *v, struct err *e)
{
	struct buf text = { 0 };
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/fdinfo/%d", v->pid, v->fd);
	int ret = io_slurp_at(AT_FDCWD, path, &text, e);
	if (!ret) {
		ret = proc_fdinfo_parse((char *)text.at, text.n, &v->info, e);
		if (ret)
			err_in(e, "%s", path);
	}
	buf_free(&text);
	return ret;
}

int kind_view(pid_t pid, int fd, int local, struct fd_view *v, struct err *e)
{
	memset(v, 0, offsetof(struct fd_view, link));
	memset(&v->info, 0, sizeof(v->info));
	v->pid = pid;
	v->fd = fd;
	v->local = local;
	v->id = 0;
	if (fstat(local, &v->st) < 0)
		return err_set(e, errno, "pid %d: fd %d", pid, fd);
	v->flags = fcntl(local, F_GETFL);
	if (v->flags < 0)
		return err_set(e, errno, "pid %d: fd %d: F_GETFL", pid, fd);

	int ret = view_link(v, e);
	if (!ret)
		ret = view_info(v, e);
	if (ret) {
		kind_view_free(v);
		return err_in(e, "pid %d: fd %d", pid, fd);
	}
	v->pos = v->info.pos;
	return 0;
}

void kind_view_free(struct fd_view *v)
{
	proc_fdinfo_free(&v->info);
}
