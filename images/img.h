/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The state of a guest: a set of records, each a protobuf message of CRIU's image
 * format, grouped by (type, id) as CRIU groups them in files: IMG_CORE of id 12 is
 * core-12.img. Types without a number in their file name have id 0.
 *
 * One state, two carriers: a set is saved to and loaded from an image directory
 * (img_dir.h), or encoded as bytes for the stream (img_set_encode). Code above
 * this layer knows only sets. Page contents are not part of a set: img_pages.h.
 */
#pragma once

#include <protobuf-c/protobuf-c.h>
#include <stdint.h>
#include <stdio.h>

#include "cleanup.h"
#include "err.h"
#include "vec.h"

/* Every file type of a CRIU 4.2 image directory that this program writes or reads;
 * names as in CRIU: IMG_INVENTORY, IMG_FDINFO, IMG_CORE, ... (img_types.h). */
#include "img_types.h"

struct img_record {
	uint8_t *data;    /* packed message */
	uint32_t len;
	uint8_t *extra;   /* raw payload that follows the record, or NULL */
	uint32_t extra_len;
};

/* Sums of files that were taken while they were written. */
struct img_known_file {
	char name[64];
	uint64_t size, hash;
};
struct img_known {
	VEC(struct img_known_file) file;
};

struct img_set;

struct img_set *img_set_new(void);
void img_set_free(struct img_set *s);
static inline void img_set_cleanup(struct img_set **s) { img_set_free(*s); }
#define _cleanup_img_set_ _cleanup_(img_set_cleanup)

/* Appends a record; packs `m` now, so `m` may live on the stack. `m` must be of the
 * type's message (asserted). */
void img_put(struct img_set *s, enum img_type type, uint64_t id, const ProtobufCMessage *m);
void img_put_extra(struct img_set *s, enum img_type type, uint64_t id,
		   const ProtobufCMessage *m, const void *extra, size_t extra_len);

/* Removes all records of (type, id). */
void img_drop(struct img_set *s, enum img_type type, uint64_t id);

/* How many records (type, id) has. */
size_t img_count(const struct img_set *s, enum img_type type, uint64_t id);
const struct img_record *img_record(const struct img_set *s, enum img_type type, uint64_t id,
				    size_t i);

/* Unpacks record i of (type, id) into *out, to be released with
 * protobuf_c_message_free_unpacked(*out, NULL) or _cleanup_msg_. The message is checked:
 * required fields, known enum values where the schema says so.
 * -ENOENT: no such record; -EBADMSG: damaged. The error names the file. */
int img_get(const struct img_set *s, enum img_type type, uint64_t id, size_t i,
	    void *out /* Foo ** */, struct err *e);
static inline void img_msg_cleanup(void *p)
{
	ProtobufCMessage **m = p;
	if (*m)
		protobuf_c_message_free_unpacked(*m, NULL);
}
#define _cleanup_msg_ _cleanup_(img_msg_cleanup)

/* Walks all (type, id) groups in a fixed order: returns false at the end.
 * Start with *it = 0. */
bool img_next(const struct img_set *s, size_t *it, enum img_type *type, uint64_t *id);

/* The set as bytes and back (for the stream). Decoding checks everything: it is
 * safe on hostile bytes. -EBADMSG. */
void img_set_encode(const struct img_set *s, struct buf *out);
int img_set_decode(struct img_set **out, const uint8_t *p, size_t n, struct err *e);

/* Facts about a type. */
const ProtobufCMessageDescriptor *img_descriptor(enum img_type type);  /* NULL: raw */
uint32_t img_magic(enum img_type type);
/* "core-12.img" */
void img_file_name(enum img_type type, uint64_t id, char *out, size_t size);

/* Prints a message readably as indented JSON to `f` (used by `criu-lite show`). */
void img_print(FILE *f, const ProtobufCMessage *m, int indent);
