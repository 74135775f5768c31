/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A piece of text that is read from left to right: the one scanner below all /proc parsers.
 * Every function either takes what it says off the front and returns true, or returns
 * false; none reads past `end`. The text need not end in a zero byte.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "err.h"

struct ptext {
	const char *p, *end;
};

/* The next line without its newline; false at the end of the text. */
bool ptext_line(struct ptext *t, struct ptext *line);

bool ptext_empty(const struct ptext *t);
void ptext_blanks(struct ptext *t);              /* skips spaces and tabs */
bool ptext_char(struct ptext *t, char c);        /* exactly this character */
bool ptext_word(struct ptext *t, const char *w); /* exactly these characters */
/* Up to the next `sep`, which is taken too; the rest of the text if there is none.
 * False if the text is empty. */
bool ptext_field(struct ptext *t, char sep, struct ptext *field);
bool ptext_is(const struct ptext *t, const char *w); /* is the whole text */

/* Numbers: blanks in front are skipped, overflow is false. Hex without 0x. */
bool ptext_u64(struct ptext *t, unsigned base, uint64_t *v);
bool ptext_u32(struct ptext *t, unsigned base, uint32_t *v);
bool ptext_i64(struct ptext *t, int64_t *v);
bool ptext_i32(struct ptext *t, int32_t *v);

/* "Key:" at the front of a line: takes it and the blanks behind it. */
bool ptext_key(struct ptext *t, const char *key);

/* A copy as a string, ours to free; \ooo sequences of three octal digits become characters, but
 * only those in `escaped` (NULL: none; a zero byte never). */
char *ptext_string(const struct ptext *t, const char *escaped);

/* -EBADMSG: "WHAT: line makes no sense: '...'", unprintable characters replaced. */
int ptext_bad(const struct ptext *line, const char *what, struct err *e);
