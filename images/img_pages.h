/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Page contents in an image directory: pagemap-ID.img or pagemap-shmem-ID.img says
 * which pages, pages-N.img holds them. The directory's `parent` link leads to the
 * previous (pre-)dump; a pagemap entry flagged in-parent is looked up there.
 */
#pragma once

#include <stdint.h>

#include "img.h"

#define IMG_PE_PARENT  1u
#define IMG_PE_LAZY    2u
#define IMG_PE_PRESENT 4u

struct img_pages_out;

/* Creates the pagemap (type IMG_PAGEMAP or IMG_SHMEM_PAGEMAP) and its pages file.
 * pages_id must be unique in the directory (1, 2, ...). */
int img_pages_create(struct img_pages_out **out, int dirfd, enum img_type type, uint64_t id,
		     uint32_t pages_id, struct err *e);
/* Appends a run of pages; runs come in ascending vaddr order and do not overlap.
 * IMG_PE_PRESENT: the caller writes npages * 4096 bytes to img_pages_fd() in the same
 * order. Adjacent runs with equal flags are merged in the pagemap. */
int img_pages_add(struct img_pages_out *p, uint64_t vaddr, uint64_t npages, uint32_t flags,
		  struct err *e);
int img_pages_fd(struct img_pages_out *p);
/* What is written to img_pages_fd(), in order: then its sum is known at the end (added to `known`
 * by img_pages_close()), and the seal need not read the file again. */
void img_pages_seen(struct img_pages_out *p, struct img_known *known, const void *bytes, size_t n);
/* Finishes the files; always frees. */
int img_pages_close(struct img_pages_out *p, struct err *e);

/* A run of pages as found: contents at `offset` of `fd` (a pages file of this directory
 * or of an ancestor; owned by the reader). */
struct img_run {
	uint64_t vaddr, npages;
	int fd;
	uint64_t offset;
};

struct img_pages_in;

/* Opens and checks everything: order, alignment, file sizes (a pages file shorter than its
 * pagemap says, or missing: error), parent chain (bounded depth). After this, reading cannot
 * run past a file's end. */
int img_pages_open(struct img_pages_in **in, int dirfd, enum img_type type, uint64_t id,
		   struct err *e);
const struct img_run *img_pages_runs(const struct img_pages_in *in, size_t *n);
void img_pages_free(struct img_pages_in *in);
