/* SPDX-License-Identifier: Apache-2.0 */
/* Whole reads and writes, small files, clocks. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "err.h"
#include "vec.h"

#ifndef PAGE_SIZE            /* <sys/user.h> has one too */
#define PAGE_SIZE 4096UL
#endif

/* Reads exactly n bytes. 0, or -errno; end of file before n: -ENODATA
 * (-EPIPE never: a closed peer is an end of file). Restarts on EINTR. */
int io_read(int fd, void *p, size_t n);
int io_pread(int fd, void *p, size_t n, off_t at);

/* Writes exactly n bytes (MSG_NOSIGNAL is the caller's business: SIGPIPE is
 * ignored in this program). 0 or -errno. */
int io_write(int fd, const void *p, size_t n);
int io_pwrite(int fd, const void *p, size_t n, off_t at);

/* Reads a file of unknown size (/proc) from its beginning; a zero byte follows the
 * text but is not counted. */
int io_slurp_at(int dirfd, const char *path, struct buf *out, struct err *e);
/* The same of a path that is put together as by printf(). */
int io_slurp(struct buf *out, struct err *e, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
int io_slurp_fd(int fd, struct buf *out);          /* from offset 0; 0 or -errno */

/* Writes a small file as a whole (sysfs, /proc, pidfiles). */
int io_spill(const char *path, const void *p, size_t n, struct err *e);

uint64_t io_now_ns(void); /* CLOCK_MONOTONIC */
