/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Children and threads that come and go all the time. Each child checks the memory it inherits,
 * writes to it, starts a child of its own now and then, and must end as it was told to.
 */
#include "victim.h"

#define PAGES 64

static char *memory;
static uint64_t generation = 1;
static int *shared;

static void check(const char *who)
{
	unsigned int i;

	for (i = 0; i < PAGES; i++)
		CHECK(v_page_is(memory + i * V_PAGE, generation * PAGES + i), "%s: page %u", who,
		      i);
}

static void fill(void)
{
	unsigned int i;

	generation++;
	for (i = 0; i < PAGES; i++)
		v_page_fill(memory + i * V_PAGE, generation * PAGES + i);
}

static void child(int n)
{
	pid_t pid;

	check("child");
	fill();
	if (n % 3 == 0) {
		pid = SYS(fork());
		if (!pid) {
			check("grandchild");
			_exit(n & 63);
		}
		v_reap(pid, (n & 63) << 8);
	}
	v_sleep_ms(n % 4);
	check("child, later");
	__atomic_add_fetch(shared, 1, __ATOMIC_SEQ_CST);
	_exit(n & 127);
}

static void *thread(void *arg)
{
	static _Thread_local uint64_t tls;

	tls = (uintptr_t)arg;
	v_sleep_ms(tls % 3);
	CHECK(tls == (uintptr_t)arg, "thread-local word is wrong");
	return arg;
}

int main(int argc, char **argv)
{
	int n, expected = 0, i;
	pthread_t t;
	pid_t pid[3];
	void *ret;

	v_init(argc, argv);
	memory = v_map(PAGES * V_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	shared = v_map(V_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	fill();
	/* The first thread makes libc catch a signal. */
	pthread_join(v_thread(thread, NULL), NULL);
	/* a thread that was joined may still be counted */
	v_observe(NULL, V_NO_THREADS);
	v_ready();
	for (n = 0; !v_stopping(); n++) {
		for (i = 0; i < 3; i++) {
			pid[i] = SYS(fork());
			if (!pid[i])
				child(n + i);
		}
		t = v_thread(thread, (void *)(uintptr_t)(n + 1));
		fill();
		for (i = 0; i < 3; i++)
			v_reap(pid[i], ((n + i) & 127) << 8);
		expected += 3;
		CHECK(*shared == expected, "children counted %d, not %d", *shared, expected);
		CHECK(!pthread_join(t, &ret) && ret == (void *)(uintptr_t)(n + 1), "thread %d", n);
		check("parent");
		v_sleep_ms(n % 5);
	}
	v_ok();
}
