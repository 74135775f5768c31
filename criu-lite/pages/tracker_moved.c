/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pages that mremap() has moved with their page table.
 *
 * The kernel sets the soft-dirty bit of each page that it moves, but not if it can move whole page
 * tables (2 MiB or more, both addresses aligned to that; seen with Linux 6.1): pages then come
 * clean to where others were that the other side holds. Page tables move as a whole, so a few
 * clean pages of each are enough to tell: their frames must be the same as at the last look. That
 * is so after compaction, too, which costs a comparison of the table's pages with what was sent;
 * as does a table of which no such page is left. A page that was swapped in or out tells nothing.
 *
 * Not found is a table that was away while its place was read, and is back at the next look.
 */
#include "pages_tracker_int.h"

#define TABLE_PAGES 512
#define TABLE_BYTES (TABLE_PAGES * PAGE_SIZE)
#define PART (TABLE_PAGES / TABLE_SAMPLES)
#define INDEX_BITS 9
#define SWAPPED (1ull << 63)

/* The frame, with whether it is a swapped one above it and the number in the table below. */
static uint64_t sample_of(uint64_t pme, uint64_t index)
{
	uint64_t frame = pme & (PME_FRAME >> 1);

	return frame << INDEX_BITS | index | (pme & PME_SWAP ? SWAPPED : 0);
}

/* n entries, the first at `at`, all in one table. */
struct piece {
	const uint64_t *pme;
	size_t n;
	uint64_t at;
	const struct pm_zeros *zeros;
};

static void compare(struct soft_moves *m, const struct soft_table *before, const struct piece *p)
{
	for (size_t i = 0; before && i < TABLE_SAMPLES; i++) {
		uint64_t was = before->sample[i], index = was % TABLE_PAGES;
		uint64_t at = before->at + index * PAGE_SIZE, k = (at - p->at) / PAGE_SIZE;

		if (!was || at < p->at || k >= p->n || (p->pme[k] & PME_SOFT) ||
		    !soft_has_content(p->pme[k], p->zeros))
			continue;
		uint64_t now = sample_of(p->pme[k], index);
		if ((now ^ was) & SWAPPED)
			continue;
		m->compared = true;
		m->differs |= now != was;
	}
}

static void take(struct soft_moves *m, struct soft_table *t, size_t slot, uint64_t sample,
		 bool clean)
{
	t->sample[slot] = sample;
	m->clean = (m->clean & ~(1u << slot)) | (uint32_t)clean << slot;
}

/* One page of each part of the table, or others in place of what is not there; clean ones if there
 * are, as they will more likely be so again. False: further pages of this part are of no use. */
static bool offer(struct soft_moves *m, struct soft_table *t, uint64_t pme, size_t index)
{
	uint64_t sample = sample_of(pme, index);
	bool clean = !(pme & PME_SOFT), better = false;
	size_t part = index / PART;

	if (t->sample[part] % TABLE_PAGES / PART != part || !t->sample[part] ||
	    (clean && !(m->clean & 1u << part))) {
		take(m, t, part, sample, clean);
		return true;
	}
	for (size_t i = 0; i < TABLE_SAMPLES; i++) {
		bool others = t->sample[i] % TABLE_PAGES / PART != i;

		if (!t->sample[i] || (others && clean && !(m->clean & 1u << i))) {
			take(m, t, i, sample, clean);
			return true;
		}
		better |= (others || i == part) && !(m->clean & 1u << i);
	}
	return better;
}

static void choose(struct soft_moves *m, struct soft_table *t, const struct piece *p)
{
	size_t first = (p->at - t->at) / PAGE_SIZE;

	for (size_t i = 0; i < p->n; i++)
		if (soft_has_content(p->pme[i], p->zeros) && !offer(m, t, p->pme[i], first + i))
			i = ((first + i) / PART + 1) * PART - first - 1;
}

static bool has_samples(const struct soft_table *t)
{
	for (size_t i = 0; i < TABLE_SAMPLES; i++)
		if (t->sample[i])
			return true;
	return false;
}

static const struct soft_table *before(struct soft_moves *m, uint64_t at)
{
	while (m->next < m->before->n && m->before->at[m->next].at < at)
		m->next++;
	return m->next < m->before->n && m->before->at[m->next].at == at
		? &m->before->at[m->next] : NULL;
}

static void begin_table(struct soft_moves *m, uint64_t at)
{
	m->open = true;
	m->compared = m->differs = false;
	m->clean = 0;
	vec_push(&m->now, (struct soft_table){ .at = at });
}

static void end_table(struct soft_moves *m)
{
	uint64_t at = m->now.at[m->now.n - 1].at;

	if (before(m, at) && (m->differs || !m->compared))
		prange_add(&m->moved, at, at + TABLE_BYTES);
	if (!has_samples(&m->now.at[m->now.n - 1]))
		m->now.n--;
	m->open = false;
}

void soft_moves_look(struct soft_moves *m, const uint64_t *pme, size_t n, uint64_t at,
		     const struct pm_zeros *zeros)
{
	while (n) {
		struct piece p = { pme, n, at, zeros };
		uint64_t table = at / TABLE_BYTES * TABLE_BYTES;
		size_t rest = (table + TABLE_BYTES - at) / PAGE_SIZE;

		if (p.n > rest)
			p.n = rest;
		if (m->open && m->now.at[m->now.n - 1].at != table)
			end_table(m);
		if (!m->open)
			begin_table(m, table);
		compare(m, before(m, table), &p);
		choose(m, &m->now.at[m->now.n - 1], &p);
		pme += p.n;
		n -= p.n;
		at += p.n * PAGE_SIZE;
	}
}

void soft_moves_end(struct soft_moves *m)
{
	if (m->open)
		end_table(m);
}

void soft_moves_free(struct soft_moves *m)
{
	vec_free(&m->now);
	vec_free(&m->moved);
}
