/* SPDX-License-Identifier: Apache-2.0 */
/* The tree as images: pstree.img (who is whose child) and ids-PID.img (who shares what). */
#include <errno.h>

#include "pstree.pb-c.h"
#include "task.h"

static void put_entry(const struct task *k, bool root, struct img_set *set)
{
	PstreeEntry pe = PSTREE_ENTRY__INIT;
	VEC(uint32_t) tids = { 0 };
	struct rthread *t;

	if (k->remote)
		for (size_t i = 0; (t = remote_thread(k->remote, i)); i++)
			vec_push(&tids, (uint32_t)t->tid);
	else
		vec_push(&tids, (uint32_t)k->pid);
	pe.pid = (uint32_t)k->pid;
	pe.ppid = root ? 0 : (uint32_t)k->ppid;
	pe.pgid = (uint32_t)k->pgid;
	pe.sid = (uint32_t)k->sid;
	pe.threads = tids.at;
	pe.n_threads = tids.n;
	img_put(set, IMG_PSTREE, 0, &pe.base);
	vec_free(&tids);
}

void task_tree_put(const struct tree *t, struct img_set *set)
{
	for (size_t i = 0; i < t->task.n; i++) {
		const struct task *k = t->task.at[i];
		TaskKobjIdsEntry ids = TASK_KOBJ_IDS_ENTRY__INIT;

		put_entry(k, i == 0, set);
		if (k->state == TASK_DEAD)
			continue;
		ids.vm_id = k->vm_id;
		ids.files_id = k->files_id;
		ids.fs_id = k->fs_id;
		ids.sighand_id = k->sighand_id;
		img_put(set, IMG_IDS, (uint64_t)k->pid, &ids.base);
	}
}

static int get_ids(struct task *k, const struct img_set *set, struct err *e)
{
	_cleanup_msg_ TaskKobjIdsEntry *ids = NULL;

	if (!img_count(set, IMG_IDS, (uint64_t)k->pid)) {
		/* a zombie, or to be found dead by its core */
		k->state = TASK_DEAD;
		return 0;
	}
	int ret = img_get(set, IMG_IDS, (uint64_t)k->pid, 0, &ids, e);
	if (ret < 0)
		return ret;
	k->state = TASK_ALIVE;
	k->vm_id = ids->vm_id;
	k->files_id = ids->files_id;
	k->fs_id = ids->fs_id;
	k->sighand_id = ids->sighand_id;
	return 0;
}

static int get_entry(struct tree *t, const struct img_set *set, size_t i, struct err *e)
{
	_cleanup_msg_ PstreeEntry *pe = NULL;
	int ret = img_get(set, IMG_PSTREE, 0, i, &pe, e);

	if (ret < 0)
		return ret;
	if (!pe->pid || pe->pid > INT32_MAX || task_find(t, (pid_t)pe->pid))
		return err_say(e, EBADMSG, "pstree.img: record %zu: pid %u", i, pe->pid);
	if (i > 0 && !task_find(t, (pid_t)pe->ppid))
		return err_say(e, EBADMSG, "pstree.img: pid %u: parent %u comes not before it",
			       pe->pid, pe->ppid);
	if (!pe->n_threads || pe->threads[0] != pe->pid)
		return err_say(e, EBADMSG, "pstree.img: pid %u: bad list of threads", pe->pid);
	struct task *k = xcalloc(1, sizeof(*k));
	vec_push(&t->task, k);
	k->pid = (pid_t)pe->pid;
	k->ppid = (pid_t)pe->ppid;
	k->pgid = (pid_t)pe->pgid;
	k->sid = (pid_t)pe->sid;
	for (size_t n = 0; n < pe->n_threads; n++)
		vec_push(&k->tids, (pid_t)pe->threads[n]);
	return get_ids(k, set, e);
}

int task_tree_get(struct tree *t, const struct img_set *set, struct err *e)
{
	size_t n = img_count(set, IMG_PSTREE, 0);

	if (n == 0)
		return err_say(e, EBADMSG, "pstree.img: empty");
	for (size_t i = 0; i < n; i++) {
		int ret = get_entry(t, set, i, e);
		if (ret < 0)
			return ret;
	}
	if (t->task.at[0]->state == TASK_DEAD)
		return err_say(e, EBADMSG, "ids-%d.img: missing", t->task.at[0]->pid);
	return 0;
}
