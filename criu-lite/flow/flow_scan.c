/* SPDX-License-Identifier: Apache-2.0 */
/* Which pages of the guest are to be read: address spaces by their trackers, shared memory objects
 * by what all their mappings saw. */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "flow_guest.h"
#include "flow_host.h"
#include "io.h"

#define USER_END 0x7ffffffff000ull

struct object_scan {
	uint64_t dev, ino;
	prange_vec written, unsure;
	bool inherited;              /* by a child: a mapping is not MADV_DONTFORK */
};
typedef VEC(struct object_scan) object_scan_vec;

static struct object_scan *object_of(object_scan_vec *v, uint64_t dev, uint64_t ino)
{
	vec_each(v, o)
		if (o->dev == dev && o->ino == ino)
			return o;
	struct object_scan *o = vec_new(v);

	o->dev = dev;
	o->ino = ino;
	return o;
}

static void to_offsets(const struct proc_vma *v, const prange_vec *r, prange_vec *out)
{
	prange_vec part = { 0 };

	prange_clip(r, v->start, v->end, &part);
	vec_each(&part, p) {
		p->start = p->start - v->start + v->pgoff;
		p->end = p->end - v->start + v->pgoff;
	}
	prange_merge(out, &part); /* mappings of one object come in any order */
	vec_free(&part);
}

/* Takes what is dirty in shared mappings out of the scan of an address space: the objects' part
 * goes to them, a shared file's contents are in the file. What is void remains so: private memory
 * that the other side holds there. It may not hear of the shared mapping, if there is private
 * memory again when it is told the next time. */
static void split(const struct task *t, struct scan *s, object_scan_vec *objects)
{
	prange_vec shared = { 0 }, dirty = { 0 };

	vec_each(&t->mm->maps.vma, v) {
		if (!v->shared)
			continue;
		prange_add(&shared, v->start, v->end);
		if (!task_vma_object(v))
			continue;
		struct object_scan *o = object_of(objects, makedev(v->dev_major, v->dev_minor),
						  v->ino);
		o->inherited |= !(v->vmflags & PROC_VF_DC);
		to_offsets(v, &s->dirty, &o->written);
		to_offsets(v, &s->reset, &o->written); /* tracking broke: all of it may be new */
		to_offsets(v, &s->unsure, &o->unsure);
	}
	prange_minus(&s->dirty, &shared, &dirty);
	vec_free(&s->dirty);
	s->dirty = dirty;
	vec_free(&shared);
}

/* `fresh`: looked at for the first time; whatever the other side has under that id is void. */
static struct shm_track *track_of(struct guest *g, uint32_t id, bool *fresh)
{
	*fresh = false;
	vec_each(&g->shm, s)
		if (shm_track_id(*s) == id)
			return *s;
	struct shm_track *t = shm_track_new(id);

	*fresh = true;
	vec_push(&g->shm, t);
	return t;
}

/* Objects that the guest has let go of: their numbers may come again. */
static void drop_tracks(struct guest *g, struct shm_object *const *seen, size_t n)
{
	size_t keep = 0;

	for (size_t i = 0; i < g->shm.n; i++) {
		bool found = false;

		for (size_t k = 0; k < n; k++)
			found |= seen[k]->id == shm_track_id(g->shm.at[i]);
		if (found)
			g->shm.at[keep++] = g->shm.at[i];
		else
			shm_track_free(g->shm.at[i]);
	}
	g->shm.n = keep;
}

static int scan_objects(struct guest_scan *scan, object_scan_vec *seen)
{
	struct guest *g = scan->g;
	guest_pages_vec *out = scan->out;
	size_t n;
	struct shm_object *const *o = shm_seen_all(g->kinds, &n);

	drop_tracks(g, o, n);
	for (size_t i = 0; i < n; i++) {
		struct object_scan *s = object_of(seen, o[i]->dev, o[i]->ino);
		struct guest_pages *p = vec_new(out);

		p->space.kind = PAGES_SHM;
		p->space.id = o[i]->id;
		p->space.fd = o[i]->fd;
		p->space.fixed = !o[i]->memfd;
		p->space.told = o[i]->size;
		struct shm_look look = { .object = o[i], .written = &s->written,
					 .unsure = &s->unsure, .forks = scan->forks,
					 .hidden = g->tracker == TRACKER_SOFT_DIRTY,
					 .inherited = s->inherited, .last = scan->frozen,
					 .strangers = g->strangers, .lost = g->lost,
					 .lost_new = g->lost_new };
		struct shm_track *t = track_of(g, o[i]->id, &p->fresh);
		int ret = shm_track_look(t, &look, &p->scan, &scan->err);
		if (ret < 0)
			return ret;
		p->space.sums = shm_track_sums(t, &p->space.n_sums);
		if (p->fresh)
			prange_add(&p->scan.reset, 0,
				   (o[i]->size + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1));
	}
	g->lost = g->lost_new = false;
	return 0;
}

static void objects_free(object_scan_vec *v)
{
	vec_each(v, o) {
		vec_free(&o->written);
		vec_free(&o->unsure);
	}
	vec_free(v);
}

static void keep_guards(struct task *t, const struct scan *s)
{
	t->mm->guard.n = 0;
	vec_each(&s->guard, r)
		vec_push(&t->mm->guard, (struct grange){ r->start, r->end });
}

/* The frozen guest's new address spaces, and those that an exec replaced since the last scan, are
 * read whole, without a tracker. */
static int scan_mm(struct guest *g, struct guest_mm *m, bool frozen, struct scan *s,
		   struct err *e)
{
	const struct proc_vma *v = m->task->mm->maps.vma.at;
	size_t n = m->task->mm->maps.vma.n;
	int ret;

	if (m->tracker) {
		ret = tracker_scan(m->tracker, v, n, frozen, s, e);
		if (ret != -ESRCH && ret != -ENOENT)
			return ret;
		/* exec'ed, or gone. While the guest runs, the next look at the tree tells which;
		 * what other address spaces gave in this round is not lost. */
		guest_lose(g, m);
		m->gone = !frozen;
		err_clear(e);
		scan_free(s);
		if (!frozen)
			return 0;
	}
	return tracker_scan_once(m->pid, v, n, s, e);
}

int64_t guest_last_pid(void)
{
	_cleanup_(buf_free) struct buf b = { 0 };
	struct err ignored = ERR_INIT;

	if (io_slurp(&b, &ignored, "/proc/loadavg") < 0)
		return -1;
	const char *last = strrchr((char *)b.at, ' ');
	return last ? atoll(last) : -1;
}

/* Whether there may be, or have been, tasks since the last scan that no tracker watches: not those
 * that the look at the tree before that scan found, but all that were born after it. */
static bool forked(struct guest *g)
{
	int64_t was = g->last_pid, now = guest_last_pid();

	g->last_pid = g->look_pid;
	return was <= 0 || now < 0 || was != now;
}

static int scan_spaces(struct guest_scan *s)
{
	struct guest *g = s->g;

	for (size_t i = 0; i < g->mm.n; i++) {
		struct guest_mm *m = &g->mm.at[i];

		if (m->gone)
			continue;
		struct guest_pages *p = vec_new(s->out);
		p->space.kind = PAGES_TASK;
		p->space.id = (uint32_t)m->pid;
		p->space.pid = m->pid;
		int ret = scan_mm(g, m, s->frozen, &p->scan, &s->err);
		if (ret < 0)
			return ret;
		if (m->gone) {
			s->out->n--;
			continue;
		}
		if (m->fresh) {
			p->fresh = true;
			p->scan.reset.n = 0;
			prange_add(&p->scan.reset, 0, USER_END);
			m->fresh = false;
		}
	}
	return 0;
}

/* At normal priority, as the guest has: it works for the capture meanwhile. (Below that, other work
 * of the machine could hold up a scan that has the lock of the guest's mappings.) */
static void *scan_thread(void *arg)
{
	struct guest_scan *s = arg;

	s->ret = scan_spaces(s);
	return NULL;
}

static bool is_stranger(const struct guest *g, const struct task *t)
{
	const struct task *known = task_find(&g->tree, t->pid);

	return t->state != TASK_DEAD && (!known || known->start_time != t->start_time);
}

/* Whether tasks live that were born after the look at the tree: they have no tracker. */
static bool has_strangers(const struct guest *g)
{
	struct tree now = { 0 };
	struct err ignored = ERR_INIT;
	bool found = task_tree_scan(&now, g->o->pid, &ignored) < 0;

	vec_each(&now.task, t)
		found |= is_stranger(g, *t);
	task_tree_free(&now);
	return found;
}

void guest_scan_begin(struct guest_scan *s, struct guest *g, bool frozen, guest_pages_vec *out)
{
	*s = (struct guest_scan){ .g = g, .frozen = frozen, .out = out, .forks = forked(g) };
	if (!frozen) {
		s->at_pid = guest_last_pid();
		s->strangers = s->at_pid != g->look_pid && has_strangers(g);
	}
	s->threaded = frozen && pthread_create(&s->thread, NULL, scan_thread, s) == 0;
	if (!s->threaded)
		s->ret = scan_spaces(s);
}

/* The kernel writes to a thread's rseq area when it runs our batches. */
static void add_rseq_pages(struct guest_scan *s)
{
	vec_each(&s->rseq, r)
		vec_each(s->out, p) {
			uint64_t page = r->at & ~(PAGE_SIZE - 1);
			prange_vec one = { 0 };

			if (p->space.kind != PAGES_TASK || p->space.pid != r->pid)
				continue;
			prange_add(&one, page, page + PAGE_SIZE);
			prange_merge(&p->scan.dirty, &one);
			vec_free(&one);
		}
}

void guest_scan_wait(struct guest_scan *s)
{
	if (!s->threaded)
		return;
	/* nothing else is left to do: as urgent as we are, with the threads that it has made */
	flow_hurry(sched_getscheduler(0) & SCHED_FIFO);
	pthread_join(s->thread, NULL);
	s->threaded = false;
}

int guest_scan_end(struct guest_scan *s, struct err *e)
{
	object_scan_vec objects = { 0 };

	guest_scan_wait(s);
	if (s->ret == 0) {
		add_rseq_pages(s);
		for (size_t i = 0, n = s->out->n; i < n; i++)
			vec_each(&s->g->mm, m)
				if (m->pid == s->out->at[i].space.pid) {
					split(m->task, &s->out->at[i].scan, &objects);
					keep_guards(m->task, &s->out->at[i].scan);
				}
		s->ret = scan_objects(s, &objects);
		objects_free(&objects);
	}
	/* One that is born from now on has to fault before it stores, which the object's times
	 * show; others may go on to store through page table entries that they have. */
	s->g->strangers = s->strangers || guest_last_pid() != s->at_pid;
	vec_free(&s->rseq);
	if (s->ret < 0)
		*e = s->err;
	return s->ret;
}

static int scan_now(struct guest *g, guest_pages_vec *out, struct err *e)
{
	struct guest_scan s;

	guest_scan_begin(&s, g, false, out);
	return guest_scan_end(&s, e);
}

bool guest_scan_stops(const struct guest *g)
{
	return g->tracker == TRACKER_SOFT_DIRTY || g->direct;
}

static int freeze_again(struct guest *g, struct err *e)
{
	int ret = guest_freeze(g, e);

	if (ret < 0)
		return ret;
	/* The freeze has looked at the tree again. Tasks that are new since the look before have no
	 * tracker and no mappings that we know of: the next look's business. */
	guest_match(g);
	vec_each(&g->mm, m)
		m->gone = !m->tracker || !m->task->mm;
	return 0;
}

int guest_scan_live(struct guest *g, guest_pages_vec *out, struct err *e)
{
	bool soft = g->tracker == TRACKER_SOFT_DIRTY;
	int ret = soft ? freeze_again(g, e) : 0;

	if (ret == 0) {
		ret = scan_now(g, out, e);
		if (soft)
			guest_thaw(g);
	}
	/* A page that a device is to fill was given to it before: that it changes has just been
	 * told, for the last time. It must not be read before it is filled. Nobody stands still
	 * with such a request under way. */
	if (ret == 0 && !soft && g->direct && (ret = freeze_again(g, e)) == 0)
		guest_thaw(g);
	return ret;
}

int guest_put_guards(struct guest *g, struct img_set *set, struct err *e)
{
	vec_each(&g->mm, m) {
		struct task_mm *tm = m->task->mm;
		_cleanup_msg_ MmEntry *mm = NULL;

		if (!tm->guard.n)
			continue;
		int ret = img_get(set, IMG_MM, (uint64_t)m->pid, 0, &mm, e);
		if (ret < 0)
			return ret;
		free(mm->cl_guard);
		mm->n_cl_guard = 2 * tm->guard.n;
		mm->cl_guard = xmemdup(tm->guard.at, tm->guard.n * sizeof(struct grange));
		img_drop(set, IMG_MM, (uint64_t)m->pid);
		img_put(set, IMG_MM, (uint64_t)m->pid, &mm->base);
	}
	return 0;
}
