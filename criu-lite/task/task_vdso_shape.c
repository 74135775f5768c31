/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's vDSO on this kernel. Every shell has this kernel's own. It stands
 *
 *   at the guest's place, if the guest's is the same (by their ids), and no time namespace is
 *   entered; else aside, in a part of the address space that programs leave empty, and the guest's
 *   is plain memory whose entries lead there.
 *
 * A vDSO that was kept over some kernels and comes back to its own gives way to it at the end, when
 * no more pages arrive for the place where it stands.
 *
 * What stood aside on the source stays as plain memory, too, until the next move: a signal handler
 * may return into it.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "inventory.pb-c.h"
#include "io.h"
#include "log.h"
#include "task_shape_priv.h"
#include "task_vdso.h"

#define ASIDE      0x2e00c0de0000ull
#define ASIDE_STEP (1ull << 30)
#define ASIDE_MAX  64

/* ---- this kernel's ---- */

struct special {
	uint64_t start, end;
	char name[16];
};
typedef VEC(struct special) special_vec;

static bool is_vdso(const struct special *s) { return !strcmp(s->name, "[vdso]"); }

static void pick_specials(const struct proc_maps *maps, special_vec *out)
{
	vec_each(&maps->vma, v)
		if (task_vma_special(v) && strcmp(v->path, "[vsyscall]")) {
			struct special *s = vec_new(out);

			s->start = v->start;
			s->end = v->end;
			snprintf(s->name, sizeof(s->name), "%s", v->path);
		}
}

/* The bytes of data pages in front of the code; all specials lie side by side. */
static int data_size(const struct task *t, uint64_t *n, struct err *e)
{
	struct proc_maps maps = { 0 };
	special_vec s = { 0 };
	int ret = shape_read_maps(t, &maps, e);

	*n = 0;
	if (ret == 0)
		pick_specials(&maps, &s);
	vec_each(&s, it)
		if (!is_vdso(it))
			*n += it->end - it->start;
	vec_free(&s);
	proc_maps_free(&maps);
	return ret;
}

/* ---- what is wanted ---- */

static bool has_special(const shape_vma_vec *v)
{
	vec_each(v, it)
		if (it->status & (VMA_VDSO | VMA_VVAR))
			return true;
	return false;
}

static bool is_native(const shape_vma_vec *want, uint64_t at)
{
	vec_each(want, v)
		if (v->status & VMA_VDSO && v->start == at)
			return true;
	return false;
}

/* Is there plain memory that nobody writes to? */
static bool covers(const shape_vma_vec *want, uint64_t start, uint64_t end)
{
	vec_each(want, v)
		if (v->start <= start && v->end > start) {
			if (!(v->status & VMA_ANON_PRIVATE) || v->status & SHAPE_SPECIAL ||
			    v->prot & PROT_WRITE)
				return false;
			start = v->end;
			if (start >= end)
				return true;
		}
	return false;
}

static void make_plain(struct shape_vma *v)
{
	if (v->status & VMA_VVAR)
		v->prot = PROT_READ;
	v->status = VMA_REGULAR | VMA_ANON_PRIVATE;
	v->flags = MAP_PRIVATE | MAP_ANONYMOUS;
	v->madv &= 1ull << MADV_DONTDUMP;
	v->pgoff = v->id = 0;
}

static void give_up(shape_vma_vec *want)
{
	vec_each(want, v)
		if (v->status & (VMA_VDSO | VMA_VVAR))
			make_plain(v);
}

int shape_vdso_want(struct shape_task *st, const MmEntry *mm, shape_vma_vec *want, struct err *e)
{
	const VdsoImageEntry *v = mm->cl_vdso;
	const uint8_t *image;
	struct vdso here;
	uint64_t data;
	size_t n;
	int ret;

	st->vdso = VDSO_AS_IT_IS;
	if (!v) /* the guest has none; or images of CRIU's: what can be compared is the shape */
		return 0;
	if ((ret = vdso_here(&image, &n, &here, e)) < 0 ||
	    (ret = data_size(&st->task, &data, e)) < 0)
		return ret;
	/* In a time namespace the data pages are others. A thread that is half-way through (before
	 * a signal handler) would take those for what it has looked at. */
	if (v->id == here.id && is_native(want, v->at) && !st->task.clock_goes_on)
		return 0;
	st->vdso = v->id == here.id && v->at > data && covers(want, v->at - data, v->at + n) ?
		   VDSO_GOES_HOME : VDSO_IS_KEPT;
	give_up(want);
	return 0;
}

int shape_vdso_check(const struct img_set *set, struct err *e)
{
	_cleanup_msg_ InventoryEntry *in = NULL;
	_cleanup_free_ uint8_t *copy = NULL;
	const uint8_t *image;
	struct vdso here, old;
	size_t n;
	int ret;

	if (!img_count(set, IMG_INVENTORY, 0))
		return 0;
	if ((ret = img_get(set, IMG_INVENTORY, 0, 0, &in, e)) < 0)
		return ret;
	if (!in->has_cl_vdso_image)
		return 0;
	if ((ret = vdso_here(&image, &n, &here, e)) < 0 ||
	    (ret = vdso_parse(in->cl_vdso_image.data, in->cl_vdso_image.len, &old, e)) < 0)
		return ret;
	if (old.id == here.id)
		return 0;
	copy = xmemdup(in->cl_vdso_image.data, in->cl_vdso_image.len);
	return vdso_patch(copy, in->cl_vdso_image.len, &old, &here, ASIDE, e);
}

/* ---- places ---- */

/* An exec gives the guest its vDSO elsewhere. */
static bool specials_differ(const shape_vma_vec *have, const shape_vma_vec *want)
{
	size_t h = 0, w = 0;

	for (;; h++, w++) {
		while (h < have->n && !(have->at[h].status & SHAPE_SPECIAL))
			h++;
		while (w < want->n && !(want->at[w].status & SHAPE_SPECIAL))
			w++;
		if (h == have->n || w == want->n)
			return h != have->n || w != want->n;
		if (have->at[h].start != want->at[w].start || have->at[h].end != want->at[w].end)
			return true;
	}
}

static int vdso_differs(const struct shape_vma *v, struct err *e)
{
	err_say(e, ENOTSUP, "the vDSO of this kernel differs from the guest's (mapping %lx-%lx)",
		v->start, v->end);
	return err_remedy(e, "use the same kernel on both hosts");
}

static void move(struct pump *p, uint64_t from, uint64_t to, uint64_t len)
{
	pump_call(p, "mremap(vdso)", SYS_mremap, from, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, to);
}

/* vvar parts and vdso lie side by side, in the same order on one kernel. All go aside first: old
 * and new places may overlap. */
static int plan_moves(struct shape_task *st, const shape_vma_vec *want, const special_vec *have,
		      struct pump *aside, struct pump *home, struct err *e)
{
	gaddr hop = remote_stub(st->task.remote).end + (16ul << 20);
	size_t n = 0;

	vec_each(want, v) {
		if (!(v->status & (VMA_VDSO | VMA_VVAR)))
			continue;
		const struct special *s = n < have->n ? &have->at[n] : NULL;
		n++;
		if (!s || s->end - s->start != v->end - v->start ||
		    !(v->status & VMA_VDSO) != !is_vdso(s))
			return vdso_differs(v, e);
		uint64_t len = s->end - s->start;
		if (s->start == v->start)
			continue;
		move(aside, s->start, hop, len);
		move(home, hop, v->start, len);
		hop += len;
	}
	for (; n < have->n; n++) /* the guest had unmapped it, or had none */
		if (!is_vdso(&have->at[n]))
			pump_call(aside, "munmap", SYS_munmap, have->at[n].start,
				  have->at[n].end - have->at[n].start);
	return 0;
}

static int move_home(struct shape_task *st, const shape_vma_vec *want, const special_vec *have,
		     struct err *e)
{
	struct pump aside = PUMP(st->task.remote, e), home = PUMP(st->task.remote, e);

	aside.ret = plan_moves(st, want, have, &aside, &home, e);
	home.ret = pump_end(&aside);
	return pump_end(&home);
}

static bool overlaps(uint64_t a, uint64_t a_end, uint64_t b, uint64_t b_end)
{
	return a < b_end && b < a_end;
}

static bool is_free(uint64_t at, uint64_t end, const shape_vma_vec *want,
		    const struct proc_maps *maps, bool ours_too)
{
	vec_each(want, v)
		if (overlaps(at, end, v->start, v->end))
			return false;
	vec_each(&maps->vma, v)
		if ((ours_too || !task_vma_special(v)) && overlaps(at, end, v->start, v->end))
			return false;
	return true;
}

/* Not just anywhere: below a stack it would be in the way of its growth. */
static int move_aside(struct shape_task *st, const shape_vma_vec *want,
		      const struct proc_maps *maps, const special_vec *have, bool *moved,
		      struct err *e)
{
	struct pump p = PUMP(st->task.remote, e);
	uint64_t start = have->at[0].start, len = have->at[have->n - 1].end - start;

	if (start >= ASIDE && start < ASIDE + ASIDE_MAX * ASIDE_STEP &&
	    is_free(start, start + len, want, maps, false))
		return 0;
	for (int i = 0; i < ASIDE_MAX; i++) {
		uint64_t to = ASIDE + (uint64_t)i * ASIDE_STEP;

		if (!is_free(to, to + len, want, maps, true))
			continue;
		vec_each(have, s)
			move(&p, s->start, to + (s->start - start), s->end - s->start);
		*moved = true;
		return pump_end(&p);
	}
	return err_say(e, ENOMEM, "no place for this kernel's vDSO");
}

int shape_vdso_place(struct shape_task *st, const shape_vma_vec *want, bool *moved, struct err *e)
{
	bool home = has_special(want);
	struct proc_maps maps = { 0 };
	special_vec have = { 0 };
	int ret;

	if (home && !specials_differ(&st->vma, want))
		return 0;
	if ((ret = shape_read_maps(&st->task, &maps, e)) == 0)
		pick_specials(&maps, &have);
	if (ret == 0 && home) {
		*moved = true;
		ret = move_home(st, want, &have, e);
	} else if (ret == 0 && have.n) {
		ret = move_aside(st, want, &maps, &have, moved, e);
	}
	vec_free(&have);
	proc_maps_free(&maps);
	return ret;
}

void shape_vdso_moved(struct shape *s, const struct shape_task *st)
{
	vec_each(&s->task, o)
		if ((*o)->task.remote && (*o)->task.vm_id == st->task.vm_id)
			remote_vdso_moved((*o)->task.remote);
}

/* ---- the end ---- */

static int inventory_image(const struct img_set *set, struct buf *out, struct err *e)
{
	_cleanup_msg_ InventoryEntry *in = NULL;
	int ret = img_get(set, IMG_INVENTORY, 0, 0, &in, e);

	if (ret < 0)
		return ret;
	if (!in->has_cl_vdso_image)
		return err_say(e, EBADMSG,
			       "inventory.img: the vDSO of the guest's kernel is missing");
	buf_put(out, in->cl_vdso_image.data, in->cl_vdso_image.len);
	return 0;
}

static void guest_image(struct shape_task *st, uint64_t at, struct buf *out)
{
	struct err ignored = ERR_INIT;

	out->at = vec_grow(out->at, &out->cap, VDSO_IMAGE_MAX, 1);
	while (out->n < VDSO_IMAGE_MAX && remote_read(st->task.remote, at + out->n,
						      out->at + out->n, PAGE_SIZE, &ignored) == 0)
		out->n += PAGE_SIZE;
}

/* The guest's image, as the source sent it or as its pages are now. */
static int get_image(struct shape_task *st, const struct img_set *set, const VdsoImageEntry *v,
		     struct buf *out, struct vdso *old, struct err *e)
{
	int ret = 0;

	if (v->kept)
		guest_image(st, v->at, out);
	else if (v->has_image)
		buf_put(out, v->image.data, v->image.len);
	else
		ret = inventory_image(set, out, e);
	if (ret < 0 || (ret = vdso_parse(out->at, out->n, old, e)) < 0)
		return ret;
	if (old->id != v->id)
		return err_say(e, EBADMSG, "the guest's vDSO is not the one that was announced");
	return 0;
}

/* Only the pages of the image are written: what lies behind a kept one may be something else. */
static int keep(struct shape_task *st, const struct img_set *set, const VdsoImageEntry *v,
		uint64_t base, struct err *e)
{
	_cleanup_(buf_free) struct buf image = { 0 };
	struct vdso old, here;
	const uint8_t *bytes;
	size_t n;
	int ret;

	if ((ret = get_image(st, set, v, &image, &old, e)) < 0 ||
	    (ret = vdso_here(&bytes, &n, &here, e)) < 0 ||
	    (ret = vdso_patch(image.at, image.n, &old, &here, base, e)) < 0)
		return ret;
	log_debug("task %d: the vDSO at %lx leads to %lx", st->task.pid, v->at, base);
	return remote_write(st->task.remote, v->at, image.at, old.end, e);
}

/* What stood aside on the source: nothing leads there any more. */
static int keep_last(struct shape_task *st, const struct img_set *set, const MmEntry *mm,
		     struct err *e)
{
	_cleanup_(buf_free) struct buf image = { 0 };
	uint64_t at = 0, room = 0;
	int ret;

	for (size_t i = 0; i < mm->n_vmas; i++)
		if (mm->vmas[i]->status & VMA_VDSO && mm->vmas[i]->start != mm->cl_vdso->at) {
			at = mm->vmas[i]->start;
			room = mm->vmas[i]->end - at;
		}
	if (!at)
		return 0;
	if ((ret = inventory_image(set, &image, e)) < 0)
		return ret;
	return remote_write(st->task.remote, at, image.at, image.n < room ? image.n : room, e);
}

static bool stood_aside(const VmaEntry *v)
{
	return v->start >= ASIDE && v->start < ASIDE + ASIDE_MAX * ASIDE_STEP &&
	       (v->start - ASIDE) % ASIDE_STEP < VDSO_IMAGE_MAX &&
	       !(v->status & SHAPE_SPECIAL) && v->status & VMA_ANON_PRIVATE &&
	       v->prot == (PROT_READ | PROT_EXEC);
}

/* What stood aside on the source's source, with the zeros in front of it. */
static int drop_older(struct shape_task *st, const MmEntry *mm, struct err *e)
{
	struct pump p = PUMP(st->task.remote, e);

	for (size_t i = 0; i < mm->n_vmas; i++) {
		const VmaEntry *v = mm->vmas[i];
		_cleanup_(buf_free) struct buf image = { 0 };
		struct err ignored = ERR_INIT;
		struct vdso is;

		if (!stood_aside(v))
			continue;
		guest_image(st, v->start, &image);
		uint64_t slot = v->start - (v->start - ASIDE) % ASIDE_STEP;
		if (vdso_parse(image.at, image.n, &is, &ignored) == 0)
			pump_call(&p, "munmap", SYS_munmap, slot, v->end - slot);
	}
	return pump_end(&p);
}

static int go_home(struct shape_task *st, const special_vec *have, uint64_t vdso, uint64_t at,
		   struct err *e)
{
	struct pump p = PUMP(st->task.remote, e);

	log_debug("task %d: this kernel's vDSO takes its place again at %lx", st->task.pid, at);
	vec_each(have, s)
		move(&p, s->start, at - (vdso - s->start), s->end - s->start);
	return pump_end(&p);
}

int shape_vdso_finish(struct shape_task *st, const struct img_set *set, const MmEntry *mm,
		      bool *moved, struct err *e)
{
	struct proc_maps maps = { 0 };
	special_vec have = { 0 };
	uint64_t base = 0;
	int ret;

	if ((ret = drop_older(st, mm, e)) < 0 || st->vdso == VDSO_AS_IT_IS || !mm->cl_vdso)
		return ret;
	if ((ret = keep_last(st, set, mm, e)) < 0 ||
	    (ret = shape_read_maps(&st->task, &maps, e)) < 0)
		return ret;
	pick_specials(&maps, &have);
	vec_each(&have, s)
		if (is_vdso(s))
			base = s->start;
	if (!base) {
		ret = err_say(e, ENOENT, "this kernel's vDSO is not to be found");
	} else if (st->vdso == VDSO_GOES_HOME) {
		*moved = true;
		ret = go_home(st, &have, base, mm->cl_vdso->at, e);
	} else {
		ret = keep(st, set, mm->cl_vdso, base, e);
	}
	vec_free(&have);
	proc_maps_free(&maps);
	return ret < 0 ? err_in(e, "shell %d: vDSO", st->task.pid) : 0;
}
