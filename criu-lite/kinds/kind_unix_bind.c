/* SPDX-License-Identifier: Apache-2.0 */
#include "kind_unix_bind.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "cleanup.h"
#include "kind_unix.h"
#include "log.h"

#define NSEC 1000000000ULL
#define ASIDE "/.criu-lite"      /* what the socket is called in its directory */

struct name {
	struct sockaddr_un addr;
	socklen_t len;
	char path[sizeof(struct sockaddr_un)];  /* with its zero byte */
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
	memcpy(name->path, name->addr.sun_path, n);
	name->len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
	if (m->name.data[0] && m->name.data[0] != '/' && m->name_dir)
		name->dir = m->name_dir;
	return 0;
}

static char *full_path(const struct name *name)
{
	return name->dir ? xasprintf("%s/%s", name->dir, name->path) : xstrdup(name->path);
}

static int reap(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return WIFEXITED(status) ? -WEXITSTATUS(status) : -EIO;
}

/* ---- connecting ---- */

/* The working directory belongs to all our threads, so a child changes to the other one: the
 * socket is shared with it. */
static int connect_name(int fd, const struct name *name)
{
	const struct sockaddr *a = (const struct sockaddr *)&name->addr;

	if (!name->dir)
		return connect(fd, a, name->len) < 0 ? -errno : 0;
	pid_t pid = fork();
	if (pid < 0)
		return -errno;
	if (!pid)
		_exit(chdir(name->dir) < 0 || connect(fd, a, name->len) < 0 ? errno : 0);
	return reap(pid);
}

static int connect_file(int fd, int file)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };

	snprintf(a.sun_path, sizeof(a.sun_path), "/proc/self/fd/%d", file);
	return connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0 ? -errno : 0;
}

int unix_connect(struct kind_restore *c, int fd, const UnixSkEntry *to)
{
	const struct unix_aside *a = unix_aside_of(c, to->ino);
	int flags = fcntl(fd, F_GETFL);
	struct name name;

	int ret = a ? 0 : take_name(to, &name);
	if (ret < 0)
		return ret;
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return -errno;
	ret = a ? connect_file(fd, a->file) : connect_name(fd, &name);
	fcntl(fd, F_SETFL, flags);
	return ret;
}

/* ---- is the name free? ---- */

static int fail(const UnixSkEntry *m, int ret, struct err *e)
{
	char text[160];

	err_set(e, -ret, "binding to %s", unix_name_text(m, text, sizeof(text)));
	if (ret == -EADDRINUSE)
		return err_remedy(e,
				  "stop the program that uses this name here, or remove the file");
	if (ret == -ENOENT)
		return err_remedy(e, "make the directory of that path on this host");
	return ret;
}

/* The very file that the guest had: its own, left behind, or on storage that both hosts share. */
static bool is_its_own(const UnixSkEntry *m, const struct stat *st)
{
	return m->has_file_ino && m->has_file_mtime && m->file_ino == st->st_ino &&
	       m->file_mtime == (uint64_t)st->st_mtim.tv_sec * NSEC +
				(uint64_t)st->st_mtim.tv_nsec;
}

/* A socket file that nobody serves may be replaced. -EADDRINUSE: something else is there. */
static int check_path(const UnixSkEntry *m, const struct name *name)
{
	_cleanup_close_ int probe = socket(AF_UNIX, (int)m->type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	_cleanup_free_ char *path = full_path(name);
	struct stat st;

	if (lstat(path, &st) < 0) {
		if (errno != ENOENT)
			return -errno;
		*(strrchr(path, '/') ?: path) = '\0';
		return access(*path ? path : "/", F_OK) < 0 ? -errno : 0;
	}
	if (is_its_own(m, &st))
		return 0;
	if (!S_ISSOCK(st.st_mode) || probe < 0 || connect_name(probe, name) != -ECONNREFUSED)
		return -EADDRINUSE;
	return 0;
}

static int check_abstract(const UnixSkEntry *m, const struct name *name)
{
	_cleanup_close_ int probe = socket(AF_UNIX, (int)m->type | SOCK_CLOEXEC, 0);

	if (probe < 0 || bind(probe, (const struct sockaddr *)&name->addr, name->len) < 0)
		return -errno;
	return 0;
}

int unix_name_check(struct kind_restore *c, const UnixSkEntry *m, struct err *e)
{
	struct name name;

	if (!m->name.len || (m->has_deleted && m->deleted))
		return 0;
	int ret = take_name(m, &name);
	if (!ret)
		ret = name.path[0] ? check_path(m, &name) : check_abstract(m, &name);
	return ret ? fail(m, ret, e) : 0;
}

/* ---- binding ---- */

/* Each directory of the path, from the first one or back from the last one. */
static int each_dir(char *path, int (*f)(const char *path))
{
	int ret = 0;

	for (char *p = path + 1; ret == 0 && (p = strchr(p, '/')); p++) {
		*p = '\0';
		ret = f(path);
		*p = '/';
	}
	return ret;
}

static int make(const char *dir)
{
	return mkdir(dir, 0700) < 0 && errno != EEXIST ? -1 : 0;
}

/* A socket's name is what bind() was told, so it has to be told the name of the source: a child
 * whose root directory is the one aside does it, which shares the socket with us. */
static int bind_in(const char *root, int fd, struct name *name)
{
	const struct sockaddr *a = (const struct sockaddr *)&name->addr;
	pid_t pid = fork();

	if (pid)
		return pid < 0 ? -errno : reap(pid);
	if (chroot(root) < 0 || chdir("/") < 0 || each_dir(name->path, make) < 0 ||
	    bind(fd, a, name->len) < 0 || rename(name->path, ASIDE) < 0)
		_exit(errno);
	for (char *p; (p = strrchr(name->path, '/')) && p > name->path;) {
		*p = '\0';
		rmdir(name->path);
	}
	_exit(0);
}

static int new_dir(const char *beside, char **out)
{
	const char *slash = strrchr(beside, '/');
	char *dir = xasprintf("%.*s/.criu-lite.XXXXXX", slash ? (int)(slash - beside) : 1,
			      slash ? beside : ".");

	if (!mkdtemp(dir)) {
		free(dir);
		return -errno;
	}
	*out = dir;
	return 0;
}

static int set_perms(const FilePermsEntry *p, int file, struct err *e)
{
	char path[32];

	if (!p)
		return 0;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", file);
	if (chown(path, p->uid, p->gid) < 0 || chmod(path, p->mode & 07777) < 0)
		return err_set(e, errno, "giving a socket its owner and mode");
	return 0;
}

static void remove_aside(struct unix_aside *a)
{
	if (!a->dir)
		return;
	_cleanup_free_ char *path = xasprintf("%s" ASIDE, a->dir);

	unlink(path);
	rmdir(a->dir);
	free(steal_ptr(a->dir));
}

void unix_aside_free(struct unix_aside *a)
{
	remove_aside(a);
	free(a->to);
	cleanup_close(&a->file);
}

static int bind_path(struct kind_restore *c, int fd, const UnixSkEntry *m, struct name *name,
		     struct err *e)
{
	bool deleted = m->has_deleted && m->deleted;
	struct unix_aside a = { .ino = m->ino, .to = full_path(name), .file = -1 };

	int ret = deleted ? 0 : check_path(m, name);
	if (!ret)
		ret = new_dir(a.to, &a.dir);
	if (ret && deleted)      /* nobody reaches it by this name: any directory will do */
		ret = new_dir("/tmp/", &a.dir);
	if (!ret)
		ret = bind_in(a.dir, fd, name);
	if (!ret) {
		_cleanup_free_ char *path = xasprintf("%s" ASIDE, a.dir);

		a.file = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
		ret = a.file < 0 ? -errno : 0;
	}
	if (ret)
		fail(m, ret, e);
	else
		ret = set_perms(m->file_perms, a.file, e);
	if (!ret && deleted)
		remove_aside(&a);
	if (ret)
		unix_aside_free(&a);
	else
		unix_aside_add(c, a);
	return ret;
}

int unix_bind(struct kind_restore *c, int fd, const UnixSkEntry *m, struct err *e)
{
	struct name name;

	if (!m->name.len)
		return 0;
	if (take_name(m, &name) < 0)
		return err_say(e, EBADMSG, "unix socket %u has a name of %zu bytes", m->id,
			       m->name.len);
	if (name.path[0])
		return bind_path(c, fd, m, &name, e);
	if (bind(fd, (const struct sockaddr *)&name.addr, name.len) < 0)
		return fail(m, -errno, e);
	return 0;
}

void unix_place(struct kind_restore *c, const UnixSkEntry *m)
{
	struct unix_aside *a = unix_aside_of(c, m->ino);

	if (!a || !a->dir)
		return;
	_cleanup_free_ char *path = xasprintf("%s" ASIDE, a->dir);

	if (rename(path, a->to) < 0)
		log_error("unix socket %s cannot be moved to its place: %m", a->to);
	remove_aside(a);
}
