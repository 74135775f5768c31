/* SPDX-License-Identifier: Apache-2.0 */
/* System V shared memory on the source: can it be carried? (Contents, making: kind_shm_sysv.c.) */
#include <errno.h>
#include <sys/shm.h>

#include "task_mm.h"

struct use {
	int shmid;
	unsigned long attached;  /* by the guest */
};

typedef VEC(struct use) use_vec;

static struct use *use_of(use_vec *uses, int shmid)
{
	vec_each(uses, u)
		if (u->shmid == shmid)
			return u;
	struct use *u = vec_new(uses);

	u->shmid = shmid;
	return u;
}

static bool goes_on(const struct proc_vma *a, const struct proc_vma *b)
{
	return task_vma_sysv(a) && task_vma_sysv(b) && b->ino == a->ino && b->start == a->end &&
	       b->pgoff == a->pgoff + (a->end - a->start);
}

/* A segment can only be attached as a whole; parts of it may have been unmapped since. */
static int check_whole(const struct proc_maps *m, size_t i, struct err *e)
{
	const struct proc_vma *v = &m->vma.at[i];
	struct shmid_ds ds;

	if (shmctl((int)v->ino, IPC_STAT, &ds) < 0)
		return err_set(e, errno, "System V segment %lu", v->ino);
	bool begins = v->pgoff == 0 || (i > 0 && goes_on(v - 1, v));
	bool ends = v->pgoff + (v->end - v->start) >= ds.shm_segsz ||
		    (i + 1 < m->vma.n && goes_on(v, v + 1));
	if (begins && ends)
		return 0;
	err_say(e, ENOTSUP, "mapping %lx-%lx: part of System V segment %d, whose rest is unmapped",
		v->start, v->end, (int)v->ino);
	return err_remedy(e,
			  "let the program attach it as a whole (shmat), or use memfd or shm_open");
}

static int check_task(const struct task *t, use_vec *uses, struct err *e)
{
	const struct proc_maps *m = &t->mm->maps;

	for (size_t i = 0; i < m->vma.n; i++) {
		if (!task_vma_sysv(&m->vma.at[i]))
			continue;
		if (check_whole(m, i, e) < 0)
			return err_in(e, "pid %d (%s)", t->pid, t->comm);
		use_of(uses, (int)m->vma.at[i].ino)->attached++;
	}
	return 0;
}

static int check_outside(const struct use *u, const struct task *root, struct err *e)
{
	struct shmid_ds ds;

	if (shmctl(u->shmid, IPC_STAT, &ds) < 0)
		return err_set(e, errno, "System V segment %d", u->shmid);
	if (ds.shm_nattch <= u->attached)
		return 0;
	err_say(e, EAGAIN,
		"pid %d (%s): System V shared memory segment %d (key 0x%08x) is attached by a "
		"process outside the tree, too: %lu times, %lu of them inside",
		root->pid, root->comm, u->shmid, (unsigned int)ds.shm_perm.__key,
		(unsigned long)ds.shm_nattch, u->attached);
	return err_remedy(e, "end that process (grep SYSV /proc/*/maps finds it), or take -t of an "
			     "ancestor of both");
}

int task_sysv_check(const struct tree *t, struct err *e)
{
	use_vec uses = { 0 };
	int ret = 0;

	vec_each(&t->task, k)
		if (ret == 0 && (*k)->mm && task_is_first(t, *k, KCMP_VM))
			ret = check_task(*k, &uses, e);
	vec_each(&uses, u)
		if (ret == 0)
			ret = check_outside(u, t->task.at[0], e);
	vec_free(&uses);
	return ret;
}
