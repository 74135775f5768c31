/* SPDX-License-Identifier: Apache-2.0 */
/* Repair mode: in, out, and out again after a criu-lite that was killed. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "kind_sockopt.h"
#include "kind_tcp.h"
#include "kind_tcp_priv.h"
#include "log.h"

bool tcp_is_open(int state)
{
	return state != TCP_LISTEN && state != TCP_CLOSE;
}

/* The mode changes SO_REUSEADDR to a value of its own, and leaving it clears it (net/ipv4/tcp.c).
 * The kernel needs its own value only in bind(). */
int tcp_repair_on(int fd, int reuse, struct err *e)
{
	int on = TCP_REPAIR_ON;

	if (setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &on, sizeof(on)) < 0) {
		err_set(e, errno, "TCP_REPAIR");
		return err_remedy(e, "CAP_NET_ADMIN is needed in the guest's network namespace, "
				  "and CONFIG_CHECKPOINT_RESTORE in the kernel");
	}
	if (reuse >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof(reuse)) < 0)
		return err_set(e, errno, "SO_REUSEADDR");
	return 0;
}

int tcp_repair_off(int fd, int how, int reuse, struct err *e)
{
	if (setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &how, sizeof(how)) < 0)
		return err_set(e, errno, "leaving TCP_REPAIR");
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof(reuse)) < 0)
		return err_set(e, errno, "SO_REUSEADDR");
	return 0;
}

int tcp_repair_queue(int fd, int queue, struct err *e)
{
	if (setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, &queue, sizeof(queue)) < 0)
		return err_set(e, errno, "TCP_REPAIR_QUEUE");
	return 0;
}

/* ---- sweep ---- */

static void sweep_fd(pid_t pid, int pidfd, int fd)
{
	_cleanup_close_ int local = (int)syscall(SYS_pidfd_getfd, pidfd, fd, 0);
	struct err e = ERR_INIT;
	int proto, repair, reuse;

	if (local < 0 || kind_sockopt_get(local, SOL_SOCKET, SO_PROTOCOL, &proto) ||
	    proto != IPPROTO_TCP || kind_sockopt_get(local, IPPROTO_TCP, TCP_REPAIR, &repair) ||
	    !repair || kind_sockopt_get(local, SOL_SOCKET, SO_REUSEADDR, &reuse))
		return;
	log_info("pid %d: fd %d: taken out of repair mode", pid, fd);
	if (tcp_repair_off(local, TCP_REPAIR_OFF, reuse != 0, &e) < 0)
		log_warn("pid %d: fd %d: %s", pid, fd, e.text);
}

int kind_tcp_sweep(pid_t pid, struct err *e)
{
	char path[64], link[16];

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	_cleanup_close_ int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	_cleanup_closedir_ DIR *d = pidfd < 0 ? NULL : opendir(path);
	if (!d)
		return err_set(e, errno == ENOENT ? ESRCH : errno, "pid %d", pid);
	for (struct dirent *de; (de = readdir(d));) {
		ssize_t n = isdigit((unsigned char)de->d_name[0]) ?
			    readlinkat(dirfd(d), de->d_name, link, sizeof(link)) : -1;

		if (n >= 7 && !memcmp(link, "socket:", 7))
			sweep_fd(pid, pidfd, atoi(de->d_name));
	}
	return 0;
}
