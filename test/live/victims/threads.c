/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sixteen threads with thread-local data, names, masks, affinity, nice values, mutexes, condition
 * variables, robust mutexes and rseq, at work together.
 */
#include "victim.h"

#include <linux/futex.h>
#include <sys/resource.h>
#include <sys/rseq.h>

#define THREADS 16

struct member {
	int number;
	pthread_t thread;
	_Atomic uint64_t rounds;
	uint64_t under_lock;
};

static struct member members[THREADS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER, baton_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t baton_moved = PTHREAD_COND_INITIALIZER;
static pthread_mutex_t robust[THREADS];
static pthread_barrier_t standing;
static unsigned int baton;
static uint64_t total;
static _Atomic bool stopping;
static _Thread_local uint64_t tls[512];
static _Thread_local int tls_number = -1;

static void check_rseq(int number)
{
	const struct rseq *rs = (void *)((char *)__builtin_thread_pointer() + __rseq_offset);
	unsigned int cpu, i;

	if (!__rseq_size)
		return;
	/* The thread may move between two looks: one of many must agree. */
	for (i = 0; i < 1000; i++) {
		SYS(syscall(SYS_getcpu, &cpu, NULL, NULL));
		if (rs->cpu_id == cpu && rs->cpu_id_start == cpu)
			return;
	}
	v_fail("thread %d: rseq says cpu %u, getcpu says %u", number, rs->cpu_id, cpu);
}

/* Every thread has its own in all that the kernel keeps for a thread. */
static void set_own(struct member *m)
{
	char name[16];
	cpu_set_t cpus;
	sigset_t set;
	unsigned int i;

	snprintf(name, sizeof(name), "member) %d (", m->number);
	SYS(prctl(PR_SET_NAME, name));
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + m->number);
	SYS(pthread_sigmask(SIG_SETMASK, &set, NULL));
	SYS(setpriority(PRIO_PROCESS, gettid(), m->number % 5));
	if (m->number % 4 == 1) {
		CPU_ZERO(&cpus);
		CPU_SET(0, &cpus);
		SYS(sched_setaffinity(0, sizeof(cpus), &cpus));
	}
	if (m->number % 4 == 2) {
		struct sched_param sp = {0};

		SYS(sched_setscheduler(0, m->number % 8 == 2 ? SCHED_BATCH : SCHED_IDLE, &sp));
	}
	SYS(prctl(PR_SET_TIMERSLACK, 70000 + m->number));
	tls_number = m->number;
	for (i = 0; i < V_COUNT(tls); i++)
		tls[i] = v_mix(m->number * 1000 + i);
	pthread_mutex_lock(&robust[m->number]);
}

static void check_own(struct member *m)
{
	struct robust_list_head *head;
	size_t len, i;
	char name[16], want[16];

	CHECK(tls_number == m->number, "thread %d: TLS says %d", m->number, tls_number);
	for (i = 0; i < V_COUNT(tls); i++)
		CHECK(tls[i] == v_mix(m->number * 1000 + i), "thread %d: TLS word %zu", m->number,
		      i);
	snprintf(want, sizeof(want), "member) %d (", m->number);
	SYS(prctl(PR_GET_NAME, name));
	CHECK(!strcmp(name, want), "thread %d is named %s", m->number, name);
	CHECK(prctl(PR_GET_TIMERSLACK) == 70000 + m->number, "thread %d: timer slack %d", m->number,
	      prctl(PR_GET_TIMERSLACK));
	SYS(syscall(SYS_get_robust_list, 0, &head, &len));
	CHECK(head && len == sizeof(*head) && head->list.next != &head->list,
	      "thread %d: robust list is lost", m->number);
	check_rseq(m->number);
}

static void take_baton(struct member *m)
{
	pthread_mutex_lock(&baton_lock);
	while (baton % THREADS != (unsigned int)m->number && !stopping)
		pthread_cond_wait(&baton_moved, &baton_lock);
	if (!stopping)
		baton++;
	pthread_cond_broadcast(&baton_moved);
	pthread_mutex_unlock(&baton_lock);
}

static void *work(void *arg)
{
	struct member *m = arg;
	int i;

	set_own(m);
	pthread_barrier_wait(&standing);
	while (!stopping) {
		for (i = 0; i < 100; i++) {
			pthread_mutex_lock(&lock);
			total++;
			m->under_lock++;
			pthread_mutex_unlock(&lock);
		}
		take_baton(m);
		check_own(m);
		m->rounds++;
	}
	/* It dies holding its robust mutex: the next owner must be told. */
	return NULL;
}

static void check_robust(int i)
{
	struct timespec ts;
	int ret;

	clock_gettime(CLOCK_REALTIME, &ts);
	ts.tv_sec += 5;
	ret = pthread_mutex_timedlock(&robust[i], &ts);
	CHECK(ret == EOWNERDEAD, "robust mutex of thread %d: %s", i, strerror(ret));
}

static void note_threads(void)
{
	int i;

	for (i = 0; i < THREADS; i++)
		v_note("thread %d at %#lx", i, members[i].thread);
}

int main(int argc, char **argv)
{
	pthread_mutexattr_t attr;
	uint64_t sum = 0;
	int i;

	v_init(argc, argv);
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
	pthread_barrier_init(&standing, NULL, THREADS + 1);
	for (i = 0; i < THREADS; i++) {
		pthread_mutex_init(&robust[i], &attr);
		members[i].number = i;
		members[i].thread = v_thread(work, &members[i]);
	}
	pthread_barrier_wait(&standing);
	v_observe(note_threads, 0);
	v_ready();
	v_wait();
	v_recheck();
	pthread_mutex_lock(&baton_lock);
	stopping = true;
	pthread_cond_broadcast(&baton_moved);
	pthread_mutex_unlock(&baton_lock);
	for (i = 0; i < THREADS; i++) {
		CHECK(!pthread_join(members[i].thread, NULL), "join of thread %d", i);
		CHECK(members[i].rounds, "thread %d did nothing", i);
		sum += members[i].under_lock;
		check_robust(i);
	}
	CHECK(sum == total, "the mutex let two in: %lu instead of %lu", total, sum);
	v_ok();
}
