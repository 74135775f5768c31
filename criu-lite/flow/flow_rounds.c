/* SPDX-License-Identifier: Apache-2.0 */
/* One round: scan, tell the target, send. While the guest runs, or as the last one. */
#include <errno.h>
#include <string.h>

#include "flow_migration.h"
#include "flow_stream.h"
#include "io.h"

/* The target's part of a switch that nothing tells beforehand: registers, signals, GO, run. */
#define RUN_NS 1500000
/* Compressing what is sent in a few milliseconds anyway only adds to them. */
#define SHORT_MS 10
/* Fewer bytes than that are no reason to let a stopped guest go on once more. */
#define RETREAT_BYTES (1u << 20)

static uint64_t dirty_bytes(const guest_pages_vec *pages)
{
	uint64_t sum = 0;

	vec_each(pages, p)
		sum += prange_bytes(&p->scan.dirty);
	return sum;
}

/* ---- what an earlier round found and did not send ---- */

void round_forget(struct migration *m)
{
	guest_pages_free(&m->carry);
	vec_each(&m->left, l)
		vec_free(&l->range);
	vec_free(&m->left);
}

static struct guest_pages *pages_of(guest_pages_vec *v, const struct pages_space *s)
{
	vec_each(v, p)
		if (p->space.kind == s->kind && p->space.id == s->id)
			return p;
	return NULL;
}

/* Private memory of an address space, as the target was or will be told; that of files, too? */
static void private_memory(const struct guest *g, pid_t pid, bool files, prange_vec *out)
{
	vec_each(&g->mm, m) {
		if (m->pid != pid || !m->task->mm)
			continue;
		vec_each(&m->task->mm->maps.vma, v)
			if (!v->shared && (files || !v->ino))
				prange_add(out, v->start, v->end);
	}
}

/* A page that was found at an address where there is no private memory now: what it was in is gone,
 * and an object that has taken the place is looked at by itself. */
static void drop_unmapped(const struct guest *g, const struct pages_space *s, prange_vec *r)
{
	prange_vec private = { 0 }, rest = { 0 };

	if (s->kind != PAGES_TASK)
		return;
	private_memory(g, s->pid, true, &private);
	prange_and(r, &private, &rest);
	vec_free(&private);
	vec_free(r);
	*r = rest;
}

/* What is void remains so; of what is dirty, that which the new scan did not find again stays in
 * m->carry, unless it found it void: what is there later would come and go unseen. Spaces that are
 * gone go. */
static void join_carry(struct migration *m, guest_pages_vec *now)
{
	size_t keep = 0;

	for (size_t i = 0; i < m->carry.n; i++) {
		struct guest_pages c = m->carry.at[i], *p = pages_of(now, &c.space);
		prange_vec same = { 0 }, rest = { 0 };

		if (p) {
			prange_minus(&c.scan.dirty, &p->scan.dirty, &same);
			prange_minus(&same, &p->scan.reset, &rest);
			drop_unmapped(&m->guest, &p->space, &rest);
			prange_merge(&p->scan.reset, &c.scan.reset);
			c.space = p->space;
		}
		vec_free(&same);
		scan_free(&c.scan);
		c.scan.dirty = rest;
		if (p)
			m->carry.at[keep++] = c;
	}
	m->carry.n = keep;
}

/* All that the scan found is due later. */
static void stash(struct migration *m, guest_pages_vec *pages)
{
	vec_each(&m->carry, c) {
		struct guest_pages *p = pages_of(pages, &c->space);

		if (p)
			prange_merge(&p->scan.dirty, &c->scan.dirty);
	}
	round_forget(m);
	m->carry = *pages;
	memset(pages, 0, sizeof(*pages));
}

/* The round's sending was cut short: what was left of it. */
static void keep_left(struct migration *m)
{
	guest_pages_free(&m->carry);
	pthread_mutex_lock(&m->watch.live.lock);
	vec_each(&m->left, l) {
		struct guest_pages *c = pages_of(&m->carry, &l->space);

		if (!c) {
			c = vec_new(&m->carry);
			c->space = l->space;
		}
		prange_merge(&c->scan.dirty, &l->range);
		vec_free(&l->range);
	}
	m->left.n = 0;
	pthread_mutex_unlock(&m->watch.live.lock);
}

/* ---- to the target ---- */

static void void_list(const guest_pages_vec *pages, StreamVoid *voids, StreamVoid **list,
		      StreamRound *r)
{
	vec_each(pages, p) {
		StreamVoid *v = &voids[r->n_voids];

		if (!p->scan.reset.n)
			continue;
		stream_void__init(v);
		v->kind = p->space.kind;
		v->id = p->space.id;
		v->n_range = 2 * p->scan.reset.n;
		v->range = (uint64_t *)p->scan.reset.at;
		list[r->n_voids++] = v;
	}
}

/* A busy machine makes a measurement longer, never shorter. */
static void least(uint64_t *have, uint64_t ns)
{
	if (!*have || ns < *have)
		*have = ns;
}

static int ready(struct migration *m, struct err *e)
{
	_cleanup_msg_ StreamAnswer *a = NULL;
	uint64_t since = io_now_ns();
	int ret = stream_recv(m->control, STREAM_READY, &a, ANSWER_MS, e);

	if (ret < 0)
		return ret;
	uint64_t took = io_now_ns() - since, way = took > a->ns ? took - a->ns : 0;
	m->costs.shape_ns = a->ns;
	least(&m->costs.answer_ns, way);
	return 0;
}

/* Tells the target the shape and what is void; it answers when pages may come. Nothing to tell:
 * nothing is told, unless it is the last round. */
static int announce(struct migration *m, struct img_set *set, const guest_pages_vec *pages,
		    bool last, struct err *e)
{
	StreamRound r = STREAM_ROUND__INIT;
	_cleanup_free_ StreamVoid *voids = xcalloc(pages->n, sizeof(*voids));
	_cleanup_free_ StreamVoid **list = xcalloc(pages->n, sizeof(*list));
	_cleanup_(buf_free) struct buf state = { 0 };

	r.number = m->round;
	r.voids = list;
	void_list(pages, voids, list, &r);
	img_set_encode(set, &state);
	if (last || state.n != m->last_state.n || memcmp(state.at, m->last_state.at, state.n)) {
		r.has_state = true;
		r.state = (ProtobufCBinaryData){ state.n, state.at };
	}
	if (!last && m->round > 1 && !r.has_state && !r.n_voids)
		return 0;
	int ret = stream_send(m->control, last ? STREAM_LAST : STREAM_ROUND, &r, e);
	if (ret < 0)
		return ret;
	struct buf old = m->last_state;
	m->last_state = state;
	state = old;
	return ready(m, e);
}

/* When the target gives up, its connections end; why it did so is on the control connection. */
static int explain(struct migration *m, struct err *e)
{
	struct err why = ERR_INIT;
	enum stream_type type;
	_cleanup_msg_ ProtobufCMessage *ignored = NULL;

	if (stream_recv_any(m->control, &type, &ignored, 1000, &why) == -EREMOTEIO)
		*e = why;
	return -e->code;
}

/* What the target drops, or never had. */
static void forget(struct migration *m, const guest_pages_vec *pages)
{
	vec_each(pages, p) {
		if (p->fresh)
			pages_sender_forget(m->sender, &p->space, NULL, 0);
		else if (p->scan.reset.n)
			pages_sender_forget(m->sender, &p->space, p->scan.reset.at,
					    p->scan.reset.n);
	}
}

/* To an address space of which the target has nothing yet. Zeros need not be written there where
 * nothing was; over a file they must, whatever stands in the file at that moment. */
static int queue_fresh(struct migration *m, const struct guest_pages *p, bool live, struct err *e)
{
	prange_vec anonymous = { 0 }, fresh = { 0 }, rest = { 0 };

	private_memory(&m->guest, p->space.pid, false, &anonymous);
	prange_and(&p->scan.dirty, &anonymous, &fresh);
	prange_minus(&p->scan.dirty, &anonymous, &rest);
	int ret = pages_send(m->sender, &p->space, fresh.at, fresh.n, true, live, e);
	if (ret == 0)
		ret = pages_send(m->sender, &p->space, rest.at, rest.n, false, live, e);
	vec_free(&anonymous);
	vec_free(&fresh);
	vec_free(&rest);
	return ret;
}

static int queue(struct migration *m, const guest_pages_vec *pages, bool live, struct err *e)
{
	int ret = 0;

	vec_each(pages, p)
		if (ret == 0 && p->fresh && p->space.kind == PAGES_TASK)
			ret = queue_fresh(m, p, live, e);
		else if (ret == 0 && p->scan.dirty.n)
			ret = pages_send(m->sender, &p->space, p->scan.dirty.at, p->scan.dirty.n,
					 p->fresh, live, e);
	return ret;
}

static int send_pages(struct migration *m, const guest_pages_vec *pages, bool live,
		      struct pages_stats *st, struct err *e)
{
	forget(m, pages);
	int ret = queue(m, pages, live, e);

	if (ret == 0)
		ret = queue(m, &m->carry, true, e); /* it may have gone since it was found */
	if (ret == 0)
		ret = pages_flush(m->sender, st, e);
	return ret < 0 ? explain(m, e) : 0;
}

void round_count(struct migration *m, uint64_t dirty, const struct pages_stats *st, uint64_t ns)
{
	flow_report_round(&m->report, m->round, dirty, st, ns);
	watch_round(&m->watch, m->round, dirty, st->bytes_wire, (double)ns / 1e9);
}

/* ---- while the guest runs ---- */

static int track(struct migration *m, struct err *e)
{
	uint64_t since = io_now_ns();

	if (!guest_needs_stop(&m->guest))
		return guest_track(&m->guest, m->guest.tracker, e);
	throttle_pause(m->throttle);
	int ret = guest_track(&m->guest, m->guest.tracker, e);
	throttle_resume(m->throttle);
	least(&m->costs.stop_ns, io_now_ns() - since);
	return ret;
}

static int scan(struct migration *m, guest_pages_vec *pages, struct converge_round *r,
		struct err *e)
{
	bool stops = guest_scan_stops(&m->guest);
	uint64_t now = io_now_ns();

	r->interval_ns = m->scan_at ? now - m->scan_at : 0;
	r->ran = throttle_ran(m->throttle);
	m->scan_at = now;
	if (stops)
		throttle_pause(m->throttle);
	int ret = guest_scan_live(&m->guest, pages, e);
	if (stops)
		throttle_resume(m->throttle);
	least(&m->costs.scan_ns, io_now_ns() - now);
	return ret;
}

static void begin_sending(struct migration *m, const struct converge_round *r)
{
	struct flow_watch *w = &m->watch;

	pthread_mutex_lock(&w->live.lock);
	m->to_send = r->dirty;
	if (r->interval_ns)
		m->dirty_rate = (uint64_t)((double)r->dirty * 1e9 / (double)r->interval_ns);
	m->round_now = m->round;
	m->phase = "round";
	pthread_mutex_unlock(&w->live.lock);
}

static void set_sending(struct migration *m, bool on)
{
	pthread_mutex_lock(&m->watch.live.lock);
	m->sending = on;
	if (!on)
		m->to_send = 0;
	pthread_mutex_unlock(&m->watch.live.lock);
}

int round_live(struct migration *m, struct converge_round *r, struct err *e)
{
	struct img_set *set = img_set_new();
	guest_pages_vec pages = { 0 };
	struct pages_stats st = { 0 };
	uint64_t before = io_now_ns();

	*r = (struct converge_round){ .number = ++m->round };
	int ret = guest_skeleton(&m->guest, set, e);
	if (ret == 0)
		ret = track(m, e);
	if (ret == 0 && (ret = scan(m, &pages, r, e)) == 0) {
		join_carry(m, &pages);
		r->dirty = dirty_bytes(&pages) + dirty_bytes(&m->carry);
		begin_sending(m, r);
		uint64_t since = io_now_ns();
		if ((ret = announce(m, set, &pages, false, e)) == 0) {
			set_sending(m, true);
			ret = send_pages(m, &pages, true, &st, e);
		}
		r->send_ns = io_now_ns() - since;
		set_sending(m, false);
	}
	keep_left(m);
	guest_pages_free(&pages);
	img_set_free(set);
	r->fixed_ns = round_fixed_ns(m);
	round_count(m, r->dirty, &st, io_now_ns() - before);
	return ret;
}

uint64_t round_fixed_ns(const struct migration *m)
{
	const struct switch_costs *c = &m->costs;

	return c->stop_ns + c->scan_ns + c->look_ns + 3 * c->answer_ns + c->shape_ns + RUN_NS;
}

/* ---- the last one ---- */

/* The exact count, with the guest stopped: does it fit after all? */
static bool too_much(struct migration *m, uint64_t bytes)
{
	struct flow_qos q = migration_qos(m);
	uint64_t fixed = round_fixed_ns(m);

	m->predicted_ms = converge_downtime_ms(&m->converge, &q, (double)bytes, fixed);
	return bytes > RETREAT_BYTES &&
	       m->predicted_ms > converge_allowed_ms(&m->converge, &q, io_now_ns());
}

static void prepare_sender(struct migration *m, uint64_t bytes)
{
	struct flow_qos q = migration_qos(m);
	double rate = m->converge.placed;

	migration_sender_set(m, &q, true);
	if (rate > 0 && (double)bytes * 1e3 / rate < SHORT_MS)
		pages_sender_plain(m->sender);
}

int round_last(struct migration *m, bool final, struct err *e)
{
	struct img_set *set = img_set_new();
	guest_pages_vec pages = { 0 };
	struct pages_stats st = { 0 };
	struct flow_report *r = &m->report;
	int ret = guest_capture(&m->guest, set, &pages, e);

	bool looked = pages.n > 0; /* or what was found before is still all that is due */
	flow_report_mark(r, "capture");
	if (looked && (ret == 0 || ret == -EAGAIN))
		join_carry(m, &pages);
	uint64_t bytes = dirty_bytes(&pages) + dirty_bytes(&m->carry);
	if (ret == 0 && too_much(m, bytes) && !final)
		ret = err_say(e, EAGAIN, "%lu MiB are left", bytes >> 20);
	if (ret == -EAGAIN) {
		if (looked)
			stash(m, &pages);
		img_set_free(set);
		return ret;
	}
	if (ret == 0) {
		m->round++;
		m->last_said = true;
		prepare_sender(m, bytes);
		ret = announce(m, set, &pages, true, e);
	}
	flow_report_mark(r, "shape");
	if (ret == 0)
		ret = send_pages(m, &pages, false, &st, e);
	flow_report_mark(r, "pages");
	m->last_dirty = bytes;
	m->last_stats = st;
	round_forget(m);
	guest_pages_free(&pages);
	img_set_free(set);
	return ret;
}
