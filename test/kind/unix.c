/* SPDX-License-Identifier: Apache-2.0 */
#include "kind_test.h"

#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#define MAX 8

/* Descriptors that move together; `new` are the made ones. */
struct group {
	struct trip t;
	int n, old[MAX], new[MAX];
};

static int dump_all(struct group *g)
{
	struct trip *t = &g->t;

	for (int i = 0; i < g->n; i++)
		if (trip_check(t, g->old[i]) < 0)
			return -t->e.code;
	if (kind_dump_end(t->d, &t->e) < 0)
		return -t->e.code;
	trip_begin(t);
	for (int i = 0; i < g->n; i++)
		if (trip_dump(t, g->old[i]) < 0)
			return -t->e.code;
	return kind_dump_end(t->d, &t->e);
}

static void move(struct group *g)
{
	struct trip *t = &g->t;

	assert_ok(t, dump_all(g));
	for (int i = 0; i < g->n; i++)
		close(g->old[i]);
	assert_ok(t, trip_carry(t));
	for (int i = 0; i < g->n; i++) {
		g->new[i] = trip_fd(t, g->old[i]);
		assert_ok(t, g->new[i]);
	}
	assert_ok(t, kind_finish(t->r, &t->e));
	kind_restore_done(t->r);
}

static void leave(struct group *g)
{
	if (!g->t.r && kind_dump_set(g->t.d))
		img_set_free(kind_dump_set(g->t.d));
	trip_end(&g->t);
}

static socklen_t addr(struct sockaddr_un *a, const char *name)
{
	*a = (struct sockaddr_un){ .sun_family = AF_UNIX };
	memcpy(a->sun_path, name, strlen(name));
	if (name[0] == '@')
		a->sun_path[0] = '\0';
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name) +
			   (name[0] != '@'));
}

static int bound(int type, const char *name)
{
	struct sockaddr_un a;
	int fd = socket(AF_UNIX, type, 0);

	assert_return_code(bind(fd, (struct sockaddr *)&a, addr(&a, name)), errno);
	return fd;
}

static int connected(int type, const char *name)
{
	struct sockaddr_un a;
	int fd = socket(AF_UNIX, type, 0);

	assert_return_code(connect(fd, (struct sockaddr *)&a, addr(&a, name)), errno);
	return fd;
}

static void assert_name(int fd, const char *name, bool peer)
{
	struct sockaddr_un a, want;
	socklen_t len = sizeof(a), want_len = addr(&want, name);

	assert_return_code(peer ? getpeername(fd, (struct sockaddr *)&a, &len)
				: getsockname(fd, (struct sockaddr *)&a, &len), errno);
	assert_int_equal(len, want_len);
	assert_memory_equal(&a, &want, len);
}

static void assert_reads(int fd, const char *want)
{
	char buf[100];

	assert_int_equal(recv(fd, buf, sizeof(buf), MSG_DONTWAIT), strlen(want));
	assert_memory_equal(buf, want, strlen(want));
}

static void pairs_with_data(void **state)
{
	static const int types[] = { SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET };

	for (int i = 0; i < 3; i++) {
		struct group g = { .n = 2 };
		char rest[8];

		assert_return_code(socketpair(AF_UNIX, types[i] | (i ? SOCK_NONBLOCK : 0), 0,
					      g.old), errno);
		send(g.old[0], "hello", 5, 0);
		send(g.old[0], "world!", 6, 0);
		if (types[i] == SOCK_DGRAM)
			send(g.old[0], "", 0, 0);
		send(g.old[0], "3", 1, 0);
		send(g.old[1], "back", 4, 0);
		int flags = fcntl(g.old[0], F_GETFL);
		move(&g);
		assert_int_equal(fcntl(g.new[0], F_GETFL), flags);
		if (types[i] == SOCK_STREAM) {
			assert_reads(g.new[1], "helloworld!3");
		} else {
			assert_reads(g.new[1], "hello");
			assert_reads(g.new[1], "world!");
			if (types[i] == SOCK_DGRAM)
				assert_reads(g.new[1], "");
			assert_reads(g.new[1], "3");
		}
		assert_reads(g.new[0], "back");
		assert_int_equal(recv(g.new[1], rest, 8, MSG_DONTWAIT), -1);
		assert_int_equal(send(g.new[1], "more", 4, 0), 4);
		assert_reads(g.new[0], "more");
		leave(&g);
	}
}

static void much_data(void **state)
{
	struct group g = { .n = 2 };
	char *out = malloc(1 << 20), *in = malloc(1 << 20);
	ssize_t sent = 0, got = 0, n;

	for (int i = 0; i < 1 << 20; i++)
		out[i] = (char)(i * 7 + i / 251);
	assert_return_code(socketpair(AF_UNIX, SOCK_STREAM, 0, g.old), errno);
	while ((n = send(g.old[0], out + sent, 5000, MSG_DONTWAIT)) > 0)
		sent += n;
	assert_true(sent > 50000);
	move(&g);
	while ((n = recv(g.new[1], in + got, 1 << 20, MSG_DONTWAIT)) > 0)
		got += n;
	assert_int_equal(got, sent);
	assert_memory_equal(in, out, (size_t)sent);
	free(in);
	free(out);
	leave(&g);
}

static void shut_down_and_closed_peer(void **state)
{
	struct group g = { .n = 2 }, h = { .n = 1 }, k = { .n = 1 };
	int sk[2];
	char c;

	socketpair(AF_UNIX, SOCK_STREAM, 0, g.old);
	send(g.old[0], "last", 4, 0);
	shutdown(g.old[0], SHUT_WR);
	move(&g);
	assert_reads(g.new[1], "last");
	assert_int_equal(recv(g.new[1], &c, 1, MSG_DONTWAIT), 0);
	assert_int_equal(send(g.new[1], "x", 1, 0), 1);
	assert_reads(g.new[0], "x");
	assert_true(send(g.new[0], "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE);
	leave(&g);

	socketpair(AF_UNIX, SOCK_STREAM, 0, sk);
	send(sk[1], "bye", 3, 0);
	close(sk[1]);
	h.old[0] = sk[0];
	move(&h);
	assert_reads(h.new[0], "bye");
	assert_int_equal(recv(h.new[0], &c, 1, MSG_DONTWAIT), 0);
	leave(&h);

	socketpair(AF_UNIX, SOCK_DGRAM, 0, sk);
	close(sk[1]);
	k.old[0] = sk[0];
	move(&k);
	assert_true(send(k.new[0], "x", 1, MSG_NOSIGNAL) < 0 && errno == ECONNREFUSED);
	leave(&k);
}

static void listener_with_connections(void **state)
{
	static const char *const names[] = { "%s/sock", "@criu-lite-test-%s" };

	for (int i = 0; i < 2; i++) {
		_cleanup_free_ char *name = xasprintf(i ? names[1] : names[0], (char *)*state);
		struct group g = { .n = 5 };
		struct stat st;

		int l = g.old[0] = bound(SOCK_STREAM, name);
		if (!i)
			assert_return_code(chmod(name, 0640), errno);
		assert_return_code(listen(l, 3), errno);
		g.old[1] = connected(SOCK_STREAM, name);
		g.old[2] = accept(l, NULL, NULL);
		g.old[3] = connected(SOCK_STREAM, name);
		g.old[4] = accept(l, NULL, NULL);
		send(g.old[1], "one", 3, 0);
		send(g.old[4], "two", 3, 0);
		move(&g);
		if (!i)
			assert_true(!stat(name, &st) && (st.st_mode & 0777) == 0640);
		assert_name(g.new[0], name, false);
		assert_name(g.new[2], name, false);
		assert_name(g.new[3], name, true);
		assert_reads(g.new[2], "one");
		assert_reads(g.new[3], "two");
		int late = connected(SOCK_STREAM, name);
		int got = accept(g.new[0], NULL, NULL);
		assert_true(got >= 0);
		close(late);
		close(got);
		leave(&g);
	}
}

static void not_accepted_yet(void **state)
{
	struct group g = { .n = 2 };
	_cleanup_free_ char *name = xasprintf("%s/early", (char *)*state);

	g.old[0] = bound(SOCK_STREAM, name);
	listen(g.old[0], 3);
	g.old[1] = connected(SOCK_STREAM, name);
	move(&g);
	int got = accept4(g.new[0], NULL, NULL, SOCK_NONBLOCK);
	assert_true(got >= 0);
	send(got, "hi", 2, 0);
	assert_reads(g.new[1], "hi");
	/* but what it has sent cannot be seen */
	close(got);
	leave(&g);

	struct group h = { .n = 2 };
	unlink(name);
	h.old[0] = bound(SOCK_STREAM, name);
	listen(h.old[0], 3);
	h.old[1] = connected(SOCK_STREAM, name);
	send(h.old[1], "x", 1, 0);
	assert_true(dump_all(&h) < 0);
	assert_says(&h.t, "before its listener accepted");
	close(h.old[0]);
	close(h.old[1]);
	leave(&h);
}

static void datagram_server(void **state)
{
	struct group g = { .n = 3 };
	_cleanup_free_ char *name = xasprintf("%s/dgram", (char *)*state);

	g.old[0] = bound(SOCK_DGRAM, name);
	g.old[1] = connected(SOCK_DGRAM, name);
	g.old[2] = connected(SOCK_DGRAM, name);
	int client = connected(SOCK_DGRAM, name);
	send(client, "from outside", 12, 0);
	close(client);
	send(g.old[1], "from inside", 11, 0);
	move(&g);
	assert_reads(g.new[0], "from outside");
	assert_reads(g.new[0], "from inside");
	send(g.new[2], "again", 5, 0);
	assert_reads(g.new[0], "again");
	assert_name(g.new[1], name, true);
	leave(&g);
}

static void names(void **state)
{
	_cleanup_free_ char *gone = xasprintf("%s/gone", (char *)*state);
	_cleanup_free_ char *taken = xasprintf("%s/taken", (char *)*state);
	struct group g = { .n = 3 }, h = { .n = 1 };
	struct stat st;

	g.old[0] = bound(SOCK_STREAM, "relative");
	listen(g.old[0], 1);
	g.old[1] = bound(SOCK_STREAM, gone);
	listen(g.old[1], 1);
	unlink(gone);
	g.old[2] = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_ok(&g.t, dump_all(&g));
	for (int i = 0; i < 3; i++)
		close(g.old[i]);
	assert_return_code(chdir("/"), errno);
	assert_ok(&g.t, trip_carry(&g.t));
	for (int i = 0; i < 3; i++)
		assert_ok(&g.t, trip_fd(&g.t, g.old[i]));
	assert_return_code(chdir(*state), errno);
	assert_name(trip_fd(&g.t, g.old[0]), "relative", false);
	assert_ok(&g.t, kind_finish(g.t.r, &g.t.e));
	kind_restore_done(g.t.r);
	close(connected(SOCK_STREAM, "relative"));
	assert_name(trip_fd(&g.t, g.old[1]), gone, false);
	assert_int_equal(stat(gone, &st), -1);
	leave(&g);

	/* What another program listens on is not taken away. */
	h.old[0] = bound(SOCK_STREAM, taken);
	assert_ok(&h.t, dump_all(&h));
	close(h.old[0]);
	unlink(taken);
	int other = bound(SOCK_STREAM, taken);
	listen(other, 1);
	assert_ok(&h.t, trip_carry(&h.t));
	assert_int_equal(trip_verify(&h.t), 1);
	assert_says(&h.t, taken);
	assert_true(trip_fd(&h.t, h.old[0]) < 0);
	assert_int_equal(h.t.e.code, EADDRINUSE);
	assert_says(&h.t, taken);
	close(other);
	leave(&h);
}

/* Until the guest is to run, the name is the source's; if that never happens, nothing stays. */
static void made_aside(void **state)
{
	_cleanup_free_ char *dir = xasprintf("%s/a", (char *)*state);
	_cleanup_free_ char *name = xasprintf("%s/s", dir);
	struct stat was, is;

	assert_return_code(mkdir(dir, 0700), errno);
	for (int run = 0; run < 2; run++) {
		struct group g = { .n = 2 };

		g.old[0] = bound(SOCK_DGRAM, name);
		g.old[1] = connected(SOCK_DGRAM, name);
		send(g.old[1], "kept", 4, 0);
		assert_return_code(lstat(name, &was), errno);
		assert_ok(&g.t, dump_all(&g));
		assert_ok(&g.t, trip_carry(&g.t));
		assert_int_equal(trip_verify(&g.t), 0);
		for (int i = 0; i < 2; i++)
			assert_ok(&g.t, trip_fd(&g.t, g.old[i]));
		assert_ok(&g.t, kind_finish(g.t.r, &g.t.e));
		assert_reads(trip_fd(&g.t, g.old[0]), "kept");
		assert_name(trip_fd(&g.t, g.old[1]), name, true);
		assert_int_equal(send(trip_fd(&g.t, g.old[1]), "new", 3, 0), 3);
		assert_reads(trip_fd(&g.t, g.old[0]), "new");
		assert_int_equal(send(g.old[1], "old", 3, 0), 3);
		assert_reads(g.old[0], "kept");
		assert_reads(g.old[0], "old");
		assert_return_code(lstat(name, &is), errno);
		assert_int_equal(is.st_ino, was.st_ino);
		if (run)
			kind_restore_done(g.t.r);
		leave(&g);
		assert_return_code(lstat(name, &is), errno);
		assert_int_equal(is.st_ino == was.st_ino, !run);
		unlink(name);
		close(g.old[0]);
		close(g.old[1]);
	}
	assert_return_code(rmdir(dir), errno);
}

static void peer_outside(void **state)
{
	struct group g = { .n = 1 }, d = { .n = 1 }, ext = { .n = 1 };
	_cleanup_free_ char *name = xasprintf("%s/log", (char *)*state);
	int sk[2], server = bound(SOCK_DGRAM, name);

	socketpair(AF_UNIX, SOCK_STREAM, 0, sk);
	g.old[0] = sk[0];
	assert_true(dump_all(&g) < 0);
	assert_says(&g.t, "belongs to another program");
	assert_says(&g.t, "--ext-unix-sk");
	leave(&g);
	close(sk[0]);
	close(sk[1]);

	d.old[0] = connected(SOCK_DGRAM, name);
	assert_true(dump_all(&d) < 0);
	assert_says(&d.t, name);
	assert_says(&d.t, "use --ext-unix-sk");
	leave(&d);

	ext.t.opts.ext_unix_sk = true;
	ext.old[0] = d.old[0];
	move(&ext);
	send(ext.new[0], "logged", 6, 0);
	assert_reads(server, "logged");
	close(server);
	leave(&ext);
}

static ssize_t send_with(int sk, const char *text, int fd)
{
	union { struct cmsghdr m; char room[CMSG_SPACE(sizeof(int))]; } control = { 0 };
	struct iovec iov = { (void *)(uintptr_t)text, strlen(text) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control,
			      .msg_controllen = sizeof(control) };

	control.m.cmsg_level = SOL_SOCKET;
	control.m.cmsg_type = SCM_RIGHTS;
	control.m.cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(&control.m), &fd, sizeof(fd));
	return sendmsg(sk, &msg, 0);
}

/* Reads a message; the descriptor and the credentials that came with it. */
static void receive(int sk, const char *want, int *fd, struct ucred *cred)
{
	union { struct cmsghdr m; char room[256]; } control;
	char buf[100];
	struct iovec iov = { buf, sizeof(buf) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control,
			      .msg_controllen = sizeof(control) };

	*fd = -1;
	*cred = (struct ucred){ .pid = -1 };
	assert_int_equal(recvmsg(sk, &msg, MSG_DONTWAIT), strlen(want));
	assert_memory_equal(buf, want, strlen(want));
	for (struct cmsghdr *m = CMSG_FIRSTHDR(&msg); m; m = CMSG_NXTHDR(&msg, m)) {
		if (m->cmsg_type == SCM_RIGHTS)
			memcpy(fd, CMSG_DATA(m), sizeof(*fd));
		if (m->cmsg_type == SCM_CREDENTIALS)
			memcpy(cred, CMSG_DATA(m), sizeof(*cred));
	}
}

static uint32_t flight_id(void *arg, pid_t pid, int fd)
{
	struct group *g = arg;

	assert_int_equal(pid, getpid());
	return trip_id(&g->t, fd);
}

static void descriptors_in_flight(void **state)
{
	static const int types[] = { SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET };
	_cleanup_free_ char *path = xasprintf("%s/file", (char *)*state);

	write_file(path, "in the file");
	for (int i = 0; i < 3; i++) {
		struct group g = { .n = 2 };
		struct ucred cred;
		char buf[16];
		int fd, p[2];

		socketpair(AF_UNIX, types[i], 0, g.old);
		int file = open(path, O_RDONLY);
		assert_int_equal(pipe(p), 0);
		assert_int_equal(write(p[1], "piped", 5), 5);
		close(p[1]);
		assert_int_equal(lseek(file, 7, SEEK_SET), 7);
		send(g.old[0], "before", 6, 0);
		assert_int_equal(send_with(g.old[0], "file", file), 4);
		assert_int_equal(send_with(g.old[0], "pipe", p[0]), 4);
		send(g.old[0], "after", 5, 0);
		close(file);
		close(p[0]);
		assert_true(dump_all(&g) < 0);
		assert_says(&g.t, "descriptors in flight");
		img_set_free(kind_dump_set(g.t.d));
		err_clear(&g.t.e);
		kind_dump_identify(g.t.d, flight_id, &g);
		move(&g);
		if (types[i] == SOCK_STREAM) {
			receive(g.new[1], "beforefile", &fd, &cred);
		} else {
			receive(g.new[1], "before", &fd, &cred);
			assert_int_equal(fd, -1);
			receive(g.new[1], "file", &fd, &cred);
		}
		assert_int_equal(read(fd, buf, 16), 4);
		assert_memory_equal(buf, "file", 4);
		close(fd);
		receive(g.new[1], "pipe", &fd, &cred);
		assert_int_equal(read(fd, buf, 16), 5);
		assert_int_equal(read(fd, buf, 16), 0);
		close(fd);
		receive(g.new[1], "after", &fd, &cred);
		assert_int_equal(fd, -1);
		leave(&g);
	}
}

/* A descriptor comes with the message of a stream that it was sent with, not earlier; if that is
 * the only one, it may be read in parts. */
static void boundary_in_stream(void **state)
{
	for (int single = 0; single < 2; single++) {
		struct group g = { .n = 2 };
		struct ucred cred;
		char buf[8];
		int fd, null = open("/dev/null", O_RDONLY);

		socketpair(AF_UNIX, SOCK_STREAM, 0, g.old);
		if (!single)
			send(g.old[0], "abcdefg", 7, 0);
		send_with(g.old[0], "hij", null);
		close(null);
		trip_begin(&g.t);
		img_set_free(kind_dump_set(g.t.d));
		kind_dump_identify(g.t.d, flight_id, &g);
		move(&g);
		if (!single)
			assert_int_equal(recv(g.new[1], buf, 7, MSG_DONTWAIT), 7);
		receive(g.new[1], "hij", &fd, &cred);
		assert_true(fd >= 0);
		close(fd);
		leave(&g);
	}
}

static void credentials_in_flight(void **state)
{
	static const int types[] = { SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET };

	for (int i = 0; i < 3; i++) {
		struct group g = { .n = 2 };
		struct ucred cred;
		int fd, on = 1, status;

		socketpair(AF_UNIX, types[i], 0, g.old);
		send(g.old[0], "early", 5, 0);
		setsockopt(g.old[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof(on));
		send(g.old[0], "mine", 4, 0);
		pid_t child = fork();
		if (!child)
			_exit(setresgid(7, 7, 7) || setresuid(8, 8, 8) ||
			      send(g.old[0], "child", 5, 0) != 5);
		assert_int_equal(waitpid(child, &status, 0), child);
		assert_int_equal(status, 0);
		move(&g);
		receive(g.new[1], "early", &fd, &cred);
		assert_int_equal(cred.pid, 0);
		receive(g.new[1], "mine", &fd, &cred);
		assert_int_equal(cred.pid, getpid());
		receive(g.new[1], "child", &fd, &cred);
		assert_int_equal(cred.pid, child);
		assert_int_equal(cred.uid, 8);
		assert_int_equal(cred.gid, 7);
		leave(&g);
	}
}

static void options(void **state)
{
	struct group g = { .n = 2 };
	struct sockaddr_un a;
	socklen_t len = sizeof(a);
	int value = 1;

	socketpair(AF_UNIX, SOCK_STREAM, 0, g.old);
	setsockopt(g.old[0], SOL_SOCKET, SO_PASSCRED, &value, sizeof(value));
	value = 40000;
	setsockopt(g.old[1], SOL_SOCKET, SO_SNDBUF, &value, sizeof(value));
	move(&g);
	len = sizeof(value);
	getsockopt(g.new[0], SOL_SOCKET, SO_PASSCRED, &value, &len);
	assert_int_equal(value, 1);
	getsockopt(g.new[1], SOL_SOCKET, SO_SNDBUF, &value, &len);
	assert_int_equal(value, 80000);
	len = sizeof(a);
	getsockname(g.new[0], (struct sockaddr *)&a, &len);
	assert_int_equal(len, sizeof(sa_family_t));
	leave(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pairs_with_data), cmocka_unit_test(much_data),
		cmocka_unit_test(shut_down_and_closed_peer),
		cmocka_unit_test(listener_with_connections), cmocka_unit_test(not_accepted_yet),
		cmocka_unit_test(datagram_server), cmocka_unit_test(names),
		cmocka_unit_test(made_aside),
		cmocka_unit_test(peer_outside), cmocka_unit_test(descriptors_in_flight),
		cmocka_unit_test(boundary_in_stream), cmocka_unit_test(credentials_in_flight),
		cmocka_unit_test(options),
	};

	return cmocka_run_group_tests(tests, enter_dir, leave_dir);
}
