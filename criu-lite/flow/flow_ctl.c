/* SPDX-License-Identifier: Apache-2.0 */
/* The thread that serves the control socket. */
#include "flow_ctl.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "cleanup.h"
#include "io.h"
#include "log.h"
#include "thread.h"

#define CLIENTS    8
#define IDLE_NS    (60ull * 1000000000) /* then a client is dropped, also one that does not read */

struct client {
	int fd;                      /* -1: free */
	uint64_t since;              /* it was last heard, or took something */
	bool last;                   /* nothing more is read of it */
	char *out;                   /* the rest of an answer, NULL: none */
	size_t out_at, n_in;
	char in[CTL_REQUEST_MAX];
};

struct ctl {
	struct flow_live *live;
	char id[CTL_ID_MAX];
	char *path;
	int listen_fd, stop_fd;
	pthread_t thread;
	struct client client[CLIENTS];
};

/* ---- one client ---- */

static void drop(struct client *k)
{
	close(k->fd);
	free(k->out);
	*k = (struct client){ .fd = -1 };
}

/* What fits; the rest when it has read that. */
static void push(struct client *k)
{
	size_t n = strlen(k->out + k->out_at);
	ssize_t got = send(k->fd, k->out + k->out_at, n, MSG_DONTWAIT | MSG_NOSIGNAL);

	if (got < 0 && errno != EAGAIN && errno != EINTR) {
		drop(k);
		return;
	}
	if (got <= 0)
		return;
	k->since = io_now_ns();
	k->out_at += (size_t)got;
	if ((size_t)got < n)
		return;
	free(steal_ptr(k->out));
	k->out_at = 0;
	if (k->last)
		drop(k);
}

/* The next line that is there, one at a time: nothing is read before its answer is gone. */
static void next_request(struct ctl *c, struct client *k)
{
	static const char too_long[] =
		"{\"ok\":false,\"error\":\"the request is too long\",\"remedy\":\"\"}\n";

	while (k->fd >= 0 && !k->out) {
		char *end = memchr(k->in, '\n', k->n_in);
		size_t n = end ? (size_t)(end - k->in) : k->n_in;

		if (!end && k->n_in < sizeof(k->in))
			return;
		k->last |= !end;
		k->out = end ? ctl_answer(c->live, k->in, n) : xstrdup(too_long);
		if (end) {
			k->n_in -= n + 1;
			memmove(k->in, end + 1, k->n_in);
		}
		push(k);
	}
}

static void pull(struct ctl *c, struct client *k)
{
	ssize_t got = recv(k->fd, k->in + k->n_in, sizeof(k->in) - k->n_in, MSG_DONTWAIT);

	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (got <= 0) {
		drop(k);
		return;
	}
	k->since = io_now_ns();
	k->n_in += (size_t)got;
	next_request(c, k);
}

/* A free place, or that of who has been silent for longest. */
static struct client *place(struct ctl *c)
{
	struct client *best = &c->client[0];

	for (struct client *k = c->client; k < c->client + CLIENTS; k++) {
		if (k->fd < 0)
			return k;
		if (k->since < best->since)
			best = k;
	}
	drop(best);
	return best;
}

static void take(struct ctl *c)
{
	int fd = accept4(c->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct ucred who;
	socklen_t n = sizeof(who);

	if (fd < 0)
		return;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &n) < 0 || who.uid != geteuid()) {
		close(fd);
		return;
	}
	struct client *k = place(c);
	k->fd = fd;
	k->since = io_now_ns();
}

/* ---- the thread ---- */

static void serve_clients(struct ctl *c, const struct pollfd *p)
{
	uint64_t now = io_now_ns();

	for (int i = 0; i < CLIENTS; i++) {
		struct client *k = &c->client[i];

		if (k->fd < 0)
			continue;
		if (p[i].revents & POLLOUT)
			push(k);
		else if (p[i].revents)
			pull(c, k);
		/* what came along with the request that has been answered now */
		if (k->fd >= 0 && !k->out)
			next_request(c, k);
		if (k->fd >= 0 && now > k->since && now - k->since > IDLE_NS)
			drop(k);
	}
}

static void *serve(void *arg)
{
	struct ctl *c = arg;
	struct pollfd p[CLIENTS + 2];

	for (;;) {
		for (int i = 0; i < CLIENTS; i++) {
			struct client *k = &c->client[i];

			p[i] = (struct pollfd){ k->fd, k->out ? POLLOUT : POLLIN, 0 };
		}
		/* poll() skips negative descriptors */
		p[CLIENTS] = (struct pollfd){ c->listen_fd, POLLIN, 0 };
		p[CLIENTS + 1] = (struct pollfd){ c->stop_fd, POLLIN, 0 };
		if (poll(p, CLIENTS + 2, 1000) < 0 && errno != EINTR)
			break;
		if (p[CLIENTS + 1].revents)
			break;
		serve_clients(c, p);
		if (p[CLIENTS].revents)
			take(c);
	}
	for (int i = 0; i < CLIENTS; i++)
		if (c->client[i].fd >= 0)
			drop(&c->client[i]);
	return NULL;
}

/* ---- the socket ---- */

static int make_dir(const char *dir, struct err *e)
{
	_cleanup_free_ char *parent = xstrdup(dir);
	char *slash = strrchr(parent, '/');
	struct stat st;

	if (slash && slash != parent) {
		*slash = '\0';
		if (mkdir(parent, 0700) < 0 && errno != EEXIST)
			return err_set(e, errno, "directory %s", parent);
	}
	if (mkdir(dir, 0700) < 0 && errno != EEXIST)
		return err_set(e, errno, "directory %s", dir);
	if (lstat(dir, &st) < 0)
		return err_set(e, errno, "directory %s", dir);
	if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 077)) {
		err_say(e, EPERM, "%s is open to others than root", dir);
		return err_remedy(e, "remove it");
	}
	return 0;
}

/* It takes its name when it listens: one that does not would be taken for a dead one. */
static int make_socket(struct ctl *c, const char *dir, struct err *e)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	c->listen_fd = fd;
	if (fd < 0)
		return err_set(e, errno, "control socket");
	if ((size_t)snprintf(a.sun_path, sizeof(a.sun_path), "%s/.%s", dir, c->id) >=
	    sizeof(a.sun_path))
		return err_set(e, ENAMETOOLONG, "control socket in %s", dir);
	/* the mode of the name is that of the socket: nobody else gets in between */
	if (fchmod(fd, 0600) < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
		return err_set(e, errno, "control socket %s", a.sun_path);
	if (listen(fd, CLIENTS) < 0 || rename(a.sun_path, c->path) < 0) {
		err_set(e, errno, "control socket %s", c->path);
		unlink(a.sun_path);
		return -e->code;
	}
	return 0;
}

static void release(struct ctl *c)
{
	if (c->listen_fd >= 0)
		close(c->listen_fd);
	if (c->stop_fd >= 0)
		close(c->stop_fd);
	free(c->path);
	free(c);
}

int ctl_serve_in(const char *dir, struct ctl **out, struct flow_live *l, struct err *e)
{
	struct ctl *c = xcalloc(1, sizeof(*c));
	ctl_ids others = { 0 };
	struct err ignored = ERR_INIT;
	int ret;

	dir = dir ? dir : CTL_DIR;
	c->live = l;
	for (int i = 0; i < CLIENTS; i++)
		c->client[i].fd = -1;
	snprintf(c->id, sizeof(c->id), "%d-%.4s", l->pid, l->id);
	c->path = xasprintf("%s/%s.sock", dir, c->id);
	c->listen_fd = -1;
	c->stop_fd = eventfd(0, EFD_CLOEXEC);
	ret = c->stop_fd < 0 ? err_set(e, errno, "eventfd") : make_dir(dir, e);
	if (ret == 0) {
		ctl_list(dir, &others, &ignored);
		ctl_ids_free(&others);
		ret = make_socket(c, dir, e);
	}
	if (ret == 0 && (ret = thread_start(&c->thread, serve, c, e)) < 0)
		unlink(c->path);
	if (ret < 0) {
		release(c);
		return ret;
	}
	*out = c;
	return 0;
}

int ctl_serve(struct ctl **out, struct flow_live *l, struct err *e)
{
	return ctl_serve_in(NULL, out, l, e);
}

void ctl_end(struct ctl *c)
{
	if (!c)
		return;
	unlink(c->path);
	if (eventfd_write(c->stop_fd, 1) < 0)
		log_debug("control socket: %s", strerror(errno));
	pthread_join(c->thread, NULL);
	release(c);
}

const char *ctl_id(const struct ctl *c)
{
	return c->id;
}
