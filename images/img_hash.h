/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The checksum of an image file: XXH3-64 of the XXH3-64 (little endian) of each of its 4 MiB
 * blocks, so that the pages of a big guest are summed on all CPUs. For this layer only.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "err.h"

uint64_t img_hash_bytes(const uint8_t *p, size_t n);
/* Bytes as they come, in order; then the sum of all. */
struct img_hash;
struct img_hash *img_hash_new(void);
void img_hash_add(struct img_hash *h, const void *p, size_t n);
uint64_t img_hash_end(struct img_hash *h);      /* frees */

/* A file of `size` bytes; a shorter one is an error. */
int img_hash_file(int fd, uint64_t size, uint64_t *hash, struct err *e);
