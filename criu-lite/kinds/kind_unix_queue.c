/* SPDX-License-Identifier: Apache-2.0 */
#include "kind_unix_queue.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <linux/sockios.h>

#include "kind_sockopt.h"
#include "kind_util.h"
#include "sk-packet.pb-c.h"

struct peek {
	int fd, type;
	struct buf buf;          /* at[0..cap): room for a message */
	int offset;              /* SO_PEEK_OFF: bytes seen so far */
	size_t got;
};

static int refuse(const char *what, struct err *e)
{
	err_say(e, ENOTSUP, "%s in flight cannot be kept", what);
	return err_remedy(e, "try again, when the receiver has read its messages");
}

/* The kernel gives us copies of passed descriptors even when peeking. */
static void drop_fds(const struct cmsghdr *m)
{
	size_t n = (m->cmsg_len - CMSG_LEN(0)) / sizeof(int);

	for (size_t i = 0; i < n; i++) {
		int fd;

		memcpy(&fd, CMSG_DATA(m) + i * sizeof(int), sizeof(int));
		close(fd);
	}
}

/* What would not come along with the bytes; NULL: nothing. */
static const char *passengers(struct msghdr *h)
{
	const char *what = NULL;

	for (struct cmsghdr *m = CMSG_FIRSTHDR(h); m; m = CMSG_NXTHDR(h, m)) {
		if (m->cmsg_level != SOL_SOCKET)
			continue;
		if (m->cmsg_type == SCM_RIGHTS) {
			drop_fds(m);
			what = "descriptors";
		} else if (m->cmsg_type == SCM_CREDENTIALS && !what) {
			what = "credentials";
		}
	}
	return what;
}

/* Looks at the next message. 1: got one, 0: no more, -errno. */
static int peek_next(struct peek *p, struct err *e)
{
	union { struct cmsghdr align; char room[CMSG_SPACE(253 * sizeof(int)) + 256]; } control;
	struct sockaddr_un from;
	struct iovec iov;
	struct sockaddr_un peer;
	struct msghdr h;
	ssize_t n;

	for (;;) {
		if (p->type != SOCK_STREAM &&
		    setsockopt(p->fd, SOL_SOCKET, SO_PEEK_OFF, &p->offset, sizeof(int)) < 0)
			return err_set(e, errno, "SO_PEEK_OFF");
		iov = (struct iovec){ p->buf.at, p->buf.cap };
		h = (struct msghdr){ .msg_name = &from, .msg_namelen = sizeof(from),
				     .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control,
				     .msg_controllen = sizeof(control) };
		n = recvmsg(p->fd, &h, MSG_PEEK | MSG_DONTWAIT | MSG_TRUNC | MSG_CMSG_CLOEXEC);
		if (n < 0 && errno == EAGAIN)
			return 0;
		if (n < 0)
			return err_set(e, errno, "peeking at the queue");
		const char *what = passengers(&h);
		if (what)
			return refuse(what, e);
		if ((size_t)n <= p->buf.cap)
			break;
		vec_reserve(&p->buf, (size_t)n);
	}
	if (p->type == SOCK_DGRAM && h.msg_namelen > sizeof(sa_family_t) &&
	    getpeername(p->fd, (struct sockaddr *)&peer, &(socklen_t){ sizeof(peer) }) < 0)
		return refuse("messages of senders with an address", e);
	p->got = (size_t)n;
	p->offset += (int)n;
	return n || p->type != SOCK_STREAM;
}

static void put(struct kind_dump *c, uint32_t id, const struct peek *p)
{
	SkPacketEntry m = SK_PACKET_ENTRY__INIT;

	m.id_for = id;
	m.length = (uint32_t)p->got;
	img_put_extra(kind_dump_set(c), IMG_SK_QUEUES, 0, &m.base, p->buf.at, p->got);
}

/* Messages have boundaries (and the kernel shows an empty one once): one after the other with
 * SO_PEEK_OFF, which is put back. */
static int dump_messages(struct kind_dump *c, struct peek *p, uint32_t id, struct err *e)
{
	int before, ret;

	ret = kind_sockopt_get(p->fd, SOL_SOCKET, SO_PEEK_OFF, &before);
	if (ret < 0)
		return err_set(e, -ret, "SO_PEEK_OFF");
	while ((ret = peek_next(p, e)) > 0)
		put(c, id, p);
	setsockopt(p->fd, SOL_SOCKET, SO_PEEK_OFF, &before, sizeof(before));
	return ret;
}

/* A stream is copied in one look: the kernel joins what was written piece by piece. */
static int dump_stream(struct kind_dump *c, struct peek *p, int bytes, uint32_t id, struct err *e)
{
	int before, ret;

	ret = kind_sockopt_get(p->fd, SOL_SOCKET, SO_PEEK_OFF, &before);
	if (!ret && before > 0)
		setsockopt(p->fd, SOL_SOCKET, SO_PEEK_OFF, &(int){ 0 }, sizeof(int));
	vec_reserve(&p->buf, (size_t)bytes);
	ret = peek_next(p, e);
	if (before >= 0)
		setsockopt(p->fd, SOL_SOCKET, SO_PEEK_OFF, &before, sizeof(before));
	if (ret <= 0)
		return ret;
	if (p->got < (size_t)bytes)
		return refuse("messages of several writers", e);
	put(c, id, p);
	return 0;
}

int unix_queue_dump(struct kind_dump *c, int fd, int type, uint32_t id, struct err *e)
{
	struct peek p = { .fd = fd, .type = type };
	int bytes = 0, ret;

	if (type == SOCK_STREAM && (ioctl(fd, SIOCINQ, &bytes) < 0 || bytes <= 0))
		return 0;
	vec_reserve(&p.buf, 65536);
	ret = type == SOCK_STREAM ? dump_stream(c, &p, bytes, id, e) : dump_messages(c, &p, id, e);
	buf_free(&p.buf);
	return ret;
}

/* ---- restore ---- */

static int send_one(int fd, const struct img_record *r, struct err *e)
{
	size_t done = 0;
	int size;

	do {
		ssize_t n = send(fd, r->extra + done, r->extra_len - done,
				 MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n >= 0) {
			done += (size_t)n;
			continue;
		}
		/* The sender's buffer may have been made smaller after it had sent. */
		if ((errno != EAGAIN && errno != EMSGSIZE) ||
		    kind_sockopt_get(fd, SOL_SOCKET, SO_SNDBUF, &size) || size > 1 << 28 ||
		    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)) < 0) {
			err_set(e, errno, "sending %u bytes that were in flight", r->extra_len);
			return err_remedy(e, "raise net.unix.max_dgram_qlen and net.core.wmem_max "
					     "to what they are on the source");
		}
	} while (done < r->extra_len);
	return 0;
}

int unix_queue_fill(struct kind_restore *c, uint32_t id, int fd, struct err *e)
{
	const struct img_set *set = kind_restore_set(c);
	size_t n = img_count(set, IMG_SK_QUEUES, 0);

	for (size_t i = 0; i < n; i++) {
		_cleanup_msg_ SkPacketEntry *m = NULL;

		if (img_get(set, IMG_SK_QUEUES, 0, i, &m, e) < 0)
			return -e->code;
		if (m->id_for == id && send_one(fd, img_record(set, IMG_SK_QUEUES, 0, i), e) < 0)
			return -e->code;
	}
	return 0;
}

bool unix_queue_any(const struct kind_restore *c, uint32_t id)
{
	const struct img_set *set = kind_restore_set(c);
	size_t n = img_count(set, IMG_SK_QUEUES, 0);
	struct err ignored = ERR_INIT;

	for (size_t i = 0; i < n; i++) {
		_cleanup_msg_ SkPacketEntry *m = NULL;

		if (!img_get(set, IMG_SK_QUEUES, 0, i, &m, &ignored) && m->id_for == id)
			return true;
	}
	return false;
}
