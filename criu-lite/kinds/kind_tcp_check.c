/* SPDX-License-Identifier: Apache-2.0 */
/* Which connections cannot be kept. Asked of a running guest and once more of the frozen one. */
#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>

#include "kind_inet.h"
#include "kind_sockopt.h"
#include "kind_tcp_priv.h"

#ifndef TCP_AO_INFO
#define TCP_AO_INFO 40           /* since Linux 6.7 */
#endif

static int refuse(struct err *e, const char *why, const char *remedy)
{
	err_say(e, ENOTSUP, "TCP connection: %s", why);
	return err_remedy(e, "%s, or use --tcp-close", remedy);
}

static int check_ulp(int fd, struct err *e)
{
	char name[17] = "";
	socklen_t len = sizeof(name) - 1;

	if (getsockopt(fd, IPPROTO_TCP, TCP_ULP, name, &len) < 0 || !name[0])
		return 0;
	err_say(e, ENOTSUP, "TCP connection: the kernel handles a protocol on top of it (%s), "
			    "whose keys and records cannot be read", name);
	return err_remedy(e, "let the program do TLS itself (no kTLS), or use --tcp-close");
}

/* A byte sent with MSG_OOB that was not read. With SO_OOBINLINE it is a byte like others. */
static int check_urgent(int fd, struct err *e)
{
	char byte;

	if (recv(fd, &byte, 1, MSG_OOB | MSG_PEEK | MSG_DONTWAIT) < 0 && errno != EAGAIN)
		return 0;
	return refuse(e, "urgent data (MSG_OOB) has not been read yet",
		      "try again, when the program has read it");
}

static int check_opening(int fd, int state, struct err *e)
{
	struct tcp_info info = {0};
	socklen_t len = sizeof(info);

	if (state == TCP_SYN_RECV)
		return refuse(e, "it is half open (SYN-RECEIVED)", "try again");
	if (state != TCP_SYN_SENT)
		return 0;
	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0)
		return err_set(e, errno, "reading TCP_INFO");
	/* With TCP_FASTOPEN_CONNECT nothing is sent before the first data, with MSG_FASTOPEN more
	 * than the SYN. */
	if (info.tcpi_unacked == 1)
		return 0;
	return refuse(e, "TCP Fast Open is not finished", "try again");
}

/* ---- keys of TCP-MD5, which only sock_diag tells ---- */

struct question {
	struct nlmsghdr h;
	struct inet_diag_req_v2 r;
};

static void fill_question(struct question *q, int family, const union inet_addr *us,
			  const union inet_addr *them)
{
	*q = (struct question){
		.h = { .nlmsg_len = sizeof(*q), .nlmsg_type = SOCK_DIAG_BY_FAMILY,
		       .nlmsg_flags = NLM_F_REQUEST },
		/* keys come along with TCP_INFO only */
		.r = { .sdiag_family = (uint8_t)family, .sdiag_protocol = IPPROTO_TCP,
		       .idiag_ext = 1 << (INET_DIAG_INFO - 1), .idiag_states = ~0u,
		       .id.idiag_cookie = { INET_DIAG_NOCOOKIE, INET_DIAG_NOCOOKIE } },
	};
	/* ports stand at one place in both families */
	q->r.id.idiag_sport = us->v4.sin_port;
	q->r.id.idiag_dport = them->v4.sin_port;
	if (family == AF_INET6) {
		memcpy(q->r.id.idiag_src, &us->v6.sin6_addr, 16);
		memcpy(q->r.id.idiag_dst, &them->v6.sin6_addr, 16);
	} else {
		memcpy(q->r.id.idiag_src, &us->v4.sin_addr, 4);
		memcpy(q->r.id.idiag_dst, &them->v4.sin_addr, 4);
	}
}

static bool has_keys(const char *answer, size_t n)
{
	const struct nlmsghdr *h = (const void *)answer;
	size_t head = NLMSG_LENGTH(sizeof(struct inet_diag_msg)), left;

	if (!NLMSG_OK(h, n) || h->nlmsg_type != SOCK_DIAG_BY_FAMILY || h->nlmsg_len < head)
		return false;
	left = h->nlmsg_len - head;
	for (const struct rtattr *a = (const void *)(answer + NLMSG_ALIGN(head)); RTA_OK(a, left);
	     a = RTA_NEXT(a, left))
		if (a->rta_type == INET_DIAG_MD5SIG && RTA_PAYLOAD(a))
			return true;
	return false;
}

/* No answer (a kernel without sock_diag for TCP): taken as no keys. A listening socket has no
 * peer. */
static int check_keys(int fd, struct err *e)
{
	_Alignas(struct nlmsghdr) char answer[8192];
	union inet_addr us = {0}, them = {0};
	socklen_t len = sizeof(us);
	struct question q;
	ssize_t n;

	if (getsockname(fd, &us.sa, &len) < 0)
		return 0;
	inet_addr_of_peer(fd, &them);
	fill_question(&q, us.sa.sa_family, &us, &them);
	_cleanup_close_ int nl = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
	if (nl < 0 || send(nl, &q, sizeof(q), 0) < 0 ||
	    (n = recv(nl, answer, sizeof(answer), 0)) <= 0 || !has_keys(answer, (size_t)n))
		return 0;
	return refuse(e, "it is signed (TCP-MD5)", "let the program connect without keys");
}

static bool has_ao(int fd)
{
	char info[256] = "";
	socklen_t len = sizeof(info);

	return getsockopt(fd, IPPROTO_TCP, TCP_AO_INFO, info, &len) == 0;
}

bool tcp_is_signed(int fd)
{
	struct err ignored = ERR_INIT;

	return has_ao(fd) || check_keys(fd, &ignored) < 0;
}

int tcp_check(struct kind_dump *c, int fd, int state, struct err *e)
{
	int value;

	if (check_opening(fd, state, e) < 0 || check_ulp(fd, e) < 0)
		return -e->code;
	if (has_ao(fd))
		return refuse(e, "it is signed (TCP-AO)", "let the program connect without keys");
	/* Numbers of notifications begin at 0 in a new socket. */
	if (!kind_sockopt_get(fd, SOL_SOCKET, SO_ZEROCOPY, &value) && value)
		return refuse(e, "it sends without copying (SO_ZEROCOPY), and would never hear "
				 "what was sent", "let the program run without SO_ZEROCOPY");
	if (check_urgent(fd, e) < 0)
		return -e->code;
	/* a connection that has keys had them from the first segment on */
	return kind_dump_set(c) ? 0 : check_keys(fd, e);
}
