/* SPDX-License-Identifier: Apache-2.0 */
#include "net_nl.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "log.h"

int net_ns_enter(int netns, int *back, struct err *e)
{
	*back = -1;
	if (netns < 0)
		return 0;
	*back = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	if (*back < 0)
		return err_set(e, errno, "/proc/thread-self/ns/net");
	if (setns(netns, CLONE_NEWNET) == 0)
		return 0;
	int code = errno;
	close(*back);
	*back = -1;
	return err_set(e, code, "entering the network namespace");
}

void net_ns_leave(int *back)
{
	if (*back < 0)
		return;
	if (setns(*back, CLONE_NEWNET) < 0) {
		/* whatever came next would change the wrong network */
		log_error("cannot return to the own network namespace: %s", strerror(errno));
		abort();
	}
	close(*back);
	*back = -1;
}

int net_nl_open(struct mnl_socket **nl, int bus, int netns, struct err *e)
{
	_cleanup_ns_ int back = -1;
	int ret = net_ns_enter(netns, &back, e);

	*nl = NULL;
	if (ret < 0)
		return ret;
	*nl = mnl_socket_open2(bus, SOCK_CLOEXEC);
	if (!*nl)
		return err_set(e, errno, "netlink socket");
	if (mnl_socket_bind(*nl, 0, MNL_SOCKET_AUTOPID) == 0)
		return 0;
	ret = err_set(e, errno, "netlink socket: bind");
	net_nl_close(nl);
	return ret;
}

void net_nl_close(struct mnl_socket **nl)
{
	if (*nl)
		mnl_socket_close(*nl);
	*nl = NULL;
}

static int first_error(const struct nlmsghdr *nlh, size_t n)
{
	int left = (int)n;

	for (; mnl_nlmsg_ok(nlh, left); nlh = mnl_nlmsg_next(nlh, &left))
		if (nlh->nlmsg_type == NLMSG_ERROR) {
			const struct nlmsgerr *said = mnl_nlmsg_get_payload(nlh);

			if (said->error)
				return said->error;
		}
	return 0;
}

/* What is still said about a batch that was refused. */
static void drain(struct mnl_socket *nl, char *buf)
{
	while (recv(mnl_socket_get_fd(nl), buf, NET_NL_BUF, MSG_DONTWAIT) > 0)
		;
}

int net_nl_ask(struct mnl_socket *nl, const void *msgs, size_t n, uint32_t last, mnl_cb_t cb,
	       void *data)
{
	_cleanup_free_ char *buf = malloc(NET_NL_BUF);
	unsigned port = mnl_socket_get_portid(nl);
	int ret = MNL_CB_OK;

	if (!buf)
		return -ENOMEM;
	if (mnl_socket_sendto(nl, msgs, n) < 0)
		return -errno;
	while (ret > MNL_CB_STOP) {
		ssize_t got = mnl_socket_recvfrom(nl, buf, NET_NL_BUF);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		/* of a batch any message may be refused; then none of it was done */
		int wrong = first_error((struct nlmsghdr *)buf, (size_t)got);
		if (wrong) {
			drain(nl, buf);
			return wrong;
		}
		ret = mnl_cb_run(buf, (size_t)got, last, port, cb, data);
		if (ret < 0)
			return errno == EINTR ? -EAGAIN : -errno;
	}
	return 0;
}
