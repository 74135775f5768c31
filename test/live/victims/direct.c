/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Blocks of a file are read past the page cache, into memory that the processor never writes to, by
 * several threads at a time.
 */
#include "victim.h"

#define BLOCKS 64
#define THREADS 4
#define SLOTS 32

static int file;
static char *memory;
static bool stop;

static void *work(void *arg)
{
	uint64_t self = (uintptr_t)arg, turn = self << 32, block[SLOTS] = {0};
	char *mine = memory + self * SLOTS * V_PAGE;
	unsigned int i;

	for (i = 0; i < SLOTS; i++)
		SYS(pread(file, mine + i * V_PAGE, V_PAGE, 0));
	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
		i = v_mix(++turn) % SLOTS;
		CHECK(v_page_is(mine + i * V_PAGE, block[i]),
		      "thread %lu: slot %u is not block %lu", self, i, block[i]);
		block[i] = v_mix(turn) / SLOTS % BLOCKS;
		SYS(pread(file, mine + i * V_PAGE, V_PAGE, (off_t)(block[i] * V_PAGE)));
		if (turn % 8 == 0)
			v_sleep_ms(1);
	}
	for (i = 0; i < SLOTS; i++)
		CHECK(v_page_is(mine + i * V_PAGE, block[i]), "thread %lu, at the end: slot %u",
		      self, i);
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t t[THREADS];
	uint64_t i;

	v_init(argc, argv);
	file = v_file("blocks", 0, BLOCKS, 0);
	fsync(file);
	/* not every file system can */
	fcntl(file, F_SETFL, fcntl(file, F_GETFL) | O_DIRECT);
	memory = v_map(THREADS * SLOTS * V_PAGE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (i = 0; i < THREADS; i++)
		t[i] = v_thread(work, (void *)(uintptr_t)i);
	v_observe(NULL, V_NO_THREADS); /* they have ended when it is compared */
	v_ready();
	while (!v_stopping())
		v_sleep_ms(1);
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	for (i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	v_ok();
}
