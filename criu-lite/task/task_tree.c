/* SPDX-License-Identifier: Apache-2.0 */
/* The source's view of a tree of tasks: who belongs to it, holding and letting go. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>

#include "io.h"
#include "log.h"
#include "proc_task.h"
#include "task.h"
#include "task_mm.h"
#include "task_state.h"

#define PF_KTHREAD_ 0x00200000u

static int slurp(pid_t pid, const char *file, struct buf *b, struct err *e)
{
	return io_slurp(b, e, "/proc/%d/%s", pid, file);
}

static int read_stat(pid_t pid, struct proc_stat *st, struct err *e)
{
	_cleanup_(buf_free) struct buf b = { 0 };

	if (slurp(pid, "stat", &b, e) < 0)
		return err_say(e, ESRCH, "no process with pid %d", pid);
	return proc_stat_parse((char *)b.at, b.n, st, e);
}

struct task *task_find(const struct tree *t, pid_t pid)
{
	vec_each(&t->task, it)
		if ((*it)->pid == pid)
			return *it;
	return NULL;
}

static void task_free(struct task *t)
{
	task_mm_free(t->mm);
	task_watch_free(t->watch);
	vec_free(&t->tids);
	free(t);
}

void task_tree_free(struct tree *t)
{
	vec_each(&t->task, it)
		task_free(*it);
	vec_free(&t->task);
}

static int refuse(pid_t pid, const struct proc_stat *st, struct err *e)
{
	if (st->flags & PF_KTHREAD_) {
		err_say(e, EINVAL, "pid %d (%s) is a kernel thread", pid, st->comm);
		return err_remedy(e, "name a process of user space");
	}
	if (pid == getpid()) {
		err_say(e, EINVAL, "the tree contains criu-lite itself (pid %d)", pid);
		return err_remedy(e, "run criu-lite from outside the tree it is to hold, e.g. from "
				     "another session");
	}
	return 0;
}

static int add(struct tree *t, pid_t pid, struct err *e)
{
	struct proc_stat st;
	int ret = read_stat(pid, &st, e);

	if (ret < 0 || (ret = refuse(pid, &st, e)) < 0)
		return ret;
	if (st.state == 'Z' && st.num_threads > 1) {
		err_say(e, EAGAIN, "pid %d (%s): its main thread has exited, others run on", pid,
			st.comm);
		return err_remedy(e, "only programs whose main thread lives can be carried over");
	}
	struct task *k = task_find(t, pid);
	if (k && k->start_time != st.start_time)
		return err_say(e, ESRCH, "pid %d changed hands", pid);
	if (!k) {
		k = xcalloc(1, sizeof(*k));
		vec_push(&t->task, k);
	}
	k->pid = pid;
	k->start_time = st.start_time;
	k->ppid = st.ppid;
	k->pgid = st.pgrp;
	k->sid = st.session;
	memcpy(k->comm, st.comm, sizeof(k->comm));
	k->exit_code = st.exit_code;
	/* While we hold it, it always shows as traced; task_state_held() finds out. */
	if (st.state == 'Z')
		k->state = TASK_DEAD;
	else if (!k->remote)
		k->state = st.state == 'T' ? TASK_STOPPED : TASK_ALIVE;
	k->seen = true;
	return 0;
}

/* Children are listed by the thread that made them. */
static int children_of(pid_t pid, pid_vec *out, struct err *e)
{
	char path[80];
	_cleanup_(buf_free) struct buf b = { 0 };

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	_cleanup_closedir_ DIR *d = opendir(path);
	if (!d)
		return 0; /* gone meanwhile */
	for (struct dirent *de; (de = readdir(d));) {
		if (de->d_name[0] == '.')
			continue;
		if (io_slurp(&b, e, "/proc/%d/task/%s/children", pid, de->d_name) < 0) {
			if (e->code == ENOENT && access("/proc/self/task", F_OK) == 0 &&
			    access("/proc/thread-self/children", F_OK) < 0)
				return err_say(e, ENOTSUP, "this kernel lists no children "
							   "(CONFIG_PROC_CHILDREN)");
			err_clear(e);
			continue;
		}
		pid_vec some = { 0 };
		int ret = proc_children_parse((char *)b.at, b.n, &some, e);
		if (ret < 0)
			return ret;
		vec_each(&some, child)
			vec_push(out, *child);
		vec_free(&some);
	}
	return 0;
}

static void drop_unseen(struct tree *t)
{
	size_t keep = 0;

	for (size_t i = 0; i < t->task.n; i++) {
		struct task *k = t->task.at[i];

		if (k->seen) {
			t->task.at[keep++] = k;
			continue;
		}
		if (k->remote)
			remote_release(k->remote);
		task_free(k);
	}
	t->task.n = keep;
}

/* Breadth first, in the order of /proc, so that parents come before children. */
static void order(struct tree *t, const pid_vec *pids)
{
	for (size_t i = 0; i < pids->n; i++)
		for (size_t k = i; k < t->task.n; k++)
			if (t->task.at[k]->pid == pids->at[i]) {
				struct task *tmp = t->task.at[i];
				t->task.at[i] = t->task.at[k];
				t->task.at[k] = tmp;
				break;
			}
}

static int scan_once(struct tree *t, pid_t root, struct err *e)
{
	pid_vec todo = { 0 }, found = { 0 };
	int ret;

	vec_each(&t->task, it)
		(*it)->seen = false;
	vec_push(&todo, root);
	for (size_t i = 0; i < todo.n; i++) {
		ret = add(t, todo.at[i], e);
		if (ret == -ESRCH && i > 0) {
			err_clear(e); /* a child that has gone */
			continue;
		}
		if (ret < 0)
			goto out;
		vec_push(&found, todo.at[i]);
		if (task_find(t, todo.at[i])->state == TASK_DEAD)
			continue;
		if ((ret = children_of(todo.at[i], &todo, e)) < 0)
			goto out;
	}
	drop_unseen(t);
	order(t, &found);
	ret = 0;
	if (t->task.n && t->task.at[0]->state == TASK_DEAD)
		ret = err_say(e, ESRCH,
			      "pid %d is a zombie: nothing of it is left but its exit code", root);
out:
	vec_free(&todo);
	vec_free(&found);
	return ret;
}

/* When another thread than the main one calls exec, the main one is a zombie until the other has
 * taken its place. */
#define EXEC_TRIES 200

int task_tree_scan(struct tree *t, pid_t root, struct err *e)
{
	for (int tries = 0;; tries++) {
		int ret = scan_once(t, root, e);

		if (ret != -EAGAIN || tries == EXEC_TRIES)
			return ret;
		err_clear(e);
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	}
}

/* Holding everything makes the tree stand still; whoever was born before that is found by
 * another scan. */
int task_tree_freeze(struct tree *t, struct err *e)
{
	pid_t root = t->task.at[0]->pid;
	int ret = 0;

	for (bool again = true; again;) {
		again = false;
		for (size_t i = 0; i < t->task.n; i++) {
			struct task *k = t->task.at[i];

			if (k->remote || k->state == TASK_DEAD)
				continue;
			ret = remote_hold(&k->remote, k->pid, e);
			if (ret == -ESRCH && i > 0) {
				err_clear(e);
				again = true;
				continue;
			}
			if (ret < 0) {
				task_tree_thaw(t);
				return ret;
			}
			again = true;
		}
		if (again && (ret = task_tree_scan(t, root, e)) < 0) {
			task_tree_thaw(t);
			return ret;
		}
	}
	return 0;
}

void task_tree_thaw(struct tree *t)
{
	vec_each(&t->task, it)
		if ((*it)->remote)
			remote_release(steal_ptr((*it)->remote));
}

void task_tree_kill(struct tree *t)
{
	/* all at once, so that no parent sees its child die and acts on it */
	vec_each(&t->task, it)
		if ((*it)->remote)
			kill((*it)->pid, SIGKILL);
	vec_each(&t->task, it)
		if ((*it)->remote)
			remote_kill(steal_ptr((*it)->remote));
}

/* ---- what tasks share ---- */

static uint32_t share_id(const struct tree *t, size_t i, int type,
			 uint32_t *(*field)(struct task *))
{
	struct task *k = t->task.at[i];

	for (size_t j = 0; j < i; j++) {
		struct task *o = t->task.at[j];

		if (o->state != TASK_DEAD &&
		    syscall(SYS_kcmp, o->pid, k->pid, type, 0, 0) == 0)
			return *field(o);
	}
	return (uint32_t)i + 1;
}

static uint32_t *vm_of(struct task *k) { return &k->vm_id; }
static uint32_t *files_of(struct task *k) { return &k->files_id; }
static uint32_t *fs_of(struct task *k) { return &k->fs_id; }
static uint32_t *sighand_of(struct task *k) { return &k->sighand_id; }

int task_tree_share(struct tree *t, struct err *e)
{
	if (syscall(SYS_kcmp, getpid(), getpid(), KCMP_VM, 0, 0) < 0)
		return err_say(e, ENOTSUP, "this kernel has no kcmp (CONFIG_KCMP)");
	for (size_t i = 0; i < t->task.n; i++) {
		struct task *k = t->task.at[i];

		if (k->state == TASK_DEAD) {
			k->vm_id = k->files_id = k->fs_id = k->sighand_id = (uint32_t)i + 1;
			continue;
		}
		k->vm_id = share_id(t, i, KCMP_VM, vm_of);
		k->files_id = share_id(t, i, KCMP_FILES, files_of);
		k->fs_id = share_id(t, i, KCMP_FS, fs_of);
		k->sighand_id = share_id(t, i, KCMP_SIGHAND, sighand_of);
	}
	return 0;
}

bool task_shares(const struct task *a, const struct task *b, enum kcmp_type what)
{
	switch (what) {
	case KCMP_VM:
		return a->vm_id == b->vm_id;
	case KCMP_FILES:
		return a->files_id == b->files_id;
	case KCMP_FS:
		return a->fs_id == b->fs_id;
	default:
		return false;
	}
}

bool task_is_first(const struct tree *t, const struct task *k, enum kcmp_type what)
{
	vec_each(&t->task, o)
		if ((*o)->state != TASK_DEAD && task_shares(*o, k, what))
			return *o == k;
	return false;
}
