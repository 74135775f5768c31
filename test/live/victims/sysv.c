/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System V shared memory in three processes at different places: a segment with a key, one that
 * goes with the last that detaches it, and one that a process only reads. They keep their numbers,
 * keys, owners and modes, are attached as often as before, and can be found, attached and detached
 * as ever.
 */
#include "victim.h"

#include <stdatomic.h>
#include <sys/shm.h>

#define TASKS 3
#define PAGES 48
#define SIZE (PAGES * V_PAGE - 100)   /* the last page is not whole */

struct board {
	_Atomic uint64_t turn;
	_Atomic bool stop, seen;
	_Atomic int attached;
	_Atomic uint64_t beats[TASKS];
	uint64_t seed[PAGES - 1];
};

static struct board *board;
static key_t key;
static int keyed, doomed, small;
static char *by_key, *by_number;
static const char *only_read;

static void note(int id, const char *name)
{
	struct shmid_ds ds;

	SYS(shmctl(id, IPC_STAT, &ds));
	v_note("%s: id %d key %x mode %o uid %u gid %u size %lu attached %lu", name, id,
	       (unsigned int)ds.shm_perm.__key, ds.shm_perm.mode, ds.shm_perm.uid, ds.shm_perm.gid,
	       (unsigned long)ds.shm_segsz, (unsigned long)ds.shm_nattch);
}

static void observe(void)
{
	note(keyed, "keyed");
	note(doomed, "doomed");
	note(small, "small");
	v_note("by key: %d", shmget(key, 0, 0));
}

static void check(int self)
{
	for (unsigned int i = 0; i < PAGES - 1; i++) {
		CHECK(v_page_is(by_key + i * V_PAGE, board->seed[i]), "task %d: page %u by key",
		      self, i);
		CHECK(v_page_is(by_number + i * V_PAGE, board->seed[i] + 1), "task %d: page %u",
		      self, i);
	}
	CHECK(v_page_is(only_read, 4711), "task %d: what it only reads", self);
}

/* Attaches once more, sees the same, and lets go. */
static void attach_again(void)
{
	char *again = SYS((char *)shmat(keyed, NULL, 0));

	CHECK(again != by_key && v_page_is(again, board->seed[0]), "attached again");
	SYS(shmdt(again));
}

static void work(int self)
{
	for (;;) {
		uint64_t turn = board->turn;

		if (board->stop)
			return;
		if (turn % TASKS != (unsigned int)self) {
			v_sleep_ms(1);
			continue;
		}
		check(self);
		if (turn % 7 == 0 && v_stopping())
			attach_again();
		for (unsigned int i = turn % 5; i < PAGES - 1; i += 5) {
			board->seed[i] = v_mix(turn * PAGES + i);
			v_page_fill(by_key + i * V_PAGE, board->seed[i]);
			v_page_fill(by_number + i * V_PAGE, board->seed[i] + 1);
		}
		board->beats[self]++;
		if (self == 0 && v_stopping())
			board->stop = true;
		board->turn++;
	}
}

static void attach(int t)
{
	v_map((1 + t) * V_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	by_number = SYS((char *)shmat(doomed, NULL, 0));
	if (t == 1) /* one attachment, two mappings */
		SYS(mprotect(by_number + (PAGES - 1) * V_PAGE, V_PAGE, PROT_READ));
	only_read = SYS((char *)shmat(small, NULL, SHM_RDONLY));
}

int main(int argc, char **argv)
{
	pid_t pids[TASKS] = {0};
	int t;

	v_init(argc, argv);
	board = v_map(sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	key = (key_t)(0x43520000 | (getpid() & 0xffff));
	keyed = SYS(shmget(key, SIZE, IPC_CREAT | IPC_EXCL | 0640));
	doomed = SYS(shmget(IPC_PRIVATE, SIZE, 0600));
	small = SYS(shmget(IPC_PRIVATE, V_PAGE, 0600));
	by_key = SYS((char *)shmat(keyed, NULL, 0));
	v_page_fill(SYS((char *)shmat(small, NULL, 0)), 4711);
	for (t = 1; t < TASKS; t++) {
		pids[t] = SYS(fork());
		if (!pids[t]) {
			attach(t);
			board->attached++;
			work(t);
			check(t);
			while (!board->seen) /* how often it is attached */
				v_sleep_ms(1);
			_exit(0);
		}
	}
	attach(0);
	for (unsigned int i = 0; i < PAGES - 1; i++) {
		v_page_fill(by_key + i * V_PAGE, board->seed[i]);
		v_page_fill(by_number + i * V_PAGE, board->seed[i] + 1);
	}
	while (board->attached < TASKS - 1)
		v_sleep_ms(1);
	SYS(shmctl(doomed, IPC_RMID, NULL));
	SYS(shmctl(small, IPC_RMID, NULL));
	v_observe(observe, 0);
	v_ready();
	work(0);
	for (t = 1; t < TASKS; t++)
		CHECK(board->beats[t], "task %d never had its turn", t);
	v_recheck();
	board->seen = true;
	for (t = 1; t < TASKS; t++)
		v_reap(pids[t], 0);
	SYS(shmctl(keyed, IPC_RMID, NULL));
	CHECK(shmget(key, 0, 0) < 0 && errno == ENOENT, "the key is still there");
	v_ok();
}
