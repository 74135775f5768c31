/* SPDX-License-Identifier: Apache-2.0 */
#include "flow_throttle.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cleanup.h"
#include "flow_guest.h"
#include "io.h"
#include "log.h"
#include "thread.h"

#define SLICE_NS 10000000ull     /* QEMU's timeslice */

/* One task of the guest, for SIGSTOP. */
struct victim {
	pid_t pid;
	uint64_t start_time;
	int pidfd;
	int stat;                    /* /proc/PID/stat, read again and again */
	bool ours;                   /* stopped by us */
};

struct throttle {
	pid_t root;
	struct flow_guard *guard;
	pthread_t thread;
	bool started;
	pthread_mutex_t lock;        /* for all below; the thread holds it but for its waits */
	pthread_cond_t wake, done;
	bool end, stopped;
	unsigned paused;
	unsigned percent;
	enum qos_throttle way;

	struct tree tree;
	int64_t last_pid;            /* of the host, when the tree was looked at */
	VEC(struct victim) victims;
	struct freezer freezer;

	uint64_t since, stood, stop_at;  /* for throttle_ran() */
};

/* ---- by signals ---- */

static void forget(struct throttle *t)
{
	vec_each(&t->victims, v) {
		close(v->pidfd);
		close(v->stat);
	}
	t->victims.n = 0;
}

static void add(struct throttle *t, const struct task *k)
{
	struct victim v = { .pid = k->pid, .start_time = k->start_time };
	char path[32];

	v.pidfd = (int)syscall(SYS_pidfd_open, k->pid, 0);
	snprintf(path, sizeof(path), "/proc/%d/stat", k->pid);
	v.stat = open(path, O_RDONLY | O_CLOEXEC);
	if (v.pidfd >= 0 && v.stat >= 0 && t->victims.n < flow_guard_room()) {
		vec_push(&t->victims, v);
		return;
	}
	if (v.pidfd >= 0)
		close(v.pidfd);
	if (v.stat >= 0)
		close(v.stat);
}

/* Children that were born since: looked for only if somebody was. */
static void look(struct throttle *t)
{
	int64_t last = guest_last_pid();
	struct err ignored = ERR_INIT;

	if (last >= 0 && last == t->last_pid)
		return;
	if (task_tree_scan(&t->tree, t->root, &ignored) < 0)
		return; /* gone, or changing: the next look will tell */
	t->last_pid = last;
	forget(t);
	vec_each(&t->tree.task, k)
		if ((*k)->state != TASK_DEAD)
			add(t, *k);
}

/* Somebody else has stopped it, and it must stay so. */
static bool is_stopped(const struct victim *v)
{
	char text[512];
	ssize_t n = pread(v->stat, text, sizeof(text) - 1, 0);

	if (n <= 0)
		return true;
	text[n] = '\0';
	const char *p = strrchr(text, ')');
	return !p || strlen(p) < 3 || strchr("TtZX", p[2]);
}

/* Parents first, and children first to go on again: so a parent in the guest that waits for
 * children that stop (WUNTRACED) stands still itself before there is anything to see. */
static void stop_all(struct throttle *t)
{
	size_t n = 0;

	look(t);
	vec_each(&t->victims, v) {
		v->ours = !is_stopped(v);
		if (v->ours)
			flow_guard_stopped(t->guard, n++, v->pid, v->start_time);
	}
	flow_guard_stopped_count(t->guard, n);
	vec_each(&t->victims, v)
		if (v->ours)
			syscall(SYS_pidfd_send_signal, v->pidfd, SIGSTOP, NULL, 0);
}

static void go_all(struct throttle *t)
{
	for (size_t i = t->victims.n; i-- > 0;)
		if (t->victims.at[i].ours)
			syscall(SYS_pidfd_send_signal, t->victims.at[i].pidfd, SIGCONT, NULL, 0);
	flow_guard_stopped_count(t->guard, 0);
}

/* ---- either way ---- */

static void stop(struct throttle *t)
{
	struct err wrong = ERR_INIT;

	if (t->way == THROTTLE_SIGSTOP)
		stop_all(t);
	else if (freezer_freeze(&t->freezer, true, &wrong) < 0)
		log_warn("throttle: %s", wrong.text);
	t->stopped = true;
	t->stop_at = io_now_ns();
}

static void go_on(struct throttle *t)
{
	struct err wrong = ERR_INIT;

	if (t->way == THROTTLE_SIGSTOP)
		go_all(t);
	else if (freezer_freeze(&t->freezer, false, &wrong) < 0)
		log_warn("throttle: %s", wrong.text);
	t->stopped = false;
	t->stood += io_now_ns() - t->stop_at;
	pthread_cond_broadcast(&t->done);
}

static bool is_on(const struct throttle *t)
{
	return t->percent && !t->paused && !t->end;
}

/* Until then, or until there is nothing to throttle any more. */
static void wait_until(struct throttle *t, uint64_t at)
{
	while (is_on(t) && io_now_ns() < at)
		thread_wait_until(&t->wake, &t->lock, at);
}

/* A slice that is 20 ms late lets the guest run three times as long. Said each time:
 * flow_hurry(false) is for all threads. */
static void be_urgent(void)
{
	struct sched_param urgent = { .sched_priority = 1 };

	sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &urgent);
}

static void *run(void *arg)
{
	struct throttle *t = arg;

	pthread_mutex_lock(&t->lock);
	while (!t->end) {
		if (!is_on(t)) {
			pthread_cond_wait(&t->wake, &t->lock);
			continue;
		}
		be_urgent();
		wait_until(t, io_now_ns() + SLICE_NS);
		if (!is_on(t))
			continue;
		stop(t);
		wait_until(t, t->stop_at + SLICE_NS * t->percent / (100 - t->percent));
		go_on(t);
	}
	pthread_mutex_unlock(&t->lock);
	return NULL;
}

/* ---- the interface ---- */

struct throttle *throttle_new(pid_t root, struct flow_guard *guard)
{
	struct throttle *t = xcalloc(1, sizeof(*t));

	t->root = root;
	t->guard = guard;
	t->last_pid = -1;
	t->since = io_now_ns();
	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->wake, NULL);
	pthread_cond_init(&t->done, NULL);
	return t;
}

static int start(struct throttle *t, struct err *e)
{
	int ret = t->started ? 0 : thread_start(&t->thread, run, t, e);

	t->started = ret == 0;
	return ret;
}

/* The guest runs, and our thread lets it: what the old way needed goes, what the new one needs
 * comes. */
static int change_way(struct throttle *t, bool on, enum qos_throttle way, struct err *e)
{
	bool have = t->freezer.n > 0, want = on && way == THROTTLE_FREEZER;
	int ret = 0;

	t->way = way;
	if (want && !have) {
		struct tree tree = { 0 };

		if ((ret = task_tree_scan(&tree, t->root, e)) == 0 &&
		    (ret = freezer_plan(&t->freezer, &tree, e)) == 0) {
			flow_guard_freezer(t->guard, &t->freezer);
			ret = freezer_begin(&t->freezer, t->root, e);
		}
		task_tree_free(&tree);
	}
	if ((have && !want) || ret < 0) {
		freezer_end(&t->freezer);
		t->freezer.n = 0;
	}
	flow_guard_freezer(t->guard, &t->freezer);
	return ret;
}

int throttle_set(struct throttle *t, unsigned percent, enum qos_throttle way, struct err *e)
{
	int ret = 0;

	if (percent == t->percent && way == t->way)
		return 0;
	throttle_pause(t);
	if (percent)
		ret = start(t, e);
	if (ret == 0)
		ret = change_way(t, percent > 0, way, e);
	t->percent = ret < 0 ? 0 : percent;
	throttle_resume(t);
	return ret;
}

void throttle_pause(struct throttle *t)
{
	pthread_mutex_lock(&t->lock);
	t->paused++;
	pthread_cond_broadcast(&t->wake);
	while (t->stopped)
		pthread_cond_wait(&t->done, &t->lock);
	pthread_mutex_unlock(&t->lock);
}

void throttle_resume(struct throttle *t)
{
	pthread_mutex_lock(&t->lock);
	t->paused--;
	pthread_cond_broadcast(&t->wake);
	pthread_mutex_unlock(&t->lock);
}

double throttle_ran(struct throttle *t)
{
	pthread_mutex_lock(&t->lock);
	uint64_t now = io_now_ns(), stood = t->stood + (t->stopped ? now - t->stop_at : 0);
	double ran = now > t->since ? 1 - (double)stood / (double)(now - t->since) : 1;

	t->since = now;
	t->stood = 0;
	if (t->stopped)
		t->stop_at = now; /* what was before has been counted */
	pthread_mutex_unlock(&t->lock);
	return ran < 0 ? 0 : ran;
}

void throttle_free(struct throttle *t)
{
	struct err ignored = ERR_INIT;

	if (!t)
		return;
	throttle_pause(t);
	change_way(t, false, THROTTLE_SIGSTOP, &ignored);
	pthread_mutex_lock(&t->lock);
	t->end = true;
	pthread_cond_broadcast(&t->wake);
	pthread_mutex_unlock(&t->lock);
	if (t->started)
		pthread_join(t->thread, NULL);
	forget(t);
	vec_free(&t->victims);
	task_tree_free(&t->tree);
	pthread_cond_destroy(&t->wake);
	pthread_cond_destroy(&t->done);
	pthread_mutex_destroy(&t->lock);
	free(t);
}
