/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Trackers between two runs of the program: a small process, `criu-lite-track`, keeps them (a
 * userfaultfd stops tracking when its last holder closes it) and hands them to whoever
 * connects to its socket as root and names the right cookie.
 *
 *   claimer: cookie bytes, at most COOKIE_MAX       (one packet)
 *   keeper:  u32 MAGIC, u32 number of trackers      (one packet; another cookie: number 0)
 *            per tracker: u64 length; with its uffd  (one packet)
 *                         the bytes of the tracker   (packets of at most PIECE)
 *   claimer: one byte: got them                      (one packet; keeper goes on without it)
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cleanup.h"
#include "io.h"
#include "pages_tracker_int.h"

#define DIR_RUN "/run/criu-lite"
#define MAGIC 0x324b5254u /* "TRK2" */
#define COOKIE_MAX 4096
#define PIECE 65536
#define TRACKERS_MAX 65536
#define RANGES_MAX (1u << 28)
#define DAY_NS (24ull * 3600 * 1000000000)
#define ANSWER_S 5

/* ---- a tracker as bytes ---- */

struct packed {
	uint32_t magic, kind;
	int32_t pid;
	uint32_t scanned;
	uint64_t born, n_known, n_tables;   /* followed by that many ranges, and page tables */
};

void tracker_encode(const struct tracker *t, struct buf *out)
{
	struct packed p = { MAGIC, t->kind, t->pid, t->scanned, t->born, t->known.n,
			    t->tables.n };

	buf_put(out, &p, sizeof(p));
	buf_put(out, t->known.at, t->known.n * sizeof(*t->known.at));
	buf_put(out, t->tables.at, t->tables.n * sizeof(*t->tables.at));
}

static bool ranges_ok(const struct prange *r, size_t n)
{
	uint64_t last = 0;

	for (size_t i = 0; i < n; i++) {
		if (r[i].start < last || r[i].end <= r[i].start ||
		    (r[i].start | r[i].end) % PAGE_SIZE)
			return false;
		last = r[i].end;
	}
	return true;
}

static bool tables_ok(const struct soft_table *t, size_t n)
{
	for (size_t i = 1; i < n; i++)
		if (t[i].at <= t[i - 1].at)
			return false;
	return true;
}

int tracker_decode(struct tracker **out, const uint8_t *at, size_t n, int uffd, struct err *e)
{
	struct packed p;

	*out = NULL;
	if (n < sizeof(p))
		goto damaged;
	memcpy(&p, at, sizeof(p));
	if (p.magic != MAGIC || p.n_known > RANGES_MAX || p.n_tables > RANGES_MAX ||
	    n != sizeof(p) + p.n_known * sizeof(struct prange) +
			 p.n_tables * sizeof(struct soft_table) || p.pid <= 0 ||
	    (p.kind != TRACKER_SOFT_DIRTY && p.kind != TRACKER_UFFD_WP) ||
	    (p.kind == TRACKER_UFFD_WP) != (uffd >= 0))
		goto damaged;
	struct tracker *t = xcalloc(1, sizeof(*t));
	t->kind = p.kind;
	t->pid = p.pid;
	t->born = p.born;
	t->scanned = p.scanned;
	t->uffd = uffd;
	vec_reserve(&t->known, p.n_known);
	if (p.n_known)
		memcpy(t->known.at, at + sizeof(p), p.n_known * sizeof(struct prange));
	t->known.n = p.n_known;
	at += sizeof(p) + p.n_known * sizeof(struct prange);
	vec_reserve(&t->tables, p.n_tables);
	if (p.n_tables)
		memcpy(t->tables.at, at, p.n_tables * sizeof(struct soft_table));
	t->tables.n = p.n_tables;
	if (!ranges_ok(t->known.at, t->known.n) || !tables_ok(t->tables.at, t->tables.n)) {
		tracker_free(t);
		return err_set(e, EBADMSG, "kept tracker");
	}
	if (t->kind == TRACKER_UFFD_WP) {
		pm_scan_works(&t->guards);
		t->old_marks = uffd_old_marks();
	} else {
		pm_zeros_find(&t->zeros);
	}
	*out = t;
	return 0;

damaged:
	if (uffd >= 0)
		close(uffd);
	return err_set(e, EBADMSG, "kept tracker");
}

/* ---- packets ---- */

static int send_packet(int fd, const void *p, size_t n, int with_fd)
{
	union { char at[CMSG_SPACE(sizeof(int))]; struct cmsghdr align; } control = { 0 };
	struct iovec iov = { (void *)p, n };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (with_fd >= 0) {
		m.msg_control = control.at;
		m.msg_controllen = sizeof(control.at);
		struct cmsghdr *c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &with_fd, sizeof(int));
	}
	ssize_t put = sendmsg(fd, &m, MSG_NOSIGNAL);
	return put < 0 ? -errno : (size_t)put == n ? 0 : -EPIPE;
}

/* Bytes received, or -errno. A descriptor goes to *got_fd (else -1); NULL: none is expected. */
static ssize_t recv_packet(int fd, void *p, size_t n, int *got_fd)
{
	union { char at[CMSG_SPACE(sizeof(int))]; struct cmsghdr align; } control;
	struct iovec iov = { p, n };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (got_fd) {
		*got_fd = -1;
		m.msg_control = control.at;
		m.msg_controllen = sizeof(control.at);
	}
	ssize_t got = recvmsg(fd, &m, MSG_CMSG_CLOEXEC);
	if (got < 0)
		return -errno;
	struct cmsghdr *c = got_fd ? CMSG_FIRSTHDR(&m) : NULL;
	if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS &&
	    c->cmsg_len == CMSG_LEN(sizeof(int)))
		memcpy(got_fd, CMSG_DATA(c), sizeof(int));
	return got;
}

/* Pids mean something only in one pid namespace, but /run may be shared by several. */
static int socket_name(pid_t root, struct sockaddr_un *a)
{
	struct stat st;

	if (stat("/proc/self/ns/pid", &st) < 0)
		return -errno;
	*a = (struct sockaddr_un){ .sun_family = AF_UNIX };
	snprintf(a->sun_path, sizeof(a->sun_path), DIR_RUN "/track-%d.%lx.sock", root,
		 (long)st.st_ino);
	return 0;
}

static void limit_waiting(int fd)
{
	struct timeval t = { .tv_sec = ANSWER_S };

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof(t));
}

/* ---- the keeper ---- */

struct kept {
	int uffd;
	struct buf bytes;
};
typedef VEC(struct kept) kept_vec;

static int hand_out(int fd, const kept_vec *kept)
{
	uint32_t head[2] = { MAGIC, (uint32_t)kept->n };
	int ret = send_packet(fd, head, sizeof(head), -1);

	vec_each(kept, k) {
		uint64_t n = k->bytes.n;

		if (ret == 0)
			ret = send_packet(fd, &n, sizeof(n), k->uffd);
		for (size_t at = 0; at < n && ret == 0; at += PIECE)
			ret = send_packet(fd, k->bytes.at + at, n - at < PIECE ? n - at : PIECE,
					  -1);
	}
	char done;
	if (ret == 0 && recv_packet(fd, &done, 1, NULL) != 1)
		ret = -EPIPE;
	return ret;
}

/* One visitor. True: nothing is left to keep. */
static bool serve(int listen_fd, const kept_vec *kept, const char *cookie)
{
	_cleanup_close_ int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
	struct ucred who;
	socklen_t size = sizeof(who);
	char asked[COOKIE_MAX];

	if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) < 0 || who.uid != 0)
		return false;
	limit_waiting(fd);
	ssize_t n = recv_packet(fd, asked, sizeof(asked), NULL);
	if (n <= 0)
		return false;
	if ((size_t)n != strlen(cookie) + 1 || memcmp(asked, cookie, (size_t)n) != 0) {
		uint32_t head[2] = { MAGIC, 0 };

		/* Ours ends before the answer, so that the other may start its own. */
		vec_each(kept, k)
			if (k->uffd >= 0)
				close(k->uffd);
		send_packet(fd, head, sizeof(head), -1);
		return true;
	}
	return hand_out(fd, kept) == 0;
}

static void keep(int listen_fd, int guest, const kept_vec *kept, const char *cookie)
{
	uint64_t until = io_now_ns() + DAY_NS;

	for (;;) {
		struct pollfd p[] = { { listen_fd, POLLIN, 0 }, { guest, POLLIN, 0 } };
		uint64_t now = io_now_ns();

		if (now >= until)
			return;
		uint64_t ms = (until - now) / 1000000 + 1;
		if (poll(p, 2, ms > 60000 ? 60000 : (int)ms) < 0 && errno != EINTR)
			return;
		if (p[1].revents || ((p[0].revents & POLLIN) && serve(listen_fd, kept, cookie)))
			return;
	}
}

static int by_number(const void *a, const void *b) { return *(const int *)a - *(const int *)b; }

static void close_others(const kept_vec *kept, int listen_fd, int guest)
{
	VEC(int) keep_fd = { 0 };
	int next = 3;

	vec_push(&keep_fd, listen_fd);
	vec_push(&keep_fd, guest);
	vec_each(kept, k)
		vec_push(&keep_fd, k->uffd);
	qsort(keep_fd.at, keep_fd.n, sizeof(*keep_fd.at), by_number);
	vec_each(&keep_fd, fd) {
		if (*fd > next)
			syscall(__NR_close_range, next, *fd - 1, 0);
		if (*fd >= next)
			next = *fd + 1;
	}
	syscall(__NR_close_range, next, ~0u, 0);
	vec_free(&keep_fd);
}

/* Nothing of the program that parked stays behind: descriptors, terminal, signals, name. */
static void become_keeper(const kept_vec *kept, int listen_fd, int guest)
{
	sigset_t none;

	setsid();
	if (chdir("/") < 0)
		_exit(1);
	prctl(PR_SET_NAME, "criu-lite-track");
	for (int s = 1; s < NSIG; s++)
		signal(s, s == SIGPIPE ? SIG_IGN : SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	int null = open("/dev/null", O_RDWR);
	for (int i = 0; i < 3; i++)
		dup2(null, i);
	close_others(kept, listen_fd, guest);
}

static int listen_at(const struct sockaddr_un *a, struct err *e)
{
	if (mkdir(DIR_RUN, 0700) < 0 && errno != EEXIST)
		return err_set(e, errno, DIR_RUN);
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_set(e, errno, "socket");
	unlink(a->sun_path);
	if (bind(fd, (const struct sockaddr *)a, sizeof(*a)) < 0 || chmod(a->sun_path, 0600) < 0 ||
	    listen(fd, 8) < 0)
		return err_set(e, errno, "%s", a->sun_path);
	return steal_fd(fd);
}

int tracker_park(struct tracker *const *t, size_t n, pid_t root, const char *cookie, struct err *e)
{
	struct sockaddr_un a;
	kept_vec kept = { 0 };

	if (strlen(cookie) >= COOKIE_MAX || n == 0 || n > TRACKERS_MAX)
		return err_say(e, EINVAL, "keeping of trackers: bad arguments");
	_cleanup_close_ int guest = (int)syscall(__NR_pidfd_open, root, 0);
	if (guest < 0)
		return err_set(e, errno, "pid %d", root);
	int ret = socket_name(root, &a);
	if (ret < 0)
		return err_set(e, -ret, "/proc/self/ns/pid");
	_cleanup_close_ int listen_fd = listen_at(&a, e);
	if (listen_fd < 0)
		return listen_fd;
	for (size_t i = 0; i < n; i++) {
		struct kept *k = vec_new(&kept);

		k->uffd = t[i]->uffd;
		tracker_encode(t[i], &k->bytes);
	}

	/* Twice forked: init reaps it. */
	pid_t child = fork();
	if (child == 0) {
		pid_t keeper = fork();
		if (keeper != 0)
			_exit(keeper < 0);
		become_keeper(&kept, listen_fd, guest);
		keep(listen_fd, guest, &kept, cookie);
		unlink(a.sun_path);
		_exit(0);
	}
	int status = 0;
	if (child < 0)
		ret = err_set(e, errno, "fork");
	else if (waitpid(child, &status, 0) < 0 || status != 0)
		ret = err_set(e, EAGAIN, "the process that keeps trackers does not start");
	if (ret < 0)
		unlink(a.sun_path);
	vec_each(&kept, k)
		buf_free(&k->bytes);
	vec_free(&kept);
	return ret;
}

/* ---- the claimer ---- */

static int receive_one(int fd, struct tracker **out, struct err *e)
{
	uint64_t n = 0;
	int uffd = -1;
	struct buf bytes = { 0 };

	ssize_t got = recv_packet(fd, &n, sizeof(n), &uffd);
	if (got != (ssize_t)sizeof(n) || n > RANGES_MAX * sizeof(struct prange)) {
		if (uffd >= 0)
			close(uffd);
		return err_set(e, EBADMSG, "kept tracker");
	}
	_cleanup_free_ uint8_t *piece = xmalloc(PIECE);
	while (bytes.n < n && (got = recv_packet(fd, piece, PIECE, NULL)) > 0)
		buf_put(&bytes, piece, (size_t)got);
	int ret = tracker_decode(out, bytes.at, bytes.n, uffd, e);
	buf_free(&bytes);
	return ret;
}

int tracker_claim(struct tracker ***t, size_t *n, pid_t root, const char *cookie, struct err *e)
{
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	uint32_t head[2] = { 0 };
	struct sockaddr_un a;

	*t = NULL;
	*n = 0;
	int ret = fd < 0 ? -errno : socket_name(root, &a);
	if (ret < 0)
		return err_set(e, -ret, "socket");
	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
		return err_set(e, ENOENT, "pid %d: no process keeps its trackers", root);
	limit_waiting(fd);
	if (!cookie)
		cookie = ""; /* nobody's */
	if (send_packet(fd, cookie, strlen(cookie) + 1, -1) < 0 ||
	    recv_packet(fd, head, sizeof(head), NULL) != (ssize_t)sizeof(head) ||
	    head[0] != MAGIC || head[1] > TRACKERS_MAX)
		return err_set(e, ENOENT, "pid %d: its trackers are not handed out", root);
	if (head[1] == 0)
		return err_set(e, ENOENT, "pid %d: kept trackers belong to another dump", root);
	*t = xcalloc(head[1], sizeof(**t));
	for (; *n < head[1] && ret == 0; *n += ret == 0)
		ret = receive_one(fd, &(*t)[*n], e);
	if (ret == 0) {
		send_packet(fd, "", 1, -1);
		return 0;
	}
	while (*n > 0)
		tracker_free((*t)[--*n]);
	free(steal_ptr(*t));
	return err_in(e, "pid %d", root);
}
