/* SPDX-License-Identifier: Apache-2.0 */
/* Control messages of a migration (proto/stream.proto) over a control connection. */
#pragma once

#include "err.h"
#include "stream.pb-c.h"

enum stream_type {
	STREAM_PREFLIGHT = 1,
	STREAM_VERDICT,
	STREAM_ROUND,
	STREAM_READY,
	STREAM_LAST,
	STREAM_PREPARED,
	STREAM_SEAL,
	STREAM_RUNNING,
	STREAM_GO,
	STREAM_HURRY,                /* the last round is near */
	STREAM_EASE,                 /* it is not, after all */
	STREAM_MORE,                 /* connections */
	STREAM_CAUGHT,               /* packets for the guest */
};

int stream_send(int fd, enum stream_type type, const void *msg, struct err *e);

/* Receives a message of exactly this type. A peer that answers with a complaint, whatever was
 * expected: its text is the error. Freed with protobuf_c_message_free_unpacked. */
int stream_recv(int fd, enum stream_type type, void *out /* Foo ** */, int timeout_ms,
		struct err *e);
/* The same for one of two types: which one is in *type. */
int stream_recv_any(int fd, enum stream_type *type, void *out, int timeout_ms, struct err *e);

/* Target: yes, or what is wrong (as `type`). */
int stream_answer(int fd, enum stream_type type, const struct err *wrong, uint64_t ns,
		  struct err *e);
