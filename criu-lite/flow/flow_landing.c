/* SPDX-License-Identifier: Apache-2.0 */
/* The guest where it lands. */
#include "flow_landing.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>

#include "flow_clock.h"
#include "flow_cpu.h"
#include "flow_host.h"
#include "inventory.pb-c.h"
#include "io.h"
#include "memfd.pb-c.h"
#include "log.h"
#include "task_cpu.h"
#include "task_mm.h"
#include "task_state.h"

void landing_begin(struct landing *l, const struct flow_opts *o, const struct kind_opts *k,
		   uint64_t shell_flags)
{
	*l = (struct landing){ .o = o, .kinds = kind_restore_new(k) };
	l->shape.shell_flags = shell_flags;
	l->shape.shell_job = k->shell_job;
	l->shape.timens = o->timens;
}

void landing_end(struct landing *l)
{
	shape_kill(&l->shape);
	if (l->kinds)
		kind_restore_free(l->kinds);
	img_set_free(l->set);
	vec_each(&l->old, s)
		img_set_free(*s);
	vec_free(&l->old);
	*l = (struct landing){ 0 };
}

/* ---- preflight ---- */

struct complaints {
	size_t n;
	struct buf text;
	char remedy[512];
};

static void complain(void *arg, const struct err *e)
{
	struct complaints *c = arg;

	if (c->n++)
		buf_put(&c->text, "; ", 2);
	buf_put(&c->text, e->text, strlen(e->text));
	if (!e->remedy[0])
		return;
	buf_put(&c->text, " (", 2);
	buf_put(&c->text, e->remedy, strlen(e->remedy));
	buf_put(&c->text, ")", 1);
}

static void check_host(struct landing *l, const struct img_set *set, struct complaints *c)
{
	_cleanup_msg_ InventoryEntry *in = NULL;
	struct err e = ERR_INIT;

	if (!img_count(set, IMG_INVENTORY, 0))
		return;
	if (img_get(set, IMG_INVENTORY, 0, 0, &in, &e) < 0) {
		complain(c, &e);
		return;
	}
	unsigned cap = l->o->has_cpu_cap ? l->o->cpu_cap :
		       in->has_cl_cpu_cap ? in->cl_cpu_cap : CPU_CAP_DEFAULT;

	if (flow_clock_adopt(in, &l->shape, &e) < 0)
		complain(c, &e);
	if (flow_kernel_check(set, &e) < 0)
		complain(c, &e);
	if (shape_vdso_check(set, &e) < 0)
		complain(c, &e);
	if (flow_cpu_check(set, cap, &l->other_cpu, &e) < 0)
		complain(c, &e);
	if (in->has_cl_shell_job && in->cl_shell_job && !c->n)
		log_debug("the guest shares its session with a shell");
}

int landing_check(struct landing *l, struct img_set *set, struct err *e)
{
	struct complaints c = { 0 };
	struct err first = ERR_INIT;

	check_host(l, set, &c);
	shape_check(set, l->shape.shell_job, complain, &c);
	if (kind_restore_begin(l->kinds, set, &first) < 0)
		complain(&c, &first);
	else
		kind_restore_check(l->kinds, complain, &c);
	buf_put(&c.text, "", 1);
	int ret = c.n ? err_say(e, EINVAL, "%s", (char *)c.text.at) : 0;
	buf_free(&c.text);
	return ret;
}

/* ---- shape ---- */

/* Sizes of anonymous shared objects follow from the mappings: make those that are new. */
static int offer_object(struct landing *l, uint32_t id, uint64_t size, struct err *e)
{
	char path[64];
	struct shm_object *o;

	if (shm_get(l->kinds, id, &o, e) == 0)
		return 0;
	if (e->code != ENOENT)
		return -e->code;
	err_clear(e);
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return err_set(e, errno, "shared memory object %u of %lu bytes", id, size);
	snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", (unsigned long)p,
		 (unsigned long)p + size);
	_cleanup_close_ int fd = open(path, O_RDWR | O_CLOEXEC);
	int ret = fd < 0 ? err_set(e, errno, "%s", path) : shm_offer(l->kinds, id, fd, e);
	munmap(p, size);
	return ret;
}

struct object_size {
	uint32_t id;
	uint64_t size;
};

static int offer_objects(struct landing *l, struct err *e)
{
	VEC(struct object_size) want = { 0 };
	enum img_type type;
	uint64_t pid;
	int ret = 0;

	for (size_t it = 0; ret == 0 && img_next(l->set, &it, &type, &pid);) {
		_cleanup_msg_ MmEntry *mm = NULL;

		if (type != IMG_MM || (ret = img_get(l->set, IMG_MM, pid, 0, &mm, e)) < 0)
			continue;
		for (size_t i = 0; i < mm->n_vmas; i++) {
			const VmaEntry *v = mm->vmas[i];
			struct object_size *s = NULL;

			if (!(v->status & VMA_ANON_SHARED) || v->end <= v->start)
				continue;
			vec_each(&want, w)
				if (w->id == v->shmid)
					s = w;
			if (!s) {
				s = vec_new(&want);
				s->id = (uint32_t)v->shmid;
			}
			if (v->pgoff + (v->end - v->start) > s->size)
				s->size = v->pgoff + (v->end - v->start);
		}
	}
	vec_each(&want, w)
		if (ret == 0)
			ret = offer_object(l, w->id, w->size, e);
	vec_free(&want);
	return ret;
}

static void note_mappings(struct landing *l)
{
	enum img_type type;
	uint64_t pid;
	struct err e = ERR_INIT;

	for (size_t it = 0; img_next(l->set, &it, &type, &pid);) {
		_cleanup_msg_ MmEntry *mm = NULL;

		if (type != IMG_MM || img_get(l->set, IMG_MM, pid, 0, &mm, &e) < 0)
			continue;
		for (size_t i = 0; i < mm->n_vmas; i++)
			vec_push(&l->shape.avoid,
				 (struct grange){ mm->vmas[i]->start, mm->vmas[i]->end });
	}
}

int landing_shape(struct landing *l, struct img_set *set, struct err *e)
{
	int ret;

	if (l->set && l->set != set)
		vec_push(&l->old, l->set);
	l->set = set;
	if (!l->shape.task.n)
		note_mappings(l);
	if ((ret = kind_restore_begin(l->kinds, set, e)) < 0 ||
	    (ret = shape_tree(&l->shape, set, e)) < 0 || (ret = offer_objects(l, e)) < 0)
		return ret;
	l->pid = shape_at(&l->shape, 0)->pid;
	return shape_memory(&l->shape, l->kinds, set, e);
}

int landing_objects(struct landing *l, struct err *e)
{
	size_t n = img_count(l->set, IMG_MEMFD_INODE, 0);

	for (size_t i = 0; i < n; i++) {
		_cleanup_msg_ MemfdInodeEntry *m = NULL;
		struct shm_object *o;
		int ret = img_get(l->set, IMG_MEMFD_INODE, 0, i, &m, e);

		if (ret < 0 || (ret = shm_get(l->kinds, m->shmid, &o, e)) < 0)
			return ret;
	}
	return 0;
}

int landing_place(struct landing *l, const struct pages_space *what, struct pages_place *to,
		  struct err *e)
{
	*to = (struct pages_place){ .mem_fd = -1, .fd = -1 };
	if (what->kind == PAGES_SHM) {
		struct shm_object *o;
		int ret = shm_get(l->kinds, what->id, &o, e);

		if (ret == 0)
			to->fd = o->fd;
		return ret;
	}
	struct task *t = shape_find(&l->shape, (pid_t)what->id);
	if (!t || !t->remote)
		return err_say(e, ENOENT, "pages of unknown task %u", what->id);
	to->pid = t->pid;
	to->mem_fd = remote_mem_fd(t->remote, e);
	return to->mem_fd < 0 ? to->mem_fd : 0;
}

/* ---- the rest of the state ---- */

static int compare_guest(const void *a, const void *b)
{
	return ((const struct remote_fd *)a)->guest - ((const struct remote_fd *)b)->guest;
}

static int fill_fds(struct landing *l, struct task *t, struct err *e)
{
	size_t n = img_count(l->set, IMG_FDINFO, t->files_id);
	_cleanup_free_ struct remote_fd *fds = xcalloc(n, sizeof(*fds));
	int ret;

	for (size_t i = 0; i < n; i++) {
		_cleanup_msg_ FdinfoEntry *fe = NULL;

		if ((ret = img_get(l->set, IMG_FDINFO, t->files_id, i, &fe, e)) < 0)
			return ret;
		if (fe->fd > INT32_MAX)
			return err_say(e, EBADMSG, "fdinfo-%u.img: descriptor %u", t->files_id,
				       fe->fd);
		int fd = kind_fd(l->kinds, fe->id, e);
		if (fd < 0)
			return err_in(e, "task %d: fd %u", t->pid, fe->fd);
		fds[i] = (struct remote_fd){ fd, (int)fe->fd, fe->flags & FD_CLOEXEC };
		kind_hold(l->kinds, fe->id, (struct kind_holder){ t->remote, (int)fe->fd });
	}
	qsort(fds, n, sizeof(*fds), compare_guest);
	for (size_t i = 1; i < n; i++)
		if (fds[i].guest == fds[i - 1].guest)
			return err_say(e, EBADMSG, "fdinfo-%u.img: descriptor %d twice",
				       t->files_id, fds[i].guest);
	return remote_fd_put(t->remote, fds, n, e);
}

static int fill_task(struct landing *l, struct task *t, struct err *e)
{
	int ret = 0;

	if (t->state == TASK_DEAD)
		return 0;
	kind_set_process(l->kinds, t->pid, t->remote);
	if (shape_is_first(&l->shape, t, KCMP_VM))
		ret = shape_mm_fields(t, l->kinds, l->set, e);
	if (ret == 0 && shape_is_first(&l->shape, t, KCMP_FS))
		ret = shape_fs(t, l->kinds, l->set, e);
	if (ret == 0 && t->tids.n > 1)
		ret = remote_shell_threads(t->remote, t->tids.at + 1, t->tids.n - 1, e);
	return ret < 0 ? err_in(e, "task %d", t->pid) : 0;
}

int landing_fill(struct landing *l, struct err *e)
{
	int ret = shape_zombies(&l->shape, l->set, e);

	for (size_t i = 0; ret == 0 && shape_at(&l->shape, i); i++)
		ret = fill_task(l, shape_at(&l->shape, i), e);
	/* descriptors last: until here the (perhaps shared) tables have to be empty */
	for (size_t i = 0; ret == 0 && shape_at(&l->shape, i); i++) {
		struct task *t = shape_at(&l->shape, i);

		if (shape_is_first(&l->shape, t, KCMP_FILES))
			ret = fill_fds(l, t, e);
	}
	return ret;
}

/* A lock on shared storage may still be held by the frozen source for the moment. */
#define LOCK_TRIES 50

static int finish_kinds(struct landing *l, struct err *e)
{
	int ret;

	for (int i = 0; (ret = kind_finish(l->kinds, e)) == -EAGAIN && i < LOCK_TRIES; i++) {
		err_clear(e);
		nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
	}
	return ret;
}

int landing_seal(struct landing *l, struct err *e)
{
	int ret = finish_kinds(l, e);

	for (size_t i = 0; ret == 0 && shape_at(&l->shape, i); i++) {
		struct task *t = shape_at(&l->shape, i);

		if (shape_is_first(&l->shape, t, KCMP_VM))
			ret = shape_finish(&l->shape, t, l->set, e);
	}
	for (size_t i = 0; ret == 0 && shape_at(&l->shape, i); i++) {
		struct task *t = shape_at(&l->shape, i);

		if (t->state != TASK_DEAD)
			ret = task_state_apply(t, l->set, e);
	}
	return ret;
}

static void remember_cpu(struct landing *l)
{
	size_t n = 0;

	while (shape_at(&l->shape, n))
		n++;
	_cleanup_free_ struct task **t = xcalloc(n, sizeof(*t));
	for (size_t i = 0; i < n; i++)
		t[i] = shape_at(&l->shape, i);
	flow_cpu_remember(l->set, t, n);
}

int landing_run(struct landing *l, struct err *e)
{
	if (l->shape.timens && flow_clock_wait(l->set, shape_at(&l->shape, 0), e) < 0)
		return -e->code;
	for (size_t i = 0; shape_at(&l->shape, i); i++) {
		struct task *t = shape_at(&l->shape, i);
		int ret = t->state == TASK_DEAD ? 0 : task_state_arm(t, l->set, e);

		if (ret < 0)
			return ret;
	}
	if (l->other_cpu)
		remember_cpu(l);
	kind_restore_done(l->kinds);
	/* our copies of its pipe ends go first, or it would miss an end of file */
	kind_restore_free(steal_ptr(l->kinds));
	shape_release(&l->shape);
	return 0;
}

pid_t landing_pid(const struct landing *l) { return l->pid; }
