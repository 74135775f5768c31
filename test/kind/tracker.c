/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Trackers against a victim that is told what to do with its memory. A model plays the other
 * side: it applies what each scan says and is then compared with all of the victim's
 * private memory. Each test runs with every tracker that this kernel has.
 */
#include "tracker_victim.h"

#include <linux/userfaultfd.h>
#include <sys/shm.h>
#include <sys/ioctl.h>

#define P PAGE_SIZE
#define MAP_DROPPABLE_ 0x08

/* ---- one page: what changed is found, what did not is not sent ---- */

static void test_stores(void **state)
{
	_cleanup_victim_ struct victim *v = victim_new();
	uint64_t a = vmap(v, 8 * P, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	vpoke(v, a, 1, 4 * P);
	look(v, false);
	expect_dirty(v, a, true);
	look(v, false);
	expect_dirty(v, a, false);
	vpoke(v, a + P, 2, 1);
	/* The kernel's own stores. */
	vsys(v, __NR_read, v->zero_fd, a + 3 * P, 16);
	vpoke(v, a + 5 * P, 3, 1);
	look(v, false);
	expect_dirty(v, a, false);
	expect_dirty(v, a + P, true);
	expect_dirty(v, a + 3 * P, true);
	expect_dirty(v, a + 5 * P, true);
	expect_same(v);
}

static void test_bss_and_stack(void **state)
{
	_cleanup_victim_ struct victim *v = victim_new();

	look(v, false);
	vtell(v, CMD_BSS, 0, 0, 0);
	look(v, false);
	expect_dirty(v, (uintptr_t)victim_bss, true);
	vtell(v, CMD_STACK, 100, 0, 0);
	expect_same_after_look(v, false);
	vtell(v, CMD_STACK, 300, 0, 0);
	expect_same_after_look(v, true);
}

static void test_huge(void **state)
{
	_cleanup_victim_ struct victim *v = victim_new();
	uint64_t a = vmap(v, 6u << 20, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t h = (a + (2u << 20) - 1) & ~((2ul << 20) - 1);

	vsys(v, __NR_madvise, h, 4u << 20, MADV_HUGEPAGE);
	vpoke(v, h, 1, 4u << 20);
	look(v, false);
	look(v, false);
	expect_dirty(v, h + P, false);
	vpoke(v, h + 7 * P, 2, 1);
	look(v, false);
	expect_dirty(v, h + 7 * P, true);
	vsys(v, __NR_madvise, h + (2u << 20), 2u << 20, MADV_DONTNEED);
	look(v, false);
	expect_reset(v, h + (2u << 20) + 5 * P, true);
	expect_same(v);
}

/* ---- pages that go ---- */

static void test_dontneed(void **state)
{
	_cleanup_victim_ struct victim *v = victim_new();
	uint64_t a = vmap(v, 16 * P, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	vpoke(v, a, 1, 16 * P);
	look(v, false);
	vsys(v, __NR_madvise, a, 2 * P, MADV_DONTNEED);
	vsys(v, __NR_madvise, a + 4 * P, P, MADV_DONTNEED);
	vpeek(v, a + 4 * P);                  /* now the zero page */
	vsys(v, __NR_madvise, a + 6 * P, P, MADV_DONTNEED);
	vpoke(v, a + 6 * P, 9, 1);
	look(v, false);
	expect_reset(v, a, true);
	expect_reset(v, a + P, true);
	expect_reset(v, a + 4 * P, true);
	expect_dirty(v, a + 6 * P, true);
	expect_dirty(v, a + 8 * P, false);
	expect_same(v);
	/* Said once; and the zero page is noticed when it is written. */
	vpoke(v, a + 4 * P, 7, 1);
	look(v, false);
	expect_reset(v, a, false);
	expect_dirty(v, a + 4 * P, true);
	expect_same(v);
	/* While frozen, too. */
	vsys(v, __NR_madvise, a + 8 * P, P, MADV_DONTNEED);
	look(v, true);
	expect_reset(v, a + 8 * P, true);
	expect_same(v);
}

static void test_private_file(void **state)
{
	_cleanup_victim_ struct victim *v = victim_new();
	uint64_t a = vmap(v, 16 * P, MAP_PRIVATE, v->file_fd, 0);

	vpoke(v, a, 1, 8 * P);
	vpeek(v, a + 9 * P);
	look(v, false);
	expect_dirty(v, a, true);
	expect_dirty(v, a + 9 * P, false);    /* still the file's */
	expect_same(v);
	vsys(v, __NR_madvise, a, P, MADV_DONTNEED);
	vsys(v, __NR_madvise, a + 2 * P, P, MADV_DONTNEED);
	vpeek(v, a + 2 * P);
	vsys(v, __NR_madvise, a + 4 * P, P, MADV_DONTNEED);
	vpoke(v, a + 4 * P + 1, 5, 1);
	vpoke(v, a + 9 * P, 5, 1);
	look(v, false);
	expect_reset(v, a, true);
	expect_reset(v, a + 2 * P, true);
	expect_dirty(v, a + 4 * P, true);
	expect_dirty(v, a + 9 * P, true);
	expect_dirty(v, a + 6 * P, false);
	expect_same(v);
	vsys(v, __NR_madvise, a + 6 * P, P, MADV_DONTNEED);
	look(v, true);
	expect_reset(v, a + 6 * P, true);
	expect_same(v);
}

static void test_madv_free(void **state)
{
	_cleanup_victim_ struct victim *v = victim_new();
	uint64_t a = vmap(v, 4 * P, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	vpoke(v, a, 1, 4 * P);
	look(v, false);
	vsys(v, __NR_madvise, a, 2 * P, MADV_FREE);
	vpoke(v, a, 2, 1);
	look(v, false);
	expect_dirty(v, a, true);
	expect_same(v);
}

/* Whoever has them: the pages in there are no content any more. */
static void test_guard(void **state)
{
	_cleanup_victim_ struct victim *v = victim_new();
	uint64_t a = vmap(v, 8 * P, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	bool in = false;

	vpoke(v, a, 1, 8 * P);
	look(v, false);
	if (vtry(v, __NR_madvise, a + 2 * P, 2 * P, MADV_GUARD_INSTALL_) < 0)
		return; /* before 6.13 */
	look(v, false);
	expect_reset(v, a + 2 * P, true);
	expect_dirty(v, a + 2 * P, false);
	look(v, true);
	vec_each(&v->scan.guard, g)
		in |= g->start == a + 2 * P && g->end == a + 4 * P;
	assert_true(in);
	vsys(v, __NR_madvise, a + 2 * P, 2 * P, MADV_GUARD_REMOVE_);
	vpoke(v, a + 3 * P, 8, 1);
	look(v, true);
	expect_dirty(v, a + 3 * P, true);
	expect_same(v);
}

/* ---- mappings that come and go ---- */

static void test_growth(void **state)
{
	_cleanup_victim_ struct victim *v = victim_new();
	uint64_t a = vmap(v, 4 * P, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	vpoke(v, a, 1, 4 * P);
	look(v, false);
	/* Room above is free: the kernel maps top down, so make it first. */
	uint64_t b = vmap(v, 16 * P, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	vsys(v, __NR_munmap, b, 16 * P);
	vsys(v, __NR_mmap, b, 4 * P, PROT_READ | PROT_WRITE,
	     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	vpoke(v, b, 2, 4 * P);
	expect_same_after_look(v, false);
	vsys(v, __NR_mremap, b, 4 * P, 8 * P, 0);
	vpoke(v, b + 6 * P, 3, 1);
	look(v, false);
	expect_dirty(v, b + 6 * P, true);
	/* Shrunk and grown again between two looks. */
	vsys(v, __NR_mremap, b, 8 * P, 2 * P, 0);
	vsys(v, __NR_mremap, b, 2 * P, 8 * P, 0);
	expect_same_after_look(v, false);
	assert_true(vsys(v, __NR_brk, vsys(v, __NR_brk, 0) + 64 * P) > 0);
	uint64_t top = (uint64_t)vsys(v, __NR_brk, 0);
	vpoke(v, top - 3 * P, 4, 1);
	look(v, false);
	expect_dirty(v, (top - 3 * P) & ~(P - 1), true);
	vsys(v, __NR_brk, top - 8 * P);
	vsys(v, __NR_brk, top);
	expect_same_after_look(v, true);
}

static void test_remade(void **state)
{
	_cleanup_victim_ struct victim *v = victim_new();
	uint64_t a = vmap(v, 32 * P, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	const int again = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;

	vpoke(v, a, 1, 32 * P);
	look(v, false);
	vsys(v, __NR_munmap, a, 4 * P);
	vsys(v, __NR_mmap, a, 4 * P, PROT_READ | PROT_WRITE, again, -1, 0);
	vpoke(v, a + P, 2, 1);
	look(v, false);
	expect_reset(v, a, true);
	expect_dirty(v, a + P, true);
	expect_same(v);
	/* Over the old one, in its middle; read only, then with another backing. */
	vsys(v, __NR_mmap, a + 10 * P, 4 * P, PROT_READ | PROT_WRITE, again, -1, 0);
	look(v, false);
	expect_reset(v, a + 11 * P, true);
	expect_same(v);
	vsys(v, __NR_mmap, a + 20 * P, 4 * P, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED,
	     v->file_fd, 0);
	look(v, false);
	expect_reset(v, a + 21 * P, true);
	expect_same(v);
	vsys(v, __NR_munmap, a + 28 * P, 4 * P);
	look(v, false);
	expect_reset(v, a + 28 * P, true);
	vsys(v, __NR_mmap, a + 20 * P, 4 * P, PROT_READ, again, -1, 0);
	expect_same_after_look(v, true);
}

/* A look of the running guest goes by a list that is older than the mappings it meets. */
static void look_by_old_list(struct victim *v)
{
	struct proc_maps now = maps_of(v->pid);
	struct err e = ERR_INIT;

	scan_free(&v->scan);
	if (tracker_cover(v->t, now.vma.at, now.vma.n, &e) < 0 ||
	    tracker_scan(v->t, v->maps.vma.at, v->maps.vma.n, false, &v->scan, &e) < 0)
		fail_msg("%s", e.text);
	proc_maps_free(&now);
}

static void test_old_list(void **state)
{
	_cleanup_victim_ struct victim *v = victim_new();
	uint64_t a = vmap(v, 32 * P, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int m = (int)vsys(v, __NR_memfd_create, v->scratch, 0);
	const int rw = PROT_READ | PROT_WRITE;

	vsys(v, __NR_ftruncate, m, 8 * P);
	vpoke(v, a, 1, 32 * P);
	look(v, false);
	vsys(v, __NR_mmap, a, 4 * P, rw, MAP_PRIVATE | MAP_FIXED, v->file_fd, 0);
	vsys(v, __NR_mmap, a + 8 * P, 4 * P, rw, MAP_SHARED | MAP_FIXED, m, 0);
	vpoke(v, a + P, 2, 1);
	vpoke(v, a + 9 * P, 2, 1);
	look_by_old_list(v);
	look(v, false);                       /* only now the other side makes these mappings */
	expect_reset(v, a + P, true);
	expect_dirty(v, a + P, true);
	expect_dirty(v, a + 9 * P, true);
	expect_dirty(v, a + 20 * P, false);
	look(v, true);
	expect_dirty(v, a + P, false);
}

static void test_moved(void **state)
{
	_cleanup_victim_ struct victim *v = victim_new();
	uint64_t a = vmap(v, 8 * P, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t b = vmap(v, 32 * P, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) + 8 * P;

	vpoke(v, a, 1, 4 * P);
	vpoke(v, b, 2, 16 * P);
	look(v, false);
	vsys(v, __NR_mremap, a, 8 * P, 8 * P, MREMAP_MAYMOVE | MREMAP_FIXED, b);
	look(v, false);
	expect_dirty(v, b, true);
	expect_reset(v, b + 5 * P, true);     /* held something, now a hole */
	expect_same(v);
	/* The old place stays mapped but is empty. */
	vsys(v, __NR_mremap, b, 8 * P, 8 * P,
	     MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, a);
	look(v, false);
	expect_reset(v, b, true);
	expect_dirty(v, a, true);
	expect_same(v);
}

static void test_protection(void **state)
{
	_cleanup_victim_ struct victim *v = victim_new();
	uint64_t a = vmap(v, 8 * P, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	vpoke(v, a, 1, 8 * P);
	look(v, false);
	vpoke(v, a + 2 * P, 2, 1);
	vsys(v, __NR_mprotect, a, 4 * P, PROT_NONE);
	look(v, false);
	expect_dirty(v, a + 2 * P, true);
	vsys(v, __NR_mprotect, a, 4 * P, PROT_READ | PROT_WRITE);
	vpoke(v, a, 3, 1);
	look(v, false);
	expect_dirty(v, a, true);
	expect_same(v);
}

/* The parent of a fork stays tracked; the child's memory is another one, all of it to send. */
static void test_fork(void **state)
{
	_cleanup_victim_ struct victim *v = victim_new();
	uint64_t a = vmap(v, 8 * P, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	vpoke(v, a, 1, 8 * P);
	look(v, false);
	pid_t child = (pid_t)vtell(v, CMD_FORK, 0, 0, 0);
	vpoke(v, a + P, 2, 1);
	look(v, false);
	expect_dirty(v, a + P, true);
	expect_dirty(v, a + 2 * P, false);
	expect_same(v);

	struct scan s;
	struct proc_maps maps = maps_of(child);
	struct err e = ERR_INIT;
	bool found = false;
	assert_int_equal(tracker_scan_once(child, maps.vma.at, maps.vma.n, &s, &e), 0);
	vec_each(&s.dirty, r)
		found |= r->start <= a && a + 8 * P <= r->end;
	assert_true(found);
	proc_maps_free(&maps);
	scan_free(&s);
	vtell(v, CMD_REAP, child, 0, 0);
}

static bool overlap(const prange_vec *v, uint64_t start, uint64_t end)
{
	vec_each(v, r)
		if (r->start < end && start < r->end)
			return true;
	return false;
}

static void test_exec(void **state)
{
	_cleanup_victim_ struct victim *v = victim_new();
	struct err e = ERR_INIT;
	struct scan s;

	look(v, false);
	vsend(v, CMD_EXEC, 0, 0, 0);
	wait_for_exec(v);
	struct proc_maps maps = maps_of(v->pid);
	for (int i = 0; i < 2; i++) {
		/* Everything new is dirty; until it is covered, or, with soft-dirty, once. */
		assert_int_equal(tracker_scan(v->t, maps.vma.at, maps.vma.n, i, &s, &e), 0);
		vec_each(&maps.vma, m)
			if (!strcmp(m->path, "[stack]"))
				assert_true(overlap(&s.dirty, m->start, m->end) ||
					    (i == 1 && the_kind == TRACKER_SOFT_DIRTY));
		scan_free(&s);
	}
	assert_int_equal(tracker_cover(v->t, maps.vma.at, maps.vma.n, &e),
			 the_kind == TRACKER_UFFD_WP ? -ESRCH : 0);
	proc_maps_free(&maps);
	kill(v->pid, SIGKILL);
	waitpid(v->pid, NULL, 0);
	v->pid = 0;
	assert_int_equal(tracker_scan(v->t, NULL, 0, true, &s, &e), -ESRCH);
}

/* ---- shared mappings ---- */

static void test_shared(void **state)
{
	_cleanup_victim_ struct victim *v = victim_new();
	int m = (int)vsys(v, __NR_memfd_create, v->scratch, 0);

	vsys(v, __NR_ftruncate, m, 64 * P);
	uint64_t a = vmap(v, 64 * P, MAP_SHARED, m, 0);
	uint64_t b = vmap(v, 8 * P, MAP_SHARED, m, 8 * P);
	vpoke(v, a, 1, 16 * P);
	look(v, false);
	expect_dirty(v, a, true);
	expect_dirty(v, a + 40 * P, false);   /* the object has nothing there */
	look(v, false);
	expect_dirty(v, a, false);
	expect_dirty(v, b, false);
	vpoke(v, a + 2 * P, 2, 1);
	vpoke(v, b + P, 2, 1);                /* page 9 of the object, seen from the other one */
	vpoke(v, a + 3 * P, 2, 1);
	vsys(v, __NR_madvise, a + 3 * P, P, MADV_DONTNEED);
	vpoke(v, a + 50 * P, 2, 1);           /* was a hole */
	look(v, false);
	expect_dirty(v, a + 2 * P, true);
	expect_dirty(v, b + P, true);
	expect_dirty_or_unsure(v, a + 3 * P);
	expect_dirty(v, a + 50 * P, true);
	expect_dirty(v, a + 5 * P, false);
	look(v, true);
	expect_dirty(v, a + 2 * P, false);
}

/* One that could not be written to, and one at its place that can. */
static void test_shared_readable(void **state)
{
	_cleanup_victim_ struct victim *v = victim_new();
	int id = (int)vsys(v, __NR_shmget, IPC_PRIVATE, 4 * P, 0600);
	uint64_t a = (uint64_t)vsys(v, __NR_shmat, id, 0, SHM_RDONLY);

	look(v, false);
	vsys(v, __NR_shmdt, a);
	vsys(v, __NR_shmat, id, a, 0);
	vsys(v, __NR_shmctl, id, IPC_RMID, 0);
	vpoke(v, a, 1, 4 * P);
	look(v, false);
	look(v, false);
	vpoke(v, a + P, 2, 1);
	look(v, false);
	expect_dirty(v, a + P, true);
	expect_dirty(v, a + 2 * P, false);
}

static void test_shared_left_out(void **state)
{
	_cleanup_victim_ struct victim *v = victim_new();
	uint64_t a = vmap(v, 4 * P, MAP_SHARED, v->file_fd, 0);

	vpoke(v, a, 1, P);
	look(v, false);
	expect_dirty(v, a, v->file_in_memory);
	/* A memfd that is mapped from a read-only descriptor cannot be registered. */
	int m = (int)vsys(v, __NR_memfd_create, v->scratch, 0);
	vsys(v, __NR_ftruncate, m, 4 * P);
	vtell(v, CMD_MAP_READ_ONLY, (uint64_t)m, 0, 0);
	for (int i = 0; i < 3; i++)
		expect_same_after_look(v, i == 2);
}

/* ---- uffd-wp only ---- */

/* The kernel may drop them by itself; newer kernels do not let them be registered, and then they
 * are sent each time. */
static void test_droppable(void **state)
{
	_cleanup_victim_ struct victim *v = victim_new();
	int64_t a = vtry(v, __NR_mmap, 0, 4 * P, PROT_READ | PROT_WRITE,
			 MAP_DROPPABLE_ | MAP_ANONYMOUS, -1, 0);

	if (a < 0 || the_kind != TRACKER_UFFD_WP)
		return; /* before 6.11 */
	for (int i = 0; i < 3; i++) {
		vpoke(v, (uint64_t)a, i, P);
		look(v, i == 2);
		expect_dirty(v, (uint64_t)a, true);
		expect_same(v);
	}
}

static void test_foreign_uffd(void **state)
{
	_cleanup_victim_ struct victim *v = victim_new();
	struct err e = ERR_INIT;

	if (the_kind != TRACKER_UFFD_WP)
		return;
	uint64_t a = vmap(v, 4 * P, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fd = victim_uffd(v);
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register r = { .range = { a, 4 * P }, .mode = UFFDIO_REGISTER_MODE_MISSING };
	assert_int_equal(ioctl(fd, UFFDIO_API, &api), 0);
	assert_int_equal(ioctl(fd, UFFDIO_REGISTER, &r), 0);
	struct proc_maps maps = maps_of(v->pid);
	assert_int_equal(tracker_cover(v->t, maps.vma.at, maps.vma.n, &e), -EBUSY);
	assert_non_null(strstr(e.text, "userfaultfd"));
	assert_true(e.remedy[0]);
	proc_maps_free(&maps);
	close(fd);
}

/* Neither time nor page tables (200 MB if all were marked). */
static void test_sparse(void **state)
{
	_cleanup_victim_ struct victim *v = victim_new();

	if (the_kind != TRACKER_UFFD_WP)
		return;
	uint64_t size = 100ull << 30;
	uint64_t a = vmap(v, size, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	vsys(v, __NR_madvise, a, size, MADV_NOHUGEPAGE);
	for (uint64_t i = 0; i < 100; i++)
		vpoke(v, a + (i << 30), 1, 1);
	long before = status_kb(v->pid, "VmPTE:");
	uint64_t began = io_now_ns();
	for (int i = 0; i < 4; i++) {
		look(v, false);
		expect_dirty(v, a + (3ull << 30), i == 0);
	}
	vpoke(v, a + (5ull << 30), 1, 1);
	look(v, true);
	expect_dirty(v, a + (5ull << 30), true);
	assert_true(io_now_ns() - began < 5000000000ull);
	assert_true(status_kb(v->pid, "VmPTE:") - before < 1024);
}

/* ---- kept between two runs ---- */

static void test_park(void **state)
{
	_cleanup_victim_ struct victim *v = victim_new();
	uint64_t a = vmap(v, 8 * P, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct err e = ERR_INIT;
	struct tracker **t;
	size_t n;

	vpoke(v, a, 1, 8 * P);
	look(v, false);
	assert_int_equal(tracker_park(&v->t, 1, v->pid, "dir one", &e), 0);
	tracker_free(v->t);
	v->t = NULL;
	vpoke(v, a + 2 * P, 2, 1);
	vsys(v, __NR_madvise, a + 4 * P, P, MADV_DONTNEED);
	assert_int_equal(tracker_claim(&t, &n, v->pid, "dir one", &e), 0);
	assert_int_equal(n, 1);
	v->t = t[0];
	free(t);
	look(v, true);
	expect_dirty(v, a + 2 * P, true);
	expect_reset(v, a + 4 * P, true);
	expect_dirty(v, a + 6 * P, false);
	expect_same(v);
	assert_int_equal(tracker_claim(&t, &n, v->pid, "dir one", &e), -ENOENT);

	/* Another cookie ends the keeping, so that a new tracker can start. */
	assert_int_equal(tracker_park(&v->t, 1, v->pid, "dir one", &e), 0);
	tracker_free(v->t);
	v->t = NULL;
	assert_int_equal(tracker_claim(&t, &n, v->pid, "dir two", &e), -ENOENT);
	assert_int_equal(tracker_claim(&t, &n, v->pid, "dir one", &e), -ENOENT);
	victim_track(v);
	look(v, false);
	expect_dirty(v, a + 6 * P, true);

	/* It ends with the guest. */
	assert_int_equal(tracker_park(&v->t, 1, v->pid, "x", &e), 0);
	pid_t root = v->pid;
	kill(v->pid, SIGKILL);
	waitpid(v->pid, NULL, 0);
	v->pid = 0;
	for (int i = 0; i < 200 && keeper_there(root); i++)
		usleep(10000);
	assert_false(keeper_there(root));
}

/* ---- anything, in any order, while scans run ---- */

static void test_random(void **state)
{
	unsigned seeds = (unsigned)(getenv("SEEDS") ? atoi(getenv("SEEDS")) : 6);

	for (unsigned seed = 1; seed <= seeds; seed++) {
		_cleanup_victim_ struct victim *v = victim_new();

		for (int burst = 0; burst < 12; burst++) {
			vsend(v, CMD_RANDOM, seed * 1000 + (unsigned)burst, 150, 0);
			int looks = 0;
			do
				look(v, false);
			while (!vdone(v, 0) && ++looks < 30);
			vwait(v);
			look(v, burst % 3 == 2);
			expect_same(v);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_stores), cmocka_unit_test(test_bss_and_stack),
		cmocka_unit_test(test_huge), cmocka_unit_test(test_dontneed),
		cmocka_unit_test(test_private_file), cmocka_unit_test(test_madv_free),
		cmocka_unit_test(test_guard), cmocka_unit_test(test_growth),
		cmocka_unit_test(test_remade), cmocka_unit_test(test_old_list),
		cmocka_unit_test(test_moved),
		cmocka_unit_test(test_protection), cmocka_unit_test(test_fork),
		cmocka_unit_test(test_exec), cmocka_unit_test(test_shared),
		cmocka_unit_test(test_shared_readable), cmocka_unit_test(test_shared_left_out),
		cmocka_unit_test(test_droppable),
		cmocka_unit_test(test_foreign_uffd), cmocka_unit_test(test_sparse),
		cmocka_unit_test(test_park), cmocka_unit_test(test_random),
	};
	int failed = 0, kinds = 0;

	for (the_kind = TRACKER_SOFT_DIRTY; the_kind <= TRACKER_UFFD_WP; the_kind++) {
		struct err e = ERR_INIT;
		enum tracker_kind k = the_kind;

		if (tracker_probe(&k, &e) < 0) {
			print_message("%s: not here: %s\n", tracker_name(the_kind), e.text);
			continue;
		}
		print_message("%s\n", tracker_name(the_kind));
		failed += cmocka_run_group_tests(tests, NULL, NULL);
		kinds++;
	}
	return failed || kinds == 0;
}
