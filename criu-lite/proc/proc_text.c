/* SPDX-License-Identifier: Apache-2.0 */
#include "proc_text.h"

#include <errno.h>
#include <string.h>

#include "vec.h"

bool ptext_line(struct ptext *t, struct ptext *line)
{
	return ptext_field(t, '\n', line);
}

bool ptext_empty(const struct ptext *t)
{
	return t->p >= t->end;
}

void ptext_blanks(struct ptext *t)
{
	while (t->p < t->end && (*t->p == ' ' || *t->p == '\t'))
		t->p++;
}

bool ptext_char(struct ptext *t, char c)
{
	if (ptext_empty(t) || *t->p != c)
		return false;
	t->p++;
	return true;
}

bool ptext_word(struct ptext *t, const char *w)
{
	size_t n = strlen(w);

	if ((size_t)(t->end - t->p) < n || memcmp(t->p, w, n))
		return false;
	t->p += n;
	return true;
}

bool ptext_field(struct ptext *t, char sep, struct ptext *field)
{
	const char *at;

	if (ptext_empty(t))
		return false;
	at = memchr(t->p, sep, (size_t)(t->end - t->p));
	*field = (struct ptext){t->p, at ? at : t->end};
	t->p = at ? at + 1 : t->end;
	return true;
}

bool ptext_is(const struct ptext *t, const char *w)
{
	struct ptext all = *t;

	return ptext_word(&all, w) && ptext_empty(&all);
}

static unsigned digit(char c)
{
	if (c >= '0' && c <= '9')
		return (unsigned)(c - '0');
	if (c >= 'a' && c <= 'f')
		return (unsigned)(c - 'a') + 10;
	if (c >= 'A' && c <= 'F')
		return (unsigned)(c - 'A') + 10;
	return 255;
}

bool ptext_u64(struct ptext *t, unsigned base, uint64_t *v)
{
	struct ptext s = *t;
	const char *first;
	uint64_t n = 0;

	ptext_blanks(&s);
	first = s.p;
	while (s.p < s.end && digit(*s.p) < base) {
		if (__builtin_mul_overflow(n, (uint64_t)base, &n) ||
		    __builtin_add_overflow(n, (uint64_t)digit(*s.p), &n))
			return false;
		s.p++;
	}
	if (s.p == first)
		return false;
	*v = n;
	*t = s;
	return true;
}

bool ptext_u32(struct ptext *t, unsigned base, uint32_t *v)
{
	struct ptext s = *t;
	uint64_t n;

	if (!ptext_u64(&s, base, &n) || n > UINT32_MAX)
		return false;
	*v = (uint32_t)n;
	*t = s;
	return true;
}

bool ptext_i64(struct ptext *t, int64_t *v)
{
	struct ptext s = *t;
	bool minus;
	uint64_t n;

	ptext_blanks(&s);
	minus = ptext_char(&s, '-');
	if (s.p < s.end && digit(*s.p) > 9)
		return false;
	if (!ptext_u64(&s, 10, &n) || n > (uint64_t)INT64_MAX + minus)
		return false;
	*v = minus ? (int64_t)(0 - n) : (int64_t)n;
	*t = s;
	return true;
}

bool ptext_i32(struct ptext *t, int32_t *v)
{
	struct ptext s = *t;
	int64_t n;

	if (!ptext_i64(&s, &n) || n < INT32_MIN || n > INT32_MAX)
		return false;
	*v = (int32_t)n;
	*t = s;
	return true;
}

bool ptext_key(struct ptext *t, const char *key)
{
	struct ptext s = *t;

	if (!ptext_word(&s, key) || !ptext_char(&s, ':'))
		return false;
	ptext_blanks(&s);
	*t = s;
	return true;
}

/* The character that "\ooo" at p stands for, or 0 if it is none of `escaped`. */
static char unescaped(const char *p, const char *end, const char *escaped)
{
	unsigned c;

	if (!escaped || end - p < 4 || *p != '\\')
		return 0;
	if (digit(p[1]) > 3 || digit(p[2]) > 7 || digit(p[3]) > 7)
		return 0;
	c = digit(p[1]) * 64 + digit(p[2]) * 8 + digit(p[3]);
	return c && c < 128 && strchr(escaped, (int)c) ? (char)c : 0;
}

char *ptext_string(const struct ptext *t, const char *escaped)
{
	char *s = xmalloc((size_t)(t->end - t->p) + 1);
	size_t n = 0;

	for (const char *p = t->p; p < t->end; n++) {
		char c = unescaped(p, t->end, escaped);

		s[n] = c ? c : *p;
		p += c ? 4 : 1;
	}
	s[n] = '\0';
	return s;
}

int ptext_bad(const struct ptext *line, const char *what, struct err *e)
{
	char shown[81];
	size_t n = (size_t)(line->end - line->p);

	if (n > sizeof(shown) - 1)
		n = sizeof(shown) - 1;
	for (size_t i = 0; i < n; i++)
		shown[i] = line->p[i] >= ' ' && line->p[i] < 127 ? line->p[i] : '?';
	shown[n] = '\0';
	return err_say(e, EBADMSG, "%s: line makes no sense: '%s'", what, shown);
}
