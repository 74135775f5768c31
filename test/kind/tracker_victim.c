/* SPDX-License-Identifier: Apache-2.0 */
#include "tracker_victim.h"

#include <linux/magic.h>
#include <sys/vfs.h>

enum tracker_kind the_kind;
char victim_bss[PAGE_SIZE] __attribute__((aligned(4096)));

/* ================ inside the victim ================ */

#define ARENA 0x200000000000ull
#define HALF_PAGES 2048u

static sigjmp_buf out_of_fault;

static void on_fault(int sig) { siglongjmp(out_of_fault, 1); }

static void touch(volatile uint8_t *p, int value, bool write)
{
	if (sigsetjmp(out_of_fault, 1))
		return;
	if (write)
		*p = (uint8_t)value;
	else
		(void)*p;
}

static void use_stack(uint64_t pages)
{
	volatile uint8_t room[PAGE_SIZE];

	room[0] = (uint8_t)pages;
	if (pages > 1)
		use_stack(pages - 1);
	(void)room[0];
}

struct fds {
	int zero, file, memory;
};

/* Files are mapped in the upper half only, guards set in the lower one: Linux 6.15 to (at least)
 * 6.18 loops in MADV_GUARD_INSTALL over write-protected pages of a file mapping. */
static uint64_t random_page(bool upper)
{
	return ARENA + (upper * HALF_PAGES + (unsigned)rand() % (HALF_PAGES - 512)) * PAGE_SIZE;
}

static void random_mapping(unsigned op, uint64_t a, uint64_t n, bool upper, const struct fds *fd)
{
	uint64_t b = random_page(upper);
	int file_or_not = upper ? 0 : MAP_ANONYMOUS;
	int fixed = MAP_FIXED | MAP_PRIVATE, rw = PROT_READ | PROT_WRITE;

	if (op < 3)
		mmap((void *)a, n, rw, fixed | MAP_ANONYMOUS, -1, 0);
	else if (op < 4)
		mmap((void *)a, n, rw, fixed | file_or_not, upper ? fd->file : -1, 0);
	else if (op < 5)
		mmap((void *)a, n, rw, fixed | file_or_not, upper ? fd->memory : -1, 0);
	else if (op < 6)
		munmap((void *)a, n);
	else if (op < 8)
		mremap((void *)a, n, n, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)b);
	else if (op < 9)
		mremap((void *)a, n, n, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP,
		       (void *)b);
	else
		mremap((void *)a, n, n + 8 * PAGE_SIZE, 0);
}

static void random_advice(unsigned op, uint64_t a, uint64_t n, bool upper)
{
	static const int prots[] = { PROT_READ | PROT_WRITE, PROT_READ, PROT_NONE };
	pid_t child;

	if (op < 4)
		madvise((void *)a, n, MADV_DONTNEED);
	else if (op < 5)
		madvise((void *)a, n, upper ? MADV_FREE : MADV_GUARD_INSTALL_);
	else if (op < 6)
		madvise((void *)a, n, MADV_GUARD_REMOVE_);
	else if (op < 7)
		madvise((void *)a, n, rand() % 2 ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	else if (op < 8)
		mprotect((void *)a, n, prots[(unsigned)rand() % 3]);
	else if (op < 9)
		sbrk((rand() % 3 - 1) * (intptr_t)(4 * PAGE_SIZE));
	else if ((child = fork()) == 0)
		_exit(0);
	else
		waitpid(child, NULL, 0);
}

static void random_steps(unsigned seed, uint64_t steps, const struct fds *fd)
{
	srand(seed);
	for (uint64_t i = 0; i < steps; i++) {
		bool upper = rand() % 2;
		uint64_t a = random_page(upper);
		uint64_t pages = rand() % 8 ? 1u + (unsigned)rand() % 16
					    : (unsigned)rand() % 512 + 1;
		unsigned op = (unsigned)rand() % 40;

		if (op < 10)
			random_mapping(op, a, pages * PAGE_SIZE, upper, fd);
		else if (op < 20)
			random_advice(op - 10, a, pages * PAGE_SIZE, upper);
		else if (op < 22)
			(void)!pread(fd->file, (void *)a, pages * PAGE_SIZE, 1);
		else if (op < 23)
			use_stack(pages);
		else
			for (uint64_t j = 0; j < pages; j++)
				touch((void *)(a + j * PAGE_SIZE + (unsigned)rand() % PAGE_SIZE),
				      rand(), op < 36);
	}
}

static int64_t obey(const struct cmd *c, const struct fds *fd)
{
	char path[40];
	pid_t child;

	switch (c->what) {
	case CMD_SYSCALL: {
		long ret = syscall((long)c->arg[0], c->arg[1], c->arg[2], c->arg[3], c->arg[4],
				   c->arg[5], c->arg[6]);
		return ret == -1 ? -errno : ret;
	}
	case CMD_POKE:
		for (uint64_t i = 0; i < c->arg[2]; i++)
			((volatile uint8_t *)c->arg[0])[i] = (uint8_t)(c->arg[1] + i / PAGE_SIZE);
		return 0;
	case CMD_PEEK:
		return *(volatile uint8_t *)c->arg[0];
	case CMD_BSS:
		memset(victim_bss, 1, sizeof(victim_bss));
		return 0;
	case CMD_STACK:
		use_stack(c->arg[0]);
		return 0;
	case CMD_FORK:
		child = fork();
		while (child == 0)
			pause();
		return child;
	case CMD_REAP:
		kill((pid_t)c->arg[0], SIGKILL);
		return waitpid((pid_t)c->arg[0], NULL, 0);
	case CMD_EXEC:
		return execl("/proc/self/exe", "victim-after-exec", NULL);
	case CMD_MAP_READ_ONLY:
		snprintf(path, sizeof(path), "/proc/self/fd/%d", (int)c->arg[0]);
		return mmap(NULL, PAGE_SIZE, PROT_READ, MAP_SHARED, open(path, O_RDONLY), 0) ==
		       MAP_FAILED;
	default:
		random_steps((unsigned)c->arg[0], c->arg[1], fd);
		return 0;
	}
}

static void victim_main(int in, int out, const struct fds *fd)
{
	struct cmd c;

	signal(SIGSEGV, on_fault);
	signal(SIGBUS, on_fault);
	while (read(in, &c, sizeof(c)) == (ssize_t)sizeof(c)) {
		int64_t ret = obey(&c, fd);
		(void)!write(out, &ret, sizeof(ret));
	}
	_exit(0);
}

/* After CMD_EXEC the test program runs again, as the victim: it only waits. */
__attribute__((constructor)) static void after_exec(int argc, char **argv)
{
	if (argc == 1 && !strcmp(argv[0], "victim-after-exec")) {
		prctl(PR_SET_NAME, "after-exec");
		for (;;)
			pause();
	}
}

/* ================ outside ================ */

static int backing(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	uint8_t page[PAGE_SIZE];

	assert_true(fd >= 0);
	unlink(path);
	for (int i = 0; i < 600; i++) {
		memset(page, 0x80 | i, sizeof(page));
		assert_int_equal(io_write(fd, page, sizeof(page)), 0);
	}
	return fd;
}

struct victim *victim_new(void)
{
	struct victim *v = xcalloc(1, sizeof(*v));
	int to[2], from[2];
	struct statfs fs;
	struct fds fd = {
		.zero = open("/dev/zero", O_RDONLY),
		.file = backing("/var/tmp/criu-lite-tracker-test"),
		.memory = memfd_create("private", 0),
	};

	assert_int_equal(fstatfs(fd.file, &fs), 0);
	v->file_in_memory = fs.f_type == TMPFS_MAGIC;
	assert_int_equal(ftruncate(fd.memory, 600 * PAGE_SIZE), 0);
	assert_int_equal(pipe(to) | pipe(from), 0);
	fflush(NULL);
	v->pid = fork();
	if (v->pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(to[1]);
		close(from[0]);
		victim_main(to[0], from[1], &fd);
	}
	close(to[0]);
	close(from[1]);
	close(fd.zero);
	close(fd.file);
	close(fd.memory);
	v->to = to[1];
	v->from = from[0];
	v->zero_fd = fd.zero;
	v->file_fd = fd.file;
	v->scratch = (uintptr_t)"name";
	victim_track(v);
	return v;
}

static void forget_other(struct victim *v)
{
	vec_each(&v->other, p)
		free(*p);
	v->other.n = 0;
}

int victim_uffd(struct victim *v)
{
	int there = (int)vsys(v, __NR_userfaultfd, O_CLOEXEC | O_NONBLOCK | 1);
	int pidfd = (int)syscall(__NR_pidfd_open, v->pid, 0);
	int fd = (int)syscall(__NR_pidfd_getfd, pidfd, there, 0);

	assert_true(fd >= 0);
	close(pidfd);
	vsys(v, __NR_close, there);
	return fd;
}

void victim_track(struct victim *v)
{
	struct err e = ERR_INIT;
	int uffd = the_kind == TRACKER_UFFD_WP ? victim_uffd(v) : -1;

	forget_other(v);
	assert_int_equal(tracker_start_with_fd(&v->t, the_kind, v->pid, uffd, &e), 0);
}

void victim_free(struct victim **pv)
{
	struct victim *v = *pv;

	if (v->pid) {
		kill(v->pid, SIGKILL);
		waitpid(v->pid, NULL, 0);
	}
	close(v->to);
	close(v->from);
	tracker_free(v->t);
	scan_free(&v->scan);
	proc_maps_free(&v->maps);
	forget_other(v);
	vec_free(&v->other);
	free(v);
}

/* It stands still except while it obeys: else it would change its stack on its way
 * to the next command. */
static void stand_still(struct victim *v)
{
	int status;

	kill(v->pid, SIGSTOP);
	if (waitpid(v->pid, &status, WUNTRACED) != v->pid || !WIFSTOPPED(status))
		fail_msg("the victim died");
}

void vsend_cmd(struct victim *v, const struct cmd *c)
{
	v->busy = true;
	kill(v->pid, SIGCONT);
	assert_int_equal(write(v->to, c, sizeof(*c)), sizeof(*c));
}

void vsend(struct victim *v, uint64_t what, uint64_t a, uint64_t b, uint64_t c)
{
	struct cmd cmd = { what, { a, b, c } };

	vsend_cmd(v, &cmd);
}

bool vdone(struct victim *v, int timeout_ms)
{
	struct pollfd p = { v->from, POLLIN, 0 };

	return poll(&p, 1, timeout_ms) > 0;
}

int64_t vwait(struct victim *v)
{
	int64_t ret = 0;

	if (read(v->from, &ret, sizeof(ret)) != (ssize_t)sizeof(ret))
		fail_msg("the victim died");
	stand_still(v);
	v->busy = false;
	return ret;
}

int64_t vtell(struct victim *v, uint64_t what, uint64_t a, uint64_t b, uint64_t c)
{
	vsend(v, what, a, b, c);
	return vwait(v);
}

int64_t vcall(struct victim *v, bool may_fail, uint64_t nr, uint64_t a, uint64_t b, uint64_t c,
	      uint64_t d, uint64_t e, uint64_t f)
{
	struct cmd cmd = { CMD_SYSCALL, { nr, a, b, c, d, e, f } };

	vsend_cmd(v, &cmd);
	int64_t ret = vwait(v);
	if (ret < 0 && !may_fail)
		fail_msg("system call %d of the victim: %s", (int)nr, strerror((int)-ret));
	return ret;
}

uint64_t vmap(struct victim *v, uint64_t size, int flags, int fd, uint64_t off)
{
	return (uint64_t)vsys(v, __NR_mmap, 0, size, PROT_READ | PROT_WRITE, flags, fd, off);
}

void vpoke(struct victim *v, uint64_t at, int value, uint64_t n)
{
	vtell(v, CMD_POKE, at, (uint64_t)value, n);
}

void vpeek(struct victim *v, uint64_t at) { vtell(v, CMD_PEEK, at, 0, 0); }

/* ---- the model ---- */

struct proc_maps maps_of(pid_t pid)
{
	struct proc_maps maps = { 0 };
	struct buf text = { 0 };
	struct err e = ERR_INIT;

	/* Lines overlap if mappings merge while they are read. */
	int ret = -EBADMSG;
	for (int tries = 0; tries < 100; tries++) {
		assert_int_equal(io_slurp(&text, &e, "/proc/%d/maps", pid), 0);
		ret = proc_maps_parse((char *)text.at, text.n, &maps, &e);
		if (ret == 0)
			break;
		proc_maps_free(&maps);
	}
	if (ret < 0)
		fail_msg("%s", e.text);
	buf_free(&text);
	return maps;
}

static size_t other_at(const struct victim *v, uint64_t at)
{
	size_t low = 0, high = v->other.n;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (v->other.at[mid]->at < at)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

static void other_drop(struct victim *v, uint64_t start, uint64_t end)
{
	size_t i = other_at(v, start), j = other_at(v, end);

	for (size_t k = i; k < j; k++)
		free(v->other.at[k]);
	if (j > i)
		memmove(v->other.at + i, v->other.at + j, (v->other.n - j) * sizeof(*v->other.at));
	v->other.n -= j - i;
}

static int mem_of(pid_t pid)
{
	char path[40];

	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

/* What cannot be read has gone since the scan. */
static void other_fetch(struct victim *v, int mem, uint64_t start, uint64_t end)
{
	VEC(struct other_page *) fresh = { 0 };

	other_drop(v, start, end);
	for (uint64_t at = start; at < end; at += PAGE_SIZE) {
		struct other_page *p = xmalloc(sizeof(*p));

		p->at = at;
		if (io_pread(mem, p->bytes, PAGE_SIZE, (off_t)at) == 0)
			vec_push(&fresh, p);
		else
			free(p);
	}
	size_t i = other_at(v, start), old = v->other.n;
	vec_reserve(&v->other, old + fresh.n);
	v->other.n += fresh.n;
	if (fresh.n) {
		memmove(v->other.at + i + fresh.n, v->other.at + i, (old - i) * sizeof(*fresh.at));
		memcpy(v->other.at + i, fresh.at, fresh.n * sizeof(*fresh.at));
	}
	vec_free(&fresh);
}

static void check_order(const prange_vec *r)
{
	for (size_t i = 0; i < r->n; i++) {
		assert_true(r->at[i].start < r->at[i].end);
		assert_true(i == 0 || r->at[i - 1].end < r->at[i].start);
	}
}

void look(struct victim *v, bool frozen)
{
	struct err e = ERR_INIT;
	uint64_t last = 0;

	scan_free(&v->scan);
	proc_maps_free(&v->maps);
	v->maps = maps_of(v->pid);
	/* Soft-dirty needs that, also in the middle of a command. */
	bool stop = the_kind == TRACKER_SOFT_DIRTY && v->busy;
	if (stop) {
		stand_still(v);
		proc_maps_free(&v->maps);
		v->maps = maps_of(v->pid);
	}
	/* Between commands it stands still; in the middle of one, new mappings stay uncovered. */
	if (!v->busy && tracker_cover(v->t, v->maps.vma.at, v->maps.vma.n, &e) < 0)
		fail_msg("%s", e.text);
	int ret = tracker_scan(v->t, v->maps.vma.at, v->maps.vma.n, frozen, &v->scan, &e);
	if (stop)
		kill(v->pid, SIGCONT);
	if (ret < 0)
		fail_msg("%s", e.text);
	check_order(&v->scan.reset);
	check_order(&v->scan.dirty);
	vec_each(&v->maps.vma, m) {
		other_drop(v, last, m->start);
		last = m->end;
	}
	_cleanup_close_ int mem = mem_of(v->pid);
	vec_each(&v->scan.reset, r)
		other_drop(v, r->start, r->end);
	vec_each(&v->scan.dirty, r)
		other_fetch(v, mem, r->start, r->end);
}

static bool in(const prange_vec *v, uint64_t at)
{
	vec_each(v, r)
		if (r->start <= at && at < r->end)
			return true;
	return false;
}

void expect_dirty(struct victim *v, uint64_t at, bool yes)
{
	assert_int_equal(in(&v->scan.dirty, at), yes);
}

void expect_reset(struct victim *v, uint64_t at, bool yes)
{
	assert_int_equal(in(&v->scan.reset, at), yes);
}

void expect_dirty_or_unsure(struct victim *v, uint64_t at)
{
	assert_true(in(&v->scan.dirty, at) || in(&v->scan.unsure, at));
}

/* What a mapping shows where nothing was ever sent: zeros, or its file. */
static void underneath(struct victim *v, const struct proc_vma *m, int file, uint64_t at,
		       uint8_t *page)
{
	memset(page, 0, PAGE_SIZE);
	if (file >= 0)
		(void)!pread(file, page, PAGE_SIZE, (off_t)(m->pgoff + at - m->start));
}

static void compare(struct victim *v, const struct proc_vma *m, int mem)
{
	uint8_t want[PAGE_SIZE], is[PAGE_SIZE];
	char path[80];

	snprintf(path, sizeof(path), "/proc/%d/map_files/%lx-%lx", v->pid, (long)m->start,
		 (long)m->end);
	_cleanup_close_ int file = m->ino ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	assert_true(!m->ino || file >= 0);
	for (uint64_t at = m->start; at < m->end; at += PAGE_SIZE) {
		if (io_pread(mem, want, PAGE_SIZE, (off_t)at) < 0)
			continue; /* guard page, or past the file's end */
		size_t i = other_at(v, at);
		if (i < v->other.n && v->other.at[i]->at == at)
			memcpy(is, v->other.at[i]->bytes, PAGE_SIZE);
		else
			underneath(v, m, file, at, is);
		if (memcmp(is, want, PAGE_SIZE) != 0)
			fail_msg("page %lx of %lx-%lx %s differs (%s, known %d)", (long)at,
				 (long)m->start, (long)m->end, m->path,
				 i < v->other.n && v->other.at[i]->at == at ? "stale" : "missing",
				 in(tracker_known(v->t), at));
	}
}

void expect_same(struct victim *v)
{
	_cleanup_close_ int mem = mem_of(v->pid);
	struct proc_maps maps = maps_of(v->pid); /* registration may have merged some */

	vec_each(&maps.vma, m)
		if (!m->shared && (m->path[0] != '[' || !strcmp(m->path, "[heap]") ||
				   !strcmp(m->path, "[stack]")))
			compare(v, m, mem);
	proc_maps_free(&maps);
}

void expect_same_after_look(struct victim *v, bool frozen)
{
	look(v, frozen);
	expect_same(v);
}

/* ---- around it ---- */

void wait_for_exec(struct victim *v)
{
	char path[40], name[32] = "";

	snprintf(path, sizeof(path), "/proc/%d/comm", v->pid);
	for (int i = 0; i < 500 && strncmp(name, "after-exec", 10) != 0; i++) {
		_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
		(void)!read(fd, name, sizeof(name) - 1);
		usleep(10000);
	}
	assert_int_equal(strncmp(name, "after-exec", 10), 0);
}

long status_kb(pid_t pid, const char *key)
{
	struct buf text = { 0 };
	struct err e = ERR_INIT;

	assert_int_equal(io_slurp(&text, &e, "/proc/%d/status", pid), 0);
	const char *at = strstr((char *)text.at, key);
	long kb = at ? atol(at + strlen(key)) : 0;
	buf_free(&text);
	return kb;
}

bool keeper_there(pid_t root)
{
	_cleanup_closedir_ DIR *d = opendir("/run/criu-lite");
	char name[32];

	snprintf(name, sizeof(name), "track-%d.", root);
	for (struct dirent *f; d && (f = readdir(d));)
		if (!strncmp(f->d_name, name, strlen(name)))
			return true;
	return false;
}
