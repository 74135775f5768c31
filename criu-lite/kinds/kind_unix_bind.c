/* SPDX-License-Identifier: Apache-2.0 */
#include "kind_unix_bind.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "cleanup.h"
#include "log.h"

struct name {
	struct sockaddr_un addr;
	socklen_t len;
	const char *dir;         /* the name is relative to it; NULL: it is not */
};

const char *unix_name_text(const UnixSkEntry *m, char *out, size_t size)
{
	size_t n = m->name.len < size ? m->name.len : size - 1;

	for (size_t i = 0; i < n; i++)
		out[i] = m->name.data[i] ? (char)m->name.data[i] : '@';
	if (n > 1 && !m->name.data[n - 1])
		n--;
	out[n] = '\0';
	return out;
}

static int take_name(const UnixSkEntry *m, struct name *name)
{
	size_t n = m->name.len;

	memset(name, 0, sizeof(*name));
	if (!n || n > sizeof(name->addr.sun_path) + 1)
		return -EBADMSG;
	/* A path of full length has no room for its zero byte. */
	if (n > sizeof(name->addr.sun_path))
		n--;
	name->addr.sun_family = AF_UNIX;
	memcpy(name->addr.sun_path, m->name.data, n);
	name->len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
	if (m->name.data[0] && m->name.data[0] != '/' && m->name_dir)
		name->dir = m->name_dir;
	return 0;
}

typedef int (*name_call)(int fd, const struct sockaddr *a, socklen_t n);

/* Calls bind or connect where the name is seen from. Our own working directory belongs to
 * all our threads, so a child changes to the other one: the socket is shared with it. */
static int call(name_call f, int fd, const struct name *name)
{
	const struct sockaddr *a = (const struct sockaddr *)&name->addr;
	int status;

	if (!name->dir)
		return f(fd, a, name->len) < 0 ? -errno : 0;
	pid_t pid = fork();
	if (pid < 0)
		return -errno;
	if (!pid)
		_exit(chdir(name->dir) < 0 || f(fd, a, name->len) < 0 ? errno : 0);
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return WIFEXITED(status) ? -WEXITSTATUS(status) : -EIO;
}

int unix_connect(int fd, const UnixSkEntry *to)
{
	struct name name;
	int flags = fcntl(fd, F_GETFL), ret = take_name(to, &name);

	if (ret < 0)
		return ret;
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return -errno;
	ret = call(connect, fd, &name);
	fcntl(fd, F_SETFL, flags);
	return ret;
}

static int open_dir(const struct name *name)
{
	int fd = open(name->dir ? name->dir : "/", O_PATH | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

/* Is there a socket file that nobody serves? It is removed then. -EADDRINUSE: something else
 * is there. */
static int remove_stale(const UnixSkEntry *m, const struct name *name, int dir)
{
	_cleanup_close_ int probe = socket(AF_UNIX, (int)m->type | SOCK_CLOEXEC, 0);
	struct stat st;

	if (fstatat(dir, name->addr.sun_path, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISSOCK(st.st_mode) || probe < 0 || unix_connect(probe, m) != -ECONNREFUSED)
		return -EADDRINUSE;
	return unlinkat(dir, name->addr.sun_path, 0) < 0 ? -errno : 0;
}

static int set_perms(const FilePermsEntry *p, const char *path, int dir, struct err *e)
{
	if (!p)
		return 0;
	if (fchownat(dir, path, p->uid, p->gid, AT_SYMLINK_NOFOLLOW) < 0 ||
	    fchmodat(dir, path, p->mode & 07777, 0) < 0)
		return err_set(e, errno, "giving %s its owner and mode", path);
	return 0;
}

static int fail(const UnixSkEntry *m, int ret, struct err *e)
{
	char text[160];

	err_set(e, -ret, "binding to %s", unix_name_text(m, text, sizeof(text)));
	if (ret == -EADDRINUSE)
		return err_remedy(e, "stop the program that uses this name here, or remove the file");
	if (ret == -ENOENT)
		return err_remedy(e, "make the directory of that path on this host");
	return ret;
}

static int bind_path(int fd, const UnixSkEntry *m, const struct name *name, struct err *e)
{
	_cleanup_close_ int dir = open_dir(name);
	const char *path = name->addr.sun_path;
	bool deleted = m->has_deleted && m->deleted;
	int ret;

	if (dir < 0)
		return fail(m, dir, e);
	ret = deleted ? 0 : remove_stale(m, name, dir);
	if (!ret)
		ret = call(bind, fd, name);
	if (ret < 0 && deleted) {
		/* Nobody can reach it by this name anyway, but to listen it needs one. */
		log_debug("deleted socket %s gets another name", path);
		sa_family_t any = AF_UNIX;
		return bind(fd, (struct sockaddr *)&any, sizeof(any)) < 0 ? fail(m, -errno, e) : 0;
	}
	if (ret < 0)
		return fail(m, ret, e);
	if (deleted)
		return unlinkat(dir, path, 0) < 0 ? err_set(e, errno, "removing %s", path) : 0;
	return set_perms(m->file_perms, path, dir, e);
}

int unix_bind(int fd, const UnixSkEntry *m, struct err *e)
{
	struct name name;
	int ret;

	if (!m->name.len)
		return 0;
	if (take_name(m, &name) < 0)
		return err_say(e, EBADMSG, "unix socket %u has a name of %zu bytes", m->id,
			       m->name.len);
	if (m->name.data[0])
		return bind_path(fd, m, &name, e);
	ret = call(bind, fd, &name);
	return ret < 0 ? fail(m, ret, e) : 0;
}
