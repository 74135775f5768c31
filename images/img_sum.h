/* SPDX-License-Identifier: Apache-2.0 */
/* The seal of an image directory, `criu-lite.sum`. For this layer only. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#include "err.h"
#include "vec.h"

#define IMG_SUM_FILE "criu-lite.sum"

struct img_sum {
	char name[64];
	uint64_t size, hash;
	bool seen;
};

struct img_sums {
	bool sealed;               /* false: no such file, nothing can be compared */
	VEC(struct img_sum) sums;
};

int img_sums_load(struct img_sums *s, int dirfd, struct err *e);
static inline void img_sums_free(struct img_sums *s) { vec_free(&s->sums); }

/* Compare a file (its bytes, or as it lies in the directory) with its sum. A file that is not
 * listed is an error. The error does not name the file. */
int img_sums_check(struct img_sums *s, const char *name, const struct buf *bytes, struct err *e);
int img_sums_check_file(struct img_sums *s, int dirfd, const char *name, struct err *e);
/* The same for all that are listed and were not looked at yet. */
int img_sums_check_rest(struct img_sums *s, int dirfd, struct err *e);
/* Checks the seals of all directories that the `parent` links lead to. */
int img_sums_check_parents(int dirfd, struct err *e);
