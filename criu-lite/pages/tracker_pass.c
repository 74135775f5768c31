/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pass over all page tables, in pieces by several threads: walking those of a GiB takes 0.3 to
 * 0.7 ms, which is what a big guest would stand still for. Readers of the page tables do not wait
 * for each other.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "cleanup.h"
#include "pages_tracker_int.h"

#define PIECE_MIN (64ul << 20)     /* a thread costs some 30 us, this much memory as long */
#define PIECES_MAX 512
#define THREADS_MAX 8

struct piece {
	uint64_t start, end;
	prange_vec found;
	int ret;
};

struct pass {
	int pm;
	VEC(struct piece) piece;
	atomic_size_t next;
};

int tracker_written(int pm, uint64_t flags, uint64_t start, uint64_t end, prange_vec *out)
{
	struct pm_query q = { .flags = flags, .mask = PM_CAT_WRITTEN, .ret = PM_CAT_WRITTEN };
	pm_regions found = { 0 };
	int ret = pm_scan(pm, &q, start, end, &found);

	vec_each(&found, r)
		prange_add(out, r->start, r->end);
	vec_free(&found);
	return ret;
}

static void *work(void *arg)
{
	struct pass *p = arg;

	for (size_t i; (i = atomic_fetch_add(&p->next, 1)) < p->piece.n;) {
		struct piece *c = &p->piece.at[i];

		c->ret = tracker_written(p->pm, PM_CHECK_WPASYNC, c->start, c->end, &c->found);
	}
	return NULL;
}

/* Pieces follow each other without a gap, except for those between mappings. */
static void cut(struct pass *p, const struct proc_vma *vma, size_t n, uint64_t size)
{
	uint64_t have = 0;

	for (size_t i = 0; i < n; i++)
		for (uint64_t at = vma[i].start; at < vma[i].end;) {
			uint64_t room = size - have, left = vma[i].end - at;
			uint64_t take = left < room ? left : room;

			if (have == 0)
				vec_push(&p->piece, (struct piece){ .start = at });
			at += take;
			have = (have + take) % size;
			p->piece.at[p->piece.n - 1].end = at;
		}
}

static void run(struct pass *p)
{
	pthread_t thread[THREADS_MAX];
	size_t n = 0, want = (size_t)sysconf(_SC_NPROCESSORS_ONLN);

	if (want > THREADS_MAX)
		want = THREADS_MAX;
	if (want > p->piece.n)
		want = p->piece.n;
	while (n + 1 < want && pthread_create(&thread[n], NULL, work, p) == 0)
		n++;
	work(p);
	while (n > 0)
		pthread_join(thread[--n], NULL);
}

int tracker_pass(int pm, const struct proc_vma *vma, size_t n, bool fast, prange_vec *out)
{
	struct pass p = { .pm = pm };
	uint64_t sum = 0;
	int ret = 0;

	for (size_t i = 0; i < n; i++)
		sum += vma[i].end - vma[i].start;
	if (!fast || sum < 2 * PIECE_MIN)
		return tracker_written(pm, PM_CHECK_WPASYNC, vma[0].start, vma[n - 1].end, out);
	uint64_t size = sum / PIECES_MAX & ~(PAGE_SIZE - 1);
	cut(&p, vma, n, size > PIECE_MIN ? size : PIECE_MIN);
	run(&p);
	vec_each(&p.piece, c) {
		if (c->ret < 0 && ret == 0)
			ret = c->ret;
		vec_each(&c->found, r)
			prange_add(out, r->start, r->end);
		vec_free(&c->found);
	}
	vec_free(&p.piece);
	return ret;
}
