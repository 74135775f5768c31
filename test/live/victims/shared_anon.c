/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shared anonymous memory and a shared memfd mapping in four processes at different places: what
 * one stores the others see, before and after, and private copies made by fork stay apart.
 */
#include "victim.h"

#include <stdatomic.h>

#define TASKS 4
#define PAGES 64

struct board {
	_Atomic uint64_t turn;
	_Atomic bool stop;
	_Atomic uint64_t beats[TASKS];
	uint64_t seed[PAGES];
};

static struct board *board;
static char *shared, *through_memfd, *private;

static void check(int self)
{
	unsigned int i;

	for (i = 0; i < PAGES; i++) {
		CHECK(v_page_is(shared + i * V_PAGE, board->seed[i]), "task %d: shared page %u",
		      self, i);
		CHECK(v_page_is(through_memfd + i * V_PAGE, board->seed[i] + 1),
		      "task %d: memfd page %u", self, i);
		CHECK(v_page_is(private + i * V_PAGE, 10000 + self * 1000 + i),
		      "task %d: private page %u", self, i);
	}
}

/* Each in its turn changes some pages after it has checked what the others left. */
static void work(int self)
{
	uint64_t turn;
	unsigned int i;

	for (i = 0; i < PAGES; i++)
		v_page_fill(private + i * V_PAGE, 10000 + self * 1000 + i);
	for (;;) {
		turn = board->turn;
		if (board->stop)
			return;
		if (turn % TASKS != (unsigned int)self) {
			v_sleep_ms(1);
			continue;
		}
		check(self);
		for (i = turn % 5; i < PAGES; i += 5) {
			board->seed[i] = v_mix(turn * PAGES + i);
			v_page_fill(shared + i * V_PAGE, board->seed[i]);
			v_page_fill(through_memfd + i * V_PAGE, board->seed[i] + 1);
		}
		board->beats[self]++;
		/* Before the next may begin to write: the others check all when they stop. */
		if (self == 0 && v_stopping())
			board->stop = true;
		board->turn++;
	}
}

int main(int argc, char **argv)
{
	pid_t pids[TASKS] = {0};
	unsigned int i;
	int t, fd;

	v_init(argc, argv);
	board = v_map(sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	shared = v_map(PAGES * V_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	private = v_map(PAGES * V_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	fd = v_memfd("common", MFD_CLOEXEC);
	SYS(ftruncate(fd, PAGES * V_PAGE));
	for (i = 0; i < PAGES; i++)
		v_page_fill(private + i * V_PAGE, i);
	for (i = 0; i < PAGES; i++)
		v_page_fill(shared + i * V_PAGE, board->seed[i]);
	for (t = 1; t < TASKS; t++) {
		pids[t] = SYS(fork());
		if (pids[t])
			continue;
		/* Elsewhere in each child. */
		v_map((1 + t) * V_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		through_memfd = v_map(PAGES * V_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		work(t);
		check(t);
		_exit(0);
	}
	through_memfd = v_map(PAGES * V_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	for (i = 0; i < PAGES; i++)
		v_page_fill(through_memfd + i * V_PAGE, board->seed[i] + 1);
	v_ready();
	work(0);
	for (t = 1; t < TASKS; t++)
		v_reap(pids[t], 0);
	for (t = 0; t < TASKS; t++)
		CHECK(board->beats[t], "task %d never had its turn", t);
	v_ok();
}
