/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unix sockets, the target side. Who is connected both ways comes into being as a pair; what
 * is connected one way (datagram sockets, a peer outside, a connection not accepted yet) is
 * connected in `finish`, when all names are there.
 */
#include <errno.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

#include "kind_sockopt.h"
#include "kind_unix.h"
#include "kind_unix_bind.h"
#include "kind_unix_queue.h"
#include "kind_util.h"
#include "log.h"

static bool same_name(const UnixSkEntry *a, const UnixSkEntry *b)
{
	return a->name.len == b->name.len && a->name.len &&
	       !memcmp(a->name.data, b->name.data, a->name.len);
}

/* Who accepted this one? */
static const UnixSkEntry *listener_of(const struct kind_restore *c, const UnixSkEntry *m)
{
	const FileEntry *fe;

	for (size_t i = 0; m->type != SOCK_DGRAM && m->name.len && (fe = kind_entry_at(c, i)); i++)
		if (fe->type == FD_TYPES__UNIXSK && fe->usk && fe->usk->state == TCP_LISTEN &&
		    fe->usk->type == m->type && same_name(fe->usk, m) && !fe->usk->deleted)
			return fe->usk;
	return NULL;
}

static bool is_mutual(const UnixSkEntry *m, const UnixSkEntry *peer)
{
	return peer && peer != m && peer->peer == m->ino && peer->type == m->type &&
	       peer->state != TCP_LISTEN && m->state != TCP_LISTEN;
}

static int new_socket(const UnixSkEntry *m, struct err *e)
{
	int fd = socket(AF_UNIX, (int)m->type | SOCK_CLOEXEC, 0);

	return fd < 0 ? err_set(e, errno, "socket") : fd;
}

/* What comes after the queues: nothing can be sent after a shutdown, and a socket with
 * SO_PASSCRED takes a name of its own when it connects. */
static int settle(int fd, const UnixSkEntry *m, struct err *e)
{
	if (m->has_shutdown && m->shutdown != SK_SHUTDOWN__NONE &&
	    shutdown(fd, (int)m->shutdown - 1) < 0 && errno != ENOTCONN)
		return err_set(e, errno, "shutdown");
	if (kind_sockopt_restore(fd, m->opts, e) < 0)
		return -e->code;
	return kind_set_flags(fd, m->flags, e);
}

/* ---- pairs ---- */

/* The accepted end has the name of its listener, which cannot be bound twice: so connect to that
 * listener and accept. Somebody from outside may come first: he is sent away. */
static int pair_by_listener(struct kind_restore *c, const UnixSkEntry *listener, int fd[2],
			    struct err *e)
{
	int lfd = kind_fd(c, listener->id, e);

	if (lfd < 0)
		return lfd;
	fd[1] = new_socket(listener, e);
	if (fd[1] < 0)
		return fd[1];
	int ret = unix_connect(c, fd[1], listener);
	while (!ret) {
		struct ucred cred = {0};
		socklen_t len = sizeof(cred);

		fd[0] = accept4(lfd, NULL, NULL, SOCK_CLOEXEC);
		if (fd[0] < 0)
			return err_set(e, errno, "accept");
		if (!getsockopt(fd[0], SOL_SOCKET, SO_PEERCRED, &cred, &len) &&
		    cred.pid == getpid())
			return 0;
		close(steal_fd(fd[0]));
	}
	return err_set(e, -ret, "connecting to its listener");
}

/* Names of connected stream sockets are for show only. */
static int name_end(struct kind_restore *c, int fd, const UnixSkEntry *m, struct err *e)
{
	if (!unix_bind(c, fd, m, e))
		return 0;
	if (m->type == SOCK_DGRAM)
		return -e->code;
	log_debug("a connected unix socket stays without a name: %s", e->text);
	err_clear(e);
	return 0;
}

static int make_pair(struct kind_restore *c, const UnixSkEntry *m, const UnixSkEntry *peer,
		     int fd[2], struct err *e)
{
	const UnixSkEntry *l = listener_of(c, m), *pl = l ? NULL : listener_of(c, peer);

	if (l || pl) {
		int got[2] = { -1, -1 };
		int ret = pair_by_listener(c, l ? l : pl, got, e);

		fd[0] = got[l ? 0 : 1];
		fd[1] = got[l ? 1 : 0];
		if (ret < 0)
			return ret;
	} else if (socketpair(AF_UNIX, (int)m->type | SOCK_CLOEXEC, 0, fd) < 0) {
		return err_set(e, errno, "socketpair");
	}
	if (!l && name_end(c, fd[0], m, e) < 0)
		return -e->code;
	if (!pl && name_end(c, fd[1], peer, e) < 0)
		return -e->code;
	/* An accepted end has SO_PASSCRED as its listener: messages would get our credentials. */
	if (kind_sockopt_set(fd[0], SOL_SOCKET, SO_PASSCRED, 0) < 0 ||
	    kind_sockopt_set(fd[1], SOL_SOCKET, SO_PASSCRED, 0) < 0)
		return err_set(e, errno, "SO_PASSCRED");
	if (unix_queue_fill(c, m->id, fd[1], e) < 0 || unix_queue_fill(c, peer->id, fd[0], e) < 0)
		return -e->code;
	return settle(fd[0], m, e) < 0 || settle(fd[1], peer, e) < 0 ? -e->code : 0;
}

static int create_pair(struct kind_restore *c, const UnixSkEntry *m, const UnixSkEntry *peer,
		       int *out, struct err *e)
{
	int fd[2] = { -1, -1 };
	int ret = make_pair(c, m, peer, fd, e);

	if (ret < 0) {
		cleanup_close(&fd[0]);
		cleanup_close(&fd[1]);
		return ret;
	}
	kind_give(c, peer->id, fd[1]);
	*out = fd[0];
	return 0;
}

/* Its peer is closed already: what it sent is still to be read. */
static int create_orphan(struct kind_restore *c, const UnixSkEntry *m, int *out, struct err *e)
{
	int fd[2], ret;

	if (socketpair(AF_UNIX, (int)m->type | SOCK_CLOEXEC, 0, fd) < 0)
		return err_set(e, errno, "socketpair");
	ret = name_end(c, fd[0], m, e);
	if (!ret)
		ret = unix_queue_fill(c, m->id, fd[1], e);
	close(fd[1]);
	if (!ret)
		ret = settle(fd[0], m, e);
	if (ret < 0)
		close(fd[0]);
	else
		*out = fd[0];
	return ret;
}

/* ---- single ones ---- */

/* Datagrams from senders without a name and not connected to us. */
static int fill_by_name(struct kind_restore *c, const UnixSkEntry *m, struct err *e)
{
	_cleanup_close_ int from = -1;
	int ret;

	if (!unix_queue_any(c, m->id))
		return 0;
	from = new_socket(m, e);
	if (from < 0)
		return from;
	ret = unix_connect(c, from, m);
	if (ret < 0)
		return err_set(e, -ret, "reaching unix socket %u to give it its messages", m->id);
	return unix_queue_fill(c, m->id, from, e);
}

static int create_single(struct kind_restore *c, const UnixSkEntry *m, int *out, struct err *e)
{
	_cleanup_close_ int fd = new_socket(m, e);

	if (fd < 0 || unix_bind(c, fd, m, e) < 0)
		return -e->code;
	if (m->state == TCP_LISTEN && listen(fd, (int)m->backlog) < 0)
		return err_set(e, errno, "listen");
	if (m->type == SOCK_DGRAM && fill_by_name(c, m, e) < 0)
		return -e->code;
	if (settle(fd, m, e) < 0)
		return -e->code;
	*out = steal_fd(fd);
	return 0;
}

int unix_create(struct kind_restore *c, const FileEntry *fe, int *out, struct err *e)
{
	const UnixSkEntry *m = fe->usk, *peer = unix_by_ino(c, m->peer);

	if (m->uflags & UNIX_EXTERN)
		return err_say(e, EBADMSG, "unix socket %u belongs to another program", m->id);
	if (m->type != SOCK_STREAM && m->type != SOCK_DGRAM && m->type != SOCK_SEQPACKET)
		return err_say(e, EBADMSG, "unix socket %u is of type %u", m->id, m->type);
	if (m->peer && !peer) {
		err_say(e, ENOTSUP, "unix socket %u: its peer (socket %u) is not in the images",
			m->id, m->peer);
		return err_remedy(e, "dump both programs as one tree, or use --ext-unix-sk");
	}
	if (is_mutual(m, peer))
		return create_pair(c, m, peer, out, e);
	if (!m->peer && m->state == TCP_ESTABLISHED)
		return create_orphan(c, m, out, e);
	return create_single(c, m, out, e);
}

/* ---- connected one way ---- */

static int connect_to(struct kind_restore *c, int fd, const UnixSkEntry *m,
		      const UnixSkEntry *peer, struct err *e)
{
	char text[160];
	int passcred = 0, ret;

	/* With SO_PASSCRED, connect() would name a socket that has no name. */
	kind_sockopt_get(fd, SOL_SOCKET, SO_PASSCRED, &passcred);
	kind_sockopt_set(fd, SOL_SOCKET, SO_PASSCRED, 0);
	ret = unix_connect(c, fd, peer);
	kind_sockopt_set(fd, SOL_SOCKET, SO_PASSCRED, passcred);
	if (!ret)
		return 0;
	err_set(e, -ret, "connecting to %s", unix_name_text(peer, text, sizeof(text)));
	if (peer->uflags & UNIX_EXTERN)
		return err_remedy(e, "start the program that serves this name on this host");
	return ret;
}

int unix_finish(struct kind_restore *c, const FileEntry *fe, int fd, struct err *e)
{
	const UnixSkEntry *m = fe->usk, *peer = unix_by_ino(c, m->peer);

	if (!peer || is_mutual(m, peer))
		return 0;
	if ((peer->uflags & UNIX_EXTERN) && !kind_restore_opts(c)->ext_unix_sk) {
		err_say(e, ENOTSUP, "its peer belongs to another program");
		return err_remedy(e, "use --ext-unix-sk to have it connected to the same name");
	}
	if (!(peer->uflags & UNIX_EXTERN) && kind_fd(c, peer->id, e) < 0)
		return -e->code;
	return connect_to(c, fd, m, peer, e);
}
