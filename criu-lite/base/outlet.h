/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Text for somebody who may not read: a pager, a terminal after ^S. It is written as far as that
 * can be done at once; the rest is held back until the next time, so who writes never waits for who
 * reads.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "vec.h"

struct outlet {
	int fd;
	struct buf held;
	size_t lost;             /* bytes that came when too much (OUTLET_MAX) was held back */
};

#define OUTLET_MAX (4u << 20)

void outlet_put(struct outlet *o, const void *text, size_t n);
/* Writes what is held back, and waits for that. */
void outlet_end(struct outlet *o);
