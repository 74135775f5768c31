/* SPDX-License-Identifier: Apache-2.0 */
/* Socket options that are numbers, where a failure is one of the test. */
#pragma once

#include <sys/socket.h>

static inline int get(int fd, int level, int name)
{
	int value = -12345;
	socklen_t len = sizeof(value);

	assert_return_code(getsockopt(fd, level, name, &value, &len), errno);
	return value;
}

static inline void set(int fd, int level, int name, int value)
{
	assert_return_code(setsockopt(fd, level, name, &value, sizeof(value)), errno);
}
