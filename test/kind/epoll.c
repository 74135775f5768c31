/* SPDX-License-Identifier: Apache-2.0 */
#include "kind_test.h"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define FIRST 300   /* numbers of the test's descriptors: 300, 301, ... */

static int at(int fd, int number)
{
	assert_int_equal(dup2(fd, number), number);
	close(fd);
	return number;
}

static void watch(int ep, int fd, uint32_t events, uint64_t data)
{
	struct epoll_event ev = { .events = events, .data.u64 = data };

	assert_return_code(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev), errno);
}

/* All of n descriptors from FIRST on; the new ones take their numbers. */
static void move(struct trip *t, int n)
{
	for (int i = 0; i < n; i++)
		assert_ok(t, trip_check(t, FIRST + i));
	assert_ok(t, kind_dump_end(t->d, &t->e));
	trip_begin(t);
	for (int i = 0; i < n; i++)
		assert_ok(t, trip_dump(t, FIRST + i));
	assert_ok(t, kind_dump_end(t->d, &t->e));
	assert_ok(t, trip_carry(t));
	for (int i = 0; i < n; i++)
		close(FIRST + i);
	for (int i = 0; i < n; i++) {
		int fd = trip_fd(t, FIRST + i);

		assert_ok(t, fd);
		assert_int_equal(dup2(fd, FIRST + i), FIRST + i);
		kind_hold(t->r, trip_id(t, FIRST + i), (struct kind_holder){ NULL, FIRST + i });
	}
	assert_ok(t, kind_finish(t->r, &t->e));
}

static void leave(struct trip *t, int n)
{
	for (int i = 0; i < n; i++)
		close(FIRST + i);
	trip_end(t);
}

static uint32_t events_of(struct trip *t, int ep, uint32_t tfd, uint64_t *data)
{
	struct fd_view v;
	uint32_t events = 0;

	assert_ok(t, kind_view(getpid(), ep, ep, &v, &t->e));
	for (size_t i = 0; i < v.info.epoll.n; i++) {
		if (v.info.epoll.at[i].tfd == tfd) {
			events = v.info.epoll.at[i].events;
			*data = v.info.epoll.at[i].data;
		}
	}
	kind_view_free(&v);
	return events;
}

static void members(void **state)
{
	struct trip t = { 0 };
	struct epoll_event ev[8];
	uint64_t data = 0;
	int ep = at(epoll_create1(0), FIRST), a = at(eventfd(0, 0), FIRST + 1);
	int b = at(eventfd(1, 0), FIRST + 2), outer = at(epoll_create1(0), FIRST + 3);

	watch(ep, a, EPOLLIN | EPOLLET, 0x123456789abcdef0ull);
	watch(ep, b, EPOLLIN | EPOLLEXCLUSIVE, 42);
	watch(outer, ep, EPOLLIN, 7);
	move(&t, 4);
	assert_int_equal(events_of(&t, ep, (uint32_t)a, &data) & (EPOLLIN | EPOLLET),
			 EPOLLIN | EPOLLET);
	assert_true(data == 0x123456789abcdef0ull);
	assert_int_equal(epoll_wait(ep, ev, 8, 0), 1);
	assert_true(ev[0].data.u64 == 42 && ev[0].events == EPOLLIN);
	assert_int_equal(epoll_wait(outer, ev, 8, 0), 1);
	assert_true(ev[0].data.u64 == 7);
	/* The kernel knows the members by these numbers. */
	assert_return_code(epoll_ctl(ep, EPOLL_CTL_DEL, b, NULL), errno);
	assert_return_code(epoll_ctl(ep, EPOLL_CTL_DEL, a, NULL), errno);
	leave(&t, 4);
}

static void oneshot_that_fired(void **state)
{
	struct trip t = { 0 };
	struct epoll_event ev[8];
	uint64_t data = 0;
	int sk[2];
	int ep = at(epoll_create1(0), FIRST);

	assert_return_code(socketpair(AF_UNIX, SOCK_STREAM, 0, sk), errno);
	int a = at(sk[0], FIRST + 1), b = at(sk[1], FIRST + 2);
	watch(ep, a, EPOLLIN | EPOLLOUT | EPOLLONESHOT, 5);
	assert_int_equal(epoll_wait(ep, ev, 8, 0), 1);
	move(&t, 3);
	assert_int_equal(events_of(&t, ep, (uint32_t)a, &data), EPOLLONESHOT);
	assert_int_equal(data, 5);
	/* Not even the end of the connection is reported. */
	shutdown(b, SHUT_RDWR);
	assert_int_equal(epoll_wait(ep, ev, 8, 0), 0);
	ev[0] = (struct epoll_event){ .events = EPOLLIN | EPOLLONESHOT, .data.u64 = 6 };
	assert_return_code(epoll_ctl(ep, EPOLL_CTL_MOD, a, &ev[0]), errno);
	assert_int_equal(epoll_wait(ep, ev, 8, 0), 1);
	assert_int_equal(ev[0].data.u64, 6);
	leave(&t, 3);
}

/* The same in another process, by batches; more members than one batch takes. */
static void inside_a_shell(void **state)
{
	enum { N = BATCH_CALLS_MAX + 30 };
	struct trip t = { 0 };
	struct remote *r = NULL;
	static struct remote_fd put[N + 1];
	struct epoll_event ev[4];
	int ep = at(epoll_create1(0), FIRST);

	for (int i = 1; i <= N; i++)
		watch(ep, at(eventfd(i == N, 0), FIRST + i), EPOLLIN, (uint64_t)i << 32 | 1);
	trip_begin(&t);
	for (int i = 0; i <= N; i++)
		assert_ok(&t, trip_dump(&t, FIRST + i));
	assert_ok(&t, kind_dump_end(t.d, &t.e));
	assert_ok(&t, trip_carry(&t));
	assert_ok(&t, remote_shell(&r, 0, 0, NULL, 0, &t.e));
	kind_set_process(t.r, getpid(), r);
	for (int i = 0; i <= N; i++) {
		int fd = trip_fd(&t, FIRST + i);

		assert_ok(&t, fd);
		put[i] = (struct remote_fd){ fd, FIRST + i, 0 };
		kind_hold(t.r, trip_id(&t, FIRST + i), (struct kind_holder){ r, FIRST + i });
	}
	assert_ok(&t, remote_fd_put(r, put, N + 1, &t.e));
	assert_ok(&t, kind_finish(t.r, &t.e));
	struct fd_view v;
	assert_ok(&t, kind_view(remote_pid(r), FIRST, put[0].local, &v, &t.e));
	assert_int_equal(v.info.epoll.n, N);
	kind_view_free(&v);
	assert_int_equal(epoll_wait(put[0].local, ev, 4, 0), 1);
	assert_true(ev[0].data.u64 == ((uint64_t)N << 32 | 1));
	remote_kill(r);
	leave(&t, N + 1);
}

/* Shares the epoll FIRST and has an eventfd of its own at FIRST + 1, watched, too. */
static pid_t sharer(int ep)
{
	int ready[2];
	char byte;

	assert_return_code(pipe(ready), errno);
	pid_t pid = fork();
	assert_return_code(pid, errno);
	if (pid == 0) {
		dup2(eventfd(1, 0), FIRST + 1);
		watch(ep, FIRST + 1, EPOLLIN, 2);
		close(FIRST + 2);
		close(ready[0]);
		assert_int_equal(write(ready[1], "", 1), 1);
		pause();
		_exit(0);
	}
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	close(ready[1]);
	return pid;
}

/* Members are met in any of the holders, in whatever order these come, and nowhere else. */
static void dump_shared(struct trip *t, int ep, pid_t child, bool child_first)
{
	trip_begin(t);
	if (child_first)
		assert_ok(t, trip_dump_of(t, child, ep, ep));
	for (int i = 0; i < 3; i++)
		assert_ok(t, trip_dump(t, FIRST + i));
	if (!child_first)
		assert_ok(t, trip_dump_of(t, child, ep, ep));
	assert_ok(t, kind_dump_end(t->d, &t->e));
	assert_ok(t, trip_carry(t));
}

static void shared_after_fork(void **state)
{
	for (int child_first = 0; child_first < 2; child_first++) {
		struct trip t = { 0 };
		struct remote *r = NULL;
		struct epoll_event ev[4];
		int ep = at(epoll_create1(0), FIRST), a = at(eventfd(0, 0), FIRST + 1);
		int b = at(eventfd(1, 0), FIRST + 2);

		watch(ep, a, EPOLLIN, 1);
		watch(ep, b, EPOLLIN, 3);
		pid_t child = sharer(ep);
		assert_ok(&t, trip_check_of(&t, child, ep, ep));
		assert_true(kind_dump_end(t.d, &t.e) < 0);
		err_clear(&t.e);
		assert_ok(&t, trip_check(&t, ep));
		assert_true(kind_dump_end(t.d, &t.e) < 0);
		assert_says(&t, "301, which is another file now");
		err_clear(&t.e);
		dump_shared(&t, ep, child, child_first);
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
		for (int i = 0; i < 3; i++)
			close(FIRST + i);
		assert_ok(&t, remote_shell(&r, 0, 0, NULL, 0, &t.e));
		kind_set_process(t.r, child, r);
		for (int i = 0; i < 3; i++) {
			assert_int_equal(dup2(trip_fd(&t, FIRST + i), FIRST + i), FIRST + i);
			kind_hold(t.r, trip_id(&t, FIRST + i),
				  (struct kind_holder){ NULL, FIRST + i });
		}
		struct remote_fd put[] = { { ep, ep, 0 }, { eventfd(1, 0), FIRST + 1, 0 } };
		assert_ok(&t, remote_fd_put(r, put, 2, &t.e));
		kind_hold(t.r, trip_id(&t, ep), (struct kind_holder){ r, ep });
		assert_ok(&t, kind_finish(t.r, &t.e));
		close(put[1].local);
		/* `a` is silent, the child's and `b` are not. */
		assert_int_equal(epoll_wait(ep, ev, 4, 0), 2);
		assert_int_equal(ev[0].data.u64 + ev[1].data.u64, 5);
		assert_return_code(epoll_ctl(ep, EPOLL_CTL_DEL, a, NULL), errno);
		assert_return_code(epoll_ctl(ep, EPOLL_CTL_DEL, b, NULL), errno);
		assert_int_equal(epoll_wait(ep, ev, 4, 0), 1);
		assert_int_equal(ev[0].data.u64, 2);
		remote_kill(r);
		leave(&t, 3);
	}
}

static void refused(struct trip *t, int ep, const char *why)
{
	assert_ok(t, trip_check(t, ep));
	assert_true(kind_dump_end(t->d, &t->e) < 0);
	assert_says(t, why);
	err_clear(&t->e);
}

static void stale_numbers_are_refused(void **state)
{
	struct trip t = { 0 };
	int ep = at(epoll_create1(0), FIRST), a = eventfd(0, 0), other = dup(a);

	watch(ep, a, EPOLLIN, 1);
	close(a);
	refused(&t, ep, "which is closed");
	assert_int_equal(eventfd(0, 0), a);
	refused(&t, ep, "another file");
	watch(ep, a, EPOLLIN, 2);
	refused(&t, ep, "another file");
	close(a);
	close(other);
	close(ep);
	trip_end(&t);
}

int main(void)
{
	struct rlimit files = { 4096, 4096 };

	setrlimit(RLIMIT_NOFILE, &files);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(members),
		cmocka_unit_test(oneshot_that_fired),
		cmocka_unit_test(inside_a_shell),
		cmocka_unit_test(shared_after_fork),
		cmocka_unit_test(stale_numbers_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
