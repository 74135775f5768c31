/* SPDX-License-Identifier: Apache-2.0 */
#include "err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "log.h"

static bool speaks_for_itself(int code)
{
	return code == EINVAL || code == EPROTO || code == ENOTSUP || code == ECANCELED;
}

static int set_text(struct err *e, int code, bool with_errno, const char *fmt, va_list ap)
{
	if (code <= 0)
		code = EIO;
	e->code = code;
	e->remedy[0] = '\0';
	int n = vsnprintf(e->text, sizeof(e->text), fmt, ap);
	if (with_errno && n >= 0 && (size_t)n < sizeof(e->text))
		snprintf(e->text + n, sizeof(e->text) - (size_t)n, ": %s", strerror(code));
	return -code;
}

int err_set(struct err *e, int code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	int ret = set_text(e, code, !speaks_for_itself(code), fmt, ap);
	va_end(ap);
	return ret;
}

int err_say(struct err *e, int code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	int ret = set_text(e, code, false, fmt, ap);
	va_end(ap);
	return ret;
}

int err_in(struct err *e, const char *fmt, ...)
{
	char context[ERR_TEXT_MAX], all[2 * ERR_TEXT_MAX + 4];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(context, sizeof(context), fmt, ap);
	va_end(ap);
	snprintf(all, sizeof(all), "%s: %s", context, e->text);
	all[sizeof(e->text) - 1] = '\0';
	memcpy(e->text, all, strlen(all) + 1);
	return e->code ? -e->code : -EIO;
}

int err_remedy(struct err *e, const char *fmt, ...)
{
	if (!e->remedy[0]) {
		va_list ap;

		va_start(ap, fmt);
		vsnprintf(e->remedy, sizeof(e->remedy), fmt, ap);
		va_end(ap);
	}
	return e->code ? -e->code : -EIO;
}

void err_clear(struct err *e)
{
	e->code = 0;
	e->text[0] = e->remedy[0] = '\0';
}

void err_print(const struct err *e)
{
	if (e->remedy[0])
		log_error("%s; %s", e->text, e->remedy);
	else
		log_error("%s", e->text);
}
