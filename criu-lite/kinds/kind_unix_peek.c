/* SPDX-License-Identifier: Apache-2.0 */
#include "kind_unix_peek.h"

#include <errno.h>
#include <linux/sockios.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/un.h>

#include "kind_sockopt.h"

#ifndef SCM_PIDFD
#define SCM_PIDFD 4
#endif
#define RIGHTS_MAX 253           /* SCM_MAX_FD */
#define OVERFLOW_ID 65534

union control {
	struct cmsghdr align;
	char room[CMSG_SPACE(RIGHTS_MAX * sizeof(int)) + 256];
};

static int refuse(const char *what, struct err *e)
{
	err_say(e, ENOTSUP, "%s in flight cannot be kept", what);
	return err_remedy(e, "try again, when the receiver has read its messages");
}

static void drop_rights(struct unix_peek *p)
{
	vec_each(&p->rights, fd)
		close(*fd);
	p->rights.n = 0;
}

static void take_rights(struct unix_peek *p, const struct cmsghdr *m)
{
	size_t n = (m->cmsg_len - CMSG_LEN(0)) / sizeof(int);

	for (size_t i = 0; i < n; i++) {
		int fd;

		memcpy(&fd, CMSG_DATA(m) + i * sizeof(int), sizeof(int));
		vec_push(&p->rights, fd);
	}
}

/* The kernel gives us copies of passed descriptors even when peeking. */
static int take_control(struct unix_peek *p, struct msghdr *h, struct err *e)
{
	int ret = 0;

	p->has_cred = false;
	for (struct cmsghdr *m = CMSG_FIRSTHDR(h); m; m = CMSG_NXTHDR(h, m)) {
		if (m->cmsg_level != SOL_SOCKET)
			continue;
		if (m->cmsg_type == SCM_RIGHTS) {
			take_rights(p, m);
		} else if (m->cmsg_type == SCM_PIDFD) {
			take_rights(p, m);
			ret = refuse("messages with pidfds of their senders (SO_PASSPIDFD)", e);
		} else if (m->cmsg_type == SCM_CREDENTIALS) {
			memcpy(&p->cred, CMSG_DATA(m), sizeof(p->cred));
			p->has_cred = true;
		}
	}
	/* So says the kernel if there are none: sent before the receiver asked for them. */
	if (p->has_cred && !p->cred.pid) {
		p->has_cred = false;
		if (p->cred.uid != OVERFLOW_ID)
			ret = refuse("credentials of a process in another pid namespace", e);
	}
	return ret;
}

/* One look. Bytes seen (more than there is room for: a message that is longer), -EAGAIN: none. */
static ssize_t look(struct unix_peek *p, struct msghdr *h, struct err *e)
{
	struct iovec iov = { p->buf.at, p->buf.cap };
	int flags = MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC |
		    (p->type == SOCK_STREAM ? 0 : MSG_TRUNC);

	drop_rights(p);
	h->msg_iov = &iov;
	h->msg_iovlen = 1;
	if (setsockopt(p->fd, SOL_SOCKET, SO_PEEK_OFF, &p->offset, sizeof(int)) < 0)
		return err_set(e, errno, "SO_PEEK_OFF");
	ssize_t n = recvmsg(p->fd, h, flags);
	h->msg_iov = NULL;
	if (n < 0)
		return errno == EAGAIN ? -EAGAIN : err_set(e, errno, "peeking at the queue");
	int ret = take_control(p, h, e);
	return ret ? ret : n;
}

int unix_peek_begin(struct unix_peek *p, int fd, int type, struct err *e)
{
	int bytes = 0, ret;

	*p = (struct unix_peek){ .fd = fd, .type = type };
	ret = kind_sockopt_get(fd, SOL_SOCKET, SO_PEEK_OFF, &p->before);
	if (ret < 0)
		return err_set(e, -ret, "SO_PEEK_OFF");
	if (type == SOCK_STREAM && ioctl(fd, SIOCINQ, &bytes) < 0)
		return err_set(e, errno, "bytes in the queue");
	vec_reserve(&p->buf, bytes > 65536 ? (size_t)bytes : 65536);
	return 0;
}

int unix_peek_next(struct unix_peek *p, struct err *e)
{
	struct sockaddr_un from, peer;
	union control control;
	struct msghdr h;
	ssize_t n;

	for (;;) {
		h = (struct msghdr){ .msg_name = &from, .msg_namelen = sizeof(from),
				     .msg_control = &control, .msg_controllen = sizeof(control) };
		n = look(p, &h, e);
		if (n < 0)
			return n == -EAGAIN ? 0 : (int)n;
		if ((size_t)n <= p->buf.cap)
			break;
		vec_reserve(&p->buf, (size_t)n);
	}
	if (p->type == SOCK_DGRAM && h.msg_namelen > sizeof(sa_family_t) &&
	    getpeername(p->fd, (struct sockaddr *)&peer, &(socklen_t){ sizeof(peer) }) < 0)
		return refuse("messages of senders with an address", e);
	p->got = (size_t)n;
	if (p->type == SOCK_STREAM && !n)
		return 0;
	p->offset += (int)n;
	return 1;
}

void unix_peek_end(struct unix_peek *p)
{
	drop_rights(p);
	vec_free(&p->rights);
	buf_free(&p->buf);
	setsockopt(p->fd, SOL_SOCKET, SO_PEEK_OFF, &p->before, sizeof(p->before));
}
