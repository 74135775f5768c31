/* SPDX-License-Identifier: Apache-2.0 */
#include "kind_unix_diag.h"

#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

#include "cleanup.h"
#include "vec.h"

#define ANSWER_MAX 65536

typedef void (*answer_fn)(void *arg, const struct unix_diag_msg *m, size_t len);

/* Sends one request, hands every answer on. 0 or -errno of the kernel. */
static int ask(const struct unix_diag_req *req, int flags, answer_fn answer, void *arg)
{
	struct { struct nlmsghdr h; struct unix_diag_req r; } msg = {
		.h = { .nlmsg_len = sizeof(msg), .nlmsg_type = SOCK_DIAG_BY_FAMILY,
		       .nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags) },
		.r = *req,
	};
	_cleanup_close_ int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
	_cleanup_free_ uint8_t *buf = xmalloc(ANSWER_MAX);

	if (fd < 0 || send(fd, &msg, sizeof(msg), 0) < 0)
		return -errno;
	for (;;) {
		ssize_t n = recv(fd, buf, ANSWER_MAX, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EPROTO;
		for (const struct nlmsghdr *h = (void *)buf; NLMSG_OK(h, (size_t)n);
		     h = NLMSG_NEXT(h, n)) {
			if (h->nlmsg_type == NLMSG_DONE)
				return 0;
			if (h->nlmsg_type == NLMSG_ERROR)
				return ((const struct nlmsgerr *)NLMSG_DATA(h))->error;
			if (h->nlmsg_len < NLMSG_LENGTH(sizeof(struct unix_diag_msg)))
				return -EPROTO;
			answer(arg, NLMSG_DATA(h), h->nlmsg_len - NLMSG_HDRLEN);
			if (!(flags & NLM_F_DUMP))
				return 0;
		}
	}
}

static const struct rtattr *attrs(const struct unix_diag_msg *m)
{
	return (const struct rtattr *)((const char *)m + NLMSG_ALIGN(sizeof(*m)));
}

static void take(void *arg, const struct unix_diag_msg *m, size_t len)
{
	struct unix_diag *out = arg;
	size_t left = len - NLMSG_ALIGN(sizeof(*m));

	out->type = m->udiag_type;
	out->state = m->udiag_state;
	for (const struct rtattr *a = attrs(m); RTA_OK(a, left); a = RTA_NEXT(a, left)) {
		const void *p = RTA_DATA(a);
		size_t n = RTA_PAYLOAD(a);

		if (a->rta_type == UNIX_DIAG_NAME && n < sizeof(out->name)) {
			memcpy(out->name, p, n);
			out->name_len = n;
		} else if (a->rta_type == UNIX_DIAG_VFS && n >= sizeof(struct unix_diag_vfs)) {
			const struct unix_diag_vfs *vfs = p;

			out->has_file = true;
			out->file_dev = vfs->udiag_vfs_dev;
			out->file_ino = vfs->udiag_vfs_ino;
		} else if (a->rta_type == UNIX_DIAG_PEER && n >= sizeof(uint32_t)) {
			out->has_peer = true;
			memcpy(&out->peer, p, sizeof(uint32_t));
		} else if (a->rta_type == UNIX_DIAG_RQLEN && n >= sizeof(struct unix_diag_rqlen)) {
			const struct unix_diag_rqlen *q = p;

			out->queued = q->udiag_rqueue;
			if (out->state == TCP_LISTEN)
				out->backlog = q->udiag_wqueue;
			else
				out->sent = q->udiag_wqueue;
		} else if (a->rta_type == UNIX_DIAG_SHUTDOWN && n >= 1) {
			out->shutdown = *(const uint8_t *)p;
		}
	}
}

int unix_diag_get(uint32_t ino, struct unix_diag *out, struct err *e)
{
	struct unix_diag_req req = {
		.sdiag_family = AF_UNIX, .udiag_states = ~0u, .udiag_ino = ino,
		.udiag_show = UDIAG_SHOW_NAME | UDIAG_SHOW_VFS | UDIAG_SHOW_PEER |
			      UDIAG_SHOW_RQLEN,
		.udiag_cookie = { ~0u, ~0u },
	};
	int ret;

	memset(out, 0, sizeof(*out));
	ret = ask(&req, 0, take, out);
	if (!ret)
		return 0;
	if (ret == -ENOENT) {
		err_say(e, ENOENT, "unix socket %u is not in this network namespace", ino);
		return err_remedy(e, "run criu-lite in the network namespace of the program");
	}
	err_set(e, -ret, "asking the kernel about unix socket %u", ino);
	return err_remedy(e, "load the kernel module unix_diag");
}

struct waits {
	uint32_t ino, listener;
};

static void find_waiting(void *arg, const struct unix_diag_msg *m, size_t len)
{
	struct waits *w = arg;
	size_t left = len - NLMSG_ALIGN(sizeof(*m));

	for (const struct rtattr *a = attrs(m); RTA_OK(a, left); a = RTA_NEXT(a, left)) {
		const uint32_t *inos = RTA_DATA(a);

		if (a->rta_type != UNIX_DIAG_ICONS)
			continue;
		for (size_t i = 0; i < RTA_PAYLOAD(a) / sizeof(*inos); i++)
			if (inos[i] == w->ino)
				w->listener = m->udiag_ino;
	}
}

int unix_diag_waits_at(uint32_t ino, uint32_t *listener, struct err *e)
{
	struct unix_diag_req req = {
		.sdiag_family = AF_UNIX, .udiag_states = 1u << TCP_LISTEN,
		.udiag_show = UDIAG_SHOW_ICONS,
	};
	struct waits w = { .ino = ino };
	int ret = ask(&req, NLM_F_DUMP, find_waiting, &w);

	*listener = w.listener;
	return ret ? err_set(e, -ret, "asking the kernel for listening unix sockets") : 0;
}
