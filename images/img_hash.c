/* SPDX-License-Identifier: Apache-2.0 */
#include "img_hash.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>
#include <xxhash.h>

#include "cleanup.h"
#include "io.h"
#include "vec.h"

#define BLOCK ((size_t)4 << 20)
#define PIECE ((size_t)256 << 10) /* fits the second level cache */
#define THREADS_MAX 8

uint64_t img_hash_bytes(const uint8_t *p, size_t n)
{
	size_t blocks = (n + BLOCK - 1) / BLOCK;
	_cleanup_free_ uint64_t *hashes = xcalloc(blocks, sizeof(*hashes));

	for (size_t i = 0; i < blocks; i++) {
		size_t left = n - i * BLOCK;
		hashes[i] = XXH3_64bits(p + i * BLOCK, left < BLOCK ? left : BLOCK);
	}
	return XXH3_64bits(hashes, blocks * sizeof(*hashes));
}

struct img_hash {
	XXH3_state_t *block;
	size_t in_block;
	VEC(uint64_t) hashes;
};

struct img_hash *img_hash_new(void)
{
	struct img_hash *h = xcalloc(1, sizeof(*h));

	h->block = XXH3_createState();
	XXH3_64bits_reset(h->block);
	return h;
}

static void end_block(struct img_hash *h)
{
	if (h->in_block)
		vec_push(&h->hashes, XXH3_64bits_digest(h->block));
	XXH3_64bits_reset(h->block);
	h->in_block = 0;
}

void img_hash_add(struct img_hash *h, const void *p, size_t n)
{
	for (const uint8_t *at = p; n > 0;) {
		size_t part = n < BLOCK - h->in_block ? n : BLOCK - h->in_block;

		XXH3_64bits_update(h->block, at, part);
		h->in_block += part;
		at += part;
		n -= part;
		if (h->in_block == BLOCK)
			end_block(h);
	}
}

uint64_t img_hash_end(struct img_hash *h)
{
	static const uint64_t none;

	end_block(h);
	uint64_t sum = XXH3_64bits(h->hashes.n ? h->hashes.at : &none,
				   h->hashes.n * sizeof(uint64_t));
	XXH3_freeState(h->block);
	vec_free(&h->hashes);
	free(h);
	return sum;
}

struct job {
	int fd;
	uint64_t size;
	size_t blocks;
	uint64_t *hashes;
	atomic_size_t next;
	atomic_int error;    /* first one, negative */
};

static int hash_block(const struct job *job, size_t block, uint8_t *piece, XXH3_state_t *state)
{
	uint64_t at = (uint64_t)block * BLOCK;
	uint64_t end = job->size - at < BLOCK ? job->size : at + BLOCK;

	XXH3_64bits_reset(state);
	while (at < end) {
		size_t n = end - at < PIECE ? end - at : PIECE;
		int ret = io_pread(job->fd, piece, n, (off_t)at);
		if (ret < 0)
			return ret;
		XXH3_64bits_update(state, piece, n);
		at += n;
	}
	job->hashes[block] = XXH3_64bits_digest(state);
	return 0;
}

static void *work(void *arg)
{
	struct job *job = arg;
	_cleanup_free_ uint8_t *piece = xmalloc(PIECE);
	XXH3_state_t *state = XXH3_createState();
	size_t block;

	while (!atomic_load(&job->error) &&
	       (block = atomic_fetch_add(&job->next, 1)) < job->blocks) {
		int none = 0, ret = hash_block(job, block, piece, state);
		if (ret < 0)
			atomic_compare_exchange_strong(&job->error, &none, ret);
	}
	XXH3_freeState(state);
	return NULL;
}

int img_hash_file(int fd, uint64_t size, uint64_t *hash, struct err *e)
{
	struct job job = { .fd = fd, .size = size, .blocks = (size + BLOCK - 1) / BLOCK };
	_cleanup_free_ uint64_t *hashes = xcalloc(job.blocks, sizeof(*hashes));
	pthread_t threads[THREADS_MAX];
	size_t n = 0;

	job.hashes = hashes;
	/* This thread works too; without any other it only takes longer. */
	while (n + 1 < job.blocks && n < THREADS_MAX &&
	       (long)n + 1 < sysconf(_SC_NPROCESSORS_ONLN) &&
	       pthread_create(&threads[n], NULL, work, &job) == 0)
		n++;
	work(&job);
	while (n > 0)
		pthread_join(threads[--n], NULL);
	if (job.error)
		return err_set(e, -job.error, "read");
	*hash = XXH3_64bits(hashes, job.blocks * sizeof(*hashes));
	return 0;
}
