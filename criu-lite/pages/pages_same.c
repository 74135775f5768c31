/* SPDX-License-Identifier: Apache-2.0 */
#include "pages_same.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

#include "io.h"

#define CHUNK_PAGES 64u
#define CHUNK_BYTES (CHUNK_PAGES * PAGE_SIZE)
#define NONE        UINT32_MAX
#define SLOTS_MIN   256u
/* A copy that was of no use for this many rounds may go; so many are looked at. */
#define OLD_ROUNDS  2
#define TRIES       8

struct chunk {
	uint64_t start;
	uint32_t id;
	int kind;
	uint64_t known;              /* bit by page: hash[] is valid */
	struct same_hash hash[CHUNK_PAGES];
	uint32_t copy[CHUNK_PAGES];  /* number of the copy + 1; of no worth where not known */
};
_Static_assert(SAME_CHUNKS * sizeof(struct chunk) < 64u << 20, "as promised");

struct owner {
	uint64_t at;
	uint32_t id;
	int kind;
	uint64_t round;              /* when it was used last */
};

struct same {
	pthread_mutex_t lock;
	uint8_t secret[XXH3_SECRET_SIZE_MIN];
	struct same_hash zero;
	VEC(struct chunk) chunk;
	uint32_t *slot;              /* open addressing: numbers of chunks, NONE: empty */
	uint32_t slots;              /* a power of two, more than twice the chunks */
	uint64_t round;
	uint8_t *copies;             /* SAME_COPIES pages, */
	struct owner *owner;         /* whose they are */
	uint32_t copied, hand;
};

int same_new(struct same **out, struct err *e)
{
	static const uint8_t zeros[PAGE_SIZE];
	struct same *s = xcalloc(1, sizeof(*s));

	if (getrandom(s->secret, sizeof(s->secret), 0) != (ssize_t)sizeof(s->secret)) {
		free(s);
		return err_set(e, errno, "getrandom");
	}
	s->copies = mmap(NULL, SAME_COPIES * PAGE_SIZE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (s->copies == MAP_FAILED) {
		free(s);
		return err_set(e, errno, "memory for copies of pages");
	}
	s->owner = xcalloc(SAME_COPIES, sizeof(*s->owner));
	s->round = OLD_ROUNDS;
	pthread_mutex_init(&s->lock, NULL);
	s->zero = same_hash(s, zeros);
	*out = s;
	return 0;
}

void same_free(struct same *s)
{
	if (!s)
		return;
	pthread_mutex_destroy(&s->lock);
	vec_free(&s->chunk);
	munmap(s->copies, SAME_COPIES * PAGE_SIZE);
	free(s->owner);
	free(s->slot);
	free(s);
}

struct same_hash same_hash(const struct same *s, const void *page)
{
	return (struct same_hash){ XXH3_128bits_withSecret(page, PAGE_SIZE, s->secret,
							   sizeof(s->secret)) };
}

struct same_hash same_hash_zero(const struct same *s) { return s->zero; }

/* ---- the directory of chunks ---- */

/* Where the chunk stands, or the empty slot where it would. */
static uint32_t *find_slot(const struct same *s, int kind, uint32_t id, uint64_t start)
{
	const uint64_t key[2] = { start, (uint64_t)id << 32 | (uint32_t)kind };
	uint32_t mask = s->slots - 1, i = (uint32_t)XXH3_64bits(key, sizeof(key)) & mask;

	for (;; i = (i + 1) & mask) {
		if (s->slot[i] == NONE)
			return &s->slot[i];
		const struct chunk *c = &s->chunk.at[s->slot[i]];
		if (c->start == start && c->id == id && c->kind == kind)
			return &s->slot[i];
	}
}

static struct chunk *find_chunk(const struct same *s, int kind, uint32_t id, uint64_t start)
{
	uint32_t *slot = s->slots ? find_slot(s, kind, id, start) : NULL;

	return slot && *slot != NONE ? &s->chunk.at[*slot] : NULL;
}

static void index_chunks(struct same *s, uint32_t slots)
{
	free(s->slot);
	s->slots = slots;
	s->slot = xmalloc(slots * sizeof(*s->slot));
	memset(s->slot, 0xff, slots * sizeof(*s->slot));
	for (uint32_t i = 0; i < s->chunk.n; i++) {
		const struct chunk *c = &s->chunk.at[i];

		*find_slot(s, c->kind, c->id, c->start) = i;
	}
}

/* Throws out chunks with nothing in them: only now and then, the last look may have found few. */
static void sweep(struct same *s)
{
	size_t keep = 0;

	for (size_t i = 0; i < s->chunk.n; i++)
		if (s->chunk.at[i].known)
			s->chunk.at[keep++] = s->chunk.at[i];
	s->chunk.n = keep;
	index_chunks(s, s->slots);
}

static size_t empty_chunks(const struct same *s)
{
	size_t n = 0;

	vec_each(&s->chunk, c)
		n += !c->known;
	return n;
}

/* NULL: there is no room. */
static struct chunk *make_chunk(struct same *s, int kind, uint32_t id, uint64_t start)
{
	if (s->chunk.n == SAME_CHUNKS)
		return NULL;
	if (s->slots <= 2 * s->chunk.n)
		index_chunks(s, s->slots ? 2 * s->slots : SLOTS_MIN);
	uint32_t *slot = find_slot(s, kind, id, start);
	struct chunk *c = vec_new(&s->chunk);

	*slot = (uint32_t)(s->chunk.n - 1);
	c->start = start;
	c->id = id;
	c->kind = kind;
	return c;
}

/* ---- copies ---- */

/* One that is free, or that nobody needed lately. Those of this round may be in use. NONE: none. */
static uint32_t find_copy(struct same *s)
{
	if (s->copied < SAME_COPIES)
		return s->copied++;
	for (int i = 0; i < TRIES; i++) {
		uint32_t k = s->hand;
		const struct owner *o = &s->owner[k];

		s->hand = (s->hand + 1) % SAME_COPIES;
		if (o->round + OLD_ROUNDS > s->round)
			continue;
		struct chunk *c = find_chunk(s, o->kind, o->id, o->at - o->at % CHUNK_BYTES);
		uint32_t *was = c ? &c->copy[o->at % CHUNK_BYTES / PAGE_SIZE] : NULL;

		if (was && *was == k + 1)
			*was = 0;
		return k;
	}
	return NONE;
}

/* The page has changed and is sent: what copy there is gets out of date, or is used. */
static void take_copy(struct same *s, struct chunk *c, struct same_page *p, bool known)
{
	uint32_t *copy = &c->copy[p->at % CHUNK_BYTES / PAGE_SIZE];

	if (*copy && !p->keep) {
		s->owner[*copy - 1].round = 0;
		*copy = 0;
	}
	if (!p->keep)
		return;
	p->valid = *copy && known;
	if (!*copy)
		*copy = find_copy(s) + 1; /* NONE + 1 is 0 */
	if (!*copy)
		return;
	p->copy = s->copies + (*copy - 1) * PAGE_SIZE;
	s->owner[*copy - 1] = (struct owner){ p->at, c->id, c->kind, s->round };
}

/* ---- the interface ---- */

static void check_page(struct same *s, struct chunk *c, struct same_page *p)
{
	uint64_t page = p->at % CHUNK_BYTES / PAGE_SIZE, bit = 1ull << page;
	bool known = c->known & bit;

	p->same = known && XXH128_isEqual(c->hash[page].h, p->hash.h);
	if (p->same && c->copy[page])
		s->owner[c->copy[page] - 1].round = s->round;
	if (p->same)
		return;
	take_copy(s, c, p, known);
	c->known |= bit;
	c->hash[page] = p->hash;
}

void same_check(struct same *s, int kind, uint32_t id, struct same_page *p, size_t n)
{
	struct chunk *c = NULL;
	uint64_t start = UINT64_MAX;

	pthread_mutex_lock(&s->lock);
	for (size_t i = 0; i < n; i++) {
		if (p[i].at - p[i].at % CHUNK_BYTES != start) {
			start = p[i].at - p[i].at % CHUNK_BYTES;
			c = find_chunk(s, kind, id, start);
			if (!c)
				c = make_chunk(s, kind, id, start);
		}
		p[i].same = p[i].valid = false;
		p[i].copy = NULL;
		if (c)
			check_page(s, c, &p[i]);
	}
	pthread_mutex_unlock(&s->lock);
}

void same_round(struct same *s)
{
	pthread_mutex_lock(&s->lock);
	s->round++;
	pthread_mutex_unlock(&s->lock);
}

static void forget_in(struct chunk *c, uint64_t start, uint64_t end)
{
	uint64_t from = start > c->start ? (start - c->start) / PAGE_SIZE : 0;
	uint64_t to = end - c->start < CHUNK_BYTES ? (end - c->start) / PAGE_SIZE : CHUNK_PAGES;
	uint64_t bits = to - from == CHUNK_PAGES ? UINT64_MAX : ((1ull << (to - from)) - 1) << from;

	c->known &= ~bits;
}

static void forget_range(struct same *s, int kind, uint32_t id, uint64_t start, uint64_t end)
{
	if (start >= end)
		return;
	/* A range with more chunks than there are: look at those. */
	if ((end - start) / CHUNK_BYTES > s->chunk.n) {
		vec_each(&s->chunk, c)
			if (c->kind == kind && c->id == id && c->start < end &&
			    c->start + (CHUNK_BYTES - PAGE_SIZE) >= start)
				forget_in(c, start, end);
		return;
	}
	uint64_t at = start - start % CHUNK_BYTES;
	for (uint64_t n = (end - 1 - at) / CHUNK_BYTES + 1; n > 0; n--, at += CHUNK_BYTES) {
		struct chunk *c = find_chunk(s, kind, id, at);

		if (c)
			forget_in(c, start, end);
	}
}

void same_forget(struct same *s, int kind, uint32_t id, const struct prange *r, size_t n)
{
	pthread_mutex_lock(&s->lock);
	for (size_t i = 0; i < n; i++)
		forget_range(s, kind, id, r[i].start, r[i].end);
	if (s->chunk.n > SAME_CHUNKS / 2 && empty_chunks(s) > s->chunk.n / 8)
		sweep(s);
	pthread_mutex_unlock(&s->lock);
}
