/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Open TCP connections: one end is dumped, closed without a word and made again, the other one must
 * not notice. In a network namespace of its own.
 */
#include "kind_test.h"
#include "sockopt_test.h"

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
	static int count;
	char id[64];
	size_t k = 0;

	snprintf(id, sizeof(id), "test-%d-%d", getpid(), count++);
	for (size_t i = 0; i < n; i++) {
		union addr us, them;
		socklen_t a = sizeof(us), b;

		assert_return_code(getsockname(*fds[i], &us.sa, &a), errno);
		b = a;
		if (getsockopt(*fds[i], SOL_SOCKET, SO_PEERNAME, &them, &b) < 0)
			continue; /* listening */
		assert_true(net_conn_set(&conn[k++], &us.sa, &them.sa));
	}
	assert_ok(t, net_lock_prepare(&lock, id, -1, NET_LOCK_NO_GROUP, &t->e));
	assert_ok(t, net_lock_add(lock, conn, k, &t->e));
	return lock;
}

static void run(const char *command)
{
	if (system(command))
		fail_msg("%s", command);
}

/* Dumps them all, closes them, makes them again in their place. away, back: commands before the
 * first is made and after the last one. */
static void move_by(struct trip *t, int **fds, size_t n, const char *away, const char *back)
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
	if (away)
		run(away);
	for (size_t i = 0; i < n; i++)
		assert_ok(t, kind_fd(t->r, id[i], &t->e));
	assert_ok(t, kind_finish(t->r, &t->e));
	if (back)
		run(back);
	assert_ok(t, net_lock_open(lock, &t->e));
	kind_restore_done(t->r);
	for (size_t i = 0; i < n; i++)
		*fds[i] = dup(kind_fd(t->r, id[i], &t->e));
	kind_restore_free(steal_ptr(t->r));
	assert_ok(t, net_lock_lift(lock, &t->e));
}

static void move_n(int **fds, size_t n)
{
	struct trip t = { 0 };

	move_by(&t, fds, n, NULL, NULL);
	trip_end(&t);
}

static void move(int *fd)
{
	move_n(&fd, 1);
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
			int snd = get(p.a, SOL_SOCKET, SO_SNDBUF),
			    rcv = get(p.a, SOL_SOCKET, SO_RCVBUF);
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
		assert_return_code(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog,
					      sizeof(prog)), errno);
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

/* Two of each family, all that two sockets can have in their queues, and the listener whose port
 * they share. */
static void many(void **s)
{
	enum { N = 120 };
	struct pair p[N];
	uint64_t sent[N][2] = { 0 }, got[N][2] = { 0 };
	int l[3], *fds[N + 3];
	union addr to[3];

	for (size_t i = 0; i < 3; i++) {
		l[i] = listener(hosts[i], &to[i]);
		fds[N + i] = &l[i];
	}
	for (size_t i = 0; i < N; i++) {
		p[i] = connected(l[i % 3], &to[i % 3]);
		fill(p[i].a, &sent[i][0], i * 997);
		fill(p[i].b, &sent[i][1], i * 1013);
		fds[i] = i % 4 == 3 ? &p[i].a : &p[i].b;
	}
	usleep(10000);
	move_n(fds, N + 3);
	for (size_t i = 0; i < N; i++) {
		talk(&p[i], sent[i], got[i], 20000);
		end(&p[i]);
	}
	/* accepted sockets took SO_REUSEADDR from their listener and have it still */
	for (size_t i = 0; i < 3; i++) {
		struct pair fresh = connected(l[i], &to[i]);

		assert_int_equal(get(fresh.b, SOL_SOCKET, SO_REUSEADDR), 1);
		end(&fresh);
		close(l[i]);
	}
}

static const struct option {
	int level, name, value;
} some_options[] = {
	{ SOL_SOCKET, SO_KEEPALIVE, 1 }, { SOL_SOCKET, SO_PRIORITY, 5 },
	{ SOL_SOCKET, SO_MARK, 77 }, { SOL_SOCKET, SO_RCVLOWAT, 10 },
	{ SOL_SOCKET, SO_REUSEADDR, 1 }, { SOL_SOCKET, SO_OOBINLINE, 1 },
	{ SOL_SOCKET, SO_MAX_PACING_RATE, 123456789 }, { SOL_SOCKET, SO_PEEK_OFF, 3 },
	{ SOL_SOCKET, SO_SNDBUF, 50000 }, { SOL_SOCKET, SO_RCVBUF, 60000 },
	{ IPPROTO_TCP, TCP_NODELAY, 1 }, { IPPROTO_TCP, TCP_KEEPIDLE, 71 },
	{ IPPROTO_TCP, TCP_KEEPINTVL, 13 }, { IPPROTO_TCP, TCP_KEEPCNT, 4 },
	{ IPPROTO_TCP, TCP_USER_TIMEOUT, 33000 }, { IPPROTO_TCP, TCP_LINGER2, 9 },
	{ IPPROTO_TCP, TCP_NOTSENT_LOWAT, 20000 }, { IPPROTO_TCP, TCP_SYNCNT, 3 },
	{ IPPROTO_TCP, TCP_INQ, 1 },
	{ IPPROTO_IP, IP_TOS, 0x10 }, { IPPROTO_IP, IP_TTL, 42 },
};
#define N_OPTIONS (sizeof(some_options) / sizeof(*some_options))

static void options(void **s)
{
	struct pair p = new_pair(hosts[0]);
	struct linger li = { 1, 7 };
	struct timeval tv = { 2, 0 };
	int value[N_OPTIONS];
	bool has[N_OPTIONS];
	char cc[16] = "";
	socklen_t len = sizeof(li);

	for (size_t i = 0; i < N_OPTIONS; i++) {
		const struct option *o = &some_options[i];
		int v = o->value;

		has[i] = !setsockopt(p.a, o->level, o->name, &v, sizeof(v));
		if (has[i])
			continue;
		/* as SO_PEEK_OFF, which is there since Linux 6.9 */
		assert_true(errno == EOPNOTSUPP || errno == ENOPROTOOPT);
		print_message("this kernel has no option %d/%d\n", o->level, o->name);
	}
	for (size_t i = 0; i < N_OPTIONS; i++) /* one may change another */
		value[i] = has[i] ? get(p.a, some_options[i].level, some_options[i].name) : 0;
	setsockopt(p.a, SOL_SOCKET, SO_LINGER, &li, sizeof(li));
	setsockopt(p.a, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
	assert_return_code(setsockopt(p.a, IPPROTO_TCP, TCP_CONGESTION, "reno", 4), errno);
	uint64_t sent[2] = { 0 }, got[2] = { 0 };
	fill(p.b, &sent[1], 100);
	for (int turn = 0; turn < 2; turn++) {
		move(&p.a);
		for (size_t i = 0; i < N_OPTIONS; i++)
			if (has[i] &&
			    get(p.a, some_options[i].level, some_options[i].name) != value[i])
				fail_msg("option %d/%d is %d, was %d", some_options[i].level,
					 some_options[i].name,
					 get(p.a, some_options[i].level, some_options[i].name),
					 value[i]);
		memset(&li, 0, sizeof(li));
		assert_return_code(getsockopt(p.a, SOL_SOCKET, SO_LINGER, &li, &len), errno);
		assert_true(li.l_onoff == 1 && li.l_linger == 7);
		assert_return_code(getsockopt(p.a, IPPROTO_TCP, TCP_CONGESTION, cc,
					      &(socklen_t){ 16 }), errno);
		assert_string_equal(cc, "reno");
		assert_true(fcntl(p.a, F_GETFL) == O_RDWR);
	}
	drain(p.a, &got[1], sent[1]);
	end(&p);
}

/* A corked one keeps its last bytes to itself, before and after. */
static void corked(void **s)
{
	struct pair p = new_pair(hosts[1]);
	uint64_t sent[2] = { 0 }, got[2] = { 0 };

	set(p.a, IPPROTO_TCP, TCP_CORK, 1);
	fill(p.a, &sent[0], 100);
	move(&p.a);
	assert_int_equal(get(p.a, IPPROTO_TCP, TCP_CORK), 1);
	fill(p.a, &sent[0], 100);
	set(p.a, IPPROTO_TCP, TCP_CORK, 0);
	drain(p.b, &got[0], sent[0]);
	assert_int_equal(got[0], 200);
	end(&p);
}

static void sysctl(const char *name, const char *value)
{
	char path[128];

	snprintf(path, sizeof(path), "/proc/sys/net/ipv4/%s", name);
	write_file(path, value);
}

/* Options of the header, each with and without. */
static void header_options(void **s)
{
	for (int mask = 0; mask < 8; mask++) {
		struct tcp_info was = { 0 }, is = { 0 };
		socklen_t len = sizeof(was);
		uint64_t sent[2] = { 0 }, got[2] = { 0 };

		sysctl("tcp_timestamps", mask & 1 ? "1" : "0");
		sysctl("tcp_sack", mask & 2 ? "1" : "0");
		sysctl("tcp_window_scaling", mask & 4 ? "1" : "0");
		struct pair p = new_pair(hosts[mask % 3]);
		talk(&p, sent, got, 100000);
		for (int i = 0; i < 20; i++)
			fill(p.a, &sent[0], 1 << 20);
		fill(p.b, &sent[1], 70000);
		usleep(5000);
		int stamp = get(p.a, IPPROTO_TCP, TCP_TIMESTAMP);
		getsockopt(p.a, IPPROTO_TCP, TCP_INFO, &was, &len);
		sysctl("tcp_timestamps", "1");
		sysctl("tcp_sack", "1");
		sysctl("tcp_window_scaling", "1");
		move(&p.a);
		getsockopt(p.a, IPPROTO_TCP, TCP_INFO, &is, &len);
		assert_int_equal(is.tcpi_options & 7, was.tcpi_options & 7);
		assert_true(is.tcpi_snd_wscale == was.tcpi_snd_wscale &&
			    is.tcpi_rcv_wscale == was.tcpi_rcv_wscale);
		/* connect() leaves room for timestamps before it is told that there are none. That
		 * is in this figure only: the kernel sends segments of the full size
		 * (tcp_current_mss()). */
		if (is.tcpi_snd_mss + 12 != was.tcpi_snd_mss || mask & 1)
			assert_int_equal(is.tcpi_snd_mss, was.tcpi_snd_mss);
		if (mask & 1)
			assert_in_range(get(p.a, IPPROTO_TCP, TCP_TIMESTAMP) - stamp, 0, 1000);
		drain(p.b, &got[0], sent[0]);
		talk(&p, sent, got, 300000);
		/* what the peer makes of the windows it is told */
		struct tcp_repair_window w;
		len = sizeof(w);
		set(p.b, IPPROTO_TCP, TCP_REPAIR, 1);
		getsockopt(p.b, IPPROTO_TCP, TCP_REPAIR_WINDOW, &w, &len);
		set(p.b, IPPROTO_TCP, TCP_REPAIR, 0);
		assert_true(w.snd_wnd > 5000);
		end(&p);
	}
}

/* connect() under way: the SYN was lost, or its answer. */
static void opening(void **s)
{
	for (int i = 0; i < 6; i++) {
		union addr to;
		uint64_t sent[2] = { 0 }, got[2] = { 0 };
		int l = listener(hosts[i % 3], &to),
		    a = socket(to.sa.sa_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
		struct pair p;

		deaf(i < 3 ? l : a, true);
		assert_true(connect(a, &to.sa, sizeof(to)) < 0 && errno == EINPROGRESS);
		assert_int_equal(state(a), TCP_SYN_SENT);
		move(&a);
		assert_int_equal(state(a), TCP_SYN_SENT);
		deaf(i < 3 ? l : a, false);
		wait_state(a, TCP_ESTABLISHED);
		p = (struct pair){ a, accept(l, NULL, NULL) };
		assert_int_equal(get(a, SOL_SOCKET, SO_ERROR), 0);
		talk(&p, sent, got, 100000);
		end(&p);
		close(l);
	}
}

/* Its address comes to this host after it; the port is shared with a listener all the time. */
static void address_later(void **s)
{
	static const struct { const char *host, *peer, *peers, *add, *del; } cases[] = {
		{ "10.9.9.1", "10.9.9.2", "ip addr add 10.9.9.2/32 dev lo",
		  "ip addr add 10.9.9.1/32 dev lo", "ip addr del 10.9.9.1/32 dev lo" },
		{ "fd09::1", "fd09::2", "ip addr add fd09::2/128 dev lo nodad",
		  "ip addr add fd09::1/128 dev lo nodad", "ip addr del fd09::1/128 dev lo" },
	};

	for (size_t i = 0; i < 2; i++) {
		run(cases[i].peers);
		for (int half = 0; half < 2; half++) {
			struct trip t = { 0 };
			uint64_t sent[2] = { 0 }, got[2] = { 0 };
			union addr to, from;
			int l = listener(cases[i].peer, &to);

			run(cases[i].add);
			struct pair p = { .a = socket(to.sa.sa_family, SOCK_STREAM, 0) };
			assert_return_code(bind(p.a, &from.sa, address(&from, cases[i].host)),
					   errno);
			assert_return_code(connect(p.a, &to.sa, sizeof(to)), errno);
			p.b = accept(l, NULL, NULL);
			close(l);
			fill(p.a, &sent[0], 5000);
			fill(p.b, &sent[1], 5000);
			if (half)
				bring(&p, TCP_CLOSE_WAIT);
			int *fd = &p.a;
			move_by(&t, &fd, 1, cases[i].del, cases[i].add);
			trip_end(&t);
			if (half)
				check_after(&p, TCP_CLOSE_WAIT, sent, got);
			else
				talk(&p, sent, got, 50000);
			end(&p);
			run(cases[i].del);
		}
	}
}

/* Addresses of a link need to be told which. */
static void link_local(void **s)
{
	union addr to;
	socklen_t len = sizeof(to);
	uint64_t sent[2] = { 0 }, got[2] = { 0 };

	run("ip link add d0 type veth peer name d1 && ip link set d1 up && "
	    "ip addr add fe80::99/64 dev d0 nodad && ip link set d0 up");
	address(&to, "fe80::99");
	to.v6.sin6_scope_id = if_nametoindex("d0");
	int l = socket(AF_INET6, SOCK_STREAM, 0);
	assert_return_code(bind(l, &to.sa, sizeof(to.v6)), errno);
	listen(l, 5);
	getsockname(l, &to.sa, &len);
	struct pair p = connected(l, &to);
	talk(&p, sent, got, 1000);
	fill(p.b, &sent[1], 5000);
	bring(&p, TCP_CLOSE_WAIT);
	move(&p.a);
	assert_int_equal(state(p.a), TCP_CLOSE_WAIT);
	check_after(&p, TCP_CLOSE_WAIT, sent, got);
	end(&p);
	close(l);
	run("ip link del d0");
}

/* The guest stays after all: as if nothing had been. */
static void undone(void **s)
{
	for (int i = 0; i < 4; i++) {
		struct trip t = { .opts.tcp_established = true };
		struct pair p = new_pair(hosts[i % 3]);
		uint64_t sent[2] = { 0 }, got[2] = { 0 };
		int *fd = &p.a;

		set(p.a, SOL_SOCKET, SO_REUSEADDR, i & 1);
		talk(&p, sent, got, 10000);
		for (int k = 0; k < 5; k++)
			fill(p.a, &sent[0], 1 << 20);
		fill(p.b, &sent[1], 5000);
		usleep(2000);
		struct net_lock *lock = locked(&t, &fd, 1);
		trip_begin(&t);
		assert_ok(&t, trip_dump(&t, p.a));
		if (i & 2)
			assert_ok(&t, kind_dump_leave(t.d, &t.e));
		assert_int_equal(get(p.a, IPPROTO_TCP, TCP_REPAIR), !!(i & 2));
		assert_ok(&t, net_lock_lift(lock, &t.e));
		kind_dump_undo(t.d);
		assert_int_equal(get(p.a, IPPROTO_TCP, TCP_REPAIR), 0);
		assert_int_equal(get(p.a, SOL_SOCKET, SO_REUSEADDR), i & 1);
		talk(&p, sent, got, 100000);
		/* no copy of it is left that would keep it open */
		close(p.a);
		at_end(p.b);
		close(p.b);
		img_set_free(kind_dump_set(t.d));
		trip_end(&t);
	}
}

/* What a criu-lite that was killed has left. */
static void swept(void **s)
{
	struct pair p = new_pair(hosts[0]);
	uint64_t sent[2] = { 0 }, got[2] = { 0 };
	struct err e = ERR_INIT;

	set(p.a, IPPROTO_TCP, TCP_REPAIR, 1);
	set(p.a, SOL_SOCKET, SO_REUSEADDR, 1);
	assert_int_equal(kind_tcp_sweep(getpid(), &e), 0);
	assert_int_equal(get(p.a, IPPROTO_TCP, TCP_REPAIR), 0);
	assert_int_equal(get(p.a, SOL_SOCKET, SO_REUSEADDR), 1);
	talk(&p, sent, got, 10000);
	end(&p);
}

static void key(int fd, const union addr *peer)
{
	struct tcp_md5sig k = { .tcpm_keylen = 3, .tcpm_key = "abc" };

	memcpy(&k.tcpm_addr, peer, sizeof(*peer));
	if (setsockopt(fd, IPPROTO_TCP, TCP_MD5SIG, &k, sizeof(k)) < 0)
		skip(); /* not in this kernel */
}

static void refused(void **s)
{
	struct trip t = { 0 };
	struct pair p = new_pair(hosts[0]);

	assert_true(trip_check(&t, p.a) < 0);
	assert_says(&t, "--tcp-established");
	assert_says(&t, "--tcp-close");
	trip_end(&t);
	t = (struct trip){ .opts.tcp_established = true };
	assert_ok(&t, trip_check(&t, p.a));
	assert_int_equal(send(p.b, "abc", 3, MSG_OOB), 3);
	for (int i = 0; i < 1000 && trip_check(&t, p.a) == 0; i++)
		usleep(1000);
	assert_true(trip_check(&t, p.a) < 0);
	assert_says(&t, "urgent data");
	char c;
	assert_int_equal(recv(p.a, &c, 1, MSG_OOB), 1);
	err_clear(&t.e);
	assert_ok(&t, trip_check(&t, p.a));
	/* read, but its place is still in the queue */
	trip_begin(&t);
	assert_true(trip_dump(&t, p.a) < 0);
	assert_says(&t, "urgent data");
	img_set_free(kind_dump_set(t.d));
	kind_dump_undo(t.d);
	set(p.b, SOL_SOCKET, SO_ZEROCOPY, 1);
	assert_true(trip_check(&t, p.b) < 0);
	assert_says(&t, "SO_ZEROCOPY");
	end(&p);
	trip_end(&t);
}

static size_t knocking(struct trip *t, int l)
{
	net_conn_vec listeners = { 0 }, there = { 0 };
	pid_t pid = getpid();
	size_t half = 1, n;

	assert_ok(t, kind_tcp_conns(&pid, 1, &listeners, &t->e));
	assert_ok(t, kind_tcp_arrivals(&listeners, &there, &half, &t->e));
	assert_int_equal(half, 0);
	n = there.n;
	vec_free(&listeners);
	vec_free(&there);
	return n;
}

/* A dump of the listening socket fails, and leaves what waits as it is. */
static void refuse_waiting(struct trip *t, int l, const char *why)
{
	img_set_free(kind_dump_set(t->d));
	trip_begin(t);
	assert_ok(t, trip_dump(t, l));
	assert_true(kind_dump_end(t->d, &t->e) < 0);
	assert_says(t, "1 TCP connections wait for accept()");
	assert_says(t, why);
	assert_says(t, "--skip-in-flight");
	err_clear(&t->e);
	assert_int_equal(knocking(t, l), 1);
}

static void signed_ones(void **s)
{
	for (size_t h = 0; h < 2; h++) {
		struct trip t = { .opts.tcp_established = true };
		union addr to, from;
		int l = listener(hosts[h], &to), c = socket(to.sa.sa_family, SOCK_STREAM, 0);

		address(&from, hosts[h]);
		key(l, &from);
		key(c, &to);
		assert_return_code(connect(c, &to.sa, sizeof(to)), errno);
		assert_true(trip_check(&t, c) < 0);
		assert_says(&t, "TCP-MD5");
		err_clear(&t.e);
		trip_begin(&t);
		refuse_waiting(&t, l, "cannot be taken over");
		img_set_free(kind_dump_set(t.d));
		close(c);
		close(l);
		trip_end(&t);
	}
}

static uint16_t port_of(int fd)
{
	union addr a;
	socklen_t len = sizeof(a);

	assert_return_code(getsockname(fd, &a.sa, &len), errno);
	return ntohs(a.v4.sin_port);
}

/* A client that is not accepted yet: it is in the images, and where it was. */
static void waiting(void **s)
{
	union addr to;
	int l = listener(hosts[0], &to), c = socket(AF_INET, SOCK_STREAM, 0);
	struct trip t = { .opts.tcp_established = true };
	net_conn_vec saved = { 0 };
	char got[4];

	assert_int_equal(knocking(&t, l), 0);
	assert_return_code(connect(c, &to.sa, sizeof(to.v4)), errno);
	assert_int_equal(send(c, "abc", 3, 0), 3);
	assert_int_equal(knocking(&t, l), 1);
	assert_ok(&t, trip_check(&t, l));
	trip_begin(&t);
	assert_ok(&t, trip_dump(&t, l));
	if (kind_dump_end(t.d, &t.e) == -EAGAIN) {
		err_clear(&t.e);
		refuse_waiting(&t, l, "Linux 6.9");
	} else {
		assert_ok(&t, kind_tcp_conns_in(kind_dump_set(t.d), &saved, &t.e));
		assert_int_equal(saved.n, 2);
		assert_int_equal(saved.at[1].remote.port, port_of(c));
		assert_int_equal(setsockopt(l, SOL_SOCKET, SO_BINDTODEVICE, "lo", 2), 0);
		refuse_waiting(&t, l, "bound to a device");
	}
	img_set_free(kind_dump_set(t.d));
	assert_int_equal(knocking(&t, l), 1);
	int fd = accept4(l, NULL, NULL, SOCK_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(recv(fd, got, sizeof(got), 0), 3);
	assert_memory_equal(got, "abc", 3);
	assert_int_equal(send(fd, "d", 1, 0), 1);
	assert_int_equal(recv(c, got, sizeof(got), 0), 1);
	vec_free(&saved);
	trip_end(&t);
	close(fd);
	close(l);
	close(c);
}

/* With --skip-in-flight nobody asks for them. */
static void skipped(void **s)
{
	union addr to;
	int l = listener(hosts[0], &to), c = socket(AF_INET, SOCK_STREAM, 0);
	struct trip t = { .opts = { .tcp_established = true, .skip_in_flight = true } };
	net_conn_vec saved = { 0 };

	assert_return_code(connect(c, &to.sa, sizeof(to.v4)), errno);
	trip_begin(&t);
	assert_ok(&t, trip_dump(&t, l));
	assert_ok(&t, kind_dump_end(t.d, &t.e));
	assert_ok(&t, kind_tcp_conns_in(kind_dump_set(t.d), &saved, &t.e));
	assert_int_equal(saved.n, 1);
	vec_free(&saved);
	img_set_free(kind_dump_set(t.d));
	trip_end(&t);
	close(l);
	close(c);
}

static void lists(void **s)
{
	union addr to;
	int l = listener("::", &to);
	struct pair p = connected(l, &to);
	net_conn_vec v = { 0 };
	pid_t pid = getpid();
	struct trip t = { .opts.tcp_established = true };
	int copy = dup(p.a);
	size_t listeners = 0;

	assert_int_equal(kind_tcp_conns(&pid, 1, &v, &t.e), 0);
	vec_each(&v, c)
		listeners += net_conn_is_listener(c);
	assert_int_equal(v.n, 4);        /* both ends, and the listener for both families */
	assert_int_equal(listeners, 2);
	v.n = 0;
	trip_begin(&t);
	assert_ok(&t, trip_dump(&t, l));
	assert_ok(&t, trip_dump(&t, p.a));
	assert_ok(&t, kind_tcp_conns_in(kind_dump_set(t.d), &v, &t.e));
	assert_int_equal(v.n, 3);
	vec_each(&v, c)
		if (!net_conn_is_listener(c))
			assert_true(c->has_seq && c->has_ts && c->window &&
				    c->remote.port == ntohs(to.v6.sin6_port));
	vec_free(&v);
	img_set_free(kind_dump_set(t.d));
	kind_dump_undo(t.d);
	trip_end(&t);
	close(copy);
	close(l);
	end(&p);
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
		cmocka_unit_test(many), cmocka_unit_test(options), cmocka_unit_test(corked),
		cmocka_unit_test(header_options), cmocka_unit_test(opening),
		cmocka_unit_test(address_later), cmocka_unit_test(link_local),
		cmocka_unit_test(undone), cmocka_unit_test(swept), cmocka_unit_test(refused),
		cmocka_unit_test(signed_ones), cmocka_unit_test(waiting), cmocka_unit_test(skipped),
		cmocka_unit_test(lists),
	};

	return cmocka_run_group_tests(tests, up, NULL);
}
