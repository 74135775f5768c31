/* SPDX-License-Identifier: Apache-2.0 */
/* The guest on its source. */
#include "flow_guest.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <time.h>
#include <unistd.h>

#include "flow_host.h"
#include "inventory.pb-c.h"
#include "io.h"
#include "kind_shm.h"
#include "kind_tcp.h"
#include "log.h"
#include "task_clock.h"
#include "task_state.h"

/* ---- open and preflight ---- */

static int check_session(const struct guest *g, struct err *e)
{
	const struct task *root = g->tree.task.at[0];

	if (g->o->kinds.shell_job || root->sid == root->pid)
		return 0;
	err_say(e, EINVAL, "pid %d (%s) is not a session leader: its session %d lives outside the "
			   "tree", root->pid, root->comm, root->sid);
	return err_remedy(e, "use --shell-job (-j) to let it join the session of the restorer, or "
			     "start it with setsid");
}

/* Pids, paths and addresses mean what they mean to us only in the same namespaces. */
static int check_namespaces(const struct task *t, struct err *e)
{
	static const char *const kinds[] = { "pid", "mnt", "net", "user", "uts", "ipc" };

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		char path[64], theirs[64] = "", ours[64] = "";

		snprintf(path, sizeof(path), "/proc/%d/ns/%s", t->pid, kinds[i]);
		if (readlink(path, theirs, sizeof(theirs) - 1) < 0)
			continue; /* gone, or a kernel without this kind */
		snprintf(path, sizeof(path), "/proc/self/ns/%s", kinds[i]);
		if (readlink(path, ours, sizeof(ours) - 1) < 0 || !strcmp(theirs, ours))
			continue;
		err_say(e, ENOTSUP, "pid %d (%s) lives in a %s namespace of its own", t->pid,
			t->comm, kinds[i]);
		return err_remedy(e, "run criu-lite inside it: nsenter --all -t %d criu-lite ...",
				  t->pid);
	}
	return 0;
}

static int check_task(struct guest *g, struct task *t, struct err *e)
{
	int ret;

	if (t->state == TASK_DEAD)
		return 0;
	/* what an earlier criu-lite that was killed may have left */
	if ((ret = check_namespaces(t, e)) < 0 ||
	    (ret = task_clock_check(t, g->tree.task.at[0]->pid, e)) < 0 ||
	    (ret = remote_sweep(t->pid, e)) < 0 || (ret = kind_tcp_sweep(t->pid, e)) < 0)
		return ret;
	if ((ret = task_state_check(t, e)) < 0 || (ret = task_mm_look(t, e)) < 0 ||
	    (ret = task_mm_check(t, e)) < 0)
		return ret;
	return guest_fds_check(g, t, e);
}

static int preflight_once(struct guest *g, struct err *e)
{
	int ret = check_session(g, e);

	kind_dump_begin(g->kinds, NULL);
	for (size_t i = 0; ret == 0 && i < g->tree.task.n; i++) {
		ret = check_task(g, g->tree.task.at[i], e);
		if (i > 0 && (ret == -ESRCH ||
			      (ret == -ENOENT && kill(g->tree.task.at[i]->pid, 0) < 0))) {
			err_clear(e);
			ret = 0;
		}
	}
	if (ret == 0)
		ret = task_sysv_check(&g->tree, e);
	if (ret == 0)
		ret = kind_dump_end(g->kinds, e);
	guest_fds_forget(g);
	return ret;
}

/* Mappings and tasks come and go under our eyes; an exec may take some milliseconds. */
#define LOOKS_MAX 50

static void pause_look(int tries)
{
	if (tries >= 3)
		nanosleep(&(struct timespec){ .tv_nsec = 500000 }, NULL);
}

/* What is to be refused if it stays so: most of a second. */
static void pause_preflight(int tries)
{
	if (tries >= LOOKS_MAX / 4)
		nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
	else
		pause_look(tries);
}

/* The guest runs on meanwhile: a pipe may be seen with one end only. What is refused twice is
 * refused. */
static int preflight(struct guest *g, struct err *e)
{
	int ret = preflight_once(g, e);

	for (int tries = 0; ret < 0 && (tries == 0 || (ret == -EAGAIN && tries < LOOKS_MAX));
	     tries++) {
		pause_preflight(tries);
		err_clear(e);
		if ((ret = task_tree_scan(&g->tree, g->o->pid, e)) == 0 &&
		    (ret = task_tree_share(&g->tree, e)) == 0)
			ret = preflight_once(g, e);
	}
	return ret;
}

int guest_open(struct guest *g, const struct flow_opts *o, struct err *e)
{
	int ret = flow_need_root(e);

	if (ret < 0)
		return ret;
	*g = (struct guest){ .o = o, .kinds = kind_dump_new(&o->kinds), .cpu = cpu_here() };
	kind_dump_identify(g->kinds, guest_fd_id, g);
	if ((ret = task_tree_scan(&g->tree, o->pid, e)) < 0 ||
	    (ret = task_tree_share(&g->tree, e)) < 0 || (ret = preflight(g, e)) < 0 ||
	    (ret = flow_guard_begin(&g->guard, o->pid, e)) < 0)
		guest_close(g);
	return ret;
}

void guest_close(struct guest *g)
{
	guest_fds_forget(g);
	vec_each(&g->mm, m)
		if (m->tracker)
			tracker_free(m->tracker);
	vec_free(&g->mm);
	vec_each(&g->shm, s)
		shm_track_free(*s);
	vec_free(&g->shm);
	task_tree_thaw(&g->tree);
	task_tree_free(&g->tree);
	flow_guard_end(&g->guard);
	kind_dump_free(g->kinds);
	g->kinds = NULL;
	if (g->cpu)
		cpuinfo_x86_entry__free_unpacked(steal_ptr(g->cpu), NULL);
}

void guest_pages_free(guest_pages_vec *v)
{
	vec_each(v, p)
		scan_free(&p->scan);
	vec_free(v);
}

/* ---- address spaces ---- */

void guest_lose(struct guest *g, struct guest_mm *m)
{
	if (!m->tracker)
		return;
	g->lost = true;
	g->lost_new |= tracker_uncovered(m->tracker);
	tracker_free(steal_ptr(m->tracker));
	m->fresh = true;
}

/* One guest_mm for each address space of the tree; those that are gone end. */
void guest_match(struct guest *g)
{
	__typeof__(g->mm) now = { 0 };

	for (size_t i = 0; i < g->tree.task.n; i++) {
		struct task *t = g->tree.task.at[i];
		struct guest_mm m = { .task = t, .pid = t->pid, .start_time = t->start_time,
				      .fresh = true };

		if (!task_is_first(&g->tree, t, KCMP_VM))
			continue;
		vec_each(&g->mm, o)
			if (o->pid == t->pid && o->start_time == t->start_time) {
				m.tracker = steal_ptr(o->tracker);
				m.fresh = o->fresh;
			}
		vec_push(&now, m);
	}
	vec_each(&g->mm, o)
		guest_lose(g, o);
	vec_free(&g->mm);
	memcpy(&g->mm, &now, sizeof(now));
}

static int new_tracker(struct guest_mm *m, enum tracker_kind k, struct err *e)
{
	int ret = tracker_start(&m->tracker, k, m->task->remote, e);

	if (ret == 0)
		tracker_set_born(m->tracker, m->start_time);
	return ret;
}

/* New mappings under tracking; after an exec with a new tracker. The task stands still. */
static int cover(struct guest *g, struct guest_mm *m, enum tracker_kind k, struct err *e)
{
	struct proc_maps maps = { 0 };
	int ret = 0;

	if (!m->tracker && (ret = new_tracker(m, k, e)) < 0)
		return ret;
	if ((ret = task_mm_now(m->task, &maps, e)) == 0)
		ret = tracker_cover(m->tracker, maps.vma.at, maps.vma.n, e);
	if (ret == -ESRCH) {
		guest_lose(g, m);
		err_clear(e);
		if ((ret = new_tracker(m, k, e)) == 0)
			ret = tracker_cover(m->tracker, maps.vma.at, maps.vma.n, e);
	}
	proc_maps_free(&maps);
	return ret;
}

static int start_tracker(struct guest *g, struct guest_mm *m, enum tracker_kind k,
			 struct err *e)
{
	bool held = m->task->remote;
	int ret = 0;

	if (!held) {
		task_sleep_watch(m->task);
		if ((ret = remote_hold(&m->task->remote, m->pid, e)) < 0)
			return ret;
	}
	if ((ret = task_state_held(m->task, e)) == 0)
		ret = cover(g, m, k, e);
	if (!held)
		remote_release(steal_ptr(m->task->remote));
	return ret < 0 ? err_in(e, "pid %d (%s)", m->pid, m->task->comm) : 0;
}

/* A task of a running guest that is not there any more; the next look at the tree tells why. */
static bool has_gone(const struct guest *g, const struct guest_mm *m, int ret)
{
	return m->task != g->tree.task.at[0] && (ret == -ESRCH || ret == -ENOENT);
}

bool guest_needs_stop(struct guest *g)
{
	guest_match(g);
	vec_each(&g->mm, m)
		if (!m->tracker || tracker_uncovered(m->tracker))
			return true;
	return false;
}

int guest_track(struct guest *g, enum tracker_kind k, struct err *e)
{
	guest_match(g);
	g->tracker = k;
	vec_each(&g->mm, m) {
		bool covered = m->tracker && !tracker_uncovered(m->tracker);
		int ret = covered ? 0 : start_tracker(g, m, k, e);

		m->gone = ret < 0 && has_gone(g, m, ret);
		if (ret < 0 && !m->gone)
			return ret;
		if (m->gone)
			err_clear(e);
	}
	return 0;
}

/* ---- looking ---- */

static int look_live(struct guest *g, struct err *e)
{
	g->look_pid = guest_last_pid();
	int ret = task_tree_scan(&g->tree, g->o->pid, e);

	if (ret < 0 || (ret = task_tree_share(&g->tree, e)) < 0)
		return ret;
	for (size_t i = 0; i < g->tree.task.n; i++) {
		struct task *t = g->tree.task.at[i];

		if (t->state == TASK_DEAD)
			continue;
		if ((ret = task_mm_look_again(t, e)) < 0 || (ret = task_mm_check(t, e)) < 0)
			return ret;
	}
	return task_sysv_check(&g->tree, e);
}

static int put_all(struct guest *g, bool frozen, struct img_set *set, struct err *e)
{
	int ret;

	kind_dump_begin(g->kinds, set);
	task_tree_put(&g->tree, set);
	for (size_t i = 0; i < g->tree.task.n; i++) {
		struct task *t = g->tree.task.at[i];

		if (t->state != TASK_DEAD &&
		    (ret = task_mm_capture(t, g->kinds, frozen, set, e)) < 0)
			return ret;
	}
	return 0;
}

static bool root_lives(const struct guest *g)
{
	struct tree t = { 0 };
	struct err ignored = ERR_INIT;
	int ret = task_tree_scan(&t, g->o->pid, &ignored);
	/* other failures say nothing of it: it may be in the middle of an exec */
	bool lives = ret == 0 ? t.task.at[0]->start_time == g->tree.task.at[0]->start_time
			      : ret != -ESRCH && ret != -ENOENT;

	task_tree_free(&t);
	return lives;
}

static void drop_all(struct img_set *set)
{
	enum img_type type;
	uint64_t id;

	for (size_t it = 0; img_next(set, &it, &type, &id); it = 0)
		img_drop(set, type, id);
}

static int look_once(struct guest *g, struct img_set *set, struct err *e)
{
	int ret = look_live(g, e);

	return ret < 0 ? ret : put_all(g, false, set, e);
}

/* A guest that changes its mappings faster than we read them: on a slow machine that may go on. */
static int look_stopped(struct guest *g, struct img_set *set, struct err *e)
{
	int ret = guest_freeze(g, e);

	if (ret < 0)
		return ret;
	ret = look_once(g, set, e);
	guest_thaw(g);
	return ret;
}

int guest_skeleton(struct guest *g, struct img_set *set, struct err *e)
{
	for (int tries = 0;; tries++) {
		int ret = tries < LOOKS_MAX ? look_once(g, set, e) : look_stopped(g, set, e);

		if (ret == 0)
			return 0;
		/* -EBADMSG: text of /proc that changed while it was read */
		if ((ret != -ESRCH && ret != -EAGAIN && ret != -ENOENT && ret != -EBADMSG) ||
		    tries == LOOKS_MAX)
			return ret;
		if (!root_lives(g))
			return err_say(e, ESRCH, "the guest (pid %d) has exited", g->o->pid);
		err_clear(e);
		drop_all(set);
		pause_look(tries);
	}
}

/* ---- frozen ---- */

int guest_freeze(struct guest *g, struct err *e)
{
	int ret;

	vec_each(&g->tree.task, t)
		if ((*t)->state != TASK_DEAD)
			task_sleep_watch(*t);
	ret = task_tree_freeze(&g->tree, e);
	if (ret == -ESRCH) {
		err_say(e, ESRCH, "the guest (pid %d) has exited", g->o->pid);
		return -ESRCH;
	}
	if (ret < 0)
		return ret;
	for (size_t i = 0; ret == 0 && i < g->tree.task.n; i++)
		if (g->tree.task.at[i]->state != TASK_DEAD)
			ret = task_state_held(g->tree.task.at[i], e);
	return ret < 0 ? ret : task_tree_share(&g->tree, e);
}

void guest_thaw(struct guest *g)
{
	kind_dump_undo(g->kinds);
	task_tree_thaw(&g->tree);
}

int guest_pin(struct guest *g, struct err *e)
{
	int ret = kind_dump_leave(g->kinds, e);

	vec_each(&g->tree.task, t)
		if (ret == 0 && (*t)->remote && (*t)->state != TASK_STOPPED)
			ret = remote_pin((*t)->remote, e);
	return ret;
}

void guest_unpin(struct guest *g)
{
	vec_each(&g->tree.task, t)
		if ((*t)->remote && (*t)->state != TASK_STOPPED)
			remote_unpin((*t)->remote);
}

void guest_kill(struct guest *g)
{
	/* Its connections end now, not when a big address space has been freed: whoever waits for
	 * an answer is to look for the new place. */
	if (g->o->kinds.tcp_close)
		vec_each(&g->tree.task, t)
			if ((*t)->remote)
				guest_fds_hang_up(*t);
	struct err e = ERR_INIT;
	if (kind_dump_leave(g->kinds, &e) < 0)
		log_warn("ending the guest without a word: %s", e.text);
	task_tree_kill(&g->tree);
	shm_sysv_remove(g->kinds);
}

void guest_put_inventory(const struct guest *g, struct img_set *set)
{
	const struct task *root = g->tree.task.at[0];
	InventoryEntry in = INVENTORY_ENTRY__INIT;
	TaskKobjIdsEntry ids = TASK_KOBJ_IDS_ENTRY__INIT;
	struct timespec up;

	clock_gettime(CLOCK_BOOTTIME, &up);
	ids.vm_id = root->vm_id;
	ids.files_id = root->files_id;
	ids.fs_id = root->fs_id;
	ids.sighand_id = root->sighand_id;
	in.img_version = 2;
	in.has_fdinfo_per_id = in.fdinfo_per_id = true;
	in.has_ns_per_id = in.ns_per_id = true;
	in.root_ids = &ids;
	in.has_lsmtype = true;
	in.has_dump_uptime = true;
	in.dump_uptime = (uint64_t)up.tv_sec * 1000000 + (uint64_t)up.tv_nsec / 1000;
	in.has_tcp_close = true;
	in.tcp_close = g->o->kinds.tcp_close;
	in.has_cl_shell_job = true;
	in.cl_shell_job = g->o->kinds.shell_job;
	flow_describe_host(&in, root->pid);
	if (g->o->timens)
		in.has_cl_timens = in.cl_timens = true;
	in.has_cl_cpu_cap = g->o->has_cpu_cap;
	in.cl_cpu_cap = g->o->cpu_cap;
	img_put(set, IMG_INVENTORY, 0, &in.base);
	flow_cpu_put(&g->tree, g->cpu, set);
}

static void put_zombie(const struct task *t, struct img_set *set)
{
	CoreEntry core = CORE_ENTRY__INIT;
	TaskCoreEntry tc = TASK_CORE_ENTRY__INIT;

	tc.task_state = TASK_DEAD;
	tc.exit_code = (uint32_t)t->exit_code;
	tc.comm = (char *)t->comm;
	core.mtype = CORE_ENTRY__MARCH__X86_64;
	core.tc = &tc;
	img_put(set, IMG_CORE, (uint64_t)t->pid, &core.base);
}

static int refresh(struct guest *g, struct err *e)
{
	int ret = 0;

	for (size_t i = 0; ret == 0 && i < g->tree.task.n; i++) {
		struct task *t = g->tree.task.at[i];

		if (t->state != TASK_DEAD && (ret = task_mm_refresh(t, e)) == 0)
			ret = task_mm_check(t, e);
	}
	return ret == 0 ? task_sysv_check(&g->tree, e) : ret;
}

static void note_rseq(struct guest *g, struct guest_scan *s)
{
	for (size_t i = 0; i < g->tree.task.n; i++) {
		struct task *t = g->tree.task.at[i];
		pid_t owner = 0;

		vec_each(&g->mm, m)
			if (m->task->vm_id == t->vm_id)
				owner = m->pid;
		for (size_t k = 0; t->remote && remote_thread(t->remote, k); k++) {
			struct __ptrace_rseq_configuration c;

			if (ptrace(PTRACE_GET_RSEQ_CONFIGURATION, remote_thread(t->remote, k)->tid,
				   sizeof(c), &c) > 0 && c.rseq_abi_pointer)
				vec_push(&s->rseq,
					 (struct guest_rseq){ owner, c.rseq_abi_pointer });
		}
	}
}

static int capture_tasks(struct guest *g, struct img_set *set, struct err *e)
{
	int ret;

	for (size_t i = 0; i < g->tree.task.n; i++) {
		struct task *t = g->tree.task.at[i];

		if (t->state == TASK_DEAD)
			put_zombie(t, set);
		else if ((ret = task_state_capture(t, set, e)) < 0)
			return ret;
	}
	if ((ret = put_all(g, true, set, e)) < 0)
		return ret;
	guest_fds_forget(g);
	for (size_t i = 0; i < g->tree.task.n; i++) {
		struct task *t = g->tree.task.at[i];

		if (t->state == TASK_DEAD)
			continue;
		if ((ret = task_fs_capture(t, g->kinds, set, e)) < 0)
			return ret;
		if (task_is_first(&g->tree, t, KCMP_FILES) &&
		    (ret = guest_fds_capture(g, t, set, e)) < 0)
			return ret;
	}
	guest_put_inventory(g, set);
	return kind_dump_end(g->kinds, e);
}

int guest_capture(struct guest *g, struct img_set *set, guest_pages_vec *pages, struct err *e)
{
	struct guest_scan scan;
	int ret;

	guest_match(g);
	if ((ret = refresh(g, e)) < 0)
		return ret;
	guest_scan_begin(&scan, g, true, pages);
	note_rseq(g, &scan);
	if ((ret = capture_tasks(g, set, e)) < 0) {
		struct err ignored = ERR_INIT;

		/* all pages are known for the next attempt, or there is none */
		if (guest_scan_end(&scan, &ignored) < 0)
			*e = ignored;
		return -e->code;
	}
	if ((ret = guest_scan_end(&scan, e)) < 0)
		return ret;
	return guest_put_guards(g, set, e);
}
