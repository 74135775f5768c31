/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Open TCP connections: one end is dumped, closed without a word and made again, the other one must
 * not notice. In a network namespace of its own.
 */
#include "kind_test.h"

#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>

#include "kind_tcp.h"
#include "net_lock.h"

#ifndef TCP_TIMESTAMP
#define TCP_TIMESTAMP 24
#endif
#define WAIT_MS 10000

static const char *const hosts[] = { "127.0.0.1", "::1", "::ffff:127.0.0.1" };

/* ---- connections ---- */

static int get(int fd, int level, int name)
{
	int value = -12345;
	socklen_t len = sizeof(value);

	assert_return_code(getsockopt(fd, level, name, &value, &len), errno);
	return value;
}

static void set(int fd, int level, int name, int value)
{
	assert_return_code(setsockopt(fd, level, name, &value, sizeof(value)), errno);
}

union addr {
	struct sockaddr sa;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

static socklen_t address(union addr *a, const char *host)
{
	memset(a, 0, sizeof(*a));
	if (inet_pton(AF_INET, host, &a->v4.sin_addr) == 1) {
		a->v4.sin_family = AF_INET;
		return sizeof(a->v4);
	}
	a->v6.sin6_family = AF_INET6;
	assert_int_equal(inet_pton(AF_INET6, host, &a->v6.sin6_addr), 1);
	return sizeof(a->v6);
}

static int listener(const char *host, union addr *a)
{
	socklen_t len = address(a, host);
	int fd = socket(a->sa.sa_family, SOCK_STREAM, 0);

	set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	assert_return_code(bind(fd, &a->sa, len), errno);
	assert_return_code(listen(fd, 600), errno);
	assert_return_code(getsockname(fd, &a->sa, &len), errno);
	return fd;
}

/* a connects, b accepts */
struct pair {
	int a, b;
};

static struct pair connected(int l, const union addr *to)
{
	struct pair p = { .a = socket(to->sa.sa_family, SOCK_STREAM, 0) };

	assert_return_code(connect(p.a, &to->sa, sizeof(*to)), errno);
	p.b = accept(l, NULL, NULL);
	assert_true(p.b >= 0);
	return p;
}

static struct pair new_pair(const char *host)
{
	union addr to;
	int l = listener(host, &to);
	struct pair p = connected(l, &to);

	close(l);
	return p;
}

static void end(struct pair *p)
{
	close(p->a);
	close(p->b);
}

static int state(int fd)
{
	struct tcp_info info = { 0 };
	socklen_t len = sizeof(info);

	assert_return_code(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len), errno);
	return info.tcpi_state;
}

static void wait_state(int fd, int want)
{
	for (int i = 0; i < WAIT_MS && state(fd) != want; i++)
		usleep(1000);
	assert_int_equal(state(fd), want);
}

/* ---- streams whose bytes tell their position ---- */

static uint8_t byte_at(uint64_t pos)
{
	return (uint8_t)(pos ^ pos >> 8 ^ pos >> 16 ^ pos >> 24);
}

static size_t fill(int fd, uint64_t *pos, size_t max)
{
	static uint8_t buf[65536];
	size_t sum = 0;

	while (sum < max) {
		size_t n = max - sum < sizeof(buf) ? max - sum : sizeof(buf);

		for (size_t i = 0; i < n; i++)
			buf[i] = byte_at(*pos + i);
		ssize_t got = send(fd, buf, n, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (got < 0) {
			assert_int_equal(errno, EAGAIN);
			break;
		}
		*pos += (uint64_t)got;
		sum += (size_t)got;
	}
	return sum;
}

/* Reads what comes until `end`; `end` 0: what is there. */
static void drain(int fd, uint64_t *pos, uint64_t to)
{
	static uint8_t buf[65536];

	while (!to || *pos < to) {
		struct pollfd p = { fd, POLLIN, 0 };

		if (to && poll(&p, 1, WAIT_MS) != 1)
			fail_msg("byte %lu of %lu does not come", *pos, to);
		ssize_t n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);
		if (n < 0 && errno == EAGAIN && !to)
			return;
		if (n <= 0)
			fail_msg("recv at %lu of %lu: %s", *pos, to, n ? strerror(errno) : "end");
		for (ssize_t i = 0; i < n; i++)
			if (buf[i] != byte_at(*pos + (uint64_t)i))
				fail_msg("a wrong byte at %lu", *pos + (uint64_t)i);
		*pos += (uint64_t)n;
	}
}

static void at_end(int fd)
{
	struct pollfd p = { fd, POLLIN, 0 };
	char c;

	assert_int_equal(poll(&p, 1, WAIT_MS), 1);
	assert_int_equal(recv(fd, &c, 1, MSG_DONTWAIT), 0);
}

/* Both directions, also after it stood still with full queues. */
static void talk(struct pair *p, uint64_t sent[2], uint64_t got[2], size_t n)
{
	for (size_t done = 0; done < n;) {
		done += fill(p->a, &sent[0], n) + fill(p->b, &sent[1], n);
		drain(p->b, &got[0], sent[0]);
		drain(p->a, &got[1], sent[1]);
	}
}

/* ---- moving ---- */

/* From the dump to the end of the restore nothing is said and heard for them. */
static struct net_lock *locked(struct trip *t, int **fds, size_t n)
{
	_cleanup_free_ struct net_conn *conn = xcalloc(n, sizeof(*conn));
	struct net_lock *lock;
	char id[64];
	size_t k = 0;

	snprintf(id, sizeof(id), "test-%d", getpid());
	for (size_t i = 0; i < n; i++) {
		union addr us, them;
		socklen_t a = sizeof(us), b = sizeof(them);

		assert_return_code(getsockname(*fds[i], &us.sa, &a), errno);
		if (getpeername(*fds[i], &them.sa, &b) < 0)
			continue; /* not connected yet */
		assert_true(net_conn_set(&conn[k++], &us.sa, &them.sa));
	}
	assert_ok(t, net_lock_prepare(&lock, id, -1, NET_LOCK_NO_GROUP, &t->e));
	assert_ok(t, net_lock_add(lock, conn, k, &t->e));
	return lock;
}

/* Dumps them all, closes them, makes them again in their place. */
static void move_n(struct trip *t, int **fds, size_t n)
{
	_cleanup_free_ uint32_t *id = xcalloc(n, sizeof(*id));

	t->opts.tcp_established = true;
	for (size_t i = 0; i < n; i++)
		assert_ok(t, trip_check(t, *fds[i]));
	struct net_lock *lock = locked(t, fds, n);
	trip_begin(t);
	for (size_t i = 0; i < n; i++) {
		assert_ok(t, trip_dump(t, *fds[i]));
		id[i] = trip_id(t, *fds[i]);
	}
	assert_ok(t, kind_dump_leave(t->d, &t->e));
	for (size_t i = 0; i < n; i++)
		close(*fds[i]);
	assert_ok(t, trip_carry(t));
	kind_dump_free(steal_ptr(t->d)); /* with its copies: nothing of the source is left */
	for (size_t i = 0; i < n; i++)
		assert_ok(t, kind_fd(t->r, id[i], &t->e));
	assert_ok(t, kind_finish(t->r, &t->e));
	assert_ok(t, net_lock_open(lock, &t->e));
	kind_restore_done(t->r);
	for (size_t i = 0; i < n; i++)
		*fds[i] = dup(kind_fd(t->r, id[i], &t->e));
	kind_restore_free(steal_ptr(t->r));
	assert_ok(t, net_lock_lift(lock, &t->e));
}

static void move(int *fd)
{
	struct trip t = { 0 };

	move_n(&t, &fd, 1);
	trip_end(&t);
}

/* ---- tests ---- */

static void established(void **s)
{
	for (size_t h = 0; h < 3; h++) {
		struct pair p = new_pair(hosts[h]);
		uint64_t sent[2] = { 0 }, got[2] = { 0 };

		for (int i = 0; i < 4; i++) {
			talk(&p, sent, got, 10000);
			fill(p.a, &sent[0], 5000);
			fill(p.b, &sent[1], 3000);
			move(i & 1 ? &p.a : &p.b);
			assert_int_equal(state(p.a), TCP_ESTABLISHED);
			talk(&p, sent, got, 200000);
		}
		end(&p);
	}
}

/* Queues as full as they get: the sender's has what was sent and what waits. */
static void full_queues(void **s)
{
	static const int sizes[] = { 0, 4096, 4 << 20 };

	for (size_t z = 0; z < 3; z++) {
		for (int who = 0; who < 4; who++) {
			struct pair p = new_pair(hosts[who % 3]);
			uint64_t sent[2] = { 0 }, got[2] = { 0 };

			for (int i = 0; i < 2 && sizes[z]; i++) {
				int one[2] = { p.a, p.b };

				set(one[i], SOL_SOCKET, SO_SNDBUFFORCE, sizes[z]);
				set(one[i], SOL_SOCKET, SO_RCVBUFFORCE, sizes[z]);
			}
			/* until nothing moves any more */
			for (int i = 0; i < 20; i++) {
				fill(p.a, &sent[0], 64 << 20);
				fill(p.b, &sent[1], 64 << 20);
				usleep(2000);
			}
			int snd = get(p.a, SOL_SOCKET, SO_SNDBUF), rcv = get(p.a, SOL_SOCKET, SO_RCVBUF);
			int lock = get(p.a, SOL_SOCKET, 72);
			move(who & 1 ? &p.a : &p.b);
			if (who & 2)
				move(&p.a);
			if (lock) { /* else they grow by themselves */
				assert_int_equal(get(p.a, SOL_SOCKET, SO_SNDBUF), snd);
				assert_int_equal(get(p.a, SOL_SOCKET, SO_RCVBUF), rcv);
			}
			assert_int_equal(get(p.a, SOL_SOCKET, 72), lock);
			drain(p.b, &got[0], sent[0]);
			drain(p.a, &got[1], sent[1]);
			talk(&p, sent, got, sizes[z] == 4096 ? 20000 : 1 << 20);
			end(&p);
		}
	}
}

/* A deaf socket drops what comes for it. */
static void deaf(int fd, bool on)
{
	struct sock_filter none[] = { BPF_STMT(BPF_RET | BPF_K, 0) };
	struct sock_fprog prog = { 1, none };

	if (on)
		assert_return_code(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog)),
				   errno);
	else
		set(fd, SOL_SOCKET, SO_DETACH_FILTER, 0);
}

/* Brings a into a state; to_b and to_a bytes are under way. */
static void bring(struct pair *p, int want)
{
	bool first = want == TCP_FIN_WAIT1 || want == TCP_FIN_WAIT2 || want == TCP_CLOSING;

	if (want == TCP_CLOSE_WAIT || want == TCP_LAST_ACK) {
		shutdown(p->b, SHUT_WR);
		wait_state(p->a, TCP_CLOSE_WAIT);
	}
	if (want == TCP_FIN_WAIT1 || want == TCP_CLOSING || want == TCP_LAST_ACK)
		deaf(p->b, true);
	if (first || want == TCP_LAST_ACK)
		shutdown(p->a, SHUT_WR);
	if (want == TCP_CLOSING)
		shutdown(p->b, SHUT_WR);
	wait_state(p->a, want);
}

static void check_after(struct pair *p, int want, uint64_t sent[2], uint64_t got[2])
{
	bool came = want == TCP_CLOSE_WAIT || want == TCP_CLOSING || want == TCP_LAST_ACK;

	if (want == TCP_FIN_WAIT1 || want == TCP_CLOSING || want == TCP_LAST_ACK)
		deaf(p->b, false);
	drain(p->b, &got[0], sent[0]);
	drain(p->a, &got[1], sent[1]);
	if (came)
		at_end(p->a);
	if (want == TCP_CLOSE_WAIT) {
		fill(p->a, &sent[0], 10000);
		drain(p->b, &got[0], sent[0]);
		shutdown(p->a, SHUT_WR);
	}
	at_end(p->b);
	if (!came) {
		fill(p->b, &sent[1], 10000);
		drain(p->a, &got[1], sent[1]);
		shutdown(p->b, SHUT_WR);
		at_end(p->a);
	}
	wait_state(p->a, TCP_CLOSE);
	wait_state(p->b, TCP_CLOSE);
}

static uint64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* What was lost before the move is sent again after it, and not as late as a new connection would
 * (three seconds). */
static void lost_before(void **s)
{
	struct pair p = new_pair(hosts[0]);
	uint64_t sent[2] = { 0 }, got[2] = { 0 };

	talk(&p, sent, got, 300000);
	deaf(p.b, true);
	fill(p.a, &sent[0], 100000);
	move(&p.a);
	deaf(p.b, false);
	uint64_t start = now_us();
	drain(p.b, &got[0], sent[0]);
	uint64_t took = now_us() - start;
	print_message("lost bytes came after %lu us\n", took);
	assert_true(took < 2900000);
	talk(&p, sent, got, 300000);
	end(&p);
}

static void half_closed(void **s)
{
	static const int states[] = { TCP_FIN_WAIT1, TCP_FIN_WAIT2, TCP_CLOSE_WAIT, TCP_CLOSING,
				      TCP_LAST_ACK };

	for (size_t i = 0; i < 15; i++) {
		struct pair p = new_pair(hosts[i % 3]);
		uint64_t sent[2] = { 0 }, got[2] = { 0 };
		int want = states[i % 5];

		talk(&p, sent, got, 1000);
		fill(p.a, &sent[0], i & 1 ? 5000 : 0);
		fill(p.b, &sent[1], i & 2 ? 7000 : 0);
		usleep(1000);
		bring(&p, want);
		move(&p.a);
		assert_int_equal(state(p.a), want);
		check_after(&p, want, sent, got);
		end(&p);
	}
}

static int up(void **s)
{
	struct ifreq r = { .ifr_flags = IFF_UP };

	if (unshare(CLONE_NEWNET) < 0)
		return -1;
	_cleanup_close_ int fd = socket(AF_INET, SOCK_DGRAM, 0);
	strcpy(r.ifr_name, "lo");
	return ioctl(fd, SIOCSIFFLAGS, &r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(established), cmocka_unit_test(full_queues),
		cmocka_unit_test(half_closed), cmocka_unit_test(lost_before),
	};

	return cmocka_run_group_tests(tests, up, NULL);
}
