/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections between two hosts: one control connection, N data connections.
 *
 * Every connection begins with a hello in each direction: magic, protocol version, role,
 * migration id. Data connections name the migration they belong to. Control messages are
 * frames: type, length, checksum, bytes; the bytes are protobuf of a higher layer.
 */
#pragma once

#include <stdint.h>

#include "err.h"
#include "vec.h"

#define WIRE_VERSION 1u
/* The queues of 500 fast connections, 1 MiB each, go in one. */
#define WIRE_FRAME_MAX (2048u << 20)

struct wire_id { uint8_t at[16]; };          /* random, names a migration */

enum wire_role { WIRE_CONTROL = 1, WIRE_DATA = 2 };

/* "tcp://HOST:PORT", "HOST:PORT", "[v6]:PORT"; a listener may leave HOST empty.
 * Clear errors: unknown host, refused ("is `criu-lite receive` running there?"), timed out
 * (10 s). */
int wire_connect(const char *where, enum wire_role role, const struct wire_id *id, int *fd,
		 struct err *e);

int wire_listen(const char *where, int *fd, struct err *e);

/* Accepts one connection and reads its hello (5 s time limit; garbage, a wrong version or role is
 * an error that is answered with a refusal the peer can print, and leaves the listener fine).
 * peer: printable address. Waits for the first that comes, so a silent client holds up the others
 * for its 5 s: a service uses a listener (below). */
int wire_accept(int listen_fd, enum wire_role *role, struct wire_id *id, char *peer, size_t size,
		int *fd, struct err *e);

/* Refuses a connection after it was accepted: the peer's next wire_recv() fails with this text
 * (-ECONNREFUSED). Closes it. */
void wire_refuse(int fd, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* A listener that reads many hellos at once: silent clients and garbage hold up nobody. */
struct wire_listener;

struct wire_peer {
	int fd;
	enum wire_role role;
	struct wire_id id;
	char name[64];               /* printable address */
};

int wire_listener_new(struct wire_listener **l, const char *where, struct err *e);
void wire_listener_free(struct wire_listener *l);
/* From now on only connections of this migration are taken, others are told "busy" or "unknown
 * migration". NULL: control connections of any migration, no data connections (the default). */
void wire_listener_expect(struct wire_listener *l, const struct wire_id *id);
/* The next connection with a good hello; bad ones are refused and logged. timeout_ms < 0: waits
 * for ever, else -ETIMEDOUT. */
int wire_listener_accept(struct wire_listener *l, struct wire_peer *out, int timeout_ms,
			 struct err *e);

/* One control frame. Writing is whole or fails (-EPIPE: the peer is gone). Reading: a frame that
 * is damaged, too long, cut or stuck half-way for 30 s: -EBADMSG; peer closed between frames:
 * -ENODATA;
 * timeout_ms (for the frame to begin) < 0: wait for ever, else -ETIMEDOUT and nothing is lost. */
int wire_send(int fd, uint32_t type, const void *p, size_t n, struct err *e);
int wire_recv(int fd, uint32_t *type, struct buf *out, int timeout_ms, struct err *e);

/* The bytes of two buffers as a whole, without SIGPIPE; for frames of another format. 0 or
 * -errno. */
int wire_write(int fd, const void *head, size_t head_n, const void *p, size_t n);

/* Types from here on are the wire's own. */
#define WIRE_TYPE_RESERVED 0xffffff00u
