/* SPDX-License-Identifier: Apache-2.0 */
/* /proc/PID/fdinfo/N: pure parser, needs no root, trusts nothing. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "err.h"
#include "vec.h"

struct proc_epoll_member {      /* "tfd: 5 events: 19 data: ffff pos:0 ino:61af sdev:7" */
	uint32_t tfd, events;
	uint64_t data, pos, ino, sdev;
};

struct proc_lock {              /* "lock: 1: POSIX  ADVISORY  WRITE 359 00:13:11691 0 EOF" */
	enum { PROC_LOCK_POSIX, PROC_LOCK_FLOCK, PROC_LOCK_OFD, PROC_LOCK_LEASE } kind;
	bool write;
	int32_t pid;
	uint64_t dev, ino;
	int64_t start, len;     /* len 0: to the end */
};

struct proc_fdinfo {
	int64_t pos;
	uint32_t flags;         /* octal in the file; includes O_CLOEXEC */
	int32_t mnt_id;
	uint64_t ino;
	uint64_t eventfd_count;
	bool has_eventfd_semaphore; /* since 6.5 */
	uint32_t eventfd_semaphore;
	uint64_t sigmask;
	struct {
		int32_t clockid;
		uint64_t ticks;
		uint32_t settime_flags;
		uint64_t value_sec, value_nsec, interval_sec, interval_nsec;
	} timerfd;
	int32_t pidfd_pid;      /* "Pid:" */
	int32_t pidfd_nspid;    /* last of "NSpid:" */
	VEC(struct proc_epoll_member) epoll;
	VEC(struct proc_lock) locks;
	bool has_inotify, has_fanotify;
};

/* -EBADMSG with the line that makes no sense. Unknown keys are skipped. */
int proc_fdinfo_parse(const char *text, size_t n, struct proc_fdinfo *out, struct err *e);
void proc_fdinfo_free(struct proc_fdinfo *i);
