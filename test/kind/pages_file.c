/* SPDX-License-Identifier: Apache-2.0 */
/* Pages of a process and of a shared object, to a directory and back. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "io.h"
#include "img_dir.h"
#include "pages_file.h"

#define AT 0x300000000000ull
#define P PAGE_SIZE

/* A process that has `size` bytes at AT and waits. */
static pid_t sleeper(uint64_t size, bool filled, bool protect)
{
	int ready[2];
	char c;

	assert_int_equal(pipe(ready), 0);
	pid_t pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		uint8_t *p = mmap((void *)AT, size, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
		for (uint64_t i = 0; filled && i < size; i += 8)
			*(uint64_t *)(p + i) = (i + 1) * 0x9e3779b97f4a7c15ull;
		if (protect) {
			mprotect(p + 4 * P, 2 * P, PROT_NONE);
			mprotect(p + 8 * P, 3 * P, PROT_READ);
		}
		(void)!write(ready[1], "", 1);
		for (;;)
			pause();
	}
	assert_int_equal(read(ready[0], &c, 1), 1);
	close(ready[0]);
	close(ready[1]);
	return pid;
}

static void end(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static int mem_of(pid_t pid)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	int fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

static int directory(const char *path)
{
	mkdir(path, 0700);
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

static void ok(int ret, const struct err *e)
{
	if (ret < 0)
		fail_msg("%s", e->text);
}

static void dump(const struct pages_space *s, prange_vec *dirty, const prange_vec *clean, int dir,
		 struct pages_stats *st)
{
	struct scan scan = { 0 };
	struct img_known known = { 0 };
	struct err e = ERR_INIT;

	prange_or(dirty, &(prange_vec){ 0 }, &scan.dirty);
	ok(pages_dump(s, &scan, clean, dir, 1, &known, st, &e), &e);
	/* its pages are not read again for the seal; loading will compare them with it */
	assert_int_equal(known.file.n, dirty->n ? 1 : 0);
	ok(img_dir_seal(dir, &known, &e), &e);
	vec_free(&known.file);
	scan_free(&scan);
}

static void same(pid_t a, pid_t b, uint64_t start, uint64_t end, bool zero)
{
	int ma = mem_of(a), mb = mem_of(b);

	for (uint64_t at = start; at < end; at += P) {
		uint8_t x[P] = { 0 }, y[P];

		if (!zero)
			assert_int_equal(io_pread(ma, x, P, (off_t)at), 0);
		assert_int_equal(io_pread(mb, y, P, (off_t)at), 0);
		assert_memory_equal(x, y, P);
	}
	close(ma);
	close(mb);
}

static char base_path[] = "/tmp/criu-lite-pages-XXXXXX";

static void test_task(void **state)
{
	const uint64_t size = 3000 * P;
	pid_t from = sleeper(size, true, true), to = sleeper(size, false, true);
	struct pages_space s = { .kind = PAGES_TASK, .id = 12, .pid = from };
	struct pages_stats st = { 0 };
	struct img_known known = { 0 };
	prange_vec dirty = { 0 };
	struct err e = ERR_INIT;
	char path[64];

	snprintf(path, sizeof(path), "%s/one", base_path);
	int dir = directory(path);
	prange_add(&dirty, AT, AT + 12 * P);      /* protected ones inside */
	for (unsigned i = 20; i < 1000; i += 2)   /* many small ones */
		prange_add(&dirty, AT + i * P, AT + (i + 1) * P);
	prange_add(&dirty, AT + 1200 * P, AT + 2999 * P);
	dump(&s, &dirty, NULL, dir, &st);
	assert_int_equal(st.pages, 12 + 490 + 1799);

	struct pages_place place = { .pid = to, .mem_fd = mem_of(to), .fd = -1 };
	ok(pages_load(dir, &s, &place, &st, &e), &e);
	vec_each(&dirty, r)
		same(from, to, r->start, r->end, false);
	same(from, to, AT + 12 * P, AT + 20 * P, true);
	same(from, to, AT + 21 * P, AT + 22 * P, true);
	same(from, to, AT + 2999 * P, AT + 3000 * P, true);

	/* Not mapped on the other side: said, with where. */
	end(to);
	close(place.mem_fd);
	to = sleeper(100 * P, false, false);
	place = (struct pages_place){ .pid = to, .mem_fd = mem_of(to), .fd = -1 };
	assert_true(pages_load(dir, &s, &place, &st, &e) < 0);
	assert_non_null(strstr(e.text, "write"));
	end(from);
	/* The process is gone. */
	assert_true(pages_dump(&s, &(struct scan){ .dirty = { dirty.at, dirty.n, 0 } }, NULL, dir,
			       2, &known, &st, &e) < 0);
	vec_free(&known.file);
	end(to);
	close(place.mem_fd);
	close(dir);
	vec_free(&dirty);
}

static void test_parent(void **state)
{
	const uint64_t size = 100 * P;
	pid_t from = sleeper(size, true, false), to = sleeper(size, false, false);
	struct pages_space s = { .kind = PAGES_TASK, .id = 13, .pid = from };
	struct pages_stats st = { 0 };
	prange_vec dirty = { 0 }, clean = { 0 };
	struct err e = ERR_INIT;
	char path[64];
	uint8_t page[P];

	snprintf(path, sizeof(path), "%s/old", base_path);
	int old = directory(path);
	snprintf(path, sizeof(path), "%s/new", base_path);
	int new = directory(path);
	assert_int_equal(symlinkat("../old", new, "parent"), 0);
	prange_add(&dirty, AT, AT + 50 * P);
	dump(&s, &dirty, NULL, old, &st);

	int mem = mem_of(from);
	memset(page, 0x11, P);
	assert_int_equal(io_pwrite(mem, page, P, (off_t)(AT + 10 * P)), 0);
	dirty.n = 0;
	prange_add(&clean, AT, AT + 10 * P);
	prange_add(&dirty, AT + 10 * P, AT + 11 * P);
	prange_add(&clean, AT + 11 * P, AT + 40 * P); /* 40 to 50: dropped meanwhile */
	prange_add(&dirty, AT + 60 * P, AT + 70 * P);
	dump(&s, &dirty, &clean, new, &st);

	struct pages_place place = { .pid = to, .mem_fd = mem_of(to), .fd = -1 };
	ok(pages_load(new, &s, &place, &st, &e), &e);
	same(from, to, AT, AT + 40 * P, false);
	same(from, to, AT + 40 * P, AT + 60 * P, true);
	same(from, to, AT + 60 * P, AT + 70 * P, false);
	close(mem);
	close(place.mem_fd);
	end(from);
	end(to);
	close(old);
	close(new);
	vec_free(&dirty);
	vec_free(&clean);
}

static void test_object(void **state)
{
	struct pages_space s = { .kind = PAGES_SHM, .id = 5, .fd = memfd_create("a", 0) };
	struct pages_place place = { .fd = memfd_create("b", 0), .mem_fd = -1 };
	const uint64_t size = 700 * P + 100;      /* ends inside a page */
	struct pages_stats st = { 0 };
	prange_vec dirty = { 0 };
	struct err e = ERR_INIT;
	char path[64];

	assert_int_equal(ftruncate(s.fd, (off_t)size) | ftruncate(place.fd, (off_t)(701 * P)), 0);
	uint8_t *a = mmap(NULL, 701 * P, PROT_READ | PROT_WRITE, MAP_SHARED, s.fd, 0);
	uint8_t *b = mmap(NULL, 701 * P, PROT_READ | PROT_WRITE, MAP_SHARED, place.fd, 0);
	for (uint64_t i = 0; i < size; i++)
		a[i] = (uint8_t)(i * 7 + i / P);
	snprintf(path, sizeof(path), "%s/shm", base_path);
	int dir = directory(path);
	prange_add(&dirty, 0, 10 * P);
	prange_add(&dirty, 300 * P, 701 * P);
	dump(&s, &dirty, NULL, dir, &st);
	ok(pages_load(dir, &s, &place, &st, &e), &e);
	assert_memory_equal(a, b, 10 * P);
	assert_memory_equal(a + 300 * P, b + 300 * P, size - 300 * P);
	for (uint64_t i = 10 * P; i < 300 * P; i += P)
		assert_int_equal(b[i], 0);
	munmap(a, 701 * P);
	munmap(b, 701 * P);
	close(s.fd);
	close(place.fd);
	close(dir);
	vec_free(&dirty);
}

/* Nothing to write, nothing to read. */
static void test_empty(void **state)
{
	pid_t from = sleeper(P, false, false);
	struct pages_space s = { .kind = PAGES_TASK, .id = 14, .pid = from };
	struct pages_place place = { .pid = from, .mem_fd = -1, .fd = -1 };
	struct pages_stats st = { 0 };
	prange_vec dirty = { 0 };
	struct err e = ERR_INIT;
	char path[64];

	snprintf(path, sizeof(path), "%s/empty", base_path);
	int dir = directory(path);
	dump(&s, &dirty, NULL, dir, &st);
	ok(pages_load(dir, &s, &place, &st, &e), &e);
	assert_int_equal(st.pages, 0);
	close(dir);
	end(from);
}

static int make_base(void **state)
{
	return mkdtemp(base_path) ? 0 : -1;
}

static int drop_base(void **state)
{
	char cmd[80];

	snprintf(cmd, sizeof(cmd), "rm -r %s", base_path);
	return system(cmd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_task), cmocka_unit_test(test_parent),
		cmocka_unit_test(test_object), cmocka_unit_test(test_empty),
	};

	return cmocka_run_group_tests(tests, make_base, drop_base);
}
