/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The first and only program of a virtual machine that is moved: it checks what it computes, its
 * memory, its disk and its clock all the time. The kernel's command line says how much of it:
 *
 *   work.mib=N    memory that is dirtied (default 16)
 *   work.rate=N   MiB a second of it, by each CPU (default 20)
 *   work.tick=N   ms between two ticks (default 100)
 *
 * On ttyS0: "ready", then again and again a line "tick N ...", "fail ..." if anything is
 * wrong. On ttyS1 it takes words, one a line: "ask" is answered there by a tick, "end" by "ok ..."
 * after everything was checked once more; then the machine powers off. On TCP port 7 whoever
 * connects gets a tick, too.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <net/route.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096ul
#define WORDS (PAGE / sizeof(uint64_t))
#define CPUS_MAX 8
#define BLOCK 65536ul
#define BLOCKS 64

static struct {
	int out, control;            /* ttyS0, ttyS1 */
	uint64_t mib, rate, tick_ms;
	long cpus;
	uint64_t *memory;
	uint64_t *seed;              /* of each page */
	_Atomic uint64_t filled[CPUS_MAX], chains[CPUS_MAX], blocks;
	_Atomic uint64_t longest_ns; /* without a beat of the clock's thread */
	_Atomic bool bad;
} g;

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void nap(uint64_t ns)
{
	nanosleep(&(struct timespec){ (time_t)(ns / 1000000000u), (long)(ns % 1000000000u) }, NULL);
}

static void say(int fd, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void say(int fd, const char *fmt, ...)
{
	char line[256];
	va_list ap;

	va_start(ap, fmt);
	int n = vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	if (write(fd, line, (size_t)n) < 0)
		return;
}

#define FAIL(fmt, ...)                                            \
	do {                                                      \
		g.bad = true;                                     \
		say(g.out, "fail " fmt "\n", ##__VA_ARGS__);      \
	} while (0)

static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

static void fill(uint64_t *page, uint64_t seed)
{
	for (size_t i = 0; i < WORDS; i++)
		page[i] = mix(seed + i);
}

static bool is(const uint64_t *page, uint64_t seed)
{
	for (size_t i = 0; i < WORDS; i++)
		if (page[i] != mix(seed + i))
			return false;
	return true;
}

/* ---- what it does ---- */

/* Integers and floating point, each time the same: by the second chain on they must agree. */
static uint64_t chain(void)
{
	uint64_t x = 1;
	double d = 1.0;

	for (int i = 0; i < 2000; i++) {
		x = mix(x);
		d = d * 1.0000001 + (double)(x >> 40) / 3.0;
	}
	uint64_t bits;
	memcpy(&bits, &d, sizeof(bits));
	return x ^ bits;
}

static void *dirty(void *arg)
{
	uint64_t me = (uint64_t)(uintptr_t)arg, turn = me, want = chain();
	uint64_t pages = g.mib * 256 / (uint64_t)g.cpus, first = me * pages;
	uint64_t begin = now_ns(), done = 0;

	for (;;) {
		uint64_t p = first + mix(++turn) % pages;
		uint64_t *page = g.memory + p * WORDS;

		if (!is(page, g.seed[p]))
			FAIL("page %lu of CPU %lu", p, me);
		g.seed[p] = mix(turn * (uint64_t)g.cpus + me);
		fill(page, g.seed[p]);
		g.filled[me]++;
		if (turn % 16)
			continue;
		if (chain() != want)
			FAIL("CPU %lu computes something else", me);
		g.chains[me]++;
		done += 16;
		uint64_t due = done * 1000000000u / (g.rate * 256), spent = now_ns() - begin;
		if (spent < due)
			nap(due - spent);
		else if (spent > due + 100000000u) /* what was not done is not caught up with */
			begin += spent - due;
	}
	return NULL;
}

static void *watch_clock(void *arg)
{
	uint64_t last = now_ns();

	for (;;) {
		nap(2000000);
		uint64_t now = now_ns();
		if (now < last)
			FAIL("the clock went back by %lu ns", last - now);
		if (now - last > g.longest_ns)
			g.longest_ns = now - last;
		last = now;
	}
	return arg;
}

static void *use_disk(void *arg)
{
	int fd = open("/dev/vda", O_RDWR | O_DIRECT | O_SYNC);
	uint64_t seeds[BLOCKS] = { 0 };
	uint64_t *buf;

	if (fd < 0)
		return arg;
	buf = mmap(NULL, BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (uint64_t turn = 1;; turn++) {
		uint64_t i = mix(turn) % BLOCKS;
		off_t at = (off_t)(i * BLOCK);

		if (pread(fd, buf, BLOCK, at) != (ssize_t)BLOCK)
			FAIL("disk: read: %s", strerror(errno));
		for (size_t k = 0; seeds[i] && k < BLOCK / PAGE; k++)
			if (!is(buf + k * WORDS, seeds[i] + k))
				FAIL("disk: block %lu, page %zu", i, k);
		seeds[i] = turn << 8;
		for (size_t k = 0; k < BLOCK / PAGE; k++)
			fill(buf + k * WORDS, seeds[i] + k);
		if (pwrite(fd, buf, BLOCK, at) != (ssize_t)BLOCK)
			FAIL("disk: write: %s", strerror(errno));
		g.blocks++;
		nap(20000000);
	}
	return NULL;
}

static void tick(int fd)
{
	uint64_t filled = 0, chains = 0;
	static _Atomic uint64_t number;

	for (long i = 0; i < g.cpus; i++) {
		filled += g.filled[i];
		chains += g.chains[i];
	}
	say(fd, "tick %lu pages %lu chains %lu blocks %lu longest_us %lu clock_us %lu bad %d\n",
	    ++number, filled, chains, g.blocks, g.longest_ns / 1000, now_ns() / 1000, g.bad);
}

static void *serve(void *arg)
{
	struct sockaddr_in sa = { .sin_family = AF_INET, .sin_port = htons(7) };
	int s = socket(AF_INET, SOCK_STREAM, 0);

	if (bind(s, (void *)&sa, sizeof(sa)) < 0 || listen(s, 4) < 0)
		FAIL("net: %s", strerror(errno));
	for (;;) {
		int c = accept(s, NULL, NULL);

		if (c < 0)
			continue;
		tick(c);
		shutdown(c, SHUT_WR);
		close(c);
	}
	return arg;
}

/* ---- how it comes up ---- */

static uint64_t word(const char *line, const char *name, uint64_t otherwise)
{
	const char *at = strstr(line, name);

	return at ? strtoull(at + strlen(name), NULL, 10) : otherwise;
}

static int terminal(const char *path)
{
	int fd = open(path, O_RDWR | O_NOCTTY);
	struct termios t;

	if (fd >= 0 && tcgetattr(fd, &t) == 0) {
		cfmakeraw(&t);
		tcsetattr(fd, TCSANOW, &t);
	}
	return fd;
}

/* /m/00.ko, /m/01.ko ... in that order. */
static void load_modules(void)
{
	char path[32];

	for (int i = 0; i < 32; i++) {
		snprintf(path, sizeof(path), "/m/%02d.ko", i);
		int fd = open(path, O_RDONLY);
		if (fd < 0)
			return;
		if (syscall(SYS_finit_module, fd, "", 0) < 0)
			say(g.out, "%s: %s\n", path, strerror(errno));
		close(fd);
	}
}

static void net_up(void)
{
	struct ifreq r = { .ifr_name = "eth0" };
	struct sockaddr_in *sa = (void *)&r.ifr_addr;
	int s = socket(AF_INET, SOCK_DGRAM, 0);

	sa->sin_family = AF_INET;
	sa->sin_addr.s_addr = inet_addr("10.0.2.15");
	if (ioctl(s, SIOCSIFADDR, &r) < 0) /* no such card */
		return;
	sa->sin_addr.s_addr = inet_addr("255.255.255.0");
	ioctl(s, SIOCSIFNETMASK, &r);
	r.ifr_flags = IFF_UP | IFF_RUNNING;
	ioctl(s, SIOCSIFFLAGS, &r);
	close(s);
}

static void start(void *(*fn)(void *), uintptr_t arg)
{
	pthread_t t;

	if (pthread_create(&t, NULL, fn, (void *)arg))
		FAIL("thread: %s", strerror(errno));
}

static void come_up(void)
{
	char line[1024] = "";

	mount("proc", "/proc", "proc", 0, NULL);
	mount("dev", "/dev", "devtmpfs", 0, NULL);
	g.out = terminal("/dev/ttyS0");
	g.control = terminal("/dev/ttyS1");
	int fd = open("/proc/cmdline", O_RDONLY);
	if (read(fd, line, sizeof(line) - 1) < 0)
		FAIL("cmdline: %s", strerror(errno));
	close(fd);
	g.mib = word(line, "work.mib=", 16);
	g.rate = word(line, "work.rate=", 20);
	g.tick_ms = word(line, "work.tick=", 100);
	g.cpus = sysconf(_SC_NPROCESSORS_ONLN);
	if (g.cpus > CPUS_MAX)
		g.cpus = CPUS_MAX;
	load_modules();
	net_up();
	g.memory = mmap(NULL, g.mib << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			0);
	g.seed = calloc(g.mib * 256, sizeof(*g.seed));
	for (uint64_t p = 0; p < g.mib * 256; p++)
		fill(g.memory + p * WORDS, g.seed[p] = mix(p));
	for (long i = 0; i < g.cpus; i++)
		start(dirty, (uintptr_t)i);
	start(watch_clock, 0);
	start(use_disk, 0);
	start(serve, 0);
	say(g.out, "ready %ld CPUs, %lu MiB\n", g.cpus, g.mib);
}

static void *report(void *arg)
{
	for (;;) {
		tick(g.out);
		nap(g.tick_ms * 1000000);
	}
	return arg;
}

static void finish(void)
{
	/* Of a page that is just being filled the seed is not told yet: once more. */
	for (uint64_t p = 0; p < g.mib * 256; p++) {
		bool ok = false;

		for (int again = 0; !ok && again < 100; again++) {
			ok = is(g.memory + p * WORDS, *(volatile uint64_t *)&g.seed[p]);
			if (!ok)
				nap(1000000);
		}
		if (!ok)
			FAIL("page %lu at the end", p);
	}
	tick(g.control);
	say(g.control, g.bad ? "bad\n" : "ok\n");
	tcdrain(g.control);
	sync();
	reboot(RB_POWER_OFF);
}

int main(void)
{
	char line[64];
	FILE *in;

	come_up();
	start(report, 0);
	in = fdopen(dup(g.control), "r");
	while (in && fgets(line, sizeof(line), in)) {
		if (!strncmp(line, "ask", 3))
			tick(g.control);
		else if (!strncmp(line, "end", 3))
			finish();
	}
	for (;;)
		pause();
}
