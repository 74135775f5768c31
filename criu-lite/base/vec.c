/* SPDX-License-Identifier: Apache-2.0 */
#include "vec.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *or_die(void *p)
{
	if (!p) {
		fputs("criu-lite: out of memory\n", stderr);
		abort();
	}
	return p;
}

void *vec_grow(void *at, size_t *cap, size_t n, size_t size)
{
	if (n <= *cap)
		return at;
	size_t want = *cap ? *cap : 8;
	while (want < n)
		want *= 2;
	*cap = want;
	return or_die(reallocarray(at, want, size));
}

void *xmalloc(size_t size) { return or_die(malloc(size ? size : 1)); }
void *xcalloc(size_t n, size_t size) { return or_die(calloc(n ? n : 1, size ? size : 1)); }
char *xstrdup(const char *s) { return or_die(strdup(s)); }

void *xmemdup(const void *p, size_t size)
{
	void *copy = xmalloc(size);

	if (size)
		memcpy(copy, p, size);
	return copy;
}

char *xasprintf(const char *fmt, ...)
{
	char *s = NULL;
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&s, fmt, ap) < 0)
		s = NULL;
	va_end(ap);
	return or_die(s);
}

void buf_put(struct buf *b, const void *p, size_t n)
{
	b->at = vec_grow(b->at, &b->cap, b->n + n, 1);
	if (n)
		memcpy(b->at + b->n, p, n);
	b->n += n;
}

void buf_free(struct buf *b)
{
	free(b->at);
	*b = (struct buf){ 0 };
}
