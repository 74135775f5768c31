/* SPDX-License-Identifier: Apache-2.0 */
/* Unpacking of bytes that nobody vouches for. */
#pragma once

#include <protobuf-c/protobuf-c.h>
#include <stdint.h>

#include "err.h"
#include "img_types.h"

/* Unpacks `len` bytes as a message of `d` after checking what protobuf-c does not: nesting
 * depth (it recurses), enum values, zero bytes in strings. -EBADMSG. */
int img_unpack(const ProtobufCMessageDescriptor *d, const uint8_t *p, size_t len,
	       ProtobufCMessage **out, struct err *e);

/* How many of the `avail` bytes at `p` belong to the record `m` as its extra payload.
 * `index`: which record of its file. -EBADMSG: more are needed than there are. */
int img_extra_size(enum img_extra rule, size_t index, const ProtobufCMessage *m,
		   const uint8_t *p, size_t avail, uint64_t *size, struct err *e);
