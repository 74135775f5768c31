/* SPDX-License-Identifier: Apache-2.0 */
#include "kind_util.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/vfs.h>

int kind_set_flags(int fd, uint32_t flags, struct err *e)
{
	int now = fcntl(fd, F_GETFL);

	if (now < 0)
		return err_set(e, errno, "F_GETFL");
	if ((now & O_PATH) || !((now ^ (int)flags) & KIND_SETFL))
		return 0;
	if (fcntl(fd, F_SETFL, (now & ~KIND_SETFL) | ((int)flags & KIND_SETFL)) < 0)
		return err_set(e, errno, "F_SETFL 0%o", flags & KIND_SETFL);
	return 0;
}

int kind_reopen(int fd, int flags)
{
	char link[32];

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	int ret = open(link, flags | O_CLOEXEC | O_NOCTTY);
	return ret < 0 ? -errno : ret;
}

bool kind_cut_deleted(char *path, const struct stat *st)
{
	static const char suffix[] = " (deleted)";
	size_t n = strlen(path);
	struct stat named;

	if (n <= strlen(suffix) || strcmp(path + n - strlen(suffix), suffix) != 0)
		return false;
	/* A file may really be called so. */
	if (st->st_nlink && lstat(path, &named) == 0 && named.st_dev == st->st_dev &&
	    named.st_ino == st->st_ino)
		return false;
	path[n - strlen(suffix)] = '\0';
	return true;
}

const struct kind *kind_of_type(FdTypes type)
{
	for (const struct kind *const *k = kind_table; *k; k++)
		if ((*k)->type == type)
			return *k;
	return NULL;
}

const struct kind *kind_match(const struct fd_view *v)
{
	for (const struct kind *const *k = kind_table; *k; k++)
		if ((*k)->match(v))
			return *k;
	return NULL;
}

ProtobufCMessage *kind_message(const FileEntry *fe)
{
	void *m = NULL;

	switch (fe->type) {
	case FD_TYPES__REG: m = fe->reg; break;
	case FD_TYPES__PIPE: m = fe->pipe; break;
	case FD_TYPES__FIFO: m = fe->fifo; break;
	case FD_TYPES__INETSK: m = fe->isk; break;
	case FD_TYPES__UNIXSK: m = fe->usk; break;
	case FD_TYPES__EVENTFD: m = fe->efd; break;
	case FD_TYPES__EVENTPOLL: m = fe->epfd; break;
	case FD_TYPES__INOTIFY: m = fe->ify; break;
	case FD_TYPES__SIGNALFD: m = fe->sgfd; break;
	case FD_TYPES__PACKETSK: m = fe->psk; break;
	case FD_TYPES__TTY: m = fe->tty; break;
	case FD_TYPES__FANOTIFY: m = fe->ffy; break;
	case FD_TYPES__NETLINKSK: m = fe->nlsk; break;
	case FD_TYPES__NS: m = fe->nsf; break;
	case FD_TYPES__TUNF: m = fe->tunf; break;
	case FD_TYPES__EXT: m = fe->ext; break;
	case FD_TYPES__TIMERFD: m = fe->tfd; break;
	case FD_TYPES__MEMFD: m = fe->memfd; break;
	case FD_TYPES__BPFMAP: m = fe->bpf; break;
	case FD_TYPES__PIDFD: m = fe->pidfd; break;
	default: break;
	}
	return m;
}

bool kind_on_pseudo_fs(int fd)
{
	static const uint32_t pseudo[] = {
		PROC_SUPER_MAGIC, SYSFS_MAGIC, CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC,
		DEBUGFS_MAGIC, TRACEFS_MAGIC, SECURITYFS_MAGIC, BPF_FS_MAGIC,
	};
	struct statfs fs;

	if (fstatfs(fd, &fs) < 0)
		return false;
	for (size_t i = 0; i < sizeof(pseudo) / sizeof(*pseudo); i++)
		if ((uint32_t)fs.f_type == pseudo[i])
			return true;
	return false;
}
