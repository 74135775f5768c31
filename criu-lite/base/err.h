/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Errors: what failed, in which context, and what the user can do.
 *
 * Every function that can fail returns 0 or -errno and takes a `struct err *`
 * as its last parameter. The place that fails calls err_set(); each caller
 * that knows more puts its context in front with err_in(). The chain is
 * printed once, at the top (err_print):
 *
 *   criu-lite: task 12 (redis-server): fd 7: /dev/kvm: cannot be read; stop ...
 */
#pragma once

#include <stdbool.h>

#define ERR_TEXT_MAX 1024

struct err {
	int code;                 /* positive errno of the first failure, 0: none */
	char text[ERR_TEXT_MAX];  /* "context: context: what happened" */
	char remedy[ERR_TEXT_MAX / 2];
};

#define ERR_INIT { .code = 0 }

/* Says what failed. `code` is a positive errno; its text is appended after ": "
 * unless `code` is EINVAL/EPROTO/ENOTSUP/ECANCELED (whose texts say nothing).
 * Replaces what was there. Returns -code (never 0). */
int err_set(struct err *e, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* The same without strerror text, for messages that say it all. */
int err_say(struct err *e, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Puts "context: " in front. Returns -code, so that `return err_in(e, ...)`. */
int err_in(struct err *e, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* What the user can do; printed after "; ". The first one given stays.
 * Returns -code. */
int err_remedy(struct err *e, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* Forgets the error (after it was handled). */
void err_clear(struct err *e);

static inline bool err_is(const struct err *e) { return e->code != 0; }

/* Writes "criu-lite: text; remedy\n" to the log at level error. */
void err_print(const struct err *e);
