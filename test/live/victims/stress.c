/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads under one lock that dirty memory as fast as they can: each page is written whole under
 * its lock, with the number of the write, and read whole by the others.
 */
#include "victim.h"

#define THREADS 6
#define PAGES 4096
#define LOCKS 64

static char *memory;
static uint64_t number[PAGES];
static pthread_mutex_t locks[LOCKS];
static _Atomic uint64_t writes, reads;
static _Atomic bool stopping;
static _Thread_local uint64_t mine;

static void *work(void *arg)
{
	uint64_t rng = (uintptr_t)arg, done = 0;
	unsigned int i;

	mine = rng;
	while (!stopping) {
		rng = v_mix(rng);
		i = rng % PAGES;
		pthread_mutex_lock(&locks[i % LOCKS]);
		CHECK(v_page_is(memory + i * V_PAGE, number[i]), "page %u is not write %lu", i,
		      number[i]);
		if (rng >> 40 & 1) {
			v_page_fill(memory + i * V_PAGE, ++number[i]);
			writes++;
		} else {
			reads++;
		}
		pthread_mutex_unlock(&locks[i % LOCKS]);
		CHECK(mine == (uintptr_t)arg, "thread-local word is wrong");
		/* Leave some of the machine to others. */
		if (++done % 2000 == 0)
			v_sleep_ms(1);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t t[THREADS];
	uint64_t sum = 0;
	unsigned int i;

	v_init(argc, argv);
	memory = v_map(PAGES * V_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (i = 0; i < PAGES; i++)
		v_page_fill(memory + i * V_PAGE, 0);
	for (i = 0; i < LOCKS; i++)
		pthread_mutex_init(&locks[i], NULL);
	for (i = 0; i < THREADS; i++)
		t[i] = v_thread(work, (void *)(uintptr_t)(i + 1));
	v_ready();
	v_wait();
	v_recheck();
	stopping = true;
	for (i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	for (i = 0; i < PAGES; i++) {
		CHECK(v_page_is(memory + i * V_PAGE, number[i]), "at the end: page %u", i);
		sum += number[i];
	}
	CHECK(sum == writes && reads, "%lu writes in pages, %lu counted", sum, writes);
	v_ok();
}
