/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A sender that is steered and watched while it works: limits, methods and connections that change,
 * figures, and pages that are not sent because the target holds them already.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "io.h"
#include "pages_send.h"

#define PAGES 2048ul
#define BYTES (PAGES * PAGE_SIZE)
#define SPACE 3

/* Two objects in memory, one on each side. */
struct pair {
	struct pages_space from;
	int to;
	uint8_t *source, *target;
	struct pages_sender *sender;
	struct pages_receiver *receiver;
};

static int connect_receiver(struct pair *p)
{
	struct err e = ERR_INIT;
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	assert_int_equal(pages_receiver_add(p->receiver, fds[1], &e), 0);
	return fds[0];
}

static uint8_t *map_object(int fd)
{
	assert_int_equal(ftruncate(fd, BYTES), 0);
	uint8_t *at = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_true(at != MAP_FAILED);
	return at;
}

/* Text, noise and zeros; another for each round. */
static void fill(struct pair *p, unsigned int round)
{
	srand(round);
	for (size_t i = 0; i < BYTES; i += 4) {
		unsigned int word = i / PAGE_SIZE % 3 ? (unsigned int)rand() : round;

		memcpy(p->source + i, i / PAGE_SIZE % 8 == 7 ? &(int){ 0 } : (int *)&word, 4);
	}
}

static void start(struct pair *p, size_t conns, struct pages_opts o)
{
	struct err e = ERR_INIT;
	int fds[8];

	*p = (struct pair){ .from = { .kind = PAGES_SHM, .id = SPACE, .fixed = true } };
	p->from.fd = memfd_create("from", MFD_CLOEXEC);
	p->to = memfd_create("to", MFD_CLOEXEC);
	p->source = map_object(p->from.fd);
	p->target = map_object(p->to);
	fill(p, 1);
	assert_int_equal(pages_receiver_new(&p->receiver, &e), 0);
	pages_receiver_space(p->receiver, PAGES_SHM, SPACE, (struct pages_place){ .fd = p->to });
	for (size_t i = 0; i < conns; i++)
		fds[i] = connect_receiver(p);
	assert_int_equal(pages_sender_new(&p->sender, fds, conns, &o, &e), 0);
}

static void finish(struct pair *p)
{
	pages_sender_free(p->sender);
	pages_receiver_free(p->receiver);
	munmap(p->source, BYTES);
	munmap(p->target, BYTES);
	close(p->from.fd);
	close(p->to);
}

static int queue(struct pair *p, uint64_t first, uint64_t end, bool fresh, struct err *e)
{
	struct prange r = { first * PAGE_SIZE, end * PAGE_SIZE };

	return pages_send(p->sender, &p->from, &r, 1, fresh, true, e);
}

static struct pages_stats flush(struct pair *p)
{
	struct err e = ERR_INIT;
	struct pages_stats st;

	if (pages_flush(p->sender, &st, &e) != 0)
		fail_msg("%s", e.text);
	assert_memory_equal(p->source, p->target, BYTES);
	return st;
}

static struct pages_stats send_all(struct pair *p, bool fresh)
{
	struct err e = ERR_INIT;

	assert_int_equal(queue(p, 0, PAGES, fresh, &e), 0);
	struct pages_stats st = flush(p);
	assert_int_equal(st.pages, PAGES);
	assert_int_equal(st.bytes_placed, (st.pages - st.same_pages) * PAGE_SIZE);
	return st;
}

static const struct pages_opts raw = { .method = COMP_NONE };
static const struct pages_opts packed = { .method = COMP_ZSTD, .level = 3 };
static const struct pages_opts automatic = { .method = COMP_AUTO };

/* ---- pages that did not change ---- */

static void test_same(void **state)
{
	struct pages_opts o = { .method = COMP_ZSTD, .level = 1, .same = true };
	struct pages_stats st;
	struct pair p;

	start(&p, 2, o);
	/* The first time is not remembered, the second is. */
	assert_int_equal(send_all(&p, true).same_pages, 0);
	assert_int_equal(send_all(&p, false).same_pages, 0);
	st = send_all(&p, false);
	assert_int_equal(st.same_pages, PAGES);
	assert_int_equal(st.frames + st.bytes_wire + st.bytes_raw, 0);
	/* Three pages change: one bit, to zero, from zero. */
	p.source[9 * PAGE_SIZE + 77] ^= 1;
	memset(p.source + 500 * PAGE_SIZE, 0, PAGE_SIZE);
	p.source[7 * PAGE_SIZE] = 1;
	st = send_all(&p, false);
	assert_int_equal(st.same_pages, PAGES - 3);
	assert_int_equal(st.bytes_raw, 2 * PAGE_SIZE);
	/* And back again: what counts is what was sent last. */
	p.source[9 * PAGE_SIZE + 77] ^= 1;
	assert_int_equal(send_all(&p, false).same_pages, PAGES - 1);
	finish(&p);
}

/* Holes that the target was told to punch; an object that is new under an old number. */
static void test_same_forgotten(void **state)
{
	struct pages_opts o = { .method = COMP_NONE, .same = true };
	struct pair p;

	for (int whole = 0; whole < 3; whole++) {
		struct prange r = { 100 * PAGE_SIZE, 177 * PAGE_SIZE };
		size_t lost = whole ? PAGES : 77;

		start(&p, 2, o);
		send_all(&p, false);
		assert_int_equal(send_all(&p, false).same_pages, PAGES);
		if (whole)
			memset(p.target, 0, BYTES);
		else
			memset(p.target + r.start, 0, r.end - r.start);
		if (whole == 1)
			pages_sender_forget(p.sender, &p.from, NULL, 0);
		else if (!whole)
			pages_sender_forget(p.sender, &p.from, &r, 1);
		assert_int_equal(send_all(&p, whole == 2).same_pages, PAGES - lost);
		/* a fresh one is the first time again */
		assert_int_equal(send_all(&p, false).same_pages, whole == 2 ? 0 : PAGES);
		finish(&p);
	}
}

/* Not wanted, or an object that may be truncated: all is sent. */
static void test_same_not(void **state)
{
	for (int fixed = 0; fixed < 2; fixed++) {
		struct pages_opts o = { .method = COMP_NONE, .same = !fixed };
		struct pair p;

		start(&p, 1, o);
		p.from.fixed = fixed;
		for (int i = 0; i < 3; i++)
			assert_int_equal(send_all(&p, false).same_pages, 0);
		finish(&p);
	}
}

/* A page that had gone when it was read may have been made void on the target. */
static void test_same_gone(void **state)
{
	struct pages_opts o = { .method = COMP_NONE, .same = true };
	uint8_t *area = mmap(NULL, 8 * PAGE_SIZE, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), got[PAGE_SIZE];
	struct prange r = { (uint64_t)area, (uint64_t)area + 8 * PAGE_SIZE };
	struct pages_stats st;
	struct err e = ERR_INIT;
	struct pair p;
	char path[32];

	start(&p, 1, o);
	memset(area, 5, 8 * PAGE_SIZE);
	pid_t pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	int mem = open(path, O_RDWR | O_CLOEXEC);
	pages_receiver_space(p.receiver, PAGES_TASK, SPACE,
			     (struct pages_place){ .pid = pid, .mem_fd = mem, .fd = -1 });
	struct pages_space us = { .kind = PAGES_TASK, .id = SPACE, .pid = getpid(), .fd = -1 };
	for (int i = 0; i < 4; i++) {
		if (i == 2)
			munmap(area + 3 * PAGE_SIZE, PAGE_SIZE);
		assert_int_equal(pages_send(p.sender, &us, &r, 1, false, true, &e), 0);
		assert_int_equal(pages_flush(p.sender, &st, &e), 0);
		assert_int_equal(st.same_pages, i == 0 ? 0 : i == 1 ? 8 : 7);
		assert_int_equal(st.skipped, i == 2);
		if (i != 2)
			continue;
		memset(got, 0, PAGE_SIZE);
		assert_int_equal(io_pwrite(mem, got, PAGE_SIZE, (off_t)(area + 3 * PAGE_SIZE)), 0);
		mmap(area + 3 * PAGE_SIZE, PAGE_SIZE, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		memset(area + 3 * PAGE_SIZE, 5, PAGE_SIZE);
	}
	assert_int_equal(io_pread(mem, got, PAGE_SIZE, (off_t)(area + 3 * PAGE_SIZE)), 0);
	assert_memory_equal(got, area, PAGE_SIZE);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	close(mem);
	munmap(area, 8 * PAGE_SIZE);
	finish(&p);
}

/* ---- pages that changed a little ---- */

static void touch(uint8_t *at, size_t pages, uint8_t value)
{
	for (size_t i = 0; i < pages; i++)
		at[i * PAGE_SIZE + i % 500 * 8] = value;
}

static void test_delta(void **state)
{
	struct pages_opts o = { .method = COMP_ZSTD, .level = 1, .same = true };
	struct pages_stats st;
	struct err e = ERR_INIT;
	struct pair p;

	start(&p, 2, o);
	memset(p.source, 1, PAGE_SIZE);
	send_all(&p, true);
	touch(p.source, PAGES, 200);
	assert_int_equal(send_all(&p, false).delta_pages, 0);
	for (uint8_t i = 1; i < 5; i++) {
		touch(p.source, PAGES, i);
		st = send_all(&p, false);
		/* those that were zero, too, but a copy of zeros is not kept */
		assert_in_range(st.delta_pages, PAGES * 7 / 8, PAGES);
		assert_true(st.bytes_wire < st.bytes_raw / 10);
	}
	/* Something else altogether is sent as it is; without compression, too. */
	fill(&p, 77);
	assert_in_range(send_all(&p, false).delta_pages, 0, PAGES / 2);
	pages_sender_plain(p.sender);
	touch(p.source, PAGES, 6);
	assert_int_equal(send_all(&p, false).delta_pages, 0);
	/* And then copies are out of date, but for the few pages that were the same. */
	pages_sender_set(p.sender, &o);
	touch(p.source, PAGES, 7);
	assert_in_range(send_all(&p, false).delta_pages, 0, 50);
	touch(p.source, PAGES, 8);
	assert_true(send_all(&p, false).delta_pages > 0);
	/* A target that holds something else says so. */
	touch(p.source, PAGES, 9);
	p.target[20 * PAGE_SIZE + 99] ^= 1;
	assert_int_equal(queue(&p, 0, PAGES, false, &e), 0);
	assert_int_equal(pages_flush(p.sender, &st, &e), -EREMOTEIO);
	assert_non_null(strstr(e.text, "not as the source believes"));
	finish(&p);
}

/* Also in mappings that cannot be read or written there. */
static void test_delta_task(void **state)
{
	struct pages_opts o = { .method = COMP_ZSTD, .level = 1, .same = true };
	static const size_t pages = 600;
	uint8_t *area = mmap(NULL, pages * PAGE_SIZE, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), got[PAGE_SIZE];
	struct prange r = { (uint64_t)area, (uint64_t)area + pages * PAGE_SIZE };
	struct pages_stats st;
	struct err e = ERR_INIT;
	struct pair p;
	char path[32];
	int ready[2];

	start(&p, 1, o);
	assert_int_equal(pipe(ready), 0);
	pid_t pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		mprotect(area + 100 * PAGE_SIZE, 100 * PAGE_SIZE, PROT_READ);
		mprotect(area + 300 * PAGE_SIZE, 100 * PAGE_SIZE, PROT_NONE);
		if (write(ready[1], "", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	assert_int_equal(read(ready[0], got, 1), 1);
	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	int mem = open(path, O_RDWR | O_CLOEXEC);
	pages_receiver_space(p.receiver, PAGES_TASK, SPACE,
			     (struct pages_place){ .pid = pid, .mem_fd = mem, .fd = -1 });
	struct pages_space us = { .kind = PAGES_TASK, .id = SPACE, .pid = getpid(), .fd = -1 };
	for (uint8_t i = 1; i < 5; i++) {
		touch(area, pages, i);
		assert_int_equal(pages_send(p.sender, &us, &r, 1, i == 1, true, &e), 0);
		if (pages_flush(p.sender, &st, &e) != 0)
			fail_msg("%s", e.text);
		assert_int_equal(st.delta_pages, i > 2 ? pages : 0);
	}
	for (size_t i = 0; i < pages; i++) {
		assert_int_equal(io_pread(mem, got, PAGE_SIZE, (off_t)(area + i * PAGE_SIZE)), 0);
		assert_memory_equal(got, area + i * PAGE_SIZE, PAGE_SIZE);
	}
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	close(ready[0]);
	close(ready[1]);
	close(mem);
	munmap(area, pages * PAGE_SIZE);
	finish(&p);
}

/* ---- changes under way ---- */

struct steer {
	struct pair *p;
	struct pages_opts o;
	atomic_bool done;
};

static void *set_soon(void *arg)
{
	struct steer *t = arg;

	usleep(100000);
	pages_sender_set(t->p->sender, &t->o);
	return NULL;
}

/* From a limit under which it would take 16 minutes. */
static void test_set_bandwidth(void **state)
{
	struct pages_opts slow = { .method = COMP_NONE, .bandwidth = 8192 };
	struct pair p;
	struct steer t = { .p = &p, .o = raw };
	pthread_t thread;

	start(&p, 4, slow);
	pthread_create(&thread, NULL, set_soon, &t);
	send_all(&p, true);
	pthread_join(thread, NULL);
	finish(&p);
}

static void *cancel_soon(void *arg)
{
	struct steer *t = arg;
	struct err why = ERR_INIT;

	usleep(100000);
	err_say(&why, ECANCELED, "enough");
	pages_sender_cancel(t->p->sender, &why);
	return NULL;
}

/* Those who wait for the line are not waited for. */
static void test_cancel(void **state)
{
	struct pages_opts slow = { .method = COMP_NONE, .bandwidth = 8192 };
	struct err e = ERR_INIT;
	struct pair p;
	struct steer t = { .p = &p };
	pthread_t thread;

	start(&p, 2, slow);
	pthread_create(&thread, NULL, cancel_soon, &t);
	assert_int_equal(queue(&p, 0, PAGES, true, &e), 0);
	assert_int_equal(pages_flush(p.sender, NULL, &e), -ECANCELED);
	assert_string_equal(e.text, "enough");
	pthread_join(thread, NULL);
	finish(&p);
}

static void *set_always(void *arg)
{
	struct steer *t = arg;
	const struct pages_opts *o[] = { &raw, &packed, &automatic };

	for (unsigned int i = 0; !t->done; i++) {
		pages_sender_set(t->p->sender, o[i % 3]);
		pages_sender_use(t->p->sender, i % 5);
		usleep(300);
	}
	return NULL;
}

static void test_set_always(void **state)
{
	struct pair p;
	struct steer t = { .p = &p };
	pthread_t thread;

	start(&p, 3, (struct pages_opts){ .method = COMP_AUTO, .same = true });
	pthread_create(&thread, NULL, set_always, &t);
	for (unsigned int i = 2; i < 16; i++) {
		if (i % 4 == 2)
			fill(&p, i);
		else
			touch(p.source, PAGES, (uint8_t)i);
		send_all(&p, false);
	}
	t.done = true;
	pthread_join(thread, NULL);
	finish(&p);
}

static void test_method_shows(void **state)
{
	struct pages_stats st;
	struct pair p;

	start(&p, 1, packed);
	st = send_all(&p, true);
	assert_int_equal(st.conns, 1);
	assert_int_equal(st.conn[0].level, 3);
	assert_int_equal(st.conn[0].method, COMP_ZSTD);
	pages_sender_plain(p.sender);
	st = send_all(&p, false);
	assert_int_equal(st.conn[0].method, COMP_NONE);
	assert_true(st.bytes_wire > st.bytes_raw);
	pages_sender_set(p.sender, &packed);
	st = send_all(&p, false);
	assert_true(st.bytes_wire < st.bytes_raw);
	finish(&p);
}

static void test_connections(void **state)
{
	struct pages_stats st;
	struct err e = ERR_INIT;
	struct pair p;

	start(&p, 1, raw);
	assert_int_equal(send_all(&p, true).conns, 1);
	for (size_t n = 2; n <= 4; n++) {
		assert_int_equal(pages_sender_add(p.sender, connect_receiver(&p), &e), 0);
		fill(&p, (unsigned int)n);
		assert_int_equal(send_all(&p, false).conns, n);
	}
	pages_sender_use(p.sender, 2);
	st = send_all(&p, false);
	assert_int_equal(st.conns, 2);
	pages_sender_use(p.sender, 0);
	assert_int_equal(send_all(&p, false).conns, 1);
	/* One more is not in use unless all were. */
	assert_int_equal(pages_sender_add(p.sender, connect_receiver(&p), &e), 0);
	assert_int_equal(send_all(&p, false).conns, 1);
	assert_int_equal(pages_sender_conns(p.sender), 5);
	pages_sender_use(p.sender, 99);
	assert_int_equal(send_all(&p, false).conns, 5);
	finish(&p);
}

/* ---- figures ---- */

static void *watch(void *arg)
{
	struct steer *t = arg;
	struct pages_stats last = { 0 }, now;

	while (!t->done) {
		pages_sender_sample(t->p->sender, &now);
		assert_true(now.pages >= last.pages && now.bytes_wire >= last.bytes_wire &&
			    now.bytes_placed >= last.bytes_placed && now.ns >= last.ns);
		assert_true(now.queue_bytes <= BYTES && now.conns == 2);
		last = now;
		usleep(100);
	}
	return NULL;
}

static void test_sample(void **state)
{
	struct pages_stats sum = { 0 }, st;
	struct pair p;
	struct steer t = { .p = &p };
	pthread_t thread;

	start(&p, 2, automatic);
	pthread_create(&thread, NULL, watch, &t);
	for (int i = 0; i < 5; i++) {
		st = send_all(&p, false);
		sum.pages += st.pages;
		sum.zero_pages += st.zero_pages;
		sum.bytes_wire += st.bytes_wire;
	}
	t.done = true;
	pthread_join(thread, NULL);
	pages_sender_sample(p.sender, &st);
	assert_int_equal(st.pages, sum.pages);
	assert_int_equal(st.zero_pages, sum.zero_pages);
	assert_int_equal(st.bytes_wire, sum.bytes_wire);
	assert_int_equal(st.bytes_placed, sum.pages * PAGE_SIZE);
	assert_int_equal(st.queue_bytes, 0);
	finish(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_same),
		cmocka_unit_test(test_same_forgotten),
		cmocka_unit_test(test_same_not),
		cmocka_unit_test(test_same_gone),
		cmocka_unit_test(test_delta),
		cmocka_unit_test(test_delta_task),
		cmocka_unit_test(test_set_bandwidth),
		cmocka_unit_test(test_cancel),
		cmocka_unit_test(test_set_always),
		cmocka_unit_test(test_method_shows),
		cmocka_unit_test(test_connections),
		cmocka_unit_test(test_sample),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
