/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Clocks through the vDSO, in a loop in which the victim is moved: none may step back, and what the
 * vDSO says must be what the system call says. With signals that interrupt that loop, too.
 *
 * The argument says how the vDSO looks to the target:
 *   0  it is the target's, too
 *   1  another kernel's: some bytes of it differ
 *   2  the target's, but as after a stay on another kernel: a copy in plain memory that leads into
 *      what is mapped elsewhere
 *   3  both: another kernel's, and a copy
 *   4  it really goes to other kernels: where what is mapped is not looked at, nor what else
 *      differs
 */
#include "victim.h"

#include <elf.h>
#include <sys/auxv.h>
#include <sys/time.h>

#define ALTERED 9 /* a byte of e_ident's padding */
#define ASIDE 0x2e02c0de0000ul /* where criu-lite would put it */

static const clockid_t clocks[] = {CLOCK_MONOTONIC,        CLOCK_REALTIME, CLOCK_BOOTTIME,
				   CLOCK_MONOTONIC_COARSE, CLOCK_TAI,      CLOCK_MONOTONIC_RAW};
static _Atomic unsigned long interrupted;
static bool others;

static int64_t ns(const struct timespec *ts)
{
	return ts->tv_sec * 1000000000L + ts->tv_nsec;
}

static void check_clock(size_t i, int64_t *last)
{
	struct timespec before, vdso, after;

	SYS(syscall(SYS_clock_gettime, clocks[i], &before));
	SYS(clock_gettime(clocks[i], &vdso));
	SYS(syscall(SYS_clock_gettime, clocks[i], &after));
	/* Between real hosts, no time namespace helps those. */
	if (others && (clocks[i] == CLOCK_MONOTONIC_RAW || clocks[i] == CLOCK_REALTIME ||
		       clocks[i] == CLOCK_TAI))
		return;
	CHECK(ns(&before) <= ns(&vdso) && ns(&vdso) <= ns(&after),
	      "clock %d: the vDSO says %ld, the kernel %ld to %ld", clocks[i], ns(&vdso),
	      ns(&before), ns(&after));
	CHECK(ns(&vdso) >= *last, "clock %d went back by %ld ns", clocks[i], *last - ns(&vdso));
	*last = ns(&vdso);
}

/* ---- mappings ---- */

struct range {
	unsigned long start, end;
};

/* The mappings of that name side by side, for "[vvar" its parts. */
static struct range find(const char *name)
{
	struct range r = {0, 0};
	unsigned long start, end;
	char line[512];
	FILE *f = fopen("/proc/self/maps", "re");

	CHECK(f, "maps");
	while (fgets(line, sizeof(line), f))
		if (strstr(line, name) && sscanf(line, "%lx-%lx", &start, &end) == 2) {
			CHECK(!r.end || r.end == start, "two of %s", name);
			if (!r.end)
				r.start = start;
			r.end = end;
		}
	fclose(f);
	return r;
}

static void *at_(unsigned long a) { return (void *)a; }

static void move_to(struct range r, unsigned long to)
{
	char line[512], name[64];
	unsigned long start, end;
	struct range part[8];
	unsigned int n = 0;
	FILE *f = fopen("/proc/self/maps", "re");

	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "%lx-%lx %*s %*s %*s %*s %63s", &start, &end, name) == 3 &&
		    start >= r.start && end <= r.end && n < V_COUNT(part))
			part[n++] = (struct range){start, end};
	fclose(f);
	for (unsigned int i = 0; i < n; i++)
		if (mremap(at_(part[i].start), part[i].end - part[i].start,
			   part[i].end - part[i].start, MREMAP_MAYMOVE | MREMAP_FIXED,
			   to + (part[i].start - r.start)) == MAP_FAILED)
			v_skip("this kernel does not let its vDSO be moved");
}

/* Each entry point of a copy jumps to the same in the original. */
static void lead(unsigned char *copy, unsigned long to)
{
	Elf64_Ehdr *eh = (void *)copy;
	Elf64_Phdr *ph = (void *)(copy + eh->e_phoff);
	unsigned long sym = 0, str = 0;

	for (int i = 0; i < eh->e_phnum; i++)
		if (ph[i].p_type == PT_DYNAMIC)
			for (Elf64_Dyn *d = (void *)(copy + ph[i].p_offset); d->d_tag; d++) {
				if (d->d_tag == DT_SYMTAB)
					sym = d->d_un.d_ptr;
				if (d->d_tag == DT_STRTAB)
					str = d->d_un.d_ptr;
			}
	CHECK(sym && str > sym, "symbols of the vDSO");
	for (Elf64_Sym *s = (void *)(copy + sym); (unsigned char *)s < copy + str; s++) {
		unsigned char *code = copy + s->st_value;
		unsigned long dest = to + s->st_value;

		if (ELF64_ST_TYPE(s->st_info) != STT_FUNC ||
		    strncmp((char *)copy + str + s->st_name, "__vdso_", 7))
			continue;
		memcpy(code, "\x48\xb8", 2);
		memcpy(code + 2, &dest, 8);
		memcpy(code + 10, "\xff\xe0", 2);
	}
}

static void alter(void *image, size_t n)
{
	if (mprotect(image, n, PROT_READ | PROT_WRITE | PROT_EXEC) < 0)
		v_skip("this kernel does not let its vDSO be changed");
	((unsigned char *)image)[ALTERED] = 1;
	SYS(mprotect(image, n, PROT_READ | PROT_EXEC));
}

static void make_copy(bool altered)
{
	struct range code = find("[vdso]"), data = find("[vvar"), all = {data.start, code.end};
	size_t n = code.end - code.start;
	unsigned long aside;

	CHECK(data.end == code.start, "the vDSO is not behind its data");
	aside = ASIDE;
	move_to(all, aside);
	SYS(mmap(at_(data.start), data.end - data.start, PROT_READ,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
	unsigned char *copy = SYS((unsigned char *)mmap(at_(code.start), n, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
	memcpy(copy, at_(aside + (code.start - all.start)), n);
	lead(copy, aside + (code.start - all.start));
	SYS(mprotect(copy, n, PROT_READ | PROT_EXEC));
	if (altered)
		alter(copy, n);
}

/* When the process was made: another moment after each restore. */
static unsigned long long start_time(void)
{
	static char text[1024];
	unsigned long long t = 0;
	char *at;
	int fd = SYS(open("/proc/self/stat", O_RDONLY | O_CLOEXEC));
	ssize_t n = SYS(read(fd, text, sizeof(text) - 1));

	text[n] = 0;
	close(fd);
	at = strrchr(text, ')');
	CHECK(at && sscanf(at, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d "
			       "%*d %*d %*d %llu", &t) == 1, "stat: %s", text);
	return t;
}

static int code_mappings(void)
{
	FILE *f = fopen("/proc/self/maps", "re");
	char line[512], prot[8];
	int n = 0;

	while (fgets(line, sizeof(line), f))
		n += sscanf(line, "%*s %7s", prot) == 1 && prot[2] == 'x';
	fclose(f);
	return n;
}

/* However often it is moved, there are the kernel's own, one copy, and what was the kernel's
 * before. */
static void check_mappings(long mode, bool was_moved)
{
	static char timens[2][64];
	static int before;
	int now = code_mappings();
	struct range code = find("[vdso]");
	unsigned long at = getauxval(AT_SYSINFO_EHDR);
	bool home = mode == 0 || (was_moved ? mode == 2 : mode == 1);

	/* Its data pages are others in a time namespace: it is kept aside there, too. */
	SYS(readlink("/proc/self/ns/time", timens[was_moved], sizeof(timens[0]) - 1));
	if (was_moved && strcmp(timens[0], timens[1])) {
		CHECK(now <= before + 2, "%d mappings with code, were %d", now, before);
		return;
	}
	CHECK((code.start == at) == home,
	      "mode %ld, moved %d: the kernel's vDSO is at %#lx, ours at "
	      "%#lx",
	      mode, was_moved, code.start, at);
	CHECK(((unsigned char *)at)[ALTERED] == (mode & 1), "the bytes of the vDSO changed");
	if (!was_moved)
		before = now;
	CHECK(now <= before + (was_moved ? (mode & 1) + (mode == 1) : 0),
	      "mode %ld, moved %d: %d mappings with code, were %d", mode, was_moved, now, before);
}

static void note_vdso(void)
{
	v_note("vdso at %#lx", getauxval(AT_SYSINFO_EHDR));
}

static void on_signal(int sig)
{
	static int64_t last[V_COUNT(clocks)];
	int saved = errno;

	check_clock(interrupted % V_COUNT(clocks), &last[interrupted % V_COUNT(clocks)]);
	interrupted++;
	errno = saved;
}

static void start_signals(void)
{
	struct sigaction sa = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
	struct itimerval often = {{0, 700}, {0, 700}};

	SYS(sigaction(SIGALRM, &sa, NULL));
	SYS(setitimer(ITIMER_REAL, &often, NULL));
}

int main(int argc, char **argv)
{
	int64_t last[V_COUNT(clocks)] = {0};
	struct itimerval off = {0};
	unsigned long long born;
	struct timeval tv;
	unsigned int cpu, node, i;
	char first[4];
	long mode;

	v_init(argc, argv);
	mode = v_arg(0, 0);
	others = mode == 4;
	memcpy(first, (void *)getauxval(AT_SYSINFO_EHDR), 4);
	CHECK(!memcmp(first, "\177ELF", 4), "no vDSO");
	if (mode & 2)
		make_copy(mode & 1);
	else if (mode & 1)
		alter(at_(find("[vdso]").start), find("[vdso]").end - find("[vdso]").start);
	born = start_time();
	if (mode != 4)
		check_mappings(mode, false);
	start_signals();
	v_observe(note_vdso, V_NO_SIGNALS | (mode == 4 ? V_NO_COMMON : V_NO_CODE));
	v_ready();
	while (!v_stopping()) {
		for (i = 0; i < 20000; i++)
			check_clock(i % V_COUNT(clocks), &last[i % V_COUNT(clocks)]);
		SYS(gettimeofday(&tv, NULL));
		SYS(getcpu(&cpu, &node));
		CHECK(cpu < 4096 && llabs(tv.tv_sec - time(NULL)) <= 1, "getcpu or time");
		v_sleep_ms(1);
	}
	SYS(setitimer(ITIMER_REAL, &off, NULL));
	CHECK(interrupted > 10, "the timer fired %lu times", interrupted);
	if (mode != 4)
		check_mappings(mode, start_time() != born);
	v_ok();
}
