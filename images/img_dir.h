/* SPDX-License-Identifier: Apache-2.0 */
/* A set of images as a directory of CRIU's files, and one file of it. */
#pragma once

#include "img.h"

/* Writes every group of the set as one file into the directory (files are created
 * 0600, replaced if they exist, fsync'ed not). */
int img_dir_save(const struct img_set *s, int dirfd, struct err *e);

/* Reads every image file of the directory that criu-lite knows (all but pages) after checking the
 * inventory (version 2). Truncated, oversized or damaged files are errors that name the
 * file and what is wrong; no byte of a file is trusted. */
int img_dir_load(struct img_set **out, int dirfd, struct err *e);

/* Prints one image file readably, any type, pages-files excluded (`criu-lite show`). */
int img_file_show(const char *path, FILE *f, struct err *e);
