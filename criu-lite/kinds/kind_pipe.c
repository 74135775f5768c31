/* SPDX-License-Identifier: Apache-2.0 */
/* Anonymous pipes. Both ends, and further descriptions of them, are made at once. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "kind_pipedata.h"
#include "kind_priv.h"
#include "kind_util.h"
#include "pipe.pb-c.h"

static bool reads(uint32_t flags) { return (flags & O_ACCMODE) != O_WRONLY; }
static bool writes(uint32_t flags) { return (flags & O_ACCMODE) != O_RDONLY; }

static bool pipe_match(const struct fd_view *v)
{
	return S_ISFIFO(v->st.st_mode) && !(v->flags & O_PATH) && !strncmp(v->link, "pipe:[", 6);
}

static uint32_t pipe_number(struct kind_dump *c, const struct fd_view *v)
{
	return kind_number(c, KIND_SPACE_PIPE, v->st.st_dev, v->st.st_ino, 0);
}

/* Remembers which ends the tree holds; pipe_end() compares with which there are. */
static int pipe_check(struct kind_dump *c, const struct fd_view *v, struct err *e)
{
	struct pollfd p = { .fd = v->local, .events = POLLIN | POLLOUT };
	uint32_t number = pipe_number(c, v), flags = (uint32_t)v->flags;

	while (c->pipe.n <= number)
		vec_new(&c->pipe);
	struct kind_pipe_seen *s = &c->pipe.at[number];
	if (poll(&p, 1, 0) < 0)
		return err_set(e, errno, "poll");
	s->pid = v->pid;
	s->fd = v->fd;
	s->held[0] |= reads(flags);
	s->held[1] |= writes(flags);
	/* The reading end sees that all writers are gone, the writing end that all readers are. */
	s->open[0] |= writes(flags) && !(p.revents & POLLERR);
	s->open[1] |= reads(flags) && !(p.revents & POLLHUP);
	return 0;
}

static int check_ends(const struct kind_dump *c, struct err *e)
{
	for (size_t i = 0; i < c->pipe.n; i++) {
		const struct kind_pipe_seen *s = &c->pipe.at[i];
		bool reader = s->open[0] && !s->held[0];

		if (!s->pid || (!reader && !(s->open[1] && !s->held[1])))
			continue;
		err_say(e, ENOTSUP, "pid %d: fd %d: pipe whose %s end is held by a process "
			"outside of the tree", s->pid, s->fd, reader ? "reading" : "writing");
		return err_remedy(e, "move that process, too, or redirect to a file or /dev/null");
	}
	return 0;
}

static int pipe_end(struct kind_dump *c, struct err *e)
{
	int ret = kind_flight_expected(c) ? 0 : check_ends(c, e);

	c->pipe.n = 0;
	return ret;
}

static int pipe_dump(struct kind_dump *c, const struct fd_view *v, FileEntry *fe, struct err *e)
{
	PipeEntry *p = kind_msg(PipeEntry, pipe_entry__init);

	fe->pipe = p;
	p->id = v->id;
	p->pipe_id = pipe_number(c, v);
	p->flags = (uint32_t)v->flags;
	if (!kind_first(c, KIND_SPACE_PIPE, p->pipe_id))
		return 0;
	return kind_pipedata_dump(c, IMG_PIPES_DATA, p->pipe_id, v->local, e);
}

/* The end for one entry: the pipe's own, once for each direction, or one opened again. */
static int take_end(const int ends[2], bool used[2], const PipeEntry *p, struct err *e)
{
	int dir = reads(p->flags) ? 0 : 1;
	bool own = !used[dir] && !(reads(p->flags) && writes(p->flags));

	used[dir] |= own;
	_cleanup_close_ int fd =
		own ? fcntl(ends[dir], F_DUPFD_CLOEXEC, 0)
		    : kind_reopen(ends[dir], (int)(p->flags & O_ACCMODE) | O_NONBLOCK);
	if (fd < 0)
		return err_set(e, own ? errno : -fd, "end of pipe %u", p->pipe_id);
	int ret = kind_set_flags(fd, p->flags, e);
	return ret ? ret : steal_fd(fd);
}

static int fill(struct kind_restore *c, uint32_t pipe_id, int wr, struct err *e)
{
	const struct kind_indexed *at;
	bool packets = false;
	size_t n;

	int ret = kind_index(c, KIND_INDEX_PIPE, pipe_id, &at, &n, e);
	for (size_t k = 0; !ret && k < n; k++) {
		const PipeEntry *p = kind_entry_at(c, at[k].i)->pipe;

		packets |= writes(p->flags) && (p->flags & O_DIRECT);
	}
	return ret ? ret : kind_pipedata_restore(c, IMG_PIPES_DATA, pipe_id, wr, packets, e);
}

/* Hands out the ends, in the order of the entries. */
static int share(struct kind_restore *c, const FileEntry *own, const int ends[2], int *fd,
		 struct err *e)
{
	bool used[2] = { false, false };
	const struct kind_indexed *at;
	size_t n;

	int ret = kind_index(c, KIND_INDEX_PIPE, own->pipe->pipe_id, &at, &n, e);
	for (size_t k = 0; !ret && k < n; k++) {
		const FileEntry *fe = kind_entry_at(c, at[k].i);
		int end = take_end(ends, used, fe->pipe, e);

		if (end < 0)
			return end;
		if (fe == own)
			*fd = end;
		else
			kind_give(c, fe->id, end);
	}
	return ret;
}

static int pipe_create(struct kind_restore *c, const FileEntry *fe, int *fd, struct err *e)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
		return err_set(e, errno, "pipe");
	int ret = fill(c, fe->pipe->pipe_id, ends[1], e);
	if (!ret)
		ret = share(c, fe, ends, fd, e);
	/* An end that no entry has is closed with this, and the other side sees so. */
	close(ends[0]);
	close(ends[1]);
	return ret;
}

const struct kind kind_pipe = {
	.name = "pipe",
	.type = FD_TYPES__PIPE,
	.match = pipe_match,
	.check = pipe_check,
	.dump = pipe_dump,
	.create = pipe_create,
	.end = pipe_end,
};
