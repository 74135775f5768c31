/* SPDX-License-Identifier: Apache-2.0 */
/* restore: the guest out of an image directory. */
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "flow.h"
#include "flow_guard.h"
#include "flow_host.h"
#include "flow_landing.h"
#include "flow_links.h"
#include "img_dir.h"
#include "inventory.pb-c.h"
#include "io.h"
#include "log.h"
#include "pages_file.h"
#include "stats.pb-c.h"

static int load(const char *path, int *dir, struct img_set **set, struct err *e)
{
	*dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (*dir < 0)
		return err_set(e, errno, "images directory %s", path);
	if (faccessat(*dir, "inventory.img", F_OK, 0) < 0) {
		err_set(e, errno, "%s/inventory.img", path);
		return err_remedy(e, "name the directory of a finished dump with -D");
	}
	int ret = img_dir_load(set, *dir, e);
	if (ret < 0)
		return err_in(e, "%s", path);
	if (!img_count(*set, IMG_PSTREE, 0)) {
		err_say(e, EINVAL, "%s holds a pre-dump, memory only", path);
		return err_remedy(e, "finish it with `criu-lite dump --prev-images-dir` and "
				     "restore that");
	}
	return 0;
}

static int check_job(const struct img_set *set, const struct flow_opts *o, struct err *e)
{
	_cleanup_msg_ InventoryEntry *in = NULL;
	int ret = img_get(set, IMG_INVENTORY, 0, 0, &in, e);

	if (ret < 0)
		return ret;
	if (in->has_cl_shell_job && in->cl_shell_job && !o->kinds.shell_job) {
		err_say(e, EINVAL, "the guest was dumped with --shell-job");
		return err_remedy(e, "restore it with --shell-job (-j), too");
	}
	return 0;
}

static int load_space(struct landing *l, int dir, int kind, uint32_t id, struct pages_stats *sum,
		      struct err *e)
{
	struct pages_space s = { .kind = kind, .id = id, .fd = -1 };
	struct pages_stats st = { 0 };
	struct pages_place to;
	int ret = landing_place(l, &s, &to, e);

	if (ret == 0)
		ret = pages_load(dir, &s, &to, &st, e);
	sum->pages += st.pages;
	return ret;
}

static int load_pages(struct landing *l, int dir, struct pages_stats *sum, struct err *e)
{
	struct task *t;
	size_t n;
	int ret = 0;

	for (size_t i = 0; ret == 0 && (t = shape_at(&l->shape, i)); i++)
		if (shape_is_first(&l->shape, t, KCMP_VM))
			ret = load_space(l, dir, PAGES_TASK, (uint32_t)t->pid, sum, e);
	struct shm_object *const *o = shm_got_all(l->kinds, &n);
	for (size_t i = 0; ret == 0 && i < n; i++)
		ret = load_space(l, dir, PAGES_SHM, o[i]->id, sum, e);
	return ret;
}

static int write_pidfile(const struct flow_opts *o, pid_t pid, struct err *e)
{
	char text[16];

	if (!o->pidfile)
		return 0;
	int n = snprintf(text, sizeof(text), "%d", pid);
	return io_spill(o->pidfile, text, (size_t)n, e);
}

/* The lock that the dump has left on this host, if it was this one. */
static int lift_kept(const struct img_set *set, struct err *e)
{
	_cleanup_msg_ InventoryEntry *in = NULL;
	int ret = img_get(set, IMG_INVENTORY, 0, 0, &in, e);

	if (ret < 0 || !in->cl_net_lock)
		return ret;
	ret = flow_net_lift_kept(in->cl_net_lock, false, e);
	if (ret != -ENOENT)
		return ret;
	err_clear(e);
	return 0;
}

static int build(struct landing *l, struct links *links, struct img_set *set, int dir,
		 struct err *e)
{
	struct pages_stats sum = { 0 };
	int ret;

	if ((ret = landing_check(l, set, e)) < 0) {
		img_set_free(set);
		return ret;
	}
	if ((ret = landing_shape(l, set, e)) < 0 || (ret = landing_objects(l, e)) < 0 ||
	    (ret = load_pages(l, dir, &sum, e)) < 0 ||
	    (ret = links_arrive(links, l->kinds, l->set, e)) < 0 ||
	    (ret = landing_fill(l, e)) < 0 || (ret = landing_seal(l, e)) < 0)
		return ret;
	return links_script(links, "post-restore", landing_pid(l), e);
}

static int restore_all(struct landing *l, struct links *links, struct flow_guard *guard,
		       struct img_set **set, int dir, struct err *e)
{
	const struct flow_opts *o = l->o;
	char id[24];
	pid_t root;
	int ret;

	snprintf(id, sizeof(id), "restore-%d", getpid());
	if ((ret = check_job(*set, o, e)) < 0 ||
	    (ret = links_target(links, o, o->kinds.tcp_established, id, NULL, NULL, 0, e)) < 0 ||
	    (links->net && (ret = flow_guard_target(guard, e)) < 0) ||
	    (ret = build(l, links, steal_ptr(*set), dir, e)) < 0 ||
	    (ret = write_pidfile(o, root = landing_pid(l), e)) < 0)
		return ret;
	if ((ret = links_open(links, root, e)) == 0)
		ret = lift_kept(l->set, e);
	if (ret == 0)
		ret = landing_run(l, e);
	if (ret < 0 && o->pidfile)
		unlink(o->pidfile);
	if (ret == 0)
		links_running(links, root);
	return ret;
}

int flow_restore(const struct flow_opts *o, int *status, struct err *e)
{
	struct img_set *set = NULL;
	struct landing l;
	struct links links = { 0 };
	struct flow_guard guard = { 0 };
	_cleanup_close_ int dir = -1;
	pid_t pid;
	int ret = flow_need_root(e);

	if (ret < 0)
		return ret;
	flow_raise_limits();
	flow_net_sweep();
	landing_begin(&l, o, &o->kinds, o->restore_sibling ? CLONE_PARENT : 0);
	ret = load(o->images_dir, &dir, &set, e);
	if (ret == 0)
		ret = restore_all(&l, &links, &guard, &set, dir, e);
	pid = l.pid;
	img_set_free(set);
	landing_end(&l);
	if (ret == 0)
		links_end(&links);
	else if (links.o)
		links_give_up(&links, pid);
	flow_guard_end(&guard);
	*status = 0;
	if (ret == 0 && !o->restore_detached && !o->restore_sibling)
		while (waitpid(pid, status, 0) < 0 && errno == EINTR)
			;
	return ret;
}
