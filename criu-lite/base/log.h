/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The log: to stderr, or to a file given by -o. Levels are those of CRIU's -v:
 * 1 errors, 2 warnings (default), 3 information, 4 debugging.
 * The only global state of the program.
 */
#pragma once

enum log_level { LOG_L_ERROR = 1, LOG_L_WARN, LOG_L_INFO, LOG_L_DEBUG };

void log_set_level(enum log_level level);
enum log_level log_level(void);

/* Sends the log to `fd` (owned by the log from here on); errors still go to
 * stderr as well, so that a user never has to look for them. */
void log_to_fd(int fd);

void log_write(enum log_level level, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

#define log_at(level, ...) \
	do { if ((level) <= log_level()) log_write((level), __VA_ARGS__); } while (0)
#define log_error(...) log_at(LOG_L_ERROR, __VA_ARGS__)
#define log_warn(...)  log_at(LOG_L_WARN, __VA_ARGS__)
#define log_info(...)  log_at(LOG_L_INFO, __VA_ARGS__)
#define log_debug(...) log_at(LOG_L_DEBUG, __VA_ARGS__)
