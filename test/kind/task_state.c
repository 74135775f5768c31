/* SPDX-License-Identifier: Apache-2.0 */
/*
 * State of a task: a victim sets as much of it as it can, is held and captured, and a shell with
 * its pid gets its memory and state. The shell's state, captured again, must be the same; then it
 * runs, and the victim's own checks decide. Needs root.
 *
 * The victim calls the kernel by syscall(2) only: the test copies memory, but not the vDSO's data.
 */
#include <errno.h>
#include <fcntl.h>
#include <immintrin.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>

#include <cmocka.h>

#include "io.h"
#include "proc_maps.h"
#include "task_state.h"

/* ---- the victim ---- */

static volatile struct {
	int go, vector_ready, vector_bad, sleeper_bad, waiter_bad, handled;
	pid_t sleeper, waiter;
} shared;

static uint8_t altstack[65536];

/* Exits with the number of the check that failed. */
#define MUST(cond) do { if (!(cond)) syscall(SYS_exit_group, __COUNTER__ + 10); } while (0)

static uint64_t now_ns(void)
{
	struct timespec t;

	syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void handler(int sig, siginfo_t *info, void *context)
{
	shared.handled++;
}

/* Vector registers hold their values from the first instruction to the last. */
__attribute__((target("avx512f,avx512bw"))) static void hold_avx512(void)
{
	uint64_t k = 0x123456789abcdef0, got[8] = {0}, want = 0x5a5a5a5a5a5a5a5a, kgot;

	__asm__ volatile("vpbroadcastq %3, %%zmm17\n\t"
			 "vpbroadcastq %3, %%zmm3\n\t"
			 "kmovq %4, %%k3\n\t"
			 "movl $1, %1\n"
			 "1:\tpause\n\tcmpl $0, %2\n\tje 1b\n\t"
			 "vpxorq %%zmm3, %%zmm17, %%zmm4\n\t"
			 "vmovdqu64 %%zmm4, (%5)\n\t"
			 "vmovq %%xmm17, %0\n\t"
			 "kmovq %%k3, %6\n\t"
			 : "=&r"(want), "=m"(shared.vector_ready)
			 : "m"(shared.go), "r"(want), "r"(k), "r"(got), "m"(kgot)
			 : "xmm3", "xmm4", "xmm17", "k3", "memory");
	for (int i = 0; i < 8; i++)
		shared.vector_bad |= got[i] != 0;
	shared.vector_bad |= want != 0x5a5a5a5a5a5a5a5a || kgot != k;
}

static void hold_x87(void)
{
	double back = 0;

	__asm__ volatile("fldpi\n\tmovl $1, %1\n1:\tpause\n\tcmpl $0, %2\n\tje 1b\n\tfstpl %0"
			 : "=m"(back), "=m"(shared.vector_ready)
			 : "m"(shared.go)
			 : "st", "memory");
	shared.vector_bad |= back < 3.141592 || back > 3.141593;
}

static void *vector_thread(void *arg)
{
	if (__builtin_cpu_supports("avx512bw"))
		hold_avx512();
	else
		hold_x87();
	return NULL;
}

static void queue_to(pid_t tid, int sig, int value)
{
	siginfo_t info = {.si_signo = sig, .si_code = SI_QUEUE};
	pid_t pid = (pid_t)syscall(SYS_getpid);

	info.si_value.sival_int = value;
	if (tid)
		MUST(syscall(SYS_rt_tgsigqueueinfo, pid, tid, sig, &info) == 0);
	else
		MUST(syscall(SYS_rt_sigqueueinfo, pid, sig, &info) == 0);
}

static int dequeue(int sig)
{
	uint64_t set = 1ull << (sig - 1);
	struct timespec none = {0, 0};
	siginfo_t info;

	if (syscall(SYS_rt_sigtimedwait, &set, &info, &none, 8) != sig)
		return -1;
	return info.si_value.sival_int;
}

/* Sleeps with rmtp elsewhere, across everything, and gets its own signal. */
static void *sleeper_thread(void *arg)
{
	struct timespec req = {1, 500000000}, rem = {7, 7};
	uint64_t from;

	shared.sleeper = (pid_t)syscall(SYS_gettid);
	syscall(SYS_prctl, PR_SET_NAME, "sleeper");
	setpriority(PRIO_PROCESS, (id_t)shared.sleeper, 9);
	queue_to(shared.sleeper, SIGRTMIN + 3, 33);
	from = now_ns();
	shared.sleeper_bad |= syscall(SYS_nanosleep, &req, &rem) != 0;
	uint64_t ms = (now_ns() - from) / 1000000;

	/* a virtual machine without KVM takes long to stop and start it */
	shared.sleeper_bad |= ms < 1450 ? 2 : ms > (getenv("CRIU_LITE_SLOW") ? 9000 : 2250) ? 4 : 0;
	shared.sleeper_bad |= dequeue(SIGRTMIN + 3) != 33 ? 8 : 0;
	return NULL;
}

/* In calls that a stop must neither end (EINTR) nor, with a timeout, make much longer. */
static void *waiter_thread(void *arg)
{
	uint64_t set = 1ull << (SIGRTMIN + 4 - 1);
	uint64_t from = now_ns();

	shared.waiter = (pid_t)syscall(SYS_gettid);
	shared.waiter_bad |= syscall(SYS_poll, NULL, 0, 700) != 0;
	shared.waiter_bad |= now_ns() - from < 699000000 ? 2 : 0;
	shared.waiter_bad |= syscall(SYS_rt_sigtimedwait, &set, NULL, NULL, 8) != SIGRTMIN + 4 ? 4
											       : 0;
	return NULL;
}

static void make_signals(void)
{
	struct sigaction sa = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_RESTART};
	stack_t ss = {.ss_sp = altstack, .ss_size = sizeof(altstack)};
	sigset_t set;

	sigaddset(&sa.sa_mask, SIGHUP);
	MUST(sigaction(SIGUSR1, &sa, NULL) == 0);
	MUST(sigaction(SIGTERM, &sa, NULL) == 0);
	MUST(signal(SIGWINCH, SIG_IGN) != SIG_ERR);
	MUST(sigaltstack(&ss, NULL) == 0);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	for (int i = 0; i < 5; i++)
		sigaddset(&set, SIGRTMIN + i);
	MUST(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
	for (int i = 1; i <= 40; i++)
		queue_to(0, SIGRTMIN + 1, i);
	queue_to((pid_t)syscall(SYS_gettid), SIGRTMIN + 2, 22);
	MUST(kill(getpid(), SIGUSR2) == 0);
}

static void make_timers(void)
{
	struct itimerval real = {{5, 0}, {1000, 0}}, prof = {{0, 0}, {900, 7}};
	struct itimerspec spec = {{3, 4}, {500, 0}};
	struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN};
	int id[4];

	ev.sigev_value.sival_int = 77;
	MUST(setitimer(ITIMER_REAL, &real, NULL) == 0);
	MUST(setitimer(ITIMER_PROF, &prof, NULL) == 0);
	for (int i = 0; i < 4; i++)
		MUST(syscall(SYS_timer_create, CLOCK_MONOTONIC, &ev, &id[i]) == 0 && id[i] == i);
	MUST(syscall(SYS_timer_delete, 0) == 0 && syscall(SYS_timer_delete, 2) == 0);
	MUST(syscall(SYS_timer_settime, 3, 0, &spec, NULL) == 0);
	MUST(syscall(SYS_timer_create, CLOCK_THREAD_CPUTIME_ID, &ev, &id[0]) == 0 && id[0] == 4);
}

static void make_creds(void)
{
	static const gid_t groups[] = {10, 20, 30};
	struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct data[2] = {
		{1u << CAP_NET_RAW, 1u << CAP_NET_RAW | 1u << CAP_KILL,
		 1u << CAP_NET_RAW | 1u << CAP_SYS_CHROOT},
	};

	MUST(syscall(SYS_setgroups, 3, groups) == 0);
	MUST(prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP | SECBIT_KEEP_CAPS, 0, 0, 0) == 0);
	MUST(syscall(SYS_setresgid, 100, 101, 102) == 0);
	MUST(syscall(SYS_setresuid, 1000, 1001, 1002) == 0);
	syscall(SYS_setfsuid, 1002);
	data[0].effective = data[0].permitted |= 1u << CAP_SETPCAP;
	MUST(syscall(SYS_capset, &head, data) == 0);
	MUST(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_RAW, 0, 0) == 0);
	MUST(prctl(PR_CAPBSET_DROP, CAP_SYS_CHROOT, 0, 0, 0) == 0);
	MUST(prctl(PR_CAPBSET_DROP, CAP_SYS_TIME, 0, 0, 0) == 0);
	MUST(prctl(PR_SET_SECUREBITS, SECBIT_NO_CAP_AMBIENT_RAISE, 0, 0, 0) == 0);
	data[0].effective &= ~(1u << CAP_SETPCAP);
	data[0].permitted &= ~(1u << CAP_SETPCAP);
	MUST(syscall(SYS_capset, &head, data) == 0);
	MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
}

static void make_misc(void)
{
	struct rlimit files = {77, 100};
	struct sched_param param = {0};
	cpu_set_t cpus;

	MUST(prctl(PR_SET_NAME, "vic (1)\nx") == 0);
	MUST(personality(ADDR_NO_RANDOMIZE) >= 0);
	MUST(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0);
	MUST(prctl(PR_SET_TIMERSLACK, 12345, 0, 0, 0) == 0);
	MUST(setrlimit(RLIMIT_NOFILE, &files) == 0);
	MUST(sched_setscheduler(0, SCHED_BATCH | SCHED_RESET_ON_FORK, &param) == 0);
	MUST(setpriority(PRIO_PROCESS, 0, 5) == 0);
	CPU_ZERO(&cpus);
	CPU_SET(0, &cpus);
	MUST(sched_setaffinity(0, sizeof(cpus), &cpus) == 0);
	MUST(syscall(SYS_ioprio_set, 1, 0, 2 << 13 | 6) == 0);
	syscall(SYS_membarrier, 1 << 4, 0, 0);
	syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18); /* AMX, if there is */
}

static void check_signals(void)
{
	struct sigaction sa;

	MUST(sigaction(SIGUSR1, NULL, &sa) == 0 && sa.sa_sigaction == handler);
	MUST((sa.sa_flags & SA_SIGINFO) && sigismember(&sa.sa_mask, SIGHUP));
	for (int i = 1; i <= 40; i++)
		MUST(dequeue(SIGRTMIN + 1) == i);
	MUST(dequeue(SIGRTMIN + 1) == -1);
	MUST(dequeue(SIGRTMIN + 2) == 22);
	MUST(dequeue(SIGUSR2) >= 0);
	MUST(dequeue(SIGCHLD) == -1);
	MUST(shared.handled == 0);
	MUST(kill((pid_t)syscall(SYS_getpid), SIGUSR1) == 0 && shared.handled == 1);
}

static void check_timers(void)
{
	struct itimerval v;
	struct itimerspec spec;

	MUST(getitimer(ITIMER_REAL, &v) == 0 && v.it_interval.tv_sec == 5);
	MUST(v.it_value.tv_sec > 900 && v.it_value.tv_sec < 1000);
	MUST(getitimer(ITIMER_PROF, &v) == 0 && v.it_value.tv_sec > 800);
	MUST(syscall(SYS_timer_gettime, 0, &spec) < 0 && errno == EINVAL);
	MUST(syscall(SYS_timer_gettime, 1, &spec) == 0 && spec.it_value.tv_sec == 0);
	MUST(syscall(SYS_timer_gettime, 3, &spec) == 0 && spec.it_interval.tv_nsec == 4);
	MUST(spec.it_value.tv_sec > 400 && spec.it_value.tv_sec < 500);
	MUST(syscall(SYS_timer_gettime, 4, &spec) == 0);
}

static void check_creds(void)
{
	uid_t u[3];
	gid_t g[3], groups[8];

	MUST(syscall(SYS_getresuid, &u[0], &u[1], &u[2]) == 0);
	MUST(u[0] == 1000 && u[1] == 1001 && u[2] == 1002);
	MUST(syscall(SYS_getresgid, &g[0], &g[1], &g[2]) == 0);
	MUST(g[0] == 100 && g[1] == 101 && g[2] == 102);
	MUST(syscall(SYS_setfsuid, -1) == 1002);
	MUST(syscall(SYS_getgroups, 8, groups) == 3 && groups[2] == 30);
	MUST(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_NET_RAW, 0, 0) == 1);
	MUST(prctl(PR_CAPBSET_READ, CAP_SYS_TIME, 0, 0, 0) == 0);
	MUST(prctl(PR_CAPBSET_READ, CAP_KILL, 0, 0, 0) == 1);
	MUST(prctl(PR_GET_SECUREBITS, 0, 0, 0, 0) == SECBIT_NO_CAP_AMBIENT_RAISE);
	MUST(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
}

static void check_misc(void)
{
	struct rlimit lim;
	char name[16] = {0};

	MUST(prctl(PR_GET_NAME, name) == 0 && !strcmp(name, "vic (1)\nx"));
	MUST(personality(0xffffffff) == ADDR_NO_RANDOMIZE);
	MUST(prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0) == 12345);
	MUST(getrlimit(RLIMIT_NOFILE, &lim) == 0 && lim.rlim_cur == 77 && lim.rlim_max == 100);
	MUST(sched_getscheduler(0) == (SCHED_BATCH | SCHED_RESET_ON_FORK));
	MUST(getpriority(PRIO_PROCESS, 0) == 5);
}

static void victim(int ready)
{
	struct timespec pause = {0, 20000000};
	pthread_t vector, sleeper, waiter;

	make_signals();
	make_timers();
	make_misc();
	make_creds();
	/* a change of ids would clear it */
	MUST(prctl(PR_SET_PDEATHSIG, SIGTERM, 0, 0, 0) == 0);
	MUST(pthread_create(&vector, NULL, vector_thread, NULL) == 0);
	MUST(pthread_create(&sleeper, NULL, sleeper_thread, NULL) == 0);
	MUST(pthread_create(&waiter, NULL, waiter_thread, NULL) == 0);
	while (!shared.vector_ready || !shared.sleeper || !shared.waiter)
		syscall(SYS_sched_yield);
	MUST(write(ready, "r", 1) == 1);
	while (!shared.go)
		syscall(SYS_nanosleep, &pause, NULL);
	check_signals();
	check_timers();
	check_creds();
	check_misc();
	MUST(pthread_join(vector, NULL) == 0 && !shared.vector_bad);
	MUST(pthread_join(sleeper, NULL) == 0);
	MUST(syscall(SYS_tgkill, syscall(SYS_getpid), shared.waiter, SIGRTMIN + 4) == 0);
	MUST(pthread_join(waiter, NULL) == 0);
	MUST(!(shared.waiter_bad & 1));
	MUST(!(shared.waiter_bad & 2));
	MUST(!(shared.waiter_bad & 4));
	MUST(!(shared.sleeper_bad & 1));
	MUST(!(shared.sleeper_bad & 2));
	MUST(!(shared.sleeper_bad & 4));
	MUST(!(shared.sleeper_bad & 8));
	syscall(SYS_exit_group, 0);
}

/* ---- the test's own, very simple memory restore ---- */

struct area {
	uint64_t start, end;
	uint32_t prot;
	uint8_t *bytes;
};
typedef VEC(struct area) area_vec;

static void must_(int ret, const struct err *e, int line)
{
	if (ret < 0)
		fail_msg("line %d: %s", line, e->text);
}
#define OK(call, e) must_((call), (e), __LINE__)

static void save_memory(struct remote *r, area_vec *out)
{
	_cleanup_(buf_free) struct buf text = {0};
	struct err e = ERR_INIT;
	struct proc_maps maps;
	struct grange stub = remote_stub(r);
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/maps", remote_pid(r));
	OK(io_slurp_at(AT_FDCWD, path, &text, &e), &e);
	OK(proc_maps_parse((char *)text.at, text.n, &maps, &e), &e);
	vec_each(&maps.vma, v) {
		struct area a = {v->start, v->end, v->prot, xmalloc(v->end - v->start)};

		if (v->start == stub.start || !strncmp(v->path, "[v", 2) ||
		    (v->prot && remote_read(r, a.start, a.bytes, a.end - a.start, &e) < 0)) {
			free(a.bytes); /* past the end of a file: never touched */
			continue;
		}
		vec_push(out, a);
	}
	proc_maps_free(&maps);
}

static void load_memory(struct remote *r, const area_vec *areas)
{
	_cleanup_batch_ struct batch b = BATCH(remote_leader(r));
	struct err e = ERR_INIT;

	vec_each(areas, a)
		batch_call(&b, "mmap", SYS_mmap, a->start, a->end - a->start, a->prot,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	OK(batch_run(&b, &e), &e);
	vec_each(areas, a)
		if (a->prot)
			OK(remote_write(r, a->start, a->bytes, a->end - a->start, &e), &e);
}

static void free_memory(area_vec *v)
{
	vec_each(v, a)
		free(a->bytes);
	vec_free(v);
}

/* ---- comparing ---- */

/* Timers are armed last, and their time passes. */
static void forget_what_passes(CoreEntry *c)
{
	if (!c->tc)
		return;
	TaskTimersEntry *t = c->tc->timers;
	ItimerEntry *i[] = {t->real, t->virt, t->prof};

	for (int k = 0; k < 3; k++)
		i[k]->isec = i[k]->iusec = i[k]->vsec = i[k]->vusec = 0;
	for (size_t k = 0; k < t->n_posix; k++)
		t->posix[k]->isec = t->posix[k]->insec = t->posix[k]->vsec =
			t->posix[k]->vnsec = 0;
}

static void assert_same_core(const struct img_set *a, const struct img_set *b, pid_t tid)
{
	const struct img_set *sets[2] = {a, b};
	struct err e = ERR_INIT;
	char *text[2];
	size_t n[2];

	for (int i = 0; i < 2; i++) {
		_cleanup_msg_ CoreEntry *c = NULL;
		_cleanup_fclose_ FILE *f = open_memstream(&text[i], &n[i]);

		OK(img_get(sets[i], IMG_CORE, (uint64_t)tid, 0, &c, &e), &e);
		forget_what_passes(c);
		c->thread_core->has_cl_rewound_sleep = 0;
		c->thread_core->has_cl_sleep_left = 0;
		c->thread_info->gpregs->orig_ax = 0;
		img_print(f, &c->base, 0);
	}
	for (char *x = text[0], *y = text[1]; *x || *y;) {
		size_t nx = strcspn(x, "\n"), ny = strcspn(y, "\n");

		if (nx != ny || memcmp(x, y, nx))
			fail_msg("thread %d: found '%.*s', made '%.*s'", tid, (int)nx, x, (int)ny,
				 y);
		x += nx + !!x[nx];
		y += ny + !!y[ny];
	}
	free(text[0]);
	free(text[1]);
}

/* ---- the test ---- */

static pid_t start_victim(void)
{
	int ready[2];
	char c;
	pid_t pid;

	assert_int_equal(pipe(ready), 0);
	pid = fork();
	if (pid == 0) {
		setsid();
		victim(ready[1]);
	}
	close(ready[1]);
	if (read(ready[0], &c, 1) != 1) {
		int status;

		waitpid(pid, &status, 0);
		fail_msg("the victim fails by itself: 0x%x", status);
	}
	close(ready[0]);
	return pid;
}

static void nap(long ms)
{
	nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

/* A stop that the victim must not notice, and that makes its sleep a restart_syscall(2). */
static void stop_once(struct task *t)
{
	struct err e = ERR_INIT;

	OK(task_state_check(t, &e), &e);
	task_sleep_watch(t);
	OK(remote_hold(&t->remote, t->pid, &e), &e);
	OK(task_state_held(t, &e), &e);
	remote_release(t->remote);
	t->remote = NULL;
}

static struct remote *new_shell(pid_t pid, const pid_t *tids, size_t n, const area_vec *areas)
{
	struct err e = ERR_INIT;
	struct remote *r;
	struct grange *avoid = xcalloc(areas->n + 1, sizeof(*avoid));

	for (size_t i = 0; i < areas->n; i++)
		avoid[i] = (struct grange){areas->at[i].start, areas->at[i].end};
	OK(remote_shell(&r, pid, 0, avoid, areas->n, &e), &e);
	free(avoid);
	if (n)
		OK(remote_shell_threads(r, tids, n, &e), &e);
	return r;
}

static void move(void **state)
{
	struct task t = {.state = TASK_ALIVE, .comm = "victim"};
	_cleanup_img_set_ struct img_set *found = img_set_new();
	_cleanup_img_set_ struct img_set *again = img_set_new();
	pid_t tids[8];
	area_vec areas = {0};
	struct err e = ERR_INIT;
	size_t n = 0;
	int status, one = 1;

	t.pid = start_victim();
	nap(500);
	stop_once(&t);
	nap(500);
	task_sleep_watch(&t);
	OK(remote_hold(&t.remote, t.pid, &e), &e);
	save_memory(t.remote, &areas);
	OK(task_state_capture(&t, found, &e), &e);
	while (remote_thread(t.remote, n + 1)) {
		tids[n] = remote_thread(t.remote, n + 1)->tid;
		n++;
	}
	assert_int_equal(n, 3);
	remote_kill(t.remote);

	t.remote = new_shell(t.pid, tids, n, &areas);
	load_memory(t.remote, &areas);
	free_memory(&areas);
	OK(task_state_apply(&t, found, &e), &e);
	OK(task_state_capture(&t, again, &e), &e);
	assert_same_core(found, again, t.pid);
	for (size_t i = 0; i < n; i++)
		assert_same_core(found, again, tids[i]);
	OK(remote_write(t.remote, (gaddr)&shared.go, &one, sizeof(one), &e), &e);
	OK(task_state_arm(&t, found, &e), &e);
	remote_release(t.remote);
	assert_int_equal(waitpid(t.pid, &status, 0), t.pid);
	assert_int_equal(status, 0);
	task_watch_free(t.watch);
}

/* A dump that leaves the victim running, or a migration that fails. */
static void stay(void **state)
{
	struct task t = {.state = TASK_ALIVE, .comm = "victim"};
	_cleanup_img_set_ struct img_set *set = img_set_new();
	struct err e = ERR_INIT;
	int status, one = 1;

	t.pid = start_victim();
	for (int i = 0; i < 3; i++) {
		nap(300);
		stop_once(&t);
	}
	OK(remote_hold(&t.remote, t.pid, &e), &e);
	OK(task_state_held(&t, &e), &e);
	/* others' batches may run first */
	_cleanup_batch_ struct batch b = BATCH(remote_leader(t.remote));
	batch_call(&b, "getpid", SYS_getpid);
	OK(batch_run(&b, &e), &e);
	OK(task_state_capture(&t, set, &e), &e);
	OK(remote_write(t.remote, (gaddr)&shared.go, &one, sizeof(one), &e), &e);
	remote_release(t.remote);
	assert_int_equal(waitpid(t.pid, &status, 0), t.pid);
	assert_int_equal(status, 0);
	task_watch_free(t.watch);
}

/* A stopped task comes back stopped, and goes on by SIGCONT. */
static void stopped(void **state)
{
	struct task t = {.state = TASK_STOPPED, .comm = "victim"};
	_cleanup_img_set_ struct img_set *set = img_set_new();
	area_vec areas = {0};
	struct err e = ERR_INIT;
	pid_t tids[8];
	size_t n = 0;
	int status, one = 1;

	t.pid = start_victim();
	nap(300);
	kill(t.pid, SIGSTOP);
	assert_int_equal(waitpid(t.pid, &status, WUNTRACED), t.pid);
	OK(remote_hold(&t.remote, t.pid, &e), &e);
	OK(remote_write(t.remote, (gaddr)&shared.go, &one, sizeof(one), &e), &e);
	save_memory(t.remote, &areas);
	OK(task_state_capture(&t, set, &e), &e);
	for (; remote_thread(t.remote, n + 1); n++)
		tids[n] = remote_thread(t.remote, n + 1)->tid;
	remote_kill(t.remote);
	t.remote = new_shell(t.pid, tids, n, &areas);
	load_memory(t.remote, &areas);
	free_memory(&areas);
	OK(task_state_apply(&t, set, &e), &e);
	OK(task_state_arm(&t, set, &e), &e);
	remote_release(t.remote);
	assert_int_equal(waitpid(t.pid, &status, WUNTRACED), t.pid);
	assert_int_equal(status, 0x137f);
	kill(t.pid, SIGCONT);
	assert_int_equal(waitpid(t.pid, &status, 0), t.pid);
	assert_int_equal(status, 0);
}

/* ---- many threads: what their capture costs while the guest stands still ---- */

#define MANY 64

static volatile int many_ready;

static void *many_thread(void *arg)
{
	struct timespec long_time = {1000, 0};

	__atomic_add_fetch(&many_ready, 1, __ATOMIC_SEQ_CST);
	for (;;) {
		syscall(SYS_nanosleep, &long_time, NULL);
		syscall(SYS_poll, NULL, 0, -1);
	}
	return NULL;
}

static pid_t start_many(void)
{
	int ready[2];
	char c;
	pid_t pid;

	assert_int_equal(pipe(ready), 0);
	pid = fork();
	if (pid == 0) {
		pthread_t t;

		for (int i = 1; i < MANY; i++)
			MUST(pthread_create(&t, NULL, many_thread, NULL) == 0);
		while (many_ready < MANY - 1)
			syscall(SYS_sched_yield);
		MUST(write(ready[1], "r", 1) == 1);
		many_thread(NULL);
	}
	close(ready[1]);
	assert_int_equal(read(ready[0], &c, 1), 1);
	close(ready[0]);
	return pid;
}

static void many(void **state)
{
	struct task t = {.state = TASK_ALIVE, .comm = "many"};
	struct err e = ERR_INIT;
	uint64_t best = UINT64_MAX;

	t.pid = start_many();
	for (int i = 0; i < 5; i++) {
		_cleanup_img_set_ struct img_set *set = img_set_new();

		nap(50);
		task_sleep_watch(&t);
		OK(remote_hold(&t.remote, t.pid, &e), &e);
		uint64_t from = now_ns();
		OK(task_state_held(&t, &e), &e);
		OK(task_state_capture(&t, set, &e), &e);
		uint64_t ns = now_ns() - from;
		best = ns < best ? ns : best;
		remote_release(steal_ptr(t.remote));
	}
	print_message("capture: %.1f us per thread\n", (double)best / 1e3 / MANY);
	kill(t.pid, SIGKILL);
	waitpid(t.pid, NULL, 0);
	task_watch_free(t.watch);
}

static void die_as(int exit_code)
{
	struct task parent = {0}, t = {.state = TASK_DEAD, .exit_code = exit_code};
	struct err e = ERR_INIT;
	area_vec none = {0};

	parent.remote = new_shell(0, NULL, 0, &none);
	OK(remote_shell_child(&t.remote, parent.remote, 0, 0, &e), &e);
	t.pid = remote_pid(t.remote);
	OK(task_state_die(&t, &e), &e);

	/* what its parent would be told */
	_cleanup_batch_ struct batch b = BATCH(remote_leader(parent.remote));
	gaddr at = batch_out(&b, sizeof(int));
	batch_call(&b, "wait4", SYS_wait4, t.pid, at, 0, 0);
	OK(batch_run(&b, &e), &e);
	int status;
	batch_get(&b, at, &status, sizeof(status));
	assert_int_equal(status, exit_code);
	remote_kill(parent.remote);
}

static void die(void **state)
{
	die_as(42 << 8);
	die_as(0);
	die_as(SIGKILL);
	die_as(SIGTERM);
	die_as(SIGSEGV);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(move), cmocka_unit_test(stay),
		cmocka_unit_test(stopped), cmocka_unit_test(die),
		cmocka_unit_test(many),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
