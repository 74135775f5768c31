/* SPDX-License-Identifier: Apache-2.0 */
/* Descriptors out of a guest and into it. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "remote_priv.h"

#define SCM_MAX 253

int remote_own_fd(const struct remote *r) { return r->guest_sock; }

int remote_fd_get(struct remote *r, int fd, struct err *e)
{
	int got = (int)syscall(SYS_pidfd_getfd, r->pidfd, fd, 0);

	if (got < 0)
		return err_set(e, errno, "task %d: take descriptor %d", r->pid, fd);
	return got;
}

/* The control socket must not stand where the guest's descriptors will. */
int remote_move_socket(struct remote *r, int above, struct err *e)
{
	_cleanup_batch_ struct batch b = BATCH(r->thread.at[0]);
	int64_t was = r->guest_sock;
	int ret = 0;

	if (was > above)
		return 0;
	size_t i = batch_call(&b, "fcntl(F_DUPFD)", SYS_fcntl, was, F_DUPFD_CLOEXEC, above + 1);
	if ((ret = batch_run(&b, e)) < 0)
		return ret;
	r->guest_sock = (int)b.call.at[i].ret;
	uint64_t fd = (uint64_t)r->guest_sock;
	if ((ret = remote_write(r, stub_slot(r->thread.at[0]), &fd, sizeof(fd), e)) < 0)
		return ret;
	/* the stub sleeps in read() on the old number: wake it once so that it takes the new one */
	batch_reset(&b);
	batch_call(&b, "getpid", SYS_getpid);
	if ((ret = batch_run(&b, e)) < 0)
		return ret;
	batch_reset(&b);
	batch_call(&b, "close", SYS_close, was);
	return batch_run(&b, e);
}

static int send_fds(int sock, const struct remote_fd *fds, size_t n, struct err *e)
{
	union {
		char at[CMSG_SPACE(SCM_MAX * sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	char byte = 0;
	struct iovec io = { &byte, 1 };
	struct msghdr m = { .msg_iov = &io, .msg_iovlen = 1, .msg_control = control.at,
			    .msg_controllen = CMSG_SPACE(n * sizeof(int)) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(n * sizeof(int));
	for (size_t i = 0; i < n; i++)
		memcpy(CMSG_DATA(c) + i * sizeof(int), &fds[i].local, sizeof(int));
	if (sendmsg(sock, &m, MSG_NOSIGNAL) != 1)
		return err_set(e, errno, "send descriptors");
	return 0;
}

/* Receives up to SCM_MAX descriptors inside the guest; they must come as first, first + 1, ... */
static int receive(struct remote *r, const struct remote_fd *fds, size_t n, size_t first,
		   struct err *e)
{
	_cleanup_batch_ struct batch b = BATCH(r->thread.at[0]);
	size_t space = CMSG_SPACE(n * sizeof(int));
	gaddr control = batch_out(&b, space), byte = batch_out(&b, 1);
	uint64_t iov[2] = { byte, 1 };
	struct {
		uint64_t name, namelen, iov, iovlen, control, controllen, flags;
	} hdr = { .iov = batch_in(&b, iov, sizeof(iov)), .iovlen = 1, .control = control,
		  .controllen = space };
	int ret;

	batch_call(&b, "recvmsg", SYS_recvmsg, r->guest_sock, batch_in(&b, &hdr, sizeof(hdr)), 0);
	if ((ret = batch_begin(&b, e)) < 0 || (ret = send_fds(r->sock, fds, n, e)) < 0 ||
	    (ret = batch_end(&b, e)) < 0)
		return ret;
	uint8_t got[CMSG_SPACE(SCM_MAX * sizeof(int))];
	batch_get(&b, control, got, space);
	for (size_t i = 0; i < n; i++) {
		int fd;

		memcpy(&fd, got + CMSG_LEN(0) + i * sizeof(int), sizeof(int));
		if (fd != (int)(first + i))
			return err_say(e, EIO, "descriptor %zu arrived as %d", first + i, fd);
	}
	return 0;
}

/* From the last to the first: a final number is never below the arrival number, so nothing that
 * has not moved yet is overwritten. */
static int move_to_places(struct remote *r, const struct remote_fd *fds, size_t n, struct err *e)
{
	_cleanup_batch_ struct batch b = BATCH(r->thread.at[0]);
	int ret;

	for (size_t i = n; i-- > 0;) {
		if (!batch_room(&b, 2, 0)) {
			if ((ret = batch_run(&b, e)) < 0)
				return ret;
			batch_reset(&b);
		}
		if (fds[i].guest == (int)i) {
			if (fds[i].cloexec)
				batch_call(&b, "fcntl(F_SETFD)", SYS_fcntl, i, F_SETFD, FD_CLOEXEC);
			continue;
		}
		batch_call(&b, "dup3", SYS_dup3, i, fds[i].guest, fds[i].cloexec ? O_CLOEXEC : 0);
		batch_call(&b, "close", SYS_close, i);
	}
	return b.call.n ? batch_run(&b, e) : 0;
}

int remote_fd_put(struct remote *r, const struct remote_fd *fds, size_t n, struct err *e)
{
	int ret;

	if (n == 0)
		return 0;
	int above = fds[n - 1].guest;
	if ((size_t)above < n)
		above = (int)n;
	if ((ret = remote_move_socket(r, above, e)) < 0)
		return err_in(e, "task %d", r->pid);
	for (size_t i = 0; i < n; i += SCM_MAX) {
		size_t k = n - i < SCM_MAX ? n - i : SCM_MAX;

		if ((ret = receive(r, fds + i, k, i, e)) < 0)
			return err_in(e, "task %d", r->pid);
	}
	ret = move_to_places(r, fds, n, e);
	return ret < 0 ? err_in(e, "task %d", r->pid) : 0;
}
