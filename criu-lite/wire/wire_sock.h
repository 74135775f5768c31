/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of wire/: sockets that never block longer than they are told. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "wire_conn.h"

/* Waits for `events` until `deadline` (io_now_ns() clock, 0: for ever). 0, -ETIMEDOUT, -errno. */
int wire_wait(int fd, short events, uint64_t deadline);

/* What both ends of every connection get: no delay, and death of the peer noticed in 25 s. */
void wire_tune(int fd);

/* Printable address of the other end. */
void wire_peer_name(int fd, char *out, size_t size);

/* ---- the hello (wire_hello.c) ---- */

/*
 * hello  := magic version role 0 id 0 0 sum                  client -> server
 * answer := magic version role code id length 0 sum text     server -> client
 *
 * code is 0 or the errno of a refusal, text (length bytes, at most WIRE_TEXT_MAX) says why.
 * Numbers are little-endian; sum is XXH3-64 of what stands before it. This layout is the same in
 * all versions of the protocol, so that a refusal can always be printed.
 */
#define WIRE_MAGIC "CRLT"
#define WIRE_TEXT_MAX 512u

struct wire_hello {
	char magic[4];
	uint32_t version;
	uint32_t role;
	uint32_t code;
	struct wire_id id;
	uint32_t length;
	uint32_t zero;
	uint64_t sum;
};
_Static_assert(sizeof(struct wire_hello) == 48, "hello is a format");

/* A connection whose hello is being read. */
struct wire_pending {
	int fd;
	size_t got;
	uint64_t deadline;           /* io_now_ns() clock */
	struct wire_hello hello;
	char name[64];
};

/* Takes the next connection of a listening socket. -EAGAIN: there is none. */
int wire_pending_take(struct wire_pending *p, int listen_fd);
/* Reads on. 0: a good hello; -EAGAIN: more to come; else refused, `e` says why. */
int wire_pending_read(struct wire_pending *p, struct err *e);
/* Answers: taken, with the socket set up for work. */
int wire_pending_admit(struct wire_pending *p, struct err *e);
/* Answers with the text of e and closes. */
void wire_pending_refuse(struct wire_pending *p, const struct err *e);
/* The client's half, on a connected socket. */
int wire_greet(int fd, enum wire_role role, const struct wire_id *id, uint64_t deadline,
	       struct err *e);
