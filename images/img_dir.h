/* SPDX-License-Identifier: Apache-2.0 */
/* A set of images as a directory of CRIU's files, and one file of it. */
#pragma once

#include "img.h"

/* Writes every group of the set as one file into the directory (files are created
 * 0600, replaced if they exist, fsync'ed not). Removes a seal: it is no longer true. */
int img_dir_save(const struct img_set *s, int dirfd, struct err *e);

/* Writes `criu-lite.sum`: an XXH3 of every image file, pages too. CRIU's format has none, so
 * that most flipped bits would be loaded as they are. To be called when a dump is complete. */
int img_dir_seal(int dirfd, const struct img_known *known, struct err *e);

/* Reads every image file of the directory that criu-lite knows (all but pagemaps and pages)
 * after checking the inventory (version 2). Truncated, oversized or damaged files are errors
 * that name the file and what is wrong; no byte of a file is trusted. If the directory is
 * sealed, all its files are compared with their sums, and those of its parents. */
int img_dir_load(struct img_set **out, int dirfd, struct err *e);

/* Reads one file, with the same checks (the inventory of a parent). -ENOENT: not there. */
int img_dir_load_file(struct img_set **out, int dirfd, enum img_type type, uint64_t id,
		      struct err *e);

/* Prints one image file readably, any type, pages files excluded (`criu-lite show`). */
int img_file_show(const char *path, FILE *f, struct err *e);
