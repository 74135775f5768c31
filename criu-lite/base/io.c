/* SPDX-License-Identifier: Apache-2.0 */
#include "io.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "cleanup.h"

int io_read(int fd, void *p, size_t n)
{
	for (uint8_t *at = p; n > 0;) {
		ssize_t got = read(fd, at, n);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (got == 0)
			return -ENODATA;
		at += got;
		n -= (size_t)got;
	}
	return 0;
}

int io_pread(int fd, void *p, size_t n, off_t off)
{
	for (uint8_t *at = p; n > 0;) {
		ssize_t got = pread(fd, at, n, off);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (got == 0)
			return -ENODATA;
		at += got;
		off += got;
		n -= (size_t)got;
	}
	return 0;
}

int io_write(int fd, const void *p, size_t n)
{
	for (const uint8_t *at = p; n > 0;) {
		ssize_t put = write(fd, at, n);
		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return -errno;
		at += put;
		n -= (size_t)put;
	}
	return 0;
}

int io_pwrite(int fd, const void *p, size_t n, off_t off)
{
	for (const uint8_t *at = p; n > 0;) {
		ssize_t put = pwrite(fd, at, n, off);
		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return -errno;
		at += put;
		off += put;
		n -= (size_t)put;
	}
	return 0;
}

int io_slurp_fd(int fd, struct buf *out)
{
	out->n = 0;
	for (;;) {
		out->at = vec_grow(out->at, &out->cap, out->n + 4097, 1);
		ssize_t got = pread(fd, out->at + out->n, out->cap - out->n - 1, (off_t)out->n);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (got == 0)
			break;
		out->n += (size_t)got;
	}
	out->at[out->n] = '\0';
	return 0;
}

int io_slurp_at(int dirfd, const char *path, struct buf *out, struct err *e)
{
	_cleanup_close_ int fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return err_set(e, errno, "%s", path);
	int ret = io_slurp_fd(fd, out);
	if (ret < 0)
		return err_set(e, -ret, "%s", path);
	return 0;
}

int io_slurp(struct buf *out, struct err *e, const char *fmt, ...)
{
	char path[PATH_MAX];
	va_list ap;

	va_start(ap, fmt);
	int n = vsnprintf(path, sizeof(path), fmt, ap);
	va_end(ap);
	if ((size_t)n >= sizeof(path))
		return err_set(e, ENAMETOOLONG, "%.100s...", path);
	return io_slurp_at(AT_FDCWD, path, out, e);
}

int io_spill(const char *path, const void *p, size_t n, struct err *e)
{
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	if (fd < 0)
		return err_set(e, errno, "%s", path);
	int ret = io_write(fd, p, n);
	if (ret < 0)
		return err_set(e, -ret, "%s: write", path);
	return 0;
}

uint64_t io_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}
