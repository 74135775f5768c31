/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Control frames.
 *
 *   frame := type:u32 length:u32 sum:u64 check:u64 bytes[length]
 *
 * Little-endian. sum is XXH3-64 of the bytes; check is XXH3-64 of what stands before it, so that
 * no length is believed that was damaged on the way.
 */
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <xxhash.h>

#include "io.h"
#include "wire_sock.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "formats are little-endian");

#define TYPE_REFUSED (WIRE_TYPE_RESERVED + 1)
#define STALL_NS (30 * 1000000000ull)
#define PIECE (1u << 20)

struct frame_head {
	uint32_t type, length;
	uint64_t sum, check;
};

static uint64_t head_check(const struct frame_head *h)
{
	return XXH3_64bits(h, offsetof(struct frame_head, check));
}

/* Reads n bytes; the peer may pause for 30 s at most. */
static int read_all(int fd, void *p, size_t n)
{
	for (uint8_t *at = p; n > 0;) {
		ssize_t got = recv(fd, at, n, MSG_DONTWAIT);

		if (got == 0)
			return -ENODATA;
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0 && errno != EAGAIN)
			return -errno;
		if (got < 0) {
			int ret = wire_wait(fd, POLLIN, io_now_ns() + STALL_NS);
			if (ret < 0)
				return ret;
			continue;
		}
		at += got;
		n -= (size_t)got;
	}
	return 0;
}

/* The length is the peer's word only: memory grows with what has really come. */
static int read_body(int fd, struct buf *out, size_t n)
{
	out->n = 0;
	while (out->n < n) {
		size_t want = n - out->n < PIECE ? n - out->n : PIECE;

		out->at = vec_grow(out->at, &out->cap, out->n + want, 1);
		int ret = read_all(fd, out->at + out->n, want);
		if (ret < 0)
			return ret;
		out->n += want;
	}
	return 0;
}

static int cut_error(int ret, struct err *e)
{
	if (ret == -ENODATA)
		return err_say(e, EBADMSG, "connection ended in the middle of a message");
	if (ret == -ETIMEDOUT)
		return err_say(e, EBADMSG, "peer stopped in the middle of a message");
	return err_set(e, -ret, "read from peer");
}

/* Waits for the first byte of a frame. */
static int await_frame(int fd, int timeout_ms, struct err *e)
{
	uint64_t deadline = timeout_ms < 0 ? 0 : io_now_ns() + (uint64_t)timeout_ms * 1000000u;
	char c;

	for (;;) {
		ssize_t n = recv(fd, &c, 1, MSG_PEEK | MSG_DONTWAIT);

		if (n > 0)
			return 0;
		if (n == 0)
			return err_say(e, ENODATA, "peer closed the connection");
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN)
			return err_set(e, errno, "read from peer");
		int ret = wire_wait(fd, POLLIN, deadline);
		if (ret == -ETIMEDOUT)
			return err_say(e, ETIMEDOUT, "no message from peer within %.1f s",
				       timeout_ms / 1000.0);
		if (ret < 0)
			return err_set(e, -ret, "read from peer");
	}
}

int wire_recv(int fd, uint32_t *type, struct buf *out, int timeout_ms, struct err *e)
{
	struct frame_head h;
	int ret = await_frame(fd, timeout_ms, e);

	if (ret < 0)
		return ret;
	ret = read_all(fd, &h, sizeof(h));
	if (ret < 0)
		return cut_error(ret, e);
	if (h.check != head_check(&h))
		return err_say(e, EBADMSG, "message damaged (wrong checksum of its head)");
	if (h.length > WIRE_FRAME_MAX)
		return err_say(e, EBADMSG, "message of %u bytes is too long", h.length);
	ret = read_body(fd, out, h.length);
	if (ret < 0)
		return cut_error(ret, e);
	if (XXH3_64bits(out->at, out->n) != h.sum)
		return err_say(e, EBADMSG, "message damaged (wrong checksum)");
	if (h.type == TYPE_REFUSED)
		return err_say(e, ECONNREFUSED, "refused by the other side: %.*s", (int)out->n,
			       out->at ? (char *)out->at : "");
	*type = h.type;
	return 0;
}

/* A peer that refuses us closes: its words may be waiting behind our broken pipe. Other messages
 * are left for the caller to read. */
static int why_closed(int fd, int code, struct err *e)
{
	struct buf b = { 0 };
	struct frame_head h;
	uint32_t type;
	int ret = 0;

	if (recv(fd, &h, sizeof(h), MSG_PEEK | MSG_DONTWAIT) == (ssize_t)sizeof(h) &&
	    h.type == TYPE_REFUSED)
		ret = wire_recv(fd, &type, &b, 0, e);
	buf_free(&b);
	if (ret == -ECONNREFUSED)
		return ret;
	return err_set(e, code == ECONNRESET ? EPIPE : code, "write to peer");
}

int wire_send(int fd, uint32_t type, const void *p, size_t n, struct err *e)
{
	struct frame_head h = { .type = type, .length = (uint32_t)n };

	if (n > WIRE_FRAME_MAX)
		return err_say(e, EMSGSIZE, "message of %zu bytes is too long", n);
	h.sum = XXH3_64bits(p, n);
	h.check = head_check(&h);
	int ret = wire_write(fd, &h, sizeof(h), p, n);
	if (ret == -EPIPE || ret == -ECONNRESET)
		return why_closed(fd, -ret, e);
	return ret < 0 ? err_set(e, -ret, "write to peer") : 0;
}

void wire_refuse(int fd, const char *fmt, ...)
{
	char text[WIRE_TEXT_MAX];
	struct err ignored = ERR_INIT;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	wire_send(fd, TYPE_REFUSED, text, strlen(text), &ignored);
	close(fd);
}
