/* SPDX-License-Identifier: Apache-2.0 */
#include "victim.h"

#include <dirent.h>
#include <stdarg.h>
#include <ucontext.h>

#define SNAP_SIZE (192 * 1024)

static char v_dir[256];
static char **v_args;
static int v_nargs;
static int v_leave_out;
static void (*v_observer)(void);
static char v_before[SNAP_SIZE], v_after[SNAP_SIZE];
static char *v_snap;
static size_t v_snap_len;
static bool v_rechecked;
static _Atomic uint64_t v_pause_sum;

/* A death by a fault is a result, too. */
static void on_fault(int sig, siginfo_t *si, void *context)
{
	const ucontext_t *uc = context;

	v_fail("signal %d, code %d, address %p, ip %#llx", sig, si->si_code, si->si_addr,
	       uc->uc_mcontext.gregs[REG_RIP]);
}

void v_init(int argc, char **argv)
{
	static const int faults[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};
	struct sigaction sa = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_RESETHAND};
	size_t i;

	if (argc < 2) {
		fprintf(stderr, "usage: %s STATE-DIR [ARG...]\n", argv[0]);
		exit(2);
	}
	snprintf(v_dir, sizeof(v_dir), "%s", argv[1]);
	for (i = 0; i < V_COUNT(faults); i++)
		SYS(sigaction(faults[i], &sa, NULL));
	v_args = argv + 2;
	v_nargs = argc - 2;
}

long v_arg(int n, long otherwise)
{
	return n < v_nargs ? atol(v_args[n]) : otherwise;
}

const char *v_path(const char *name)
{
	static __thread char ring[8][320];
	static __thread unsigned int next;
	char *p = ring[next++ % V_COUNT(ring)];

	snprintf(p, sizeof(ring[0]), "%s/%s", v_dir, name);
	return p;
}

/* The first one to write a result wins; a name appears with its whole content. */
static void put_file(const char *name, const char *text)
{
	char tmp[32];
	int fd;

	snprintf(tmp, sizeof(tmp), ".%s.%d", name, (int)syscall(SYS_gettid));
	fd = open(v_path(tmp), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0666);
	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		dprintf(2, "%s: %s: %s", v_path(name), strerror(errno), text);
	close(fd);
	if (link(v_path(tmp), v_path(name)) < 0 && errno != EEXIST)
		dprintf(2, "link %s: %s: %s", v_path(name), strerror(errno), text);
	unlink(v_path(tmp));
}

void v_fail(const char *fmt, ...)
{
	char what[1024], line[1100];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	snprintf(line, sizeof(line), "FAIL: pid %d: %s\n", (int)getpid(), what);
	put_file("result", line);
	_exit(1);
}

void v_skip(const char *fmt, ...)
{
	char what[512], line[600];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	snprintf(line, sizeof(line), "SKIP: %s\n", what);
	put_file("result", line);
	_exit(0);
}

void v_note(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	v_snap_len += vsnprintf(v_snap + v_snap_len, SNAP_SIZE - v_snap_len, fmt, ap);
	va_end(ap);
	CHECK(v_snap_len < SNAP_SIZE - 2, "too much to compare");
	v_snap[v_snap_len++] = '\n';
	v_snap[v_snap_len] = 0;
}

static ssize_t slurp(const char *path, char *buf, size_t size)
{
	size_t len = 0;
	ssize_t n = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return -1;
	while (len < size - 1 && (n = read(fd, buf + len, size - 1 - len)) > 0)
		len += n;
	close(fd);
	buf[len] = 0;
	return n < 0 ? -1 : (ssize_t)len;
}

static void note_file(const char *path)
{
	static __thread char buf[16384];
	ssize_t i, len = slurp(path, buf, sizeof(buf));

	for (i = 0; i < len; i++)
		if (!buf[i])
			buf[i] = ' ';
	v_note("%s: %s", path, len < 0 ? "(unreadable)" : buf);
}

static void note_link(const char *path)
{
	char to[512];
	ssize_t len = readlink(path, to, sizeof(to) - 1);

	to[len < 0 ? 0 : len] = 0;
	/* Numbers of sockets and pipes are not part of a process's state. */
	if (!strncmp(to, "socket:[", 8) || !strncmp(to, "pipe:[", 6))
		*strchr(to, '[') = 0;
	/* Nor is the last name of a file that has none: another file may have it now. */
	if (strstr(to, " (deleted)") && strncmp(to, "/memfd:", 7))
		strcpy(strrchr(to, '/') + 1, "(deleted)");
	v_note("%s -> %s", path, to);
}

static void note_lines(const char *path, const char *const *keys, size_t nkeys)
{
	static __thread char buf[8192];
	char *save, *line;
	size_t i;

	CHECK(slurp(path, buf, sizeof(buf)) > 0, "%s: unreadable", path);
	for (line = strtok_r(buf, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		for (i = 0; i < nkeys; i++)
			if (!strncmp(line, keys[i], strlen(keys[i])))
				v_note("%s: %s", path, line);
}

static void note_stat(const char *path)
{
	/* Numbers as in proc(5), counted from 1; those that a move must not change. */
	static const int wanted[] = {18, 19, 20, 26, 27, 28, 38, 40,
				     41, 45, 46, 47, 48, 49, 50, 51};
	char buf[2048], *p, *save;
	unsigned int w = 0;
	int field = 3;

	CHECK(slurp(path, buf, sizeof(buf)) > 0, "%s: unreadable", path);
	p = strrchr(buf, ')');
	for (p = strtok_r(p + 1, " \n", &save); p; p = strtok_r(NULL, " \n", &save), field++) {
		if (w == V_COUNT(wanted) || field != wanted[w])
			continue;
		w++;
		if (field != 20 || !(v_leave_out & V_NO_THREADS))
			v_note("%s: field %d %s", path, field, p);
	}
}

/* Numbers in a directory of /proc, without the fd that reads it. */
static size_t list_numbers(const char *path, int *out, size_t max)
{
	DIR *d = opendir(path);
	struct dirent *e;
	size_t n = 0;

	CHECK(d, "%s: %s", path, strerror(errno));
	while ((e = readdir(d)))
		if (e->d_name[0] != '.' && n < max && atoi(e->d_name) != dirfd(d))
			out[n++] = atoi(e->d_name);
	closedir(d);
	return n;
}

static void note_fds(void)
{
	static const char *const keys[] = {"flags:"};
	int fds[1024];
	char path[64];
	size_t i, n = list_numbers("/proc/self/fd", fds, V_COUNT(fds));

	for (i = 0; i < n; i++) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fds[i]);
		note_link(path);
		snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fds[i]);
		note_lines(path, keys, V_COUNT(keys));
	}
}

static void note_threads(void)
{
	static const char *const keys[] = {
	    "Name:", "Cpus_allowed:", "CapEff:", "NoNewPrivs:", "Seccomp:"};
	static const char *const sig[] = {"SigBlk:"};
	int tids[256];
	char path[64];
	size_t i, n = list_numbers("/proc/self/task", tids, V_COUNT(tids));

	for (i = 0; i < n; i++) {
		snprintf(path, sizeof(path), "/proc/self/task/%d/status", tids[i]);
		note_lines(path, keys, V_COUNT(keys));
		if (!(v_leave_out & V_NO_SIGNALS))
			note_lines(path, sig, V_COUNT(sig));
		snprintf(path, sizeof(path), "/proc/self/task/%d/stat", tids[i]);
		note_stat(path);
	}
}

/* Executable mappings: those of the programs, and none that a tool has left behind. */
static void note_code(void)
{
	static __thread char buf[262144];
	char *save, *line;

	CHECK(slurp("/proc/self/maps", buf, sizeof(buf)) > 0, "maps: unreadable");
	for (line = strtok_r(buf, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		if (strchr(line, ' ')[3] == 'x' || strstr(line, "[v"))
			v_note("maps: %s", line);
}

static void note_common(void)
{
	static const char *const keys[] = {
	    "Name:",   "Umask:",  "Uid:",    "Gid:",        "Groups:",  "CapInh:",      "CapPrm:",
	    "CapEff:", "CapBnd:", "CapAmb:", "NoNewPrivs:", "Seccomp:", "Cpus_allowed:"};
	static const char *const sig[] = {"SigPnd:", "ShdPnd:", "SigBlk:", "SigIgn:", "SigCgt:"};
	static const char *const files[] = {"comm",          "cmdline",        "environ",
					    "limits",        "oom_score_adj",  "personality",
					    "timerslack_ns", "coredump_filter"};
	char path[64];
	size_t i;

	v_note("pid %d tid %d pgid %d sid %d", (int)getpid(), (int)syscall(SYS_gettid),
	       (int)getpgid(0), (int)getsid(0));
	v_note("dumpable %d securebits %d keepcaps %d", prctl(PR_GET_DUMPABLE),
	       prctl(PR_GET_SECUREBITS), prctl(PR_GET_KEEPCAPS));
	for (i = 0; i < V_COUNT(files); i++) {
		snprintf(path, sizeof(path), "/proc/self/%s", files[i]);
		note_file(path);
	}
	note_link("/proc/self/exe");
	note_link("/proc/self/cwd");
	note_link("/proc/self/root");
	note_lines("/proc/self/status", keys, V_COUNT(keys));
	if (!(v_leave_out & V_NO_SIGNALS))
		note_lines("/proc/self/status", sig, V_COUNT(sig));
	note_stat("/proc/self/stat");
	if (!(v_leave_out & V_NO_CODE))
		note_code();
	if (!(v_leave_out & V_NO_FDS))
		note_fds();
	if (!(v_leave_out & V_NO_THREADS))
		note_threads();
}

static void take_snapshot(char *into)
{
	v_snap = into;
	v_snap_len = 0;
	v_snap[0] = 0;
	if (!(v_leave_out & V_NO_COMMON))
		note_common();
	if (v_observer)
		v_observer();
}

void v_observe(void (*observe)(void), int leave_out)
{
	v_observer = observe;
	v_leave_out = leave_out;
}

void v_remember(void)
{
	take_snapshot(v_before);
}

void v_recheck(void)
{
	char *a = v_before, *b = v_after, *x = a, *y = b;

	v_rechecked = true;
	take_snapshot(v_after);
	for (; *a && *a == *b; a++, b++) {
		if (*a == '\n') {
			x = a + 1;
			y = b + 1;
		}
	}
	if (*a != *b)
		v_fail("changed: was \"%.*s\" now \"%.*s\"", (int)strcspn(x, "\n"), x,
		       (int)strcspn(y, "\n"), y);
}

void v_ready(void)
{
	char line[32];

	v_remember();
	snprintf(line, sizeof(line), "ready %d\n", (int)getpid());
	put_file("status", line);
}

bool v_stopping(void)
{
	return access(v_path("stop"), F_OK) == 0;
}

void v_wait(void)
{
	while (!v_stopping())
		v_sleep_ms(10);
}

void v_ok(void)
{
	if (!v_rechecked)
		v_recheck();
	put_file("result", "ok\n");
	exit(0);
}

uint64_t v_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * V_SEC + ts.tv_nsec;
}

void v_sleep_ms(unsigned int ms)
{
	struct timespec ts = {ms / 1000, ms % 1000 * 1000000};

	while (nanosleep(&ts, &ts) < 0)
		CHECK(errno == EINTR, "nanosleep: errno %d", errno);
}

uint64_t v_mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
	return x ^ (x >> 31);
}

void v_page_fill(void *page, uint64_t seed)
{
	uint64_t *w = page, base = v_mix(seed + 1);
	unsigned int i;

	for (i = 0; i < V_PAGE / sizeof(*w); i++)
		w[i] = base + i * 0x9e3779b97f4a7c15ULL;
}

bool v_page_is(const void *page, uint64_t seed)
{
	const uint64_t *w = page;
	uint64_t base = v_mix(seed + 1);
	unsigned int i;

	for (i = 0; i < V_PAGE / sizeof(*w); i++)
		if (w[i] != base + i * 0x9e3779b97f4a7c15ULL)
			return false;
	return true;
}

bool v_page_zero(const void *page)
{
	const uint64_t *w = page;
	unsigned int i;

	for (i = 0; i < V_PAGE / sizeof(*w); i++)
		if (w[i])
			return false;
	return true;
}

int v_file(const char *name, int flags, unsigned int pages, uint64_t seed)
{
	int fd = SYS(open(v_path(name), O_CREAT | O_RDWR | O_TRUNC | flags, 0666));
	uint64_t page[V_PAGE / sizeof(uint64_t)];
	unsigned int i;

	for (i = 0; i < pages; i++) {
		v_page_fill(page, seed + i);
		CHECK(write(fd, page, V_PAGE) == (ssize_t)V_PAGE, "%s: short write", name);
	}
	return fd;
}

void *v_map(size_t len, int prot, int flags, int fd, off_t off)
{
	return SYS(mmap(NULL, len, prot, flags, fd, off));
}

int v_memfd(const char *name, unsigned int flags)
{
	return SYS(memfd_create(name, flags));
}

struct start {
	void *(*fn)(void *);
	void *arg;
	_Atomic bool running;
};

static void *start_thread(void *arg)
{
	struct start *s = arg, mine = *s;

	s->running = true;
	return mine.fn(mine.arg);
}

pthread_t v_thread(void *(*fn)(void *), void *arg)
{
	struct start s = {fn, arg, false};
	pthread_t t;
	int ret = pthread_create(&t, NULL, start_thread, &s);

	CHECK(!ret, "pthread_create: %d", ret);
	/* Until then libc has all its signals blocked. */
	while (!s.running)
		sched_yield();
	return t;
}

void v_reap(pid_t pid, int status)
{
	int got;

	CHECK(waitpid(pid, &got, 0) == pid, "waitpid %d: %s", (int)pid, strerror(errno));
	CHECK(got == status, "child %d: status %#x instead of %#x", (int)pid, got, status);
}

static void *watch_pauses(void *arg)
{
	uint64_t last = v_now(), now;

	for (;; last = now) {
		v_sleep_ms(5);
		now = v_now();
		if (now - last > 20 * V_MSEC)
			v_pause_sum += now - last;
	}
	return arg;
}

void v_watch_pauses(void)
{
	v_thread(watch_pauses, NULL);
}

uint64_t v_paused(void)
{
	return v_pause_sum;
}
