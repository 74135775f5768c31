/* SPDX-License-Identifier: Apache-2.0 */
/* dump and pre-dump: the guest into an image directory. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "flow.h"
#include "flow_guest.h"
#include "flow_host.h"
#include "flow_links.h"
#include "img_dir.h"
#include "inventory.pb-c.h"
#include "io.h"
#include "log.h"
#include "pages_file.h"
#include "stats.pb-c.h"

struct dump {
	const struct flow_opts *o;
	struct guest guest;
	struct links links;
	int dir;
	int parent;                  /* -1: none */
	char parent_cookie[64];
	uint64_t frozen_at;
	DumpStatsEntry stats;
	struct img_known known;      /* sums of the pages files */
};

static void cookie_of(int dirfd, char *out, size_t size)
{
	struct stat st = { 0 };

	fstat(dirfd, &st);
	snprintf(out, size, "%lx:%lx", (unsigned long)st.st_dev, (unsigned long)st.st_ino);
}

static int open_dir(const char *path, struct err *e)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0) {
		err_set(e, errno, "images directory %s", path);
		return err_remedy(e, "make it first: mkdir -p %s", path);
	}
	return fd;
}

/* The link `parent` leads to the previous (pre-)dump, relative to this directory. */
static int link_parent(struct dump *d, struct err *e)
{
	const char *prev = d->o->prev_images_dir;

	if (unlinkat(d->dir, "parent", 0) < 0 && errno != ENOENT)
		return err_set(e, errno, "%s/parent", d->o->images_dir);
	if (!prev)
		return 0;
	d->parent = openat(d->dir, prev, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (d->parent < 0) {
		err_set(e, errno, "previous images directory %s", prev);
		return err_remedy(e, "--prev-images-dir is relative to the images directory (-D)");
	}
	if (faccessat(d->parent, "inventory.img", R_OK, 0) < 0) {
		err_set(e, errno, "%s/inventory.img", prev);
		return err_remedy(e, "name the directory of a finished pre-dump");
	}
	if (symlinkat(prev, d->dir, "parent") < 0)
		return err_set(e, errno, "%s/parent", d->o->images_dir);
	cookie_of(d->parent, d->parent_cookie, sizeof(d->parent_cookie));
	return 0;
}

static int begin(struct dump *d, const struct flow_opts *o, struct err *e)
{
	int ret;

	*d = (struct dump){ .o = o, .dir = -1, .parent = -1 };
	dump_stats_entry__init(&d->stats);
	if ((ret = flow_need_root(e)) < 0)
		return ret;
	if ((d->dir = open_dir(o->images_dir, e)) < 0)
		return d->dir;
	flow_net_sweep();
	if ((ret = guest_open(&d->guest, o, e)) < 0)
		return ret;
	/* from here on the directory is ours: whoever reads it must not take an old dump for this
	 * one */
	if (unlinkat(d->dir, "inventory.img", 0) < 0 && errno != ENOENT)
		return err_set(e, errno, "%s/inventory.img", o->images_dir);
	return link_parent(d, e);
}

static void end(struct dump *d)
{
	links_end(&d->links);
	if (d->guest.kinds)
		guest_close(&d->guest);
	if (d->dir >= 0)
		close(d->dir);
	if (d->parent >= 0)
		close(d->parent);
	vec_free(&d->known.file);
}

/* Trackers that a pre-dump left with its keeper: only pages written since then are needed. */
static int claim(struct dump *d, struct err *e)
{
	struct tracker **t = NULL;
	size_t n = 0;
	int ret = tracker_claim(&t, &n, d->o->pid, d->parent >= 0 ? d->parent_cookie : NULL, e);

	guest_match(&d->guest);
	if (ret == -ENOENT) {
		err_clear(e);
		if (d->parent >= 0)
			log_warn("no tracker is kept for %s: dumping all memory",
				 d->o->prev_images_dir);
		return 0;
	}
	for (size_t i = 0; ret == 0 && i < n; i++) {
		struct guest_mm *mine = NULL;

		vec_each(&d->guest.mm, m)
			if (m->pid == tracker_pid(t[i]) && m->start_time == tracker_born(t[i]))
				mine = m;
		if (mine) {
			mine->tracker = t[i];
			mine->fresh = false;
		} else {
			tracker_free(t[i]);
		}
	}
	free(t);
	return ret;
}

static int write_pages(struct dump *d, guest_pages_vec *pages, bool live, struct err *e)
{
	uint64_t before = io_now_ns();
	uint32_t id = 0;
	int ret = 0;

	for (size_t i = 0; ret == 0 && i < pages->n; i++) {
		struct guest_pages *p = &pages->at[i];
		prange_vec clean = { 0 };
		struct pages_stats st = { 0 };

		if (live && p->space.kind == PAGES_SHM)
			continue; /* objects are written whole, by the dump */
		if (d->parent >= 0 && p->space.kind == PAGES_TASK && !p->fresh)
			vec_each(&d->guest.mm, m)
				if (m->pid == p->space.pid && m->tracker)
					prange_minus(tracker_known(m->tracker), &p->scan.dirty,
						     &clean);
		p->space.live = live;
		ret = pages_dump(&p->space, &p->scan, &clean, d->dir, ++id, &d->known, &st, e);
		d->stats.pages_written += st.pages;
		d->stats.pages_skipped_parent += prange_bytes(&clean) / PAGE_SIZE;
		d->stats.pages_scanned += st.pages + prange_bytes(&clean) / PAGE_SIZE;
		vec_free(&clean);
	}
	d->stats.memwrite_time += (uint32_t)((io_now_ns() - before) / 1000);
	return ret;
}

static void put_stats(const struct dump *d, struct img_set *set)
{
	StatsEntry st = STATS_ENTRY__INIT;

	st.dump = (DumpStatsEntry *)&d->stats;
	img_put(set, IMG_STATS_DUMP, 0, &st.base);
}

/* Images, with the statistics unless they have a directory of their own (-W), and the seal. */
static int save(struct dump *d, struct img_set *set, struct err *e)
{
	int ret;

	if (!d->o->work_dir)
		put_stats(d, set);
	if ((ret = img_dir_save(set, d->dir, e)) < 0 ||
	    (ret = img_dir_seal(d->dir, &d->known, e)) < 0 || !d->o->work_dir)
		return ret;
	struct img_set *stats = img_set_new();
	_cleanup_close_ int dir = open_dir(d->o->work_dir, e);
	put_stats(d, stats);
	ret = dir < 0 ? dir : img_dir_save(stats, dir, e);
	img_set_free(stats);
	return ret;
}

/* ---- dump ---- */

/* Restored, the guest's connections are to go on: until then nobody may answer for them. */
static bool keeps_lock(const struct dump *d)
{
	return d->links.net && !d->o->leave_running && !d->o->leave_stopped;
}

static int note_lock(struct dump *d, struct img_set *set, struct err *e)
{
	_cleanup_msg_ InventoryEntry *in = NULL;
	int ret;

	if (!keeps_lock(d))
		return 0;
	if ((ret = img_get(set, IMG_INVENTORY, 0, 0, &in, e)) < 0)
		return ret;
	free(in->cl_net_lock);
	in->cl_net_lock = xstrdup(flow_net_id(d->links.net));
	img_drop(set, IMG_INVENTORY, 0);
	img_put(set, IMG_INVENTORY, 0, &in->base);
	return 0;
}

static int dump_frozen(struct dump *d, struct err *e)
{
	struct img_set *set = img_set_new();
	guest_pages_vec pages = { 0 };
	uint64_t before = io_now_ns();
	pid_t root = d->guest.tree.task.at[0]->pid;
	int ret = claim(d, e);

	if (ret == 0)
		ret = links_close(&d->links, &d->guest, e);
	if (ret == 0)
		ret = guest_capture(&d->guest, set, &pages, e);
	d->stats.memdump_time = (uint32_t)((io_now_ns() - before) / 1000);
	if (ret == 0)
		ret = write_pages(d, &pages, false, e);
	d->stats.frozen_time = (uint32_t)((io_now_ns() - d->frozen_at) / 1000);
	if (ret == 0)
		ret = note_lock(d, set, e);
	if (ret == 0)
		ret = save(d, set, e);
	if (ret == 0)
		ret = links_script(&d->links, "post-dump", root, e);
	guest_pages_free(&pages);
	img_set_free(set);
	return ret;
}

/* Its connections go on here, if it does. */
static void stay(struct dump *d)
{
	kind_dump_undo(d->guest.kinds);
	links_undo(&d->links, d->guest.tree.task.at[0]->pid);
}

/* The dump is complete: what becomes of the guest? */
static void let_go(struct dump *d)
{
	struct guest *g = &d->guest;

	if (!d->o->leave_running && !d->o->leave_stopped) {
		struct err why = ERR_INIT;

		guest_kill(g);
		if (flow_net_keep(steal_ptr(d->links.net), &why) < 0)
			log_warn("%s", why.text);
		return;
	}
	stay(d);
	if (d->o->leave_stopped)
		vec_each(&g->tree.task, t)
			if ((*t)->remote)
				remote_leave_stopped((*t)->remote);
	task_tree_thaw(&g->tree);
}

int flow_dump(const struct flow_opts *o, struct err *e)
{
	struct dump d;
	uint64_t start = io_now_ns();
	char id[40];
	int ret = begin(&d, o, e);

	/* a new name for each dump: a lock that was kept is lifted by the restore of its own */
	snprintf(id, sizeof(id), "dump-%d-%lx", o->pid, (unsigned long)start);
	if (ret == 0)
		ret = links_source(&d.links, o, id, NULL, -1, e);
	if (ret == 0)
		links_close_listeners(&d.links, &d.guest);
	if (ret == 0)
		ret = guest_freeze(&d.guest, e);
	if (ret == 0) {
		d.frozen_at = io_now_ns();
		d.stats.freezing_time = (uint32_t)((d.frozen_at - start) / 1000);
		ret = dump_frozen(&d, e);
		if (ret == 0) {
			let_go(&d);
		} else {
			stay(&d);
			guest_thaw(&d.guest);
		}
	}
	end(&d);
	return ret;
}

/* ---- pre-dump ---- */

static int pre_dump_live(struct dump *d, struct err *e)
{
	struct img_set *set = img_set_new();
	guest_pages_vec pages = { 0 };
	InventoryEntry in = INVENTORY_ENTRY__INIT;
	int ret = guest_track(&d->guest, d->guest.tracker, e);

	if (ret == 0)
		ret = guest_skeleton(&d->guest, set, e);
	if (ret == 0)
		ret = guest_scan_live(&d->guest, &pages, e);
	if (ret == 0)
		ret = write_pages(d, &pages, true, e);
	img_set_free(set);
	guest_pages_free(&pages);
	if (ret < 0)
		return ret;
	in.img_version = 2;
	in.has_pre_dump_mode = true;
	in.pre_dump_mode = 2; /* read with process_vm_readv */
	set = img_set_new();
	img_put(set, IMG_INVENTORY, 0, &in.base);
	ret = save(d, set, e);
	img_set_free(set);
	return ret;
}

static int keep_trackers(struct dump *d, struct err *e)
{
	VEC(struct tracker *) t = { 0 };
	char cookie[64];

	cookie_of(d->dir, cookie, sizeof(cookie));
	vec_each(&d->guest.mm, m)
		if (m->tracker)
			vec_push(&t, m->tracker);
	int ret = t.n ? tracker_park(t.at, t.n, d->o->pid, cookie, e) : 0;
	vec_free(&t);
	return ret;
}

int flow_pre_dump(const struct flow_opts *o, struct err *e)
{
	struct dump d;
	enum tracker_kind k = o->tracker;
	int ret = tracker_probe(&k, e);

	if (ret < 0)
		return ret;
	if ((ret = begin(&d, o, e)) == 0)
		ret = claim(&d, e);
	d.guest.tracker = k;
	if (ret == 0)
		ret = pre_dump_live(&d, e);
	if (ret == 0 && o->track_mem)
		ret = keep_trackers(&d, e);
	end(&d);
	return ret;
}
