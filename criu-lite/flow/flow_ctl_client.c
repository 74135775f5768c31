/* SPDX-License-Identifier: Apache-2.0 */
/* Who talks to the control socket of a migration. */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "cleanup.h"
#include "flow_ctl.h"
#include "io.h"

#define SUFFIX ".sock"
#define PATIENCE_S 5
#define ANSWER_MAX (64 * 1024)

void ctl_ids_free(ctl_ids *ids)
{
	vec_each(ids, id)
		free(*id);
	vec_free(ids);
}

/* fd, or -errno. */
static int connect_to(const char *dir, const char *id)
{
	struct timeval t = { .tv_sec = PATIENCE_S };
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd;

	if ((size_t)snprintf(a.sun_path, sizeof(a.sun_path), "%s/%s" SUFFIX, dir, id) >=
	    sizeof(a.sun_path))
		return -ENAMETOOLONG;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof(t)); /* connect() waits for it, too */
	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0)
		return fd;
	int ret = -errno;
	close(fd);
	return ret;
}

static int is_socket(const struct dirent *d)
{
	size_t n = strlen(d->d_name);

	return d->d_name[0] != '.' && n > strlen(SUFFIX) &&
	       !strcmp(d->d_name + n - strlen(SUFFIX), SUFFIX);
}

int ctl_list(const char *dir, ctl_ids *ids, struct err *e)
{
	struct dirent **found;

	dir = dir ? dir : CTL_DIR;
	int n = scandir(dir, &found, is_socket, versionsort);
	if (n < 0)
		return errno == ENOENT ? 0 : err_set(e, errno, "directory %s", dir);
	for (int i = 0; i < n; i++) {
		char *id = xstrdup(found[i]->d_name);

		id[strlen(id) - strlen(SUFFIX)] = '\0';
		int fd = connect_to(dir, id);
		if (fd == -ECONNREFUSED) {
			/* nobody listens there any more */
			_cleanup_free_ char *path = xasprintf("%s/%s", dir, found[i]->d_name);
			unlink(path);
		}
		if (fd >= 0)
			close(fd);
		if (fd >= 0 || fd == -EAGAIN)
			vec_push(ids, id);
		else
			free(id);
		free(found[i]);
	}
	free(found);
	return 0;
}

static bool is_meant(const char *id, const char *name)
{
	size_t n = strlen(id);

	return !strncmp(name, id, n) && (!name[n] || name[n] == '-' || strchr(id, '-'));
}

static void say_all(const ctl_ids *ids, char *buf, size_t size)
{
	size_t n = 0;

	vec_each(ids, i)
		if (n < size)
			n += (size_t)snprintf(buf + n, size - n, "%s%s", n ? ", " : "", *i);
}

/* *found points into ids. */
static int choose(const ctl_ids *ids, const char *id, const char **found, struct err *e)
{
	char all[300] = "";
	size_t n = 0;

	vec_each(ids, i) {
		if (id && !is_meant(id, *i))
			continue;
		*found = *i;
		n++;
	}
	if (n == 1)
		return 0;
	say_all(ids, all, sizeof(all));
	if (!ids->n) {
		err_say(e, ESRCH, "no migration runs on this host");
		return err_remedy(e, "it is steered on the host that it leaves, by root");
	}
	if (n == 0)
		err_say(e, ESRCH, "no migration %.64s runs on this host", id);
	else
		err_say(e, EINVAL, "%zu migrations are meant", n);
	return err_remedy(e, "give one of these: %s", all);
}

/* A line, or what is there at the end of the stream. */
static int read_line(int fd, struct buf *b, struct err *e)
{
	char part[4096];

	for (;;) {
		ssize_t got = recv(fd, part, sizeof(part), 0);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0 && errno == EAGAIN)
			return err_say(e, ETIMEDOUT, "no answer for %d seconds", PATIENCE_S);
		if (got <= 0)
			return err_say(e, EPIPE, "the migration has ended");
		buf_put(b, part, (size_t)got);
		if (memchr(part, '\n', (size_t)got))
			return 0;
		if (b->n > ANSWER_MAX)
			return err_say(e, EPROTO, "the answer is too long");
	}
}

static int exchange(int fd, const json_t *request, json_t **answer, struct err *e)
{
	_cleanup_free_ char *text = json_dumps(request, JSON_COMPACT);
	_cleanup_free_ char *line = NULL;
	_cleanup_(buf_free) struct buf in = { 0 };
	int ret;

	if (!text)
		return err_say(e, EINVAL, "this is no text");
	line = xasprintf("%s\n", text);
	if (strlen(line) > CTL_REQUEST_MAX)
		return err_say(e, E2BIG, "the request is too long");
	if (send(fd, line, strlen(line), MSG_NOSIGNAL) != (ssize_t)strlen(line))
		return err_say(e, EPIPE, "the migration has ended");
	if ((ret = read_line(fd, &in, e)) < 0)
		return ret;
	*answer = json_loadb((char *)in.at, in.n, JSON_DISABLE_EOF_CHECK, NULL);
	return *answer ? 0 : err_say(e, EPROTO, "the answer is no JSON");
}

int ctl_ask(const char *dir, const char *id, const json_t *request, json_t **answer, struct err *e)
{
	_cleanup_(ctl_ids_free) ctl_ids ids = { 0 };
	const char *found = NULL, *why, *remedy;
	json_t *a = NULL;
	int ret;

	dir = dir ? dir : CTL_DIR;
	if ((ret = ctl_list(dir, &ids, e)) < 0 || (ret = choose(&ids, id, &found, e)) < 0)
		return ret;
	_cleanup_close_ int fd = connect_to(dir, found);
	if (fd < 0)
		return err_set(e, -fd, "migration %s", found);
	if (exchange(fd, request, &a, e) < 0)
		return err_in(e, "migration %s", found);
	if (json_is_true(json_object_get(a, "ok"))) {
		json_object_set_new(a, "ctl", json_string(found));
		*answer = a;
		return 0;
	}
	why = json_string_value(json_object_get(a, "error"));
	remedy = json_string_value(json_object_get(a, "remedy"));
	err_say(e, EINVAL, "migration %s: %s", found, why ? why : "it refuses");
	if (remedy && *remedy)
		err_remedy(e, "%s", remedy);
	json_decref(a);
	return -e->code;
}
