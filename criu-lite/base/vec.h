/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Growing arrays. `struct foo_vec { struct foo *at; size_t n, cap; }` is made by
 * VEC(struct foo); memory grows by doubling and an allocation failure aborts
 * (as everywhere in this program: there is nothing sensible left to do).
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define VEC(type) struct { type *at; size_t n, cap; }

/* Makes room for `n` elements of `size` bytes; returns the (moved) array. */
void *vec_grow(void *at, size_t *cap, size_t n, size_t size);

#define vec_reserve(v, count) \
	((v)->at = vec_grow((v)->at, &(v)->cap, (count), sizeof(*(v)->at)))
#define vec_push(v, ...) \
	(vec_reserve((v), (v)->n + 1), (v)->at[(v)->n++] = (__VA_ARGS__))
/* Appends one zeroed element and returns its address. */
#define vec_new(v) \
	(vec_reserve((v), (v)->n + 1), \
	 __builtin_memset(&(v)->at[(v)->n], 0, sizeof(*(v)->at)), &(v)->at[(v)->n++])
#define vec_free(v) (free((v)->at), (v)->at = NULL, (v)->n = (v)->cap = 0)
#define vec_each(v, it) \
	for (__typeof__((v)->at + 0) it = (v)->at; it && it < (v)->at + (v)->n; it++)

/* malloc and friends that abort instead of returning NULL. */
void *xmalloc(size_t size);
void *xcalloc(size_t n, size_t size);
void *xmemdup(const void *p, size_t size);
char *xstrdup(const char *s);
char *xasprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Bytes that grow. */
struct buf {
	uint8_t *at;
	size_t n, cap;
};
void buf_put(struct buf *b, const void *p, size_t n);
void buf_free(struct buf *b);
