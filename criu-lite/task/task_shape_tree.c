/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shells as processes: pids, parents, sessions, groups.
 *
 * A session is inherited at birth, so a child of an older session must be born before its parent
 * calls setsid(), and an orphan of a session whose leader has died needs that leader again for a
 * moment: a helper with the leader's pid, which bears it with CLONE_PARENT and dies.
 */
#include <errno.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "io.h"
#include "log.h"
#include "task_shape_priv.h"
#include "task_state.h"

struct task *shape_at(const struct shape *s, size_t i)
{
	return i < s->task.n ? &s->task.at[i]->task : NULL;
}

bool shape_is_first(const struct shape *s, const struct task *t, enum kcmp_type what)
{
	vec_each(&s->task, o)
		if ((*o)->task.state != TASK_DEAD && task_shares(&(*o)->task, t, what))
			return &(*o)->task == t;
	return false;
}

static struct shape_task *find(const struct shape *s, pid_t pid)
{
	vec_each(&s->task, it)
		if ((*it)->task.pid == pid)
			return *it;
	return NULL;
}

struct task *shape_find(const struct shape *s, pid_t pid)
{
	struct shape_task *st = find(s, pid);

	return st ? &st->task : NULL;
}

/* ---- batches that empty themselves ---- */

void pump_call_(struct pump *p, const char *name, uint64_t nr, uint64_t a0, uint64_t a1,
		uint64_t a2, uint64_t a3, uint64_t a4, uint64_t a5)
{
	if (!batch_room(&p->b, 1, 0) && p->ret == 0) {
		p->ret = batch_run(&p->b, p->e);
		batch_reset(&p->b);
	}
	if (p->ret == 0)
		batch_call_(&p->b, name, nr, a0, a1, a2, a3, a4, a5);
}

int pump_end(struct pump *p)
{
	if (p->ret == 0 && p->b.call.n)
		p->ret = batch_run(&p->b, p->e);
	batch_free(&p->b);
	return p->ret;
}

static int run1(struct remote *r, const char *name, uint64_t nr, uint64_t a0, uint64_t a1,
		struct err *e)
{
	_cleanup_batch_ struct batch b = BATCH(remote_leader(r));

	batch_call(&b, name, nr, a0, a1);
	return batch_run(&b, e);
}

/* ---- before anything: are the numbers free? ---- */

static void check_pid(pid_t pid, const char *what, void (*complain)(void *, const struct err *),
		      void *arg)
{
	char name[64] = "";
	struct err e = ERR_INIT, ignored = ERR_INIT;
	_cleanup_(buf_free) struct buf b = { 0 };

	if (kill(pid, 0) < 0 && errno == ESRCH && getpgid(pid) < 0 && kill(-pid, 0) < 0 &&
	    errno == ESRCH)
		return;
	if (io_slurp(&b, &ignored, "/proc/%d/comm", pid) == 0)
		snprintf(name, sizeof(name), " (%.*s)", (int)(b.n ? b.n - 1 : 0), (char *)b.at);
	err_say(&e, EEXIST, "%s %d is taken on this host%s", what, pid, name);
	err_remedy(&e, "end that process, or receive inside a new pid namespace (unshare --pid "
		       "--fork --mount-proc)");
	complain(arg, &e);
}

int shape_check(const struct img_set *set, bool shell_job,
		void (*complain)(void *arg, const struct err *e), void *arg)
{
	struct tree t = { 0 };
	struct err e = ERR_INIT;

	if (task_tree_get(&t, set, &e) < 0)
		complain(arg, &e);
	pid_t root_sid = t.task.n ? t.task.at[0]->sid : 0,
	      root_pgid = t.task.n ? t.task.at[0]->pgid : 0;
	vec_each(&t.task, it) {
		struct task *k = *it;

		vec_each(&k->tids, tid)
			check_pid(*tid, *tid == k->pid ? "pid" : "thread id", complain, arg);
		if (k->sid != k->pid && !task_find(&t, k->sid) &&
		    !(shell_job && k->sid == root_sid))
			check_pid(k->sid, "session", complain, arg);
		if (k->pgid != k->pid && k->pgid != k->sid && !task_find(&t, k->pgid) &&
		    !(shell_job && k->pgid == root_pgid))
			check_pid(k->pgid, "process group", complain, arg);
	}
	task_tree_free(&t);
	return 0;
}

/* ---- birth ---- */

struct birth {
	struct shape *s;
	const struct tree *want;
	struct err *e;
};

static struct task *wanted(const struct birth *b, pid_t pid) { return task_find(b->want, pid); }

static bool is_root(const struct birth *b, const struct task *w)
{
	return w == b->want->task.at[0];
}

/* The session that a task must find itself in at birth; 0: any. */
static pid_t birth_session(const struct birth *b, const struct task *w)
{
	if (w->sid == w->pid)
		return 0;
	if (b->s->shell_job && w->sid == b->want->task.at[0]->sid)
		return getsid(0);
	return w->sid;
}

static uint64_t share_flags(const struct task *w, const struct task *with)
{
	uint64_t f = 0;

	if (w->vm_id == with->vm_id)
		f |= CLONE_VM;
	if (w->files_id == with->files_id)
		f |= CLONE_FILES;
	if (w->fs_id == with->fs_id)
		f |= CLONE_FS;
	if (w->sighand_id == with->sighand_id)
		f |= CLONE_SIGHAND;
	return f;
}

static void adopt(struct birth *b, const struct task *w, struct remote *r)
{
	struct shape_task *st = xcalloc(1, sizeof(*st));

	st->task = *w;
	st->task.mm = NULL;
	st->task.clock_goes_on = b->s->timens;
	st->task.tids.at = xmemdup(w->tids.at, w->tids.n * sizeof(pid_t));
	st->task.tids.n = st->task.tids.cap = w->tids.n;
	st->task.remote = r;
	vec_push(&b->s->task, st);
}

/* A fork has its parent's mappings: out with them. */
static int forget_mappings(const struct shape_task *creator, struct remote *r, uint64_t flags,
			   struct err *e)
{
	struct pump p = PUMP(r, e);

	if (creator && !(flags & CLONE_VM))
		vec_each(&creator->vma, v)
			if (!(v->status & SHAPE_SPECIAL))
				pump_call(&p, "munmap", SYS_munmap, v->start, v->end - v->start);
	return pump_end(&p);
}

/* A dead session leader, for a moment. */
static int with_helper(struct birth *b, struct shape_task *parent, const struct task *w,
		       struct remote **out)
{
	struct remote *h;
	pid_t pid = w->sid;
	int ret = remote_shell_child(&h, parent->task.remote, pid, 0, b->e);

	if (ret < 0)
		return ret;
	ret = run1(h, "setsid", SYS_setsid, 0, 0, b->e);
	if (ret == 0)
		ret = forget_mappings(parent, h, 0, b->e);
	if (ret == 0)
		ret = remote_shell_child(out, h, w->pid, CLONE_PARENT, b->e);
	remote_kill(h);
	if (ret < 0)
		return ret;
	return run1(parent->task.remote, "wait4", SYS_wait4, (uint64_t)pid, 0, b->e);
}

static int bear(struct birth *b, const struct task *w)
{
	struct shape_task *parent = find(b->s, w->ppid), *creator = parent;
	const struct task *pw = wanted(b, w->ppid);
	pid_t session = birth_session(b, w);
	struct remote *r = NULL;
	uint64_t flags;
	int ret;

	if (!share_flags(w, pw)) /* a sibling to share with? */
		vec_each(&b->s->task, it)
			if ((*it)->task.ppid == w->ppid && share_flags(w, &(*it)->task)) {
				creator = *it;
				break;
			}
	if (creator == parent && session && session != getsid(parent->task.pid))
		creator = find(b->s, session);
	if (creator && creator != parent && creator->task.ppid != w->ppid) {
		err_say(b->e, ENOTSUP, "pid %d (%s) is in session %d of a process elsewhere in the "
				       "tree", w->pid, w->comm, w->sid);
		return err_remedy(b->e, "such trees cannot be rebuilt yet");
	}
	if (!creator) {
		flags = 0;
		ret = with_helper(b, parent, w, &r);
	} else {
		flags = share_flags(w, creator == parent ? pw : &creator->task);
		if (creator != parent)
			flags |= CLONE_PARENT;
		ret = remote_shell_child(&r, creator->task.remote, w->pid, flags, b->e);
	}
	if (ret < 0)
		return ret;
	adopt(b, w, r);
	return forget_mappings(creator ? creator : parent, r, flags, b->e);
}

static int bear_all(struct birth *b, const struct task *parent, bool before_setsid)
{
	vec_each(&b->want->task, it) {
		const struct task *w = *it;

		if (w->ppid != parent->pid || is_root(b, w) || find(b->s, w->pid))
			continue;
		if (before_setsid) {
			pid_t session = birth_session(b, w);

			if (!session || session == parent->sid ||
			    session != getsid(parent->pid))
				continue;
		}
		int ret = bear(b, w);
		if (ret < 0)
			return ret;
	}
	return 0;
}

/* Children of the old session, setsid, then the others; and their children in turn. */
static int settle(struct birth *b, const struct task *w)
{
	struct shape_task *st = find(b->s, w->pid);
	int ret = 0;

	if (!st->ready && w->sid == w->pid) {
		if ((ret = bear_all(b, w, true)) < 0 ||
		    (ret = run1(st->task.remote, "setsid", SYS_setsid, 0, 0, b->e)) < 0)
			return ret;
	}
	st->ready = true;
	return bear_all(b, w, false);
}

static int bear_root(struct birth *b)
{
	const struct task *w = b->want->task.at[0];
	struct remote *r;

	if (find(b->s, w->pid))
		return 0;
	int ret = remote_shell_timens(&r, w->pid, b->s->shell_flags,
				      b->s->timens ? b->s->timens_offsets : NULL, b->s->avoid.at,
				      b->s->avoid.n, b->e);
	if (ret < 0)
		return ret;
	adopt(b, w, r);
	return 0;
}

/* ---- groups ---- */

/* A dead group leader, for a moment. */
static int join_dead_group(struct birth *b, struct shape_task *st, pid_t pgid)
{
	struct remote *h;
	int ret = remote_shell_child(&h, st->task.remote, pgid, 0, b->e);

	if (ret < 0)
		return ret;
	if ((ret = run1(h, "setpgid", SYS_setpgid, 0, 0, b->e)) == 0)
		ret = run1(st->task.remote, "setpgid", SYS_setpgid, 0, (uint64_t)pgid, b->e);
	remote_kill(h);
	if (ret == 0)
		ret = run1(st->task.remote, "wait4", SYS_wait4, (uint64_t)pgid, 0, b->e);
	return ret;
}

static int set_group(struct birth *b, const struct task *w, bool leaders)
{
	struct shape_task *st = find(b->s, w->pid);
	const struct task *root = b->want->task.at[0];
	bool leader = w->pgid == w->pid;

	if (leader != leaders || getpgid(w->pid) == w->pgid)
		return 0;
	if (b->s->shell_job && w->pgid == root->pgid && root->pgid != root->pid)
		return 0; /* the restorer's own group, inherited */
	if (leader)
		return run1(st->task.remote, "setpgid", SYS_setpgid, 0, 0, b->e);
	if (kill(-w->pgid, 0) < 0)
		return join_dead_group(b, st, w->pgid);
	return run1(st->task.remote, "setpgid", SYS_setpgid, 0, (uint64_t)w->pgid, b->e);
}

/* ---- update ---- */

static void shape_task_free(struct shape_task *st)
{
	vec_free(&st->vma);
	vec_free(&st->task.tids);
	free(st);
}

static bool shares(const struct task *a, const struct task *b)
{
	return a->vm_id == b->vm_id;
}

/* Shells of tasks that are gone, or that share their memory no longer (a vfork child that called
 * exec), end; their parents' shells reap them. One that shared memory leaves its stub there. */
static int bury(struct birth *b, struct shape_task *st)
{
	struct shape_task *parent = find(b->s, st->task.ppid);
	struct grange stub = remote_stub(st->task.remote);
	int ret = 0;

	remote_kill(st->task.remote);
	if (!parent || !wanted(b, parent->task.pid))
		return 0;
	if (shares(&st->task, &parent->task))
		ret = run1(parent->task.remote, "munmap", SYS_munmap, stub.start,
			   stub.end - stub.start, b->e);
	return ret < 0 ? ret
		       : run1(parent->task.remote, "?wait4", SYS_wait4, (uint64_t)st->task.pid, 0,
			      b->e);
}

static bool stays(const struct birth *b, const struct shape_task *st)
{
	const struct task *w = wanted(b, st->task.pid), *wp = w ? wanted(b, w->ppid) : NULL;
	const struct shape_task *parent = find(b->s, st->task.ppid);

	return w && (is_root(b, w) || !parent || !wp || w->state == TASK_DEAD ||
		     shares(&st->task, &parent->task) == shares(w, wp));
}

static int bury_gone(struct birth *b)
{
	size_t keep = 0;
	int ret = 0;

	/* children come after their parents */
	for (size_t i = b->s->task.n; ret == 0 && i-- > 0;)
		if (!stays(b, b->s->task.at[i])) {
			ret = bury(b, b->s->task.at[i]);
			b->s->task.at[i]->task.remote = NULL;
		}
	for (size_t i = 0; i < b->s->task.n; i++) {
		if (b->s->task.at[i]->task.remote)
			b->s->task.at[keep++] = b->s->task.at[i];
		else
			shape_task_free(b->s->task.at[i]);
	}
	b->s->task.n = keep;
	return ret;
}

static int update_known(struct birth *b)
{
	vec_each(&b->want->task, it) {
		struct shape_task *st = find(b->s, (*it)->pid);

		if (!st)
			continue;
		if (st->task.ppid != (*it)->ppid && !is_root(b, *it)) {
			err_say(b->e, EAGAIN, "pid %d changed its parent during the migration",
				(*it)->pid);
			return err_remedy(b->e, "start the migration again");
		}
		st->task.state = (*it)->state;
		st->task.vm_id = (*it)->vm_id;
		st->task.files_id = (*it)->files_id;
		st->task.fs_id = (*it)->fs_id;
		st->task.sighand_id = (*it)->sighand_id;
		st->task.pgid = (*it)->pgid;
		st->task.sid = (*it)->sid;
		vec_free(&st->task.tids);
		st->task.tids.at = xmemdup((*it)->tids.at, (*it)->tids.n * sizeof(pid_t));
		st->task.tids.n = st->task.tids.cap = (*it)->tids.n;
	}
	return 0;
}

static int shape_all(struct birth *b)
{
	int ret;

	if ((ret = bury_gone(b)) < 0 || (ret = update_known(b)) < 0 || (ret = bear_root(b)) < 0)
		return ret;
	vec_each(&b->want->task, it)
		if ((ret = settle(b, *it)) < 0)
			return err_in(b->e, "shell %d", (*it)->pid);
	for (int leaders = 1; leaders >= 0; leaders--)
		vec_each(&b->want->task, it)
			if ((ret = set_group(b, *it, leaders)) < 0)
				return err_in(b->e, "shell %d: process group %d", (*it)->pid,
					      (*it)->pgid);
	return 0;
}

int shape_tree(struct shape *s, const struct img_set *set, struct err *e)
{
	struct tree want = { 0 };
	struct birth b = { s, &want, e };
	int ret = task_tree_get(&want, set, e);

	if (ret == 0)
		ret = shape_all(&b);
	task_tree_free(&want);
	return ret;
}

/* ---- the end of some, the beginning of the others ---- */

/* Deaths during shaping left SIGCHLD pending; ignoring it for a moment takes it away. */
static int flush_sigchld(struct task *t, struct err *e)
{
	struct { uint64_t handler, flags, restorer, mask; } ignore = { 1 }, deflt = { 0 };
	_cleanup_batch_ struct batch b = BATCH(remote_leader(t->remote));

	batch_call(&b, "rt_sigaction", SYS_rt_sigaction, SIGCHLD,
		   batch_in(&b, &ignore, sizeof(ignore)), 0, 8);
	batch_call(&b, "rt_sigaction", SYS_rt_sigaction, SIGCHLD,
		   batch_in(&b, &deflt, sizeof(deflt)), 0, 8);
	return batch_run(&b, e);
}

int shape_zombies(struct shape *s, const struct img_set *set, struct err *e)
{
	int ret;

	vec_each(&s->task, it) {
		struct task *t = &(*it)->task;
		_cleanup_msg_ CoreEntry *core = NULL;

		if (t->state != TASK_DEAD || !t->remote)
			continue;
		if ((ret = img_get(set, IMG_CORE, (uint64_t)t->pid, 0, &core, e)) < 0)
			return ret;
		t->exit_code = core->tc ? (int32_t)core->tc->exit_code : 0;
		if ((ret = task_state_die(t, e)) < 0)
			return err_in(e, "zombie %d", t->pid);
	}
	vec_each(&s->task, it)
		if ((*it)->task.state != TASK_DEAD && (ret = flush_sigchld(&(*it)->task, e)) < 0)
			return ret;
	return 0;
}

void shape_hurry(struct shape *s)
{
	/* not SCHED_FIFO: that takes the timer slack away, and their threads would inherit it */
	vec_each(&s->task, it)
		if ((*it)->task.remote)
			setpriority(PRIO_PROCESS, (id_t)(*it)->task.pid, -20);
}

static void shape_forget(struct shape *s)
{
	vec_each(&s->task, it)
		shape_task_free(*it);
	vec_free(&s->task);
	vec_free(&s->avoid);
}

void shape_release(struct shape *s)
{
	vec_each(&s->task, it)
		if ((*it)->task.remote)
			remote_release(steal_ptr((*it)->task.remote));
	shape_forget(s);
}

void shape_kill(struct shape *s)
{
	vec_each(&s->task, it)
		if ((*it)->task.remote)
			kill((*it)->task.pid, SIGKILL);
	/* children first: a parent that is reaped leaves them to init, which is fine too */
	for (size_t i = s->task.n; i-- > 0;)
		if (s->task.at[i]->task.remote)
			remote_kill(steal_ptr(s->task.at[i]->task.remote));
	shape_forget(s);
}
