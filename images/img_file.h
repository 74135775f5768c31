/* SPDX-License-Identifier: Apache-2.0 */
/* Image files as bytes: opening, header, records. For this layer only. */
#pragma once

#include "img_group.h"

/* The bytes of one image file (pages files excluded), -ENOENT as it is. The error does not
 * name the file. */
int img_file_read(int dirfd, const char *path, struct buf *out, struct err *e);

/* Opens a regular file for reading without waiting for anything; its size to *size. */
int img_file_open(int dirfd, const char *name, int *fd, uint64_t *size, struct err *e);

/* Creates a file anew, 0600, never through a link that stands in its place. */
int img_file_create(int dirfd, const char *name, int *fd, struct err *e);

/* The magics that a file of the type begins with. */
void img_file_put_header(enum img_type type, struct buf *out);
/* Checks them; *at is where the records begin. */
int img_file_check_header(enum img_type type, const struct buf *file, size_t *at, struct err *e);

/* The message of the record at *at, which moves behind it. -EBADMSG: truncated. */
int img_file_next(const struct buf *file, size_t *at, const uint8_t **data, uint32_t *len,
		  struct err *e);

/* Reads all records of a file's bytes into the group. */
int img_file_parse(struct img_group *g, const struct buf *file, struct err *e);
