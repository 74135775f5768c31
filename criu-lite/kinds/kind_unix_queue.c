/* SPDX-License-Identifier: Apache-2.0 */
#include "kind_unix_queue.h"

#include <errno.h>
#include <linux/sched.h>
#include <linux/sockios.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "kind_sockopt.h"
#include "kind_unix_diag.h"
#include "kind_unix_peek.h"
#include "kind_util.h"
#include "sk-packet.pb-c.h"

/* ---- dump ---- */

static void put(struct kind_dump *c, uint32_t id, const struct unix_peek *p, size_t from, size_t to,
		ScmEntry *scm)
{
	SkPacketEntry m = SK_PACKET_ENTRY__INIT;
	SkUcred cred = SK_UCRED__INIT;

	m.id_for = id;
	m.length = (uint32_t)(to - from);
	if (p->has_cred) {
		cred.pid = p->cred.pid;
		cred.uid = p->cred.uid;
		cred.gid = p->cred.gid;
		m.ucred = &cred;
	}
	m.scm = &scm;
	m.n_scm = scm ? 1 : 0;
	img_put_extra(kind_dump_set(c), IMG_SK_QUEUES, 0, &m.base, p->buf.at + from, to - from);
}

/* Is all that waits in the stream one message? The kernel only says what memory it takes. */
static bool is_single(const struct unix_peek *p, uint32_t peer)
{
	int pair[2], waiting = 0, taken = 0;
	struct err ignored = ERR_INIT;
	struct unix_diag d;

	if (p->offset != (int)p->got || ioctl(p->fd, SIOCINQ, &waiting) < 0 ||
	    waiting != (int)p->got)
		return false;
	if (!peer || unix_diag_get(peer, &d, &ignored) < 0)
		return true;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return true;
	send(pair[0], p->buf.at, p->got, MSG_DONTWAIT | MSG_NOSIGNAL);
	ioctl(pair[0], SIOCOUTQ, &taken);
	close(pair[0]);
	close(pair[1]);
	return d.sent <= (uint32_t)taken;
}

/* With which byte of it do the descriptors come? Pieces of a stream are joined by a look at them,
 * up to the one that has descriptors: where that begins cannot be seen. So they come with its last
 * byte, as who reads message by message expects; with the first, if there is one message only. */
static size_t rights_at(const struct unix_peek *p, uint32_t peer)
{
	if (p->type != SOCK_STREAM || !p->rights.n || p->got < 2 || is_single(p, peer))
		return 0;
	return p->got - 1;
}

static int put_peeked(struct kind_dump *c, uint32_t id, struct unix_peek *p, uint32_t peer,
		      struct err *e)
{
	size_t at = rights_at(p, peer);
	_cleanup_free_ uint32_t *ids = xcalloc(p->rights.n + 1, sizeof(*ids));
	ScmEntry scm = SCM_ENTRY__INIT;

	scm.type = SCM_RIGHTS;
	scm.rights = ids;
	while (p->rights.n) {
		size_t i = --p->rights.n;
		int ret = kind_flight_put(c, p->rights.at[i], &ids[i], e);

		if (ret)
			return ret;
		scm.n_rights++;
	}
	if (at)
		put(c, id, p, 0, at, NULL);
	put(c, id, p, at, p->got, scm.n_rights ? &scm : NULL);
	return 0;
}

int unix_queue_dump(struct kind_dump *c, int fd, int type, uint32_t id, uint32_t peer,
		    struct err *e)
{
	struct unix_peek p;

	int ret = unix_peek_begin(&p, fd, type, e);
	if (ret)
		return ret;
	while ((ret = unix_peek_next(&p, e)) > 0) {
		ret = put_peeked(c, id, &p, peer, e);
		if (ret)
			break;
	}
	unix_peek_end(&p);
	return ret;
}

/* ---- restore ---- */

union control {
	struct cmsghdr align;
	char room[CMSG_SPACE(sizeof(struct ucred)) + CMSG_SPACE(253 * sizeof(int))];
};

static struct cmsghdr *add(struct msghdr *h, int type, size_t size)
{
	struct cmsghdr *m = (void *)((char *)h->msg_control + h->msg_controllen);

	m->cmsg_level = SOL_SOCKET;
	m->cmsg_type = type;
	m->cmsg_len = CMSG_LEN(size);
	h->msg_controllen += CMSG_SPACE(size);
	return m;
}

/* Descriptors in flight are made as any other. */
static int add_rights(struct kind_restore *c, const SkPacketEntry *m, struct msghdr *h,
		      struct err *e)
{
	size_t n = m->n_scm ? m->scm[0]->n_rights : 0;

	if (!n)
		return 0;
	if (m->n_scm > 1 || m->scm[0]->type != SCM_RIGHTS || n > 253)
		return err_say(e, EBADMSG, "sk-queues.img: a message for %u that nobody could send",
			       m->id_for);
	struct cmsghdr *to = add(h, SCM_RIGHTS, n * sizeof(int));
	for (size_t i = 0; i < n; i++) {
		int fd = kind_fd(c, m->scm[0]->rights[i], e);

		if (fd < 0)
			return err_in(e, "in flight");
		memcpy(CMSG_DATA(to) + i * sizeof(int), &fd, sizeof(int));
	}
	return 0;
}

/* The sender has exited. The kernel wants its number to be somebody's: a process that has it, and
 * has exited, too. */
static pid_t stand_in(pid_t pid)
{
	struct clone_args args = { .set_tid = (uint64_t)(uintptr_t)&pid, .set_tid_size = 1 };
	pid_t child = (pid_t)syscall(SYS_clone3, &args, sizeof(args));

	if (child == 0)
		syscall(SYS_exit, 0);
	return child;
}

static ssize_t send_as(int fd, const struct msghdr *h, pid_t pid)
{
	ssize_t n = sendmsg(fd, h, MSG_DONTWAIT | MSG_NOSIGNAL);

	if (n >= 0 || errno != ESRCH)
		return n;
	pid_t child = stand_in(pid);
	if (child < 0 && errno != EEXIST)
		return -1;
	n = sendmsg(fd, h, MSG_DONTWAIT | MSG_NOSIGNAL);
	int code = errno;
	if (child > 0)
		waitpid(child, NULL, __WALL);
	errno = code;
	return n;
}

/* What comes after the first `cred_len` bytes of control data goes along only once. */
static int send_one(int fd, const struct img_record *r, struct msghdr *h, size_t cred_len,
		    pid_t pid, struct err *e)
{
	size_t done = 0;
	int size;

	do {
		struct iovec iov = { r->extra + done, r->extra_len - done };

		h->msg_iov = &iov;
		h->msg_iovlen = 1;
		ssize_t n = send_as(fd, h, pid);
		if (n >= 0) {
			done += (size_t)n;
			h->msg_controllen = cred_len;
			continue;
		}
		if (errno == ESRCH)
			return err_set(e, ESRCH, "a message in flight of process %d", pid);
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

static int send_packet(struct kind_restore *c, int fd, const SkPacketEntry *m,
		       const struct img_record *r, struct err *e)
{
	union control control = { 0 };
	struct msghdr h = { .msg_control = &control };

	if (m->ucred) {
		struct ucred cred = { m->ucred->pid, m->ucred->uid, m->ucred->gid };

		memcpy(CMSG_DATA(add(&h, SCM_CREDENTIALS, sizeof(cred))), &cred, sizeof(cred));
	}
	size_t cred_len = h.msg_controllen;
	int ret = add_rights(c, m, &h, e);
	return ret ? ret : send_one(fd, r, &h, cred_len, m->ucred ? m->ucred->pid : 0, e);
}

int unix_queue_fill(struct kind_restore *c, uint32_t id, int fd, struct err *e)
{
	const struct img_set *set = kind_restore_set(c);
	const struct kind_indexed *at;
	size_t n;

	int ret = kind_index(c, KIND_INDEX_QUEUE, id, &at, &n, e);
	for (size_t k = 0; !ret && k < n; k++) {
		_cleanup_msg_ SkPacketEntry *m = NULL;

		ret = img_get(set, IMG_SK_QUEUES, 0, at[k].i, &m, e);
		if (!ret)
			ret = send_packet(c, fd, m, img_record(set, IMG_SK_QUEUES, 0, at[k].i), e);
	}
	return ret;
}

bool unix_queue_any(struct kind_restore *c, uint32_t id)
{
	struct err ignored = ERR_INIT;
	const struct kind_indexed *at;
	size_t n;

	return kind_index(c, KIND_INDEX_QUEUE, id, &at, &n, &ignored) == 0 && n;
}
