/* SPDX-License-Identifier: Apache-2.0 */
/* A set from inside: sorted groups of checked records. For this layer only. */
#pragma once

#include "img.h"

struct img_group {
	enum img_type type;
	uint64_t id;
	VEC(struct img_record) records;
	bool ended;  /* the last payload reaches to the end of the file */
};

struct img_set {
	VEC(struct img_group) groups; /* ascending (type, id) */
};

/* The group, made if it is not there / NULL if it is not there. */
struct img_group *img_group_make(struct img_set *s, enum img_type type, uint64_t id);
const struct img_group *img_group_find(const struct img_set *s, enum img_type type, uint64_t id);

/* Checks a record of the group's type: `len` bytes of message at `p`, then up to `avail`
 * bytes of which the payload is a part; its length goes to *extra. -EBADMSG. */
int img_group_check(const struct img_group *g, const uint8_t *p, size_t len, size_t avail,
		    uint64_t *extra, struct err *e);
/* Appends copies of what was checked. */
void img_group_add(struct img_group *g, const uint8_t *p, size_t len, const uint8_t *extra,
		   size_t extra_len);

/* The message that record `index` of the type holds; NULL: raw. */
const ProtobufCMessageDescriptor *img_record_descriptor(enum img_type type, size_t index);
