/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Clocks through the vDSO, in a loop in which the victim is moved: none may step back, and what the
 * vDSO says must be what the system call says.
 */
#include "victim.h"

#include <sys/auxv.h>
#include <sys/time.h>

static const clockid_t clocks[] = {CLOCK_MONOTONIC,        CLOCK_REALTIME, CLOCK_BOOTTIME,
				   CLOCK_MONOTONIC_COARSE, CLOCK_TAI,      CLOCK_MONOTONIC_RAW};

static int64_t ns(const struct timespec *ts)
{
	return ts->tv_sec * 1000000000L + ts->tv_nsec;
}

static void check_clock(size_t i, int64_t *last)
{
	struct timespec before, vdso, after;

	SYS(syscall(SYS_clock_gettime, clocks[i], &before));
	SYS(clock_gettime(clocks[i], &vdso));
	SYS(syscall(SYS_clock_gettime, clocks[i], &after));
	CHECK(ns(&before) <= ns(&vdso) && ns(&vdso) <= ns(&after),
	      "clock %d: the vDSO says %ld, the kernel %ld to %ld", clocks[i], ns(&vdso),
	      ns(&before), ns(&after));
	CHECK(ns(&vdso) >= *last, "clock %d went back by %ld ns", clocks[i], *last - ns(&vdso));
	*last = ns(&vdso);
}

static void note_vdso(void)
{
	v_note("vdso at %#lx", getauxval(AT_SYSINFO_EHDR));
}

int main(int argc, char **argv)
{
	int64_t last[V_COUNT(clocks)] = {0};
	struct timeval tv;
	unsigned int cpu, node, i;
	char first[4];

	v_init(argc, argv);
	memcpy(first, (void *)getauxval(AT_SYSINFO_EHDR), 4);
	CHECK(!memcmp(first, "\177ELF", 4), "no vDSO");
	v_observe(note_vdso, 0);
	v_ready();
	while (!v_stopping()) {
		for (i = 0; i < 20000; i++)
			check_clock(i % V_COUNT(clocks), &last[i % V_COUNT(clocks)]);
		SYS(gettimeofday(&tv, NULL));
		SYS(getcpu(&cpu, &node));
		CHECK(cpu < 4096 && llabs(tv.tv_sec - time(NULL)) <= 1, "getcpu or time");
		v_sleep_ms(1);
	}
	v_ok();
}
