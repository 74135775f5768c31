/* SPDX-License-Identifier: Apache-2.0 */
/* Terminals, the target side. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>

#include "kind_tty.h"
#include "kind_util.h"
#include "log.h"

/* Opening /dev/ptmx gives the lowest free number; so many are opened at most to get at one. */
#define PTMX_TRIES 256

static int get_info(const struct kind_restore *c, uint32_t id, TtyInfoEntry **out, struct err *e)
{
	const struct img_set *set = kind_restore_set(c);
	size_t n = img_count(set, IMG_TTY_INFO, 0);

	for (size_t i = 0; i < n; i++) {
		_cleanup_msg_ TtyInfoEntry *m = NULL;

		if (img_get(set, IMG_TTY_INFO, 0, i, &m, e) < 0)
			return -e->code;
		if (m->id == id) {
			*out = steal_ptr(m);
			return 0;
		}
	}
	return err_say(e, EBADMSG, "tty-info.img: there is no terminal %u", id);
}

static bool is_master(const TtyInfoEntry *m)
{
	return m->type == TTY_TYPE__PTY && tty_is_master(m->rdev);
}

/* The description of the master of a slave; NULL: it is outside. */
static const FileEntry *master_of(const struct kind_restore *c, const TtyInfoEntry *slave)
{
	const FileEntry *fe;
	struct err ignored = ERR_INIT;

	if (slave->type != TTY_TYPE__PTY || !slave->pty)
		return NULL;
	for (size_t i = 0; (fe = kind_entry_at(c, i)); i++) {
		_cleanup_msg_ TtyInfoEntry *m = NULL;

		if (fe->type == FD_TYPES__TTY && fe->tty &&
		    !get_info(c, fe->tty->tty_info_id, &m, &ignored) && is_master(m) && m->pty &&
		    m->pty->index == slave->pty->index)
			return fe;
	}
	return NULL;
}

/* Setting the attributes of our own terminal from the background would stop us. */
static int set_termios(int fd, const TermiosEntry *from, struct err *e)
{
	struct termios t = {0};
	sigset_t ttou, before;

	if (!from || tcgetattr(fd, &t) < 0)
		return 0;
	t.c_iflag = from->c_iflag;
	t.c_oflag = from->c_oflag;
	t.c_cflag = from->c_cflag;
	t.c_lflag = from->c_lflag;
	t.c_line = (cc_t)from->c_line;
	t.c_ispeed = from->c_ispeed;
	t.c_ospeed = from->c_ospeed;
	for (size_t i = 0; i < from->n_c_cc && i < TTY_NCC; i++)
		t.c_cc[i] = (cc_t)from->c_cc[i];
	sigemptyset(&ttou);
	sigaddset(&ttou, SIGTTOU);
	pthread_sigmask(SIG_BLOCK, &ttou, &before);
	int ret = tcsetattr(fd, TCSANOW, &t) < 0 ? -errno : 0;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return ret < 0 ? err_set(e, -ret, "setting the attributes of a terminal") : 0;
}

static int set_size(int fd, const WinsizeEntry *from, struct err *e)
{
	struct winsize w = {0};

	if (!from)
		return 0;
	w.ws_row = (unsigned short)from->ws_row;
	w.ws_col = (unsigned short)from->ws_col;
	w.ws_xpixel = (unsigned short)from->ws_xpixel;
	w.ws_ypixel = (unsigned short)from->ws_ypixel;
	return ioctl(fd, TIOCSWINSZ, &w) < 0 ? err_set(e, errno, "setting a terminal's size") : 0;
}

/* ---- pseudo terminals of the guest's own ---- */

static int open_ptmx(struct err *e)
{
	int fd = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC), unlock = 0;

	if (fd < 0)
		return err_set(e, errno, "/dev/ptmx");
	if (ioctl(fd, TIOCSPTLCK, &unlock) < 0) {
		close(fd);
		return err_set(e, errno, "unlocking a pseudo terminal");
	}
	return fd;
}

/* The number is the name, /dev/pts/N. If another terminal has it, the guest gets another one: it
 * finds its terminal by descriptor, not by name. */
static int open_master(uint32_t index, struct err *e)
{
	int fds[PTMX_TRIES], n, found = -1;
	unsigned int got = 0;

	for (n = 0; n < PTMX_TRIES; n++) {
		fds[n] = open_ptmx(e);
		if (fds[n] < 0 || ioctl(fds[n], TIOCGPTN, &got) < 0 || got >= index) {
			n += fds[n] >= 0;
			break;
		}
	}
	if (n && got != index)
		log_warn("terminal /dev/pts/%u is taken here, the program gets /dev/pts/%u", index,
			 got);
	for (int i = 0; i < n; i++) {
		if (i == n - 1)
			found = fds[i];
		else
			close(fds[i]);
	}
	if (found >= 0)
		err_clear(e);
	return found < 0 ? -e->code : found;
}

static int open_slave(struct kind_restore *c, const TtyInfoEntry *m, const FileEntry *master,
		      uint32_t flags, struct err *e)
{
	int mfd = kind_fd(c, master->id, e);

	if (mfd < 0)
		return mfd;
	int fd = ioctl(mfd, TIOCGPTPEER, (int)(flags & (O_ACCMODE | O_NONBLOCK)) | O_NOCTTY |
						 O_CLOEXEC);
	if (fd < 0)
		return err_set(e, errno, "opening the slave of a pseudo terminal");
	if (m->has_uid && m->has_gid && fchown(fd, m->uid, m->gid) < 0)
		log_debug("a terminal stays ours: %m");
	return fd;
}

/* Its other end is gone: so make one and let it go. */
static int open_hung_up(uint32_t flags, struct err *e)
{
	_cleanup_close_ int master = open_ptmx(e);

	if (master < 0)
		return master;
	int fd = ioctl(master, TIOCGPTPEER, (int)(flags & (O_ACCMODE | O_NONBLOCK)) | O_NOCTTY |
						    O_CLOEXEC);
	return fd < 0 ? err_set(e, errno, "opening the slave of a pseudo terminal") : fd;
}

/* ---- the terminal we run on ---- */

static int open_ours(struct kind_restore *c, uint32_t flags, struct err *e)
{
	int mode = (int)(flags & (O_ACCMODE | O_NONBLOCK));

	if (!kind_restore_opts(c)->shell_job) {
		err_say(e, ENOTSUP, "it belonged to a session outside of the guest");
		return err_remedy(e, "use --shell-job to have it replaced by this terminal");
	}
	for (int i = 0; i < 3; i++) {
		if (!isatty(i))
			continue;
		int fd = kind_reopen(i, mode);
		if (fd < 0)
			fd = fcntl(i, F_DUPFD_CLOEXEC, 3);
		return fd < 0 ? err_set(e, errno, "our terminal") : fd;
	}
	int fd = open("/dev/tty", mode | O_NOCTTY | O_CLOEXEC);
	if (fd >= 0)
		return fd;
	err_say(e, ENOTTY, "--shell-job: there is no terminal here to give to the guest");
	return err_remedy(e, "run this command on a terminal, not in the background");
}

int tty_create(struct kind_restore *c, const FileEntry *fe, int *out, struct err *e)
{
	const TtyFileEntry *m = fe->tty;
	_cleanup_msg_ TtyInfoEntry *info = NULL;
	_cleanup_close_ int fd = -1;

	if (get_info(c, m->tty_info_id, &info, e) < 0)
		return -e->code;
	const FileEntry *master = master_of(c, info);
	bool own = is_master(info) || master;
	if (info->type == TTY_TYPE__UNKNOWN)
		fd = open_hung_up(m->flags, e);
	else if (is_master(info))
		fd = open_master(info->pty ? info->pty->index : 0, e);
	else if (master)
		fd = open_slave(c, info, master, m->flags, e);
	else
		fd = open_ours(c, m->flags, e);
	if (fd < 0)
		return -e->code;
	/* Our own terminal keeps its size; the program is told when it looks. */
	if (set_termios(fd, info->termios, e) < 0 ||
	    (own && set_size(fd, info->winsize, e) < 0) || kind_set_flags(fd, m->flags, e) < 0)
		return -e->code;
	*out = steal_fd(fd);
	return 0;
}

/* What keeps others from opening it, when nothing more is to be opened. */
int tty_finish(struct kind_restore *c, const FileEntry *fe, int fd, struct err *e)
{
	_cleanup_msg_ TtyInfoEntry *info = NULL;
	int on = 1;

	if (get_info(c, fe->tty->tty_info_id, &info, e) < 0)
		return -e->code;
	if (info->type != TTY_TYPE__PTY || (!is_master(info) && !master_of(c, info)))
		return 0;
	if (is_master(info) && ((info->locked && ioctl(fd, TIOCSPTLCK, &on) < 0) ||
				(info->packet_mode && ioctl(fd, TIOCPKT, &on) < 0)))
		return err_set(e, errno, "setting the mode of a pseudo terminal");
	if (info->exclusive && ioctl(fd, TIOCEXCL) < 0)
		return err_set(e, errno, "TIOCEXCL");
	return 0;
}
