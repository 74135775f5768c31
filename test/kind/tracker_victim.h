/* SPDX-License-Identifier: Apache-2.0 */
/* The victim of test/kind/tracker.c and the model of the other side. */
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
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
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "io.h"
#include "pages_tracker_int.h"
#include "proc_maps.h"

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif
#define MADV_GUARD_INSTALL_ 102
#define MADV_GUARD_REMOVE_ 103

extern enum tracker_kind the_kind;
extern char victim_bss[PAGE_SIZE];

enum { CMD_SYSCALL, CMD_POKE, CMD_PEEK, CMD_BSS, CMD_STACK, CMD_FORK, CMD_REAP, CMD_EXEC,
       CMD_MAP_READ_ONLY, CMD_RANDOM };
struct cmd {
	uint64_t what, arg[7];
};

struct other_page {
	uint64_t at;
	uint8_t bytes[PAGE_SIZE];
};

struct victim {
	pid_t pid;
	int to, from;            /* pipes */
	bool busy;               /* with a command */
	int zero_fd, file_fd;    /* numbers in the victim */
	bool file_in_memory;     /* on tmpfs */
	uint64_t scratch;        /* a string there */
	struct tracker *t;
	struct scan scan;        /* the last one */
	struct proc_maps maps;   /* as of the last look */
	VEC(struct other_page *) other; /* ascending */
};

struct victim *victim_new(void);
void victim_free(struct victim **v);
#define _cleanup_victim_ _cleanup_(victim_free)
/* A new tracker; the model starts afresh. */
void victim_track(struct victim *v);
int victim_uffd(struct victim *v);

/* Tell it, wait for it; both. vsys: a system call that must succeed. */
void vsend_cmd(struct victim *v, const struct cmd *c);
void vsend(struct victim *v, uint64_t what, uint64_t a, uint64_t b, uint64_t c);
bool vdone(struct victim *v, int timeout_ms);
int64_t vwait(struct victim *v);
int64_t vtell(struct victim *v, uint64_t what, uint64_t a, uint64_t b, uint64_t c);
int64_t vcall(struct victim *v, bool may_fail, uint64_t nr, uint64_t a, uint64_t b, uint64_t c,
	      uint64_t d, uint64_t e, uint64_t f);
#define VCALL8_(v, may, nr, a, b, c, d, e, f, ...) \
	vcall(v, may, (uint64_t)(nr), (uint64_t)(a), (uint64_t)(b), (uint64_t)(c), (uint64_t)(d), \
	      (uint64_t)(e), (uint64_t)(f))
#define vsys(v, ...) VCALL8_(v, false, __VA_ARGS__, 0, 0, 0, 0, 0, 0, 0)
#define vtry(v, ...) VCALL8_(v, true, __VA_ARGS__, 0, 0, 0, 0, 0, 0, 0)
uint64_t vmap(struct victim *v, uint64_t size, int flags, int fd, uint64_t off);
void vpoke(struct victim *v, uint64_t at, int value, uint64_t n);
void vpeek(struct victim *v, uint64_t at);

/* Scans and lets the model apply what was found. */
void look(struct victim *v, bool frozen);
void expect_dirty(struct victim *v, uint64_t at, bool yes);
void expect_reset(struct victim *v, uint64_t at, bool yes);
void expect_dirty_or_unsure(struct victim *v, uint64_t at);
/* The model's private memory is the victim's. */
void expect_same(struct victim *v);
void expect_same_after_look(struct victim *v, bool frozen);

struct proc_maps maps_of(pid_t pid);
void wait_for_exec(struct victim *v);
long status_kb(pid_t pid, const char *key);
bool keeper_there(pid_t root);
