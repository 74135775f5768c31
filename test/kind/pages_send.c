/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pages from one process into another over real connections: all kinds of mappings, one, two and
 * four connections, both methods; damage on the way, death of either side.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "cleanup.h"
#include "io.h"
#include "pages_frame.h"
#include "pages_send.h"

#define PAGES 2048ul
#define BYTES (PAGES * PAGE_SIZE)
#define CONNS_MAX 4
#define SPACE 77
#define OLD 0xee

/* What is where in the area, by page number. */
enum { SPARSE_END = 200, RO = 300, RO_END = 340, NONE = 600, NONE_END = 640, ZERO = 900,
       ZERO_END = 1400, HOLE = 1600, HOLE_END = 1700 };

/* Stands between the two sides; may flip a bit or cut the line. */
struct proxy {
	int in, out;                 /* towards the sender, towards the receiver */
	size_t flip_at, cut_at;      /* 0: never */
	pthread_t thread;
	bool used;
};

struct pair {
	pid_t source, target;
	uint8_t *area;               /* the same address in both */
	int mem;                     /* the target's */
	size_t conns;
	struct proxy proxy;          /* of connection 0 */
	struct pages_sender *sender;
	struct pages_receiver *receiver;
	prange_vec ranges;
};

/* ---- the two processes ---- */

static uint64_t pattern(uint64_t page, uint64_t word)
{
	uint64_t x = (page * 512 + word + 1) * 0x9e3779b97f4a7c15ull;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	/* Every third page does not compress. */
	return page % 3 ? page + 1 : x ^ x >> 27;
}

static bool is_zero_page(uint64_t page) { return page >= ZERO && page < ZERO_END; }

static void fill_page(uint8_t *p, uint64_t page)
{
	uint64_t *at = (uint64_t *)p;

	for (uint64_t i = 0; i < PAGE_SIZE / 8; i++)
		at[i] = is_zero_page(page) ? 0 : pattern(page, i);
}

static void protect(uint8_t *area)
{
	mprotect(area + RO * PAGE_SIZE, (RO_END - RO) * PAGE_SIZE, PROT_READ);
	mprotect(area + NONE * PAGE_SIZE, (NONE_END - NONE) * PAGE_SIZE, PROT_NONE);
}

static void be_source(uint8_t *area)
{
	for (uint64_t page = 0; page < PAGES; page++)
		fill_page(area + page * PAGE_SIZE, page);
	protect(area);
}

static void be_source_with_hole(uint8_t *area)
{
	be_source(area);
	munmap(area + HOLE * PAGE_SIZE, (HOLE_END - HOLE) * PAGE_SIZE);
}

/* Dirty all over: zero pages must really arrive. */
static void be_target(uint8_t *area)
{
	memset(area, OLD, BYTES);
	protect(area);
}

static void be_target_with_hole(uint8_t *area)
{
	be_target(area);
	munmap(area + HOLE * PAGE_SIZE, (HOLE_END - HOLE) * PAGE_SIZE);
}

static void be_empty(uint8_t *area) { protect(area); }

static pid_t fork_ready(void (*be)(uint8_t *), uint8_t *area)
{
	int ready[2];
	char c;

	assert_int_equal(pipe(ready), 0);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		be(area);
		if (write(ready[1], "", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	assert_int_equal(read(ready[0], &c, 1), 1);
	close(ready[0]);
	close(ready[1]);
	return pid;
}

static void end_process(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

/* ---- connections ---- */

static void tcp_pair(int *a, int *b)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	socklen_t n = sizeof(at);
	_cleanup_close_ int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(bind(l, (struct sockaddr *)&at, n), 0);
	assert_int_equal(listen(l, 1), 0);
	assert_int_equal(getsockname(l, (struct sockaddr *)&at, &n), 0);
	*a = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(*a, (struct sockaddr *)&at, n), 0);
	*b = accept4(l, NULL, NULL, SOCK_CLOEXEC);
	assert_true(*b >= 0);
}

static void *proxy_run(void *arg)
{
	struct proxy *p = arg;
	static const size_t size = 32768;
	uint8_t *buf = malloc(size);
	size_t seen = 0;

	for (bool up = true; up;) {
		struct pollfd fds[2] = { { p->in, POLLIN, 0 }, { p->out, POLLIN, 0 } };

		poll(fds, 2, -1);
		for (int i = 0; i < 2; i++) {
			if (!fds[i].revents)
				continue;
			ssize_t n = read(fds[i].fd, buf, size);
			if (n <= 0) {
				up = false;
				break;
			}
			if (i == 0 && p->flip_at >= seen && p->flip_at < seen + (size_t)n &&
			    p->flip_at)
				buf[p->flip_at - seen] ^= 0x10;
			if (i == 0)
				seen += (size_t)n;
			if (p->cut_at && seen >= p->cut_at) {
				up = false;
				break;
			}
			if (send(fds[!i].fd, buf, (size_t)n, MSG_NOSIGNAL) != n)
				up = false;
		}
	}
	free(buf);
	close(p->in);
	close(p->out);
	return NULL;
}

/* The sender's and the receiver's end of connection i. */
static void connect_pair(struct pair *p, size_t i, int *a, int *b)
{
	struct proxy *x = &p->proxy;

	if (i > 0 || (!x->flip_at && !x->cut_at)) {
		tcp_pair(a, b);
		return;
	}
	tcp_pair(a, &x->in);
	tcp_pair(&x->out, b);
	assert_int_equal(pthread_create(&x->thread, NULL, proxy_run, x), 0);
	x->used = true;
}

static void start(struct pair *p, void (*source)(uint8_t *), void (*target)(uint8_t *),
		  size_t conns, struct pages_opts o)
{
	struct err e = ERR_INIT;
	int fds[CONNS_MAX], theirs;
	char path[32];

	p->area = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(p->area != MAP_FAILED);
	p->source = fork_ready(source, p->area);
	p->target = fork_ready(target, p->area);
	snprintf(path, sizeof(path), "/proc/%d/mem", p->target);
	p->mem = open(path, O_RDWR | O_CLOEXEC);
	assert_true(p->mem >= 0);
	p->conns = conns;
	assert_int_equal(pages_receiver_new(&p->receiver, &e), 0);
	pages_receiver_space(p->receiver, PAGES_TASK, SPACE,
			     (struct pages_place){ .pid = p->target, .mem_fd = p->mem, .fd = -1 });
	for (size_t i = 0; i < conns; i++) {
		connect_pair(p, i, &fds[i], &theirs);
		assert_int_equal(pages_receiver_add(p->receiver, theirs, &e), 0);
	}
	assert_int_equal(pages_sender_new(&p->sender, fds, conns, &o, &e), 0);
}

static void finish(struct pair *p)
{
	pages_sender_free(p->sender);
	pages_receiver_free(p->receiver);
	if (p->proxy.used)
		pthread_join(p->proxy.thread, NULL);
	end_process(p->source);
	end_process(p->target);
	close(p->mem);
	munmap(p->area, BYTES);
	vec_free(&p->ranges);
}

static struct pages_space source_of(const struct pair *p)
{
	return (struct pages_space){ .kind = PAGES_TASK, .id = SPACE, .pid = p->source, .fd = -1 };
}

static uint64_t address(const struct pair *p, uint64_t page)
{
	return (uint64_t)p->area + page * PAGE_SIZE;
}

static void add(struct pair *p, uint64_t page, uint64_t end)
{
	vec_push(&p->ranges, (struct prange){ address(p, page), address(p, end) });
}

/* Every second page of the beginning, all of the rest. */
static void add_all(struct pair *p)
{
	for (uint64_t page = 0; page < SPARSE_END; page += 2)
		add(p, page, page + 1);
	add(p, SPARSE_END, PAGES);
}

static int send_all(struct pair *p, bool fresh, bool live, struct pages_stats *stats,
		    struct err *e)
{
	struct pages_space from = source_of(p);
	int ret = pages_send(p->sender, &from, p->ranges.at, p->ranges.n, fresh, live, e);

	return ret < 0 ? ret : pages_flush(p->sender, stats, e);
}

/* Pages that were sent are the source's, others are as they were. */
static void compare(struct pair *p, uint8_t old, bool hole)
{
	uint8_t got[PAGE_SIZE], want[PAGE_SIZE];

	for (uint64_t page = 0; page < PAGES; page++) {
		fill_page(want, page);
		if ((page < SPARSE_END && page % 2) || (hole && page >= HOLE && page < HOLE_END))
			memset(want, old, PAGE_SIZE);
		assert_int_equal(io_pread(p->mem, got, PAGE_SIZE, (off_t)address(p, page)), 0);
		if (memcmp(got, want, PAGE_SIZE) != 0)
			fail_msg("page %lu differs", page);
	}
}

/* ---- tests ---- */

static const struct pages_opts raw = { .method = COMP_NONE };
static const struct pages_opts packed = { .method = COMP_ZSTD, .level = 1 };

static void round_trip(size_t conns, struct pages_opts o)
{
	struct pair p = { 0 };
	struct pages_stats st;
	struct err e = ERR_INIT;

	start(&p, be_source, be_target, conns, o);
	add_all(&p);
	if (send_all(&p, false, false, &st, &e) != 0)
		fail_msg("%s", e.text);
	compare(&p, OLD, false);
	assert_int_equal(st.pages, PAGES - SPARSE_END / 2);
	assert_int_equal(st.zero_pages, ZERO_END - ZERO);
	assert_int_equal(st.bytes_raw, (st.pages - st.zero_pages) * PAGE_SIZE);
	assert_int_equal(st.skipped, 0);
	assert_true(st.ns > 0 && st.frames > 0);
	if (o.method == COMP_ZSTD)
		assert_true(st.bytes_wire < st.bytes_raw * 2 / 3);
	/* A second round goes on where the first ended. */
	assert_int_equal(send_all(&p, false, true, &st, &e), 0);
	assert_int_equal(st.pages, PAGES - SPARSE_END / 2);
	/* A good end is told from a cut. */
	pages_sender_free(p.sender);
	p.sender = NULL;
	usleep(20000);
	assert_int_equal(pages_receiver_error(p.receiver, &e), 0);
	finish(&p);
}

static void test_round_trip(void **state)
{
	for (size_t conns = 1; conns <= CONNS_MAX; conns *= 2) {
		round_trip(conns, raw);
		round_trip(conns, packed);
	}
}

/* `fresh` is a hint: right for an empty target, harmless for a dirty one. */
static void test_fresh(void **state)
{
	for (int dirty = 0; dirty < 2; dirty++) {
		struct pair p = { 0 };
		struct err e = ERR_INIT;

		start(&p, be_source, dirty ? be_target : be_empty, 2, raw);
		add_all(&p);
		assert_int_equal(send_all(&p, true, false, NULL, &e), 0);
		compare(&p, dirty ? OLD : 0, false);
		finish(&p);
	}
}

static void test_hole_live(void **state)
{
	struct pair p = { 0 };
	struct pages_stats st;
	struct err e = ERR_INIT;

	start(&p, be_source_with_hole, be_target, 2, packed);
	add_all(&p);
	assert_int_equal(send_all(&p, false, true, &st, &e), 0);
	compare(&p, OLD, true);
	assert_int_equal(st.skipped, HOLE_END - HOLE);
	finish(&p);
}

static void test_hole_frozen(void **state)
{
	struct pair p = { 0 };
	struct err e = ERR_INIT;

	start(&p, be_source_with_hole, be_target, 2, raw);
	add_all(&p);
	assert_int_equal(send_all(&p, false, false, NULL, &e), -EFAULT);
	assert_non_null(strstr(e.text, "read memory at"));
	/* The failure stays. */
	err_clear(&e);
	assert_int_equal(send_all(&p, false, false, NULL, &e), -EFAULT);
	finish(&p);
}

static void test_source_exits(void **state)
{
	struct pair p = { 0 };
	struct pages_stats st;
	struct err e = ERR_INIT;

	start(&p, be_source, be_target, 1, raw);
	add_all(&p);
	kill(p.source, SIGKILL);
	siginfo_t si;
	waitid(P_PID, (id_t)p.source, &si, WEXITED | WNOWAIT);
	assert_int_equal(send_all(&p, false, true, &st, &e), 0);
	assert_int_equal(st.skipped, PAGES - SPARSE_END / 2);
	assert_int_equal(send_all(&p, false, false, &st, &e), -ESRCH);
	finish(&p);
}

static void test_target_unmapped(void **state)
{
	struct pair p = { 0 };
	struct err e = ERR_INIT;

	start(&p, be_source, be_target_with_hole, 2, raw);
	add_all(&p);
	assert_int_equal(send_all(&p, false, false, NULL, &e), 0);
	assert_int_equal(pages_receiver_error(p.receiver, &e), 0);
	uint32_t id = source_of(&p).id;
	assert_int_equal(pages_receiver_complete(p.receiver, PAGES_TASK, id, &e), -EFAULT);
	assert_non_null(strstr(e.text, "have no memory here"));
	err_clear(&e);
	/* the source takes them back */
	struct prange all = { p.ranges.at[0].start, p.ranges.at[p.ranges.n - 1].end };
	pages_receiver_void(p.receiver, PAGES_TASK, id, &all, 1);
	assert_int_equal(pages_receiver_complete(p.receiver, PAGES_TASK, id, &e), 0);
	finish(&p);
}

static void test_unknown_space(void **state)
{
	struct pair p = { 0 };
	struct err e = ERR_INIT;

	start(&p, be_source, be_target, 1, raw);
	add(&p, 0, 10);
	struct pages_space from = source_of(&p);
	from.id++;
	assert_int_equal(pages_send(p.sender, &from, p.ranges.at, p.ranges.n, false, false, &e), 0);
	assert_int_equal(pages_flush(p.sender, NULL, &e), -EREMOTEIO);
	assert_non_null(strstr(e.text, "unknown task 78"));
	finish(&p);
}

static void make_object(int fd, size_t size)
{
	uint8_t page[PAGE_SIZE];

	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	for (uint64_t i = 0; i * PAGE_SIZE < size; i++) {
		size_t n = size - i * PAGE_SIZE < PAGE_SIZE ? size - i * PAGE_SIZE : PAGE_SIZE;

		fill_page(page, i);
		if (i % 5)
			assert_int_equal(io_pwrite(fd, page, n, (off_t)(i * PAGE_SIZE)), 0);
	}
}

/* An object whose size is no multiple of pages keeps its size; holes are zeros. */
static void test_shm(void **state)
{
	enum { SIZE = 700 * 4096 + 123 };
	struct pair p = { 0 };
	struct err e = ERR_INIT;
	struct pages_space from = { .kind = PAGES_SHM, .id = 5, .fd = memfd_create("a", 0) };
	int to = memfd_create("b", 0);
	static uint8_t a[SIZE + 1], b[SIZE + 1];

	start(&p, be_source, be_target, 2, packed);
	make_object(from.fd, SIZE);
	memset(a, OLD, SIZE);
	assert_int_equal(io_pwrite(to, a, SIZE, 0), 0);
	pages_receiver_space(p.receiver, PAGES_SHM, 5, (struct pages_place){ .fd = to });
	struct prange r = { 0, 701 * PAGE_SIZE }, far = { 701 * PAGE_SIZE, 703 * PAGE_SIZE };
	assert_int_equal(pages_send(p.sender, &from, &r, 1, false, false, &e), 0);
	assert_int_equal(pages_flush(p.sender, NULL, &e), 0);
	assert_int_equal(pread(from.fd, a, sizeof(a), 0), SIZE);
	assert_int_equal(pread(to, b, sizeof(b), 0), SIZE);
	assert_memory_equal(a, b, SIZE);
	/* Beyond the end: the object shrank. */
	assert_int_equal(pages_send(p.sender, &from, &far, 1, false, true, &e), 0);
	assert_int_equal(pages_flush(p.sender, NULL, &e), 0);
	assert_int_equal(pages_send(p.sender, &from, &far, 1, false, false, &e), 0);
	assert_int_equal(pages_flush(p.sender, NULL, &e), -EFAULT);
	finish(&p);
	close(from.fd);
	close(to);
}

static void test_flipped_bit(void **state)
{
	/* In a head, in ranges, in a payload of the first frame and of a later one. */
	static const size_t at[] = { 1, 7, 20, 24, 30, 45, 60, 5000, 900000, 2000000 };

	for (size_t i = 0; i < sizeof(at) / sizeof(at[0]); i++) {
		struct pair p = { .proxy.flip_at = at[i] };
		struct err e = ERR_INIT;

		start(&p, be_source, be_target, 1 + i % 2, raw);
		add(&p, 0, ZERO);
		int ret = send_all(&p, false, false, NULL, &e);
		/* A second connection may have carried the bytes instead. */
		if (ret == 0 && p.conns > 1) {
			finish(&p);
			continue;
		}
		assert_int_equal(ret, -EREMOTEIO);
		assert_non_null(strstr(e.text, "damaged"));
		err_clear(&e);
		assert_int_equal(pages_receiver_error(p.receiver, &e), -EBADMSG);
		finish(&p);
	}
}

static void test_cut(void **state)
{
	static const size_t at[] = { 1, 50, 100000, 3000000 };

	for (size_t i = 0; i < sizeof(at) / sizeof(at[0]); i++) {
		struct pair p = { .proxy.cut_at = at[i] };
		struct err e = ERR_INIT;
		uint64_t t = io_now_ns();

		start(&p, be_source, be_target, 1, raw);
		add(&p, 0, ZERO);
		assert_true(send_all(&p, false, false, NULL, &e) < 0);
		assert_true(io_now_ns() - t < 3000000000ull);
		/* The receiver's thread hears of it in its own time. */
		for (int wait = 0; wait < 300 && !pages_receiver_error(p.receiver, &e); wait++)
			usleep(10000);
		assert_true(pages_receiver_error(p.receiver, &e) < 0);
		finish(&p);
	}
}

/* A sender that is freed in the midst does not wait for a target that does not read. */
static void test_abort(void **state)
{
	struct pair p = { 0 };
	struct err e = ERR_INIT;
	struct pages_sender *s;
	int fds[2];

	start(&p, be_source, be_target, 1, raw);
	add(&p, 0, ZERO);
	tcp_pair(&fds[0], &fds[1]);
	assert_int_equal(pages_sender_new(&s, fds, 1, &raw, &e), 0);
	struct pages_space from = source_of(&p);
	for (int i = 0; i < 20; i++)
		assert_int_equal(pages_send(s, &from, p.ranges.at, 1, false, true, &e), 0);
	usleep(100000);
	uint64_t t = io_now_ns();
	pages_sender_free(s);
	assert_true(io_now_ns() - t < 2000000000ull);
	close(fds[1]);
	finish(&p);
}

static void test_bandwidth(void **state)
{
	struct pages_opts o = { .method = COMP_NONE, .bandwidth = 16u << 20 };
	struct pair p = { 0 };
	struct pages_stats st;
	struct err e = ERR_INIT;

	start(&p, be_source, be_target, 2, o);
	add(&p, 0, ZERO);
	assert_int_equal(send_all(&p, false, false, &st, &e), 0);
	/* 900 pages, of which the first frame need not wait: between 0.16 and 0.22 s. */
	assert_true(st.ns > 150000000u);
	finish(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_fresh),
		cmocka_unit_test(test_hole_live),
		cmocka_unit_test(test_hole_frozen),
		cmocka_unit_test(test_source_exits),
		cmocka_unit_test(test_target_unmapped),
		cmocka_unit_test(test_unknown_space),
		cmocka_unit_test(test_shm),
		cmocka_unit_test(test_flipped_bit),
		cmocka_unit_test(test_cut),
		cmocka_unit_test(test_abort),
		cmocka_unit_test(test_bandwidth),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
