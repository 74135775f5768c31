/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unix sockets, the source side: pairs, listeners, datagram sockets; what they are is asked of
 * sock_diag, what they have received is copied (kind_unix_queue.c).
 *
 * Sockets are known by inode number in the images. That a peer belongs to the guest only
 * shows when all sockets have been seen: `end`.
 */
#include "kind_unix.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>

#include "kind_fown.h"
#include "kind_sockopt.h"
#include "kind_unix_bind.h"
#include "kind_unix_diag.h"
#include "kind_unix_queue.h"
#include "kind_util.h"
#include "log.h"

extern const struct kind kind_unix;

/* ---- peers ---- */

struct seen {
	uint32_t ino, peer;
	int type;
	pid_t pid;
	int fd;
};
typedef VEC(struct seen) seen_vec;

static seen_vec *seen_of(struct kind_dump *c)
{
	return kind_dump_list(c, &kind_unix);
}

static int by_ino(const void *a, const void *b)
{
	const struct seen *x = a, *y = b;

	return x->ino < y->ino ? -1 : x->ino > y->ino;
}

/* "@name" or "/path", for messages */
static const char *name_text(const struct unix_diag *d, char *out, size_t size)
{
	size_t n = d->name_len < size ? d->name_len : size - 1;

	for (size_t i = 0; i < n; i++)
		out[i] = d->name[i] ? (char)d->name[i] : '@';
	if (n && !d->name[n - 1])
		n--;
	out[n] = '\0';
	return n ? out : "without a name";
}

/* An entry for a peer outside, so that the name to connect to is known. */
static void put_external(struct kind_dump *c, uint32_t ino, const struct unix_diag *d)
{
	FileEntry fe = FILE_ENTRY__INIT;
	UnixSkEntry m = UNIX_SK_ENTRY__INIT;
	FownEntry fown = FOWN_ENTRY__INIT;
	SkOptsEntry opts = SK_OPTS_ENTRY__INIT;
	uint32_t id = kind_number(c, KIND_SPACE_FILE, UINT64_MAX, ino, 0);

	if (!kind_dump_set(c) || !kind_first(c, KIND_SPACE_FILE, id))
		return;
	fe.type = FD_TYPES__UNIXSK;
	fe.id = m.id = id;
	fe.usk = &m;
	m.ino = ino;
	m.type = (uint32_t)d->type;
	m.state = (uint32_t)d->state;
	m.uflags = UNIX_EXTERN;
	m.fown = &fown;
	m.opts = &opts;
	m.name = (ProtobufCBinaryData){ d->name_len, (uint8_t *)(uintptr_t)d->name };
	img_put(kind_dump_set(c), IMG_FILES, 0, &fe.base);
}

static int external(struct kind_dump *c, const struct seen *s, struct err *e)
{
	bool allowed = kind_dump_opts(c)->ext_unix_sk;
	struct unix_diag d;
	char name[160];

	if (unix_diag_get(s->peer, &d, e) < 0)
		return err_in(e, "pid %d: fd %d", s->pid, s->fd);
	if (s->type == SOCK_DGRAM && d.name_len && allowed) {
		put_external(c, s->peer, &d);
		return 0;
	}
	err_say(e, ENOTSUP, "pid %d: fd %d: unix socket: its peer (socket %u, %s) belongs to "
		"another program", s->pid, s->fd, s->peer, name_text(&d, name, sizeof(name)));
	if (s->type == SOCK_DGRAM && d.name_len)
		return err_remedy(e, "use --ext-unix-sk to have it connected to the same name "
				     "there");
	return err_remedy(e, "--ext-unix-sk is only for datagram sockets: let the program run "
			     "without this connection, or move both programs as one tree");
}

static int unix_end(struct kind_dump *c, struct err *e)
{
	seen_vec *all = seen_of(c);
	int ret = 0;

	if (!all->n)
		return 0;
	qsort(all->at, all->n, sizeof(*all->at), by_ino);
	vec_each(all, s) {
		struct seen peer = { .ino = s->peer };

		if (s->peer && !ret && !kind_flight_expected(c) &&
		    !bsearch(&peer, all->at, all->n, sizeof(peer), by_ino))
			ret = external(c, s, e);
	}
	all->n = 0;
	return ret;
}

/* ---- one socket ---- */

static bool unix_match(const struct fd_view *v)
{
	int domain;

	return S_ISSOCK(v->st.st_mode) &&
	       !kind_sockopt_get(v->local, SOL_SOCKET, SO_DOMAIN, &domain) && domain == AF_UNIX;
}

/* A connection that its listener has not accepted yet: the other end is nobody's descriptor, so
 * what was sent into it cannot be seen. */
static int find_listener(const struct fd_view *v, struct unix_diag *d, struct err *e)
{
	int sent = 0;

	if (d->type == SOCK_DGRAM || d->state != TCP_ESTABLISHED || d->peer || d->shutdown)
		return 0;
	if (unix_diag_waits_at((uint32_t)v->st.st_ino, &d->peer, e) < 0)
		return -e->code;
	if (!d->peer) {
		err_say(e, ENOTSUP, "unix socket: its peer cannot be found");
		return err_remedy(e, "run criu-lite where the peer is, or close the connection");
	}
	if (ioctl(v->local, SIOCOUTQ, &sent) < 0 || sent) {
		err_say(e, ENOTSUP, "unix socket: what was sent before its listener accepted "
			"cannot be kept");
		return err_remedy(e, "try again, when the connection has been accepted");
	}
	return 0;
}

static int inspect(struct kind_dump *c, const struct fd_view *v, struct unix_diag *d,
		   struct err *e)
{
	seen_vec *all = seen_of(c);

	if (unix_diag_get((uint32_t)v->st.st_ino, d, e) < 0 || find_listener(v, d, e) < 0)
		return -e->code;
	vec_push(all, (struct seen){ (uint32_t)v->st.st_ino, d->peer, d->type, v->pid, v->fd });
	if (d->state != TCP_LISTEN && d->queued)
		kind_flight_expect(c);
	return kind_sockopt_check(v->local, e);
}

static int unix_check(struct kind_dump *c, const struct fd_view *v, struct err *e)
{
	struct unix_diag d;

	return inspect(c, v, &d, e);
}

static bool is_its_file(const struct unix_diag *d, const struct stat *st)
{
	return S_ISSOCK(st->st_mode) && (uint32_t)st->st_ino == d->file_ino &&
	       major(st->st_dev) == d->file_dev >> 20 &&
	       minor(st->st_dev) == (d->file_dev & 0xfffff);
}

static void dump_perms(UnixSkEntry *m, const struct stat *st)
{
	m->file_perms = kind_msg(FilePermsEntry, file_perms_entry__init);
	m->file_perms->mode = st->st_mode & 07777;
	m->file_perms->uid = st->st_uid;
	m->file_perms->gid = st->st_gid;
}

/* A relative name was seen from the working directory at the time of bind(): if that has changed,
 * the file is as good as deleted. */
static void dump_path(const struct fd_view *v, const struct unix_diag *d, UnixSkEntry *m)
{
	const char *name = (const char *)d->name;
	char path[192], dir[PATH_MAX];
	struct stat st;
	ssize_t n;

	if (!d->has_file)
		return;
	snprintf(path, sizeof(path), "/proc/%d/%s/%.108s", v->pid,
		 name[0] == '/' ? "root" : "cwd", name);
	if (lstat(path, &st) < 0 || !is_its_file(d, &st)) {
		m->has_deleted = m->deleted = 1;
		return;
	}
	dump_perms(m, &st);
	m->has_file_ino = m->has_file_mtime = 1;
	m->file_ino = st.st_ino;
	m->file_mtime = (uint64_t)st.st_mtim.tv_sec * 1000000000 + (uint64_t)st.st_mtim.tv_nsec;
	if (name[0] == '/')
		return;
	snprintf(path, sizeof(path), "/proc/%d/cwd", v->pid);
	n = readlink(path, dir, sizeof(dir) - 1);
	if (n > 0) {
		dir[n] = '\0';
		m->name_dir = xstrdup(dir);
	}
}

static bool unix_preview(const struct fd_view *v)
{
	int listens;

	return !kind_sockopt_get(v->local, SOL_SOCKET, SO_ACCEPTCONN, &listens) && listens;
}

static int unix_dump(struct kind_dump *c, const struct fd_view *v, FileEntry *fe, struct err *e)
{
	UnixSkEntry *m = kind_msg(UnixSkEntry, unix_sk_entry__init);
	struct unix_diag d;
	int ret;

	fe->usk = m;
	m->fown = kind_fown_dump(v->local);
	ret = kind_sockopt_dump(c, v->local, &m->opts, e);
	if (ret < 0 || inspect(c, v, &d, e) < 0)
		return -e->code;
	m->id = v->id;
	m->ino = (uint32_t)v->st.st_ino;
	m->type = (uint32_t)d.type;
	/* A datagram socket is called established also if only others are connected to it. */
	m->state = d.type != SOCK_DGRAM ? (uint32_t)d.state :
		   d.has_peer ? TCP_ESTABLISHED : TCP_CLOSE;
	m->flags = (uint32_t)v->flags;
	m->backlog = d.backlog;
	m->peer = d.peer;
	m->name.data = xmemdup(d.name, d.name_len + 1);
	m->name.len = d.name_len;
	dump_path(v, &d, m);
	m->has_shutdown = 1;
	m->shutdown = (SkShutdown)d.shutdown;
	if (d.type == SOCK_DGRAM || d.state == TCP_ESTABLISHED)
		return unix_queue_dump(c, v->local, d.type, v->id, d.peer, e);
	if (d.queued)
		log_info("pid %d: fd %d: %u connections not accepted yet; those from outside are "
			 "dropped", v->pid, v->fd, d.queued);
	return 0;
}

/* ---- the target side, but for kind_unix_restore.c ---- */

static int unix_verify(struct kind_restore *c, const FileEntry *fe, struct err *e)
{
	const UnixSkEntry *m = fe->usk;

	/* The name of a connected stream is for show only. */
	if ((m->uflags & UNIX_EXTERN) || (m->type != SOCK_DGRAM && m->state == TCP_ESTABLISHED))
		return 0;
	return unix_name_check(c, m, e);
}

static void unix_done(struct kind_restore *c, const FileEntry *fe)
{
	unix_place(c, fe->usk);
}

const struct kind kind_unix = {
	.name = "unix socket",
	.type = FD_TYPES__UNIXSK,
	.match = unix_match,
	.check = unix_check,
	.preview = unix_preview,
	.dump = unix_dump,
	.end = unix_end,
	.verify = unix_verify,
	.create = unix_create,
	.finish = unix_finish,
	.done = unix_done,
};
