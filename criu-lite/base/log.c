/* SPDX-License-Identifier: Apache-2.0 */
#include "log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static struct {
	enum log_level level;
	int fd;
} the_log = { LOG_L_WARN, STDERR_FILENO };

void log_set_level(enum log_level level) { the_log.level = level; }
enum log_level log_level(void) { return the_log.level; }

void log_to_fd(int fd)
{
	if (the_log.fd != STDERR_FILENO)
		close(the_log.fd);
	the_log.fd = fd;
}

static void put(int fd, const char *line, size_t len)
{
	while (len > 0) {
		ssize_t n = write(fd, line, len);
		if (n <= 0)
			return; /* nowhere left to complain */
		line += n;
		len -= (size_t)n;
	}
}

void log_write(enum log_level level, const char *fmt, ...)
{
	char line[4096];
	int head = 0;
	va_list ap;

	if (level >= LOG_L_INFO) {
		struct timespec now;

		clock_gettime(CLOCK_MONOTONIC, &now);
		head = snprintf(line, sizeof(line), "(%06ld.%06ld) ", (long)now.tv_sec,
				now.tv_nsec / 1000);
	} else {
		head = snprintf(line, sizeof(line), "criu-lite: %s",
				level == LOG_L_WARN ? "warning: " : "");
	}
	va_start(ap, fmt);
	vsnprintf(line + head, sizeof(line) - (size_t)head - 1, fmt, ap);
	va_end(ap);
	strcat(line, "\n");

	put(the_log.fd, line, strlen(line));
	if (level == LOG_L_ERROR && the_log.fd != STDERR_FILENO)
		put(STDERR_FILENO, line, strlen(line));
}
