/* SPDX-License-Identifier: Apache-2.0 */
/* migrate: the guest to another host while it works. The source's side of the story. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "flow.h"
#include "flow_guest.h"
#include "flow_host.h"
#include "flow_report.h"
#include "flow_stream.h"
#include "io.h"
#include "log.h"
#include "wire_conn.h"

#define ANSWER_MS   120000          /* the target works: shells, files, memory */
#define CONNECTIONS_MAX 64

struct migration {
	const struct flow_opts *o;
	struct guest guest;
	struct wire_id id;
	int control;
	struct pages_sender *sender;
	struct buf last_state;          /* skeleton as the target has it */
	struct flow_report report;
	uint64_t bytes_per_s;           /* placed, as measured */
};

/* ---- preflight and connections ---- */

static uint64_t memory_of(const struct guest *g)
{
	uint64_t sum = 0;

	vec_each(&g->tree.task, t)
		if ((*t)->state != TASK_DEAD && (*t)->mm)
			vec_each(&(*t)->mm->maps.vma, v)
				sum += v->shared ? v->rss : v->anonymous + v->swap;
	return sum;
}

static int ask_target(struct migration *m, struct err *e)
{
	struct img_set *set = img_set_new();
	StreamPreflight p = STREAM_PREFLIGHT__INIT;
	_cleanup_msg_ StreamAnswer *a = NULL;
	int ret = guest_skeleton(&m->guest, set, e);

	if (ret == 0)
		ret = guest_fds_preview(&m->guest, e);
	if (ret == 0) {
		guest_put_inventory(&m->guest, set);
		img_set_encode(set, &m->last_state);
		p.guest = m->guest.tree.task.at[0]->comm;
		p.state = (ProtobufCBinaryData){ m->last_state.n, m->last_state.at };
		p.memory = memory_of(&m->guest);
		p.connections = (uint32_t)m->o->qos.connections;
		p.has_shell_job = p.has_ext_unix_sk = p.has_tcp_close = p.has_file_locks = true;
		p.shell_job = m->o->kinds.shell_job;
		p.ext_unix_sk = m->o->kinds.ext_unix_sk;
		p.tcp_close = m->o->kinds.tcp_close;
		p.file_locks = m->o->kinds.file_locks;
		m->report.total_bytes = p.memory;
		ret = stream_send(m->control, STREAM_PREFLIGHT, &p, e);
	}
	img_set_free(set);
	if (ret == 0)
		ret = stream_recv(m->control, STREAM_VERDICT, &a, ANSWER_MS, e);
	return ret;
}

static int connect_data(struct migration *m, struct err *e)
{
	const struct flow_qos *q = &m->o->qos;
	struct pages_opts opts = { .method = q->comp_method == COMP_NONE ? COMP_NONE : COMP_ZSTD,
				   .level = (int)q->comp_level,
				   .bandwidth = (uint64_t)q->bandwidth << 20 };
	int fds[CONNECTIONS_MAX];
	unsigned n = 0;
	int ret = 0;

	for (; n < q->connections; n++)
		if ((ret = wire_connect(m->o->where, WIRE_DATA, &m->id, &fds[n], e)) < 0)
			break;
	if (ret == 0)
		return pages_sender_new(&m->sender, fds, n, &opts, e);
	while (n-- > 0)
		close(fds[n]);
	return ret;
}

static int begin(struct migration *m, const struct flow_opts *o, struct err *e)
{
	enum tracker_kind k = o->tracker;
	int ret;

	*m = (struct migration){ .o = o, .control = -1 };
	m->report.start_ns = io_now_ns();
	if (getrandom(&m->id, sizeof(m->id), 0) != sizeof(m->id))
		return err_set(e, errno, "getrandom");
	if ((ret = flow_need_root(e)) < 0 || (ret = tracker_probe(&k, e)) < 0 ||
	    (ret = guest_open(&m->guest, o, e)) < 0)
		return ret;
	m->guest.tracker = k;
	if ((ret = wire_connect(o->where, WIRE_CONTROL, &m->id, &m->control, e)) < 0)
		return ret;
	if ((ret = ask_target(m, e)) < 0)
		return ret;
	return connect_data(m, e);
}

static void end(struct migration *m)
{
	pages_sender_free(m->sender);
	if (m->control >= 0)
		close(m->control);
	if (m->guest.kinds)
		guest_close(&m->guest);
	buf_free(&m->last_state);
	flow_report_free(&m->report);
}

/* ---- rounds ---- */

static uint64_t dirty_bytes(const guest_pages_vec *pages)
{
	uint64_t sum = 0;

	vec_each(pages, p)
		sum += prange_bytes(&p->scan.dirty);
	return sum;
}

/* Tells the target the shape and what is void; it answers when pages may come. Nothing to tell:
 * nothing is told, unless it is the last round. */
static int announce(struct migration *m, struct img_set *set, const guest_pages_vec *pages,
		    uint32_t number, bool last, struct err *e)
{
	StreamRound r = STREAM_ROUND__INIT;
	_cleanup_free_ StreamVoid *voids = xcalloc(pages->n, sizeof(*voids));
	_cleanup_free_ StreamVoid **list = xcalloc(pages->n, sizeof(*list));
	_cleanup_(buf_free) struct buf state = { 0 };
	_cleanup_msg_ StreamAnswer *a = NULL;

	r.number = number;
	r.voids = list;
	vec_each(pages, p) {
		StreamVoid *v = &voids[r.n_voids];

		if (!p->scan.reset.n)
			continue;
		stream_void__init(v);
		v->kind = p->space.kind;
		v->id = p->space.id;
		v->n_range = 2 * p->scan.reset.n;
		v->range = (uint64_t *)p->scan.reset.at;
		list[r.n_voids++] = v;
	}
	img_set_encode(set, &state);
	if (last || state.n != m->last_state.n || memcmp(state.at, m->last_state.at, state.n)) {
		r.has_state = true;
		r.state = (ProtobufCBinaryData){ state.n, state.at };
	}
	if (!last && number > 1 && !r.has_state && !r.n_voids)
		return 0;
	int ret = stream_send(m->control, last ? STREAM_LAST : STREAM_ROUND, &r, e);
	if (ret < 0)
		return ret;
	struct buf old = m->last_state;
	m->last_state = state;
	state = old;
	return stream_recv(m->control, STREAM_READY, &a, ANSWER_MS, e);
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

static int send_pages(struct migration *m, const guest_pages_vec *pages, bool live,
		      struct pages_stats *st, struct err *e)
{
	int ret = 0;

	vec_each(pages, p)
		if (ret == 0 && p->scan.dirty.n)
			ret = pages_send(m->sender, &p->space, p->scan.dirty.at, p->scan.dirty.n,
					 p->fresh, live, e);
	if (ret == 0)
		ret = pages_flush(m->sender, st, e);
	return ret < 0 ? explain(m, e) : 0;
}

static int round_live(struct migration *m, uint32_t number, uint64_t *dirty, struct err *e)
{
	struct img_set *set = img_set_new();
	guest_pages_vec pages = { 0 };
	struct pages_stats st = { 0 };
	uint64_t before = io_now_ns();
	int ret = guest_skeleton(&m->guest, set, e);

	if (ret == 0)
		ret = guest_track(&m->guest, m->guest.tracker, e);
	if (ret == 0 && (ret = guest_scan_live(&m->guest, &pages, e)) == 0 &&
	    (ret = announce(m, set, &pages, number, false, e)) == 0)
		ret = send_pages(m, &pages, true, &st, e);
	*dirty = dirty_bytes(&pages);
	guest_pages_free(&pages);
	img_set_free(set);
	uint64_t ns = io_now_ns() - before;
	if (ret == 0 && *dirty > (8u << 20))
		m->bytes_per_s = (uint64_t)((double)*dirty * 1e9 / (double)(ns ? ns : 1));
	flow_report_round(&m->report, number, *dirty, &st, ns);
	return ret;
}

/* Rounds go on while they still shrink what is left (one bad round does not count: the machine may
 * have been busy); then what is left must fit the downtime. */
#define STALLS_MAX  2
#define ROUNDS_MAX  30
#define LITTLE      (256 * 1024ul)

struct progress {
	uint64_t best;               /* least bytes that a round found dirty */
	unsigned stalls;             /* rounds since then */
};

static bool enough(const struct migration *m, uint32_t number, uint64_t now, struct progress *p)
{
	const struct flow_qos *q = &m->o->qos;
	uint64_t rate = m->bytes_per_s ? m->bytes_per_s : 100u << 20;
	double ms = (double)now * 1e3 / (double)rate;

	p->stalls = now < p->best - p->best / 8 ? 0 : p->stalls + 1;
	if (now < p->best)
		p->best = now;
	return number >= (q->max_rounds ? q->max_rounds : ROUNDS_MAX) || now <= LITTLE ||
	       (ms < (double)q->max_downtime && p->stalls >= STALLS_MAX);
}

static int rounds(struct migration *m, struct err *e)
{
	struct progress p = { .best = UINT64_MAX };

	for (uint32_t number = 1;; number++) {
		uint64_t now = 0;
		int ret = round_live(m, number, &now, e);

		if (ret < 0)
			return ret;
		if (enough(m, number, now, &p) && number > 1)
			return 0;
	}
}

/* ---- the switch ---- */

/* Compressing what is sent in a few milliseconds anyway only adds to them. */
#define SHORT_MS 10

static bool is_short(const struct migration *m, uint64_t bytes)
{
	return m->bytes_per_s && bytes * 1000 / m->bytes_per_s < SHORT_MS;
}

static int last_round(struct migration *m, struct err *e)
{
	struct img_set *set = img_set_new();
	guest_pages_vec pages = { 0 };
	struct pages_stats st = { 0 };
	struct flow_report *r = &m->report;
	int ret = guest_capture(&m->guest, set, &pages, e);

	flow_report_mark(r, "capture");
	if (ret == 0)
		ret = announce(m, set, &pages, r->rounds + 1, true, e);
	flow_report_mark(r, "shape");
	if (ret == 0) {
		if (is_short(m, dirty_bytes(&pages)))
			pages_sender_plain(m->sender);
		ret = send_pages(m, &pages, false, &st, e);
	}
	flow_report_mark(r, "pages");
	if (ret == 0)
		flow_report_round(r, r->rounds + 1, dirty_bytes(&pages), &st, st.ns);
	guest_pages_free(&pages);
	img_set_free(set);
	return ret;
}

static int prepare(struct migration *m, struct err *e)
{
	StreamSign seal = STREAM_SIGN__INIT;
	_cleanup_msg_ StreamAnswer *a = NULL;
	int ret = last_round(m, e);

	if (ret < 0 || (ret = stream_send(m->control, STREAM_SEAL, &seal, e)) < 0)
		return ret;
	ret = stream_recv(m->control, STREAM_PREPARED, &a, ANSWER_MS, e);
	flow_report_mark(&m->report, "prepare");
	return ret;
}

/* From here on the target may run: the source never does again by itself. */
static int commit(struct migration *m, struct err *e)
{
	StreamSign go = STREAM_SIGN__INIT;
	_cleanup_msg_ StreamAnswer *a = NULL;
	int ret = guest_pin(&m->guest, e);

	if (ret < 0)
		return -EREMOTEIO; /* nothing was said yet */
	if ((ret = stream_send(m->control, STREAM_GO, &go, e)) == 0)
		ret = stream_recv(m->control, STREAM_RUNNING, &a, ANSWER_MS, e);
	flow_report_mark(&m->report, "run");
	return ret;
}

/* GO was sent and nothing came back: the guest may run there. Here it stays, stopped, until
 * somebody who knows decides. */
static int undecided(struct migration *m, struct err *e)
{
	struct tree *t = &m->guest.tree;
	pid_t root = t->task.at[0]->pid;

	vec_each(&t->task, k)
		if ((*k)->remote)
			remote_leave_stopped((*k)->remote);
	task_tree_thaw(t);
	err_in(e, "the link broke after the target was told to run; pid %d is kept stopped here", root);
	return err_remedy(e, "look whether pid %d runs on the target: if so, kill it here (kill -KILL "
			     "%d); if not, let it go on (kill -CONT %d)", root, root, root);
}

/* The last live round is over: both sides take precedence over other work of their machines, or
 * stopping spinning threads and every message would take milliseconds. */
static void hurry(struct migration *m, bool on)
{
	StreamSign soon = STREAM_SIGN__INIT;
	struct err ignored = ERR_INIT; /* a broken link will show in the next message */

	stream_send(m->control, STREAM_HURRY, &soon, &ignored);
	flow_hurry(on);
}

static int switch_over(struct migration *m, struct err *e)
{
	int ret;

	hurry(m, true);
	flow_report_freeze(&m->report);
	ret = guest_freeze(&m->guest, e);
	flow_report_mark(&m->report, "stop");
	if (ret == 0 && (ret = prepare(m, e)) < 0)
		guest_thaw(&m->guest);
	if (ret < 0) {
		flow_hurry(false);
		return ret;
	}
	ret = commit(m, e);
	flow_report_thaw(&m->report);
	flow_hurry(false);
	if (ret == 0) {
		flow_guard_over(&m->guest.guard, &m->guest.tree);
		guest_kill(&m->guest);
		return 0;
	}
	if (ret != -EREMOTEIO)
		return undecided(m, e);
	guest_unpin(&m->guest); /* the target itself says that it does not run there */
	guest_thaw(&m->guest);
	return ret;
}

int flow_migrate(const struct flow_opts *o, struct err *e)
{
	struct migration m;
	int ret = begin(&m, o, e);

	if (ret == 0)
		ret = guest_track(&m.guest, m.guest.tracker, e);
	if (ret == 0)
		ret = rounds(&m, e);
	if (ret == 0)
		ret = switch_over(&m, e);
	if (ret == 0)
		flow_report_print(&m.report, o->json);
	end(&m);
	return ret;
}
