/* SPDX-License-Identifier: Apache-2.0 */
/* Which connections cannot be kept. Asked of a running guest and once more of the frozen one. */
#include <errno.h>
#include <linux/sockios.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

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
	err_say(e, ENOTSUP, "TCP connection: the kernel handles a protocol on top of it (%s), whose "
			    "keys and records cannot be read", name);
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

int tcp_check(int fd, int state, struct err *e)
{
	char info[256];
	socklen_t len = sizeof(info);
	int value;

	memset(info, 0, sizeof(info));
	if (check_opening(fd, state, e) < 0 || check_ulp(fd, e) < 0)
		return -e->code;
	if (getsockopt(fd, IPPROTO_TCP, TCP_AO_INFO, info, &len) == 0)
		return refuse(e, "it is signed (TCP-AO)", "let the program connect without keys");
	/* Numbers of notifications begin at 0 in a new socket. */
	if (!kind_sockopt_get(fd, SOL_SOCKET, SO_ZEROCOPY, &value) && value)
		return refuse(e, "it sends without copying (SO_ZEROCOPY), and would never hear what "
				 "was sent", "let the program run without SO_ZEROCOPY");
	return check_urgent(fd, e);
}
