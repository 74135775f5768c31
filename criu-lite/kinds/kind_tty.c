/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Terminals, the source side. A pseudo terminal whose master is in the guest moves with it. Any
 * other terminal belongs to somebody outside: with --shell-job the guest gets the terminal that
 * the restoring criu-lite runs on. Which is which shows when all descriptors have been seen: `end`.
 *
 * What is on its way through a pseudo terminal cannot be read without taking it: it is lost.
 */
#include "kind_tty.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>

#include "io.h"
#include "kind_fown.h"
#include "kind_util.h"
#include "log.h"
#include "proc_task.h"

extern const struct kind kind_tty;

struct seen {
	uint64_t dev;            /* of the devpts: numbers are only unique there */
	uint32_t index;
	bool master;
	pid_t pid;
	int fd;
	char name[64];
};
typedef VEC(struct seen) seen_vec;

static seen_vec *seen_of(struct kind_dump *c)
{
	return kind_dump_list(c, &kind_tty);
}

/* /dev/tty is not a terminal but a way to the one that the opener has: a node without state. */
static bool tty_match(const struct fd_view *v)
{
	unsigned int m = major(v->st.st_rdev);

	return S_ISCHR(v->st.st_mode) && !(v->flags & O_PATH) &&
	       (m == TTY_MAJOR_VT || (m == TTY_MAJOR_AUX && minor(v->st.st_rdev)) ||
		tty_is_slave(v->st.st_rdev));
}

/* The other end has been closed: nothing works on it any more. */
static bool is_hung_up(const struct fd_view *v)
{
	struct termios t;

	return !tty_is_master(v->st.st_rdev) && tcgetattr(v->local, &t) < 0 && errno == EIO;
}

static uint32_t index_of(const struct fd_view *v)
{
	unsigned int n = 0;

	if (tty_is_master(v->st.st_rdev))
		ioctl(v->local, TIOCGPTN, &n);
	else if (tty_is_slave(v->st.st_rdev))
		n = (major(v->st.st_rdev) - TTY_MAJOR_PTS) << 20 | minor(v->st.st_rdev);
	return n;
}

static int tty_check(struct kind_dump *c, const struct fd_view *v, struct err *e)
{
	struct seen s = { .dev = v->st.st_dev, .index = index_of(v),
			  .master = tty_is_master(v->st.st_rdev), .pid = v->pid, .fd = v->fd };

	if (is_hung_up(v))
		return 0;
	snprintf(s.name, sizeof(s.name), "%.60s", v->link);
	/* /dev/ptmx may stand outside of the devpts whose terminals it opens. */
	if (s.master && strstr(v->link, "/pts/") == NULL)
		s.dev = 0;
	if (!s.master && !tty_is_slave(v->st.st_rdev))
		s.index = UINT32_MAX;
	vec_push(seen_of(c), s);
	return 0;
}

static bool has_master(const seen_vec *all, const struct seen *slave)
{
	vec_each(all, s)
		if (s->master && s->index == slave->index && (!s->dev || s->dev == slave->dev))
			return true;
	return false;
}

static int tty_end(struct kind_dump *c, struct err *e)
{
	seen_vec *all = seen_of(c);
	int ret = 0;

	vec_each(all, s) {
		if (ret || s->master || kind_dump_opts(c)->shell_job || has_master(all, s))
			continue;
		err_say(e, ENOTSUP, "pid %d: fd %d: terminal %s belongs to a session outside",
			s->pid, s->fd, s->name);
		ret = err_remedy(e, "use --shell-job to have it replaced by the terminal of the "
				 "restoring criu-lite, or start the program without a terminal "
				 "(setsid, input and output from and to files)");
	}
	all->n = 0;
	return ret;
}

/* ---- dump ---- */

static TtyType type_of(const struct fd_view *v)
{
	dev_t rdev = v->st.st_rdev;

	if (is_hung_up(v))
		return TTY_TYPE__UNKNOWN;
	if (tty_is_master(rdev) || tty_is_slave(rdev))
		return TTY_TYPE__PTY;
	if (major(rdev) == TTY_MAJOR_AUX)
		return TTY_TYPE__CONSOLE;
	return minor(rdev) < 64 ? TTY_TYPE__VT : TTY_TYPE__SERIAL;
}

/* Whose controlling terminal it is, as far as the holder knows. */
static void dump_session(const struct fd_view *v, TtyInfoEntry *m)
{
	_cleanup_(buf_free) struct buf text = {0};
	struct proc_stat st;
	struct err ignored = ERR_INIT;

	if (io_slurp(&text, &ignored, "/proc/%d/stat", v->pid) < 0 ||
	    proc_stat_parse((const char *)text.at, text.n, &st, &ignored) < 0 ||
	    st.tty_nr != (uint32_t)v->st.st_rdev || st.session <= 0)
		return;
	m->sid = (uint32_t)st.session;
	m->pgrp = st.tpgid > 0 ? (uint32_t)st.tpgid : 0;
}

static void dump_termios(int fd, TtyInfoEntry *m)
{
	struct termios t;
	struct winsize w;

	if (!tcgetattr(fd, &t)) {
		TermiosEntry *to = m->termios = kind_msg(TermiosEntry, termios_entry__init);

		to->c_iflag = t.c_iflag;
		to->c_oflag = t.c_oflag;
		to->c_cflag = t.c_cflag;
		to->c_lflag = t.c_lflag;
		to->c_line = t.c_line;
		to->c_ispeed = t.c_ispeed;
		to->c_ospeed = t.c_ospeed;
		to->c_cc = xcalloc(TTY_NCC, sizeof(*to->c_cc));
		for (to->n_c_cc = 0; to->n_c_cc < TTY_NCC; to->n_c_cc++)
			to->c_cc[to->n_c_cc] = t.c_cc[to->n_c_cc];
	}
	if (!ioctl(fd, TIOCGWINSZ, &w)) {
		m->winsize = kind_msg(WinsizeEntry, winsize_entry__init);
		m->winsize->ws_row = w.ws_row;
		m->winsize->ws_col = w.ws_col;
		m->winsize->ws_xpixel = w.ws_xpixel;
		m->winsize->ws_ypixel = w.ws_ypixel;
	}
}

static bool get_bool(int fd, unsigned long request)
{
	int value = 0;

	return ioctl(fd, request, &value) == 0 && value;
}

static void put_info(struct kind_dump *c, const struct fd_view *v, uint32_t id)
{
	TtyInfoEntry *m = kind_msg(TtyInfoEntry, tty_info_entry__init);

	m->id = id;
	m->type = type_of(v);
	/* The kernel's own encoding, which is also that of /proc/PID/stat. */
	m->rdev = (uint32_t)v->st.st_rdev;
	m->exclusive = get_bool(v->local, TIOCGEXCL);
	if (tty_is_master(v->st.st_rdev)) {
		m->locked = get_bool(v->local, TIOCGPTLCK);
		m->packet_mode = get_bool(v->local, TIOCGPKT);
	}
	if (m->type == TTY_TYPE__PTY) {
		m->pty = kind_msg(TtyPtyEntry, tty_pty_entry__init);
		m->pty->index = index_of(v);
		m->has_uid = m->has_gid = 1;
		m->uid = v->st.st_uid;
		m->gid = v->st.st_gid;
	}
	dump_session(v, m);
	dump_termios(v->local, m);
	img_put(kind_dump_set(c), IMG_TTY_INFO, 0, &m->base);
	tty_info_entry__free_unpacked(m, NULL);
}

static int tty_dump(struct kind_dump *c, const struct fd_view *v, FileEntry *fe, struct err *e)
{
	TtyFileEntry *m = kind_msg(TtyFileEntry, tty_file_entry__init);
	int waiting = 0;

	fe->tty = m;
	m->fown = kind_fown_dump(v->local);
	m->id = v->id;
	m->flags = (uint32_t)v->flags;
	m->tty_info_id = kind_number(c, KIND_SPACE_TTY, v->st.st_rdev, index_of(v),
				     tty_is_master(v->st.st_rdev) ? 0 : v->st.st_dev);
	if (kind_first(c, KIND_SPACE_TTY, m->tty_info_id))
		put_info(c, v, m->tty_info_id);
	if (tty_is_master(v->st.st_rdev) && !ioctl(v->local, FIONREAD, &waiting) && waiting)
		log_warn("pid %d: fd %d: %d bytes on their way through a terminal are lost",
			 v->pid, v->fd, waiting);
	return 0;
}

const struct kind kind_tty = {
	.name = "terminal",
	.type = FD_TYPES__TTY,
	.match = tty_match,
	.check = tty_check,
	.dump = tty_dump,
	.end = tty_end,
	.create = tty_create,
	.finish = tty_finish,
};
