/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The frame of a victim: a program that is checkpointed or migrated and checks itself.
 *
 * It is started with a state directory as its first argument. When its state stands it calls
 * v_ready(), which writes "ready PID" to DIR/status. From then on it may be stopped and moved at
 * any instruction. It works until DIR/stop exists, then does its last checks and ends by v_ok(),
 * which writes "ok" to DIR/result. A wrong value found at any time ends it by v_fail(), from any of
 * its processes and threads; the first result written stays.
 *
 * In DIR/own are names of the kernel's objects: FIFOs and sockets. Each host has its own there.
 *
 * What can be seen of a process in /proc (ids, capabilities, limits, fds, mm fields, threads) is
 * noted by v_ready() and compared by v_ok(), in every victim.
 */
#ifndef VICTIM_H
#define VICTIM_H

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define V_PAGE 4096UL
#define V_COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define V_MSEC 1000000UL
#define V_SEC 1000000000UL

/* What the comparison leaves out, for victims in which it changes by itself. */
enum {
	V_NO_FDS = 1,
	V_NO_THREADS = 2,
	V_NO_SIGNALS = 4,
	V_NO_COMMON = 8,
	V_NO_CODE = 16,
};

void v_init(int argc, char **argv);
/* A victim's own arguments follow the directory: the n-th of them, or a default. */
long v_arg(int n, long otherwise);
/* DIR/name; at most 8 results live at a time. */
const char *v_path(const char *name);

/* Adds lines to the comparison: observe() calls v_note(), before and after. */
void v_observe(void (*observe)(void), int leave_out);
void v_note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/*
 * The two halves of v_ready() and v_ok(): for processes other than the first, and for a victim
 * that takes itself apart before v_ok().
 */
void v_remember(void);
void v_recheck(void);

void v_ready(void);
bool v_stopping(void);
void v_wait(void);
void v_ok(void) __attribute__((noreturn));
void v_fail(const char *fmt, ...) __attribute__((noreturn, format(printf, 1, 2)));
/* The machine lacks what the victim is about; only before v_ready(). */
void v_skip(const char *fmt, ...) __attribute__((noreturn, format(printf, 1, 2)));

#define CHECK(cond, fmt, ...)                                                     \
	do {                                                                      \
		if (!(cond))                                                      \
			v_fail("%s:%d: " fmt, __FILE__, __LINE__, ##__VA_ARGS__); \
	} while (0)
/* For system calls that return -1 and set errno. */
#define SYS(expr)                                                                         \
	({                                                                                \
		__typeof__(expr) sys_ret = (expr);                                        \
		CHECK(sys_ret != (__typeof__(expr))-1, "%s: errno %d (%s)", #expr, errno, \
		      strerror(errno));                                                   \
		sys_ret;                                                                  \
	})

uint64_t v_now(void);
void v_sleep_ms(unsigned int ms);
uint64_t v_mix(uint64_t x);
/* A page of words that all depend on @seed; v_page_is() says whether it is whole. */
void v_page_fill(void *page, uint64_t seed);
bool v_page_is(const void *page, uint64_t seed);
bool v_page_zero(const void *page);
/* A file of @pages filled pages, seeds @seed + page number. */
int v_file(const char *name, int flags, unsigned int pages, uint64_t seed);
void *v_map(size_t len, int prot, int flags, int fd, off_t off);
int v_memfd(const char *name, unsigned int flags);
/* Starts a thread; it runs when this returns. */
pthread_t v_thread(void *(*fn)(void *), void *arg);
/* Waits for a child, which must end with this wait status. */
void v_reap(pid_t pid, int status);
/* Runs a clock that sees how long the victim stood still, all in all. */
void v_watch_pauses(void);
uint64_t v_paused(void);

#endif
