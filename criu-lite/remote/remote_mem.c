/* SPDX-License-Identifier: Apache-2.0 */
/* Guest memory. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/uio.h>

#include "io.h"
#include "remote_priv.h"

int remote_mem_fd(struct remote *r, struct err *e)
{
	char path[64];

	if (r->mem_fd >= 0)
		return r->mem_fd;
	snprintf(path, sizeof(path), "/proc/%d/mem", r->pid);
	r->mem_fd = open(path, O_RDWR | O_CLOEXEC);
	if (r->mem_fd < 0)
		return err_set(e, errno, "%s", path);
	return r->mem_fd;
}

int remote_read(struct remote *r, gaddr at, void *p, size_t n, struct err *e)
{
	struct iovec here = { p, n }, there = { (void *)at, n };

	if (process_vm_readv(r->pid, &here, 1, &there, 1, 0) == (ssize_t)n)
		return 0;
	int fd = remote_mem_fd(r, e);
	if (fd < 0)
		return fd;
	int ret = io_pread(fd, p, n, (off_t)at);
	if (ret < 0)
		return err_set(e, -ret, "task %d: read %zu bytes at %#lx", r->pid, n, at);
	return 0;
}

int remote_write(struct remote *r, gaddr at, const void *p, size_t n, struct err *e)
{
	struct iovec here = { (void *)p, n }, there = { (void *)at, n };

	if (process_vm_writev(r->pid, &here, 1, &there, 1, 0) == (ssize_t)n)
		return 0;
	int fd = remote_mem_fd(r, e);
	if (fd < 0)
		return fd;
	int ret = io_pwrite(fd, p, n, (off_t)at);
	if (ret < 0)
		return err_set(e, -ret, "task %d: write %zu bytes at %#lx", r->pid, n, at);
	return 0;
}
