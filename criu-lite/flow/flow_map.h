/* SPDX-License-Identifier: Apache-2.0 */
/*
 * --map-address OLD=NEW: the guest arrives where its address is another one. Sockets that listen or
 * are bound get the new one; connections end there, as they do with --tcp-close.
 */
#pragma once

#include "err.h"
#include "img.h"

/* One literal address on each side, both IPv4 or both IPv6. -EINVAL. */
int flow_map_check(const char *const *maps, size_t n, struct err *e);
/* Changes the sockets of a set, in the order of the maps. *ended: connections that end. */
int flow_map_apply(struct img_set *set, const char *const *maps, size_t n, size_t *ended,
		   struct err *e);
