/* SPDX-License-Identifier: Apache-2.0 */
/* Finding image files and parent directories. For this layer only. */
#pragma once

#include "img.h"

/* The image files in a directory that this program knows, by name. */
struct img_name {
	char name[64];
	enum img_type type;
	uint64_t id;
};
struct img_names {
	VEC(struct img_name) files;
};
int img_names_read(struct img_names *n, int dirfd, struct err *e);
static inline void img_names_free(struct img_names *n) { vec_free(&n->files); }
#define _cleanup_img_names_ _cleanup_(img_names_free)

/* A chain of incremental dumps longer than this is a loop, or might as well be. */
#define IMG_PARENTS_MAX 256

/* A walk up the `parent` links. */
struct img_path {
	int fd;                /* the directory reached */
	bool own;              /* fd is ours */
	unsigned depth;
	char text[32];         /* "parent" or "parent 3 up", for errors */
};
#define IMG_PATH_INIT(dirfd) { .fd = (dirfd) }
void img_path_cleanup(struct img_path *p);
/* One step. 1: done; 0: there is no parent; or -errno. */
int img_path_parent(struct img_path *p, struct err *e);
