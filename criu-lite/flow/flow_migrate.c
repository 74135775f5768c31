/* SPDX-License-Identifier: Apache-2.0 */
/* migrate: the guest to another host while it works. The source's side of the story. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "flow_host.h"
#include "flow_map.h"
#include "flow_migration.h"
#include "flow_stream.h"
#include "io.h"
#include "log.h"
#include "wire_conn.h"

#define RETREATS_MAX 5

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
	uint64_t since = io_now_ns();

	if (ret == 0)
		ret = guest_fds_preview(&m->guest, e);
	m->costs.look_ns = io_now_ns() - since;
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
		p.has_tcp_established = p.has_skip_in_flight = true;
		p.tcp_established = m->o->kinds.tcp_established;
		p.skip_in_flight = m->o->kinds.skip_in_flight;
		p.address = flow_net_addresses(m->links.net, &p.n_address);
		p.id = m->watch.live.id;
		p.map_address = (char **)m->o->map_address;
		p.n_map_address = m->o->n_map_address;
		m->report.total_bytes = p.memory;
		ret = stream_send(m->control, STREAM_PREFLIGHT, &p, e);
		for (size_t i = 0; i < p.n_address; i++)
			free(p.address[i]);
		free(p.address);
	}
	img_set_free(set);
	if (ret == 0)
		ret = stream_recv(m->control, STREAM_VERDICT, &a, ANSWER_MS, e);
	return ret;
}

static struct pages_opts sender_opts(const struct flow_qos *q)
{
	return (struct pages_opts){ .method = (enum comp_method)q->comp_method,
				    .level = (int)q->comp_level,
				    .bandwidth = (uint64_t)q->bandwidth << 20, .same = true };
}

/* `n` more connections, which the target is waiting for. */
static int connect_more(struct migration *m, size_t n, struct err *e)
{
	int ret = 0, fd;

	for (size_t i = 0; i < n && ret == 0; i++)
		if ((ret = wire_connect(m->o->where, WIRE_DATA, &m->id, &fd, e)) == 0)
			ret = pages_sender_add(m->sender, fd, e);
	return ret;
}

static int connect_data(struct migration *m, struct err *e)
{
	struct pages_opts opts = sender_opts(&m->o->qos);
	int first, ret;

	if ((ret = wire_connect(m->o->where, WIRE_DATA, &m->id, &first, e)) < 0 ||
	    (ret = pages_sender_new(&m->sender, &first, 1, &opts, e)) < 0)
		return ret;
	return connect_more(m, (size_t)m->o->qos.connections - 1, e);
}

/* ---- changed while it runs ---- */

void migration_sender_set(struct migration *m, const struct flow_qos *q, bool switching)
{
	struct pages_opts opts = sender_opts(q);

	if (switching && q->switchover_bandwidth != QOS_SAME)
		opts.bandwidth = (uint64_t)q->switchover_bandwidth << 20;
	pages_sender_set(m->sender, &opts);
}

/* As many connections as are wished for; between rounds. */
static int match_connections(struct migration *m, const struct flow_qos *q, struct err *e)
{
	StreamMore more = STREAM_MORE__INIT;
	_cleanup_msg_ StreamAnswer *a = NULL;
	size_t have = pages_sender_conns(m->sender), want = (size_t)q->connections;
	int ret;

	pages_sender_use(m->sender, want);
	if (want <= have)
		return 0;
	more.connections = (uint32_t)(want - have);
	if ((ret = stream_send(m->control, STREAM_MORE, &more, e)) < 0 ||
	    (ret = connect_more(m, want - have, e)) < 0)
		return ret;
	return stream_recv(m->control, STREAM_READY, &a, ANSWER_MS, e);
}

/* ---- watched and steered ---- */

struct flow_qos migration_qos(struct migration *m)
{
	pthread_mutex_lock(&m->watch.live.lock);
	struct flow_qos q = m->watch.live.qos;
	pthread_mutex_unlock(&m->watch.live.lock);
	return q;
}

int migration_wanted(struct migration *m, struct err *e)
{
	if (!m->watch.live.abort)
		return 0;
	if (!m->watch.timed_out)
		return err_say(e, ECANCELED, "aborted %s: the guest goes on here",
			       m->watch.interrupted ? "by a signal" : "by criu-lite ctl");
	err_say(e, ETIMEDOUT, "not complete within its time: the guest goes on here");
	return err_remedy(e, "allow more time (--timeout), more downtime (--max-downtime), or "
			     "--timeout-action suspend");
}

/* ctl has changed what the connections obey: at once, but not in the middle of the switch. */
static void follow(struct migration *m, const struct flow_qos *q)
{
	unsigned changes = m->watch.live.changes;

	if (changes == m->followed || !strcmp(m->phase, "switch"))
		return;
	m->followed = changes;
	migration_sender_set(m, q, false);
	pages_sender_use(m->sender, (size_t)q->connections);
}

static void rates(struct migration *m, const struct pages_stats *st, struct flow_sample *now)
{
	double s = now->elapsed - m->looked_s;
	double raw = (double)st->bytes_raw - (double)m->looked.bytes_raw;
	double wire = (double)st->bytes_wire - (double)m->looked.bytes_wire;

	if (s <= 0)
		return;
	now->wire_rate = wire / s;
	now->placed_rate = (double)(st->bytes_placed - m->looked.bytes_placed) / s;
	if (wire > 0)
		now->compression = raw / wire;
	m->looked = *st;
	m->looked_s = now->elapsed;
}

static uint64_t look(void *arg, struct flow_sample *now)
{
	struct migration *m = arg;
	struct pages_stats st;

	pages_sender_sample(m->sender, &st);
	rates(m, &st, now);
	pthread_mutex_lock(&m->watch.live.lock);
	const struct flow_qos *q = &m->watch.live.qos;
	follow(m, q);
	now->phase = m->phase;
	now->round = m->round_now;
	now->total_bytes = m->report.total_bytes;
	now->remaining_bytes = m->sending ? st.queue_bytes : m->to_send;
	now->wire_bytes = st.bytes_wire;
	now->pages = st.pages;
	now->zero_pages = st.zero_pages;
	now->same_pages = st.same_pages;
	now->dirty_rate = (double)m->dirty_rate;
	now->throttle = m->converge.throttle;
	now->predicted_ms = m->converge.predicted_ms;
	now->allowed_ms = converge_allowed_ms(&m->converge, q, io_now_ns());
	uint64_t deadline = m->cancelable ? converge_deadline_ns(&m->converge, q) : 0;
	pthread_mutex_unlock(&m->watch.live.lock);
	return deadline;
}

static void obey(void *arg)
{
	struct migration *m = arg;
	struct err why = ERR_INIT;

	pthread_mutex_lock(&m->watch.live.lock);
	if (m->cancelable && migration_wanted(m, &why) < 0) {
		pages_sender_cancel(m->sender, &why);
		shutdown(m->control, SHUT_RDWR);
	} else if (m->sending && m->watch.live.force) {
		/* only while the guest runs: then the last round sends what is left */
		pages_take_back(m->sender, &m->left);
	}
	pthread_mutex_unlock(&m->watch.live.lock);
}

static int begin_watch(struct migration *m, struct err *e)
{
	struct flow_live *l = &m->watch.live;
	struct task *root = m->guest.tree.task.at[0];

	snprintf(l->guest, sizeof(l->guest), "%s", root->comm);
	snprintf(l->target, sizeof(l->target), "%s", m->o->where);
	l->pid = root->pid;
	l->qos = m->o->qos;
	m->watch.look = look;
	m->watch.obey = obey;
	m->watch.arg = m;
	return watch_begin(&m->watch, m->o, e);
}

/* ---- begin and end ---- */

static int begin(struct migration *m, const struct flow_opts *o, struct err *e)
{
	enum tracker_kind k = o->tracker;
	int ret;

	*m = (struct migration){ .o = o, .control = -1 };
	live_begin(&m->watch.live);
	m->report.start_ns = io_now_ns();
	if (getrandom(&m->id, sizeof(m->id), 0) != sizeof(m->id))
		return err_set(e, errno, "getrandom");
	for (size_t i = 0; i < sizeof(m->id.at); i++)
		snprintf(m->watch.live.id + 2 * i, 3, "%02x", m->id.at[i]);
	if ((ret = flow_need_root(e)) < 0 ||
	    (ret = flow_map_check(o->map_address, o->n_map_address, e)) < 0)
		return ret;
	flow_raise_limits();
	flow_net_sweep();
	if ((ret = tracker_probe(&k, e)) < 0 ||
	    (ret = guest_open(&m->guest, o, e)) < 0)
		return ret;
	m->guest.tracker = k;
	m->throttle = throttle_new(o->pid, &m->guest.guard);
	if ((ret = wire_connect(o->where, WIRE_CONTROL, &m->id, &m->control, e)) < 0)
		return ret;
	if ((ret = links_source(&m->links, o, m->watch.live.id, o->where, m->control, e)) < 0 ||
	    (ret = ask_target(m, e)) < 0 || (ret = connect_data(m, e)) < 0)
		return ret;
	m->phase = "setup";
	converge_begin(&m->converge, m->report.total_bytes, io_now_ns());
	m->cancelable = true;
	return begin_watch(m, e);
}

static void end(struct migration *m)
{
	watch_end(&m->watch);
	pages_sender_free(m->sender);
	if (m->control >= 0)
		close(m->control);
	if (m->guest.kinds)
		guest_close(&m->guest);
	links_end(&m->links);
	round_forget(m);
	buf_free(&m->last_state);
	flow_report_free(&m->report);
	live_end(&m->watch.live);
	watch_flush(&m->watch);
}

/* ---- rounds ---- */

static void slow_down(struct migration *m, const struct flow_qos *q)
{
	struct err wrong = ERR_INIT;

	if (throttle_set(m->throttle, m->converge.throttle, q->throttle, &wrong) < 0)
		log_warn("the guest is not throttled: %s", wrong.text);
}

/* Until the guest may be stopped. *final: whatever is left then. */
static int rounds(struct migration *m, bool *final, struct err *e)
{
	enum converge_what what = CONVERGE_GO_ON;
	struct converge_round r;
	int ret = 0;

	do { /* one at least: the target needs a shape */
		if ((ret = migration_wanted(m, e)) < 0 || (ret = round_live(m, &r, e)) < 0)
			return ret;
		struct flow_qos q = migration_qos(m);
		pthread_mutex_lock(&m->watch.live.lock);
		what = converge_next(&m->converge, &q, &r, io_now_ns());
		pthread_mutex_unlock(&m->watch.live.lock);
		slow_down(m, &q);
		if ((ret = match_connections(m, &q, e)) < 0)
			return ret;
	} while (what == CONVERGE_GO_ON && !m->watch.live.force);
	*final = m->watch.live.force || what == CONVERGE_ENOUGH;
	return migration_wanted(m, e);
}

/* ---- the switch ---- */

static int prepare(struct migration *m, bool final, struct err *e)
{
	StreamSign seal = STREAM_SIGN__INIT;
	_cleanup_msg_ StreamAnswer *a = NULL;
	int ret = round_last(m, final, e);

	if (ret < 0 || (ret = stream_send(m->control, STREAM_SEAL, &seal, e)) < 0)
		return ret;
	ret = stream_recv(m->control, STREAM_PREPARED, &a, ANSWER_MS, e);
	flow_report_mark(&m->report, "prepare");
	return ret;
}

/* A target that has died since it was ready. */
static int is_there(struct migration *m, struct err *e)
{
	struct pollfd p = { m->control, POLLRDHUP, 0 };

	if (poll(&p, 1, 0) == 1 && p.revents & (POLLRDHUP | POLLHUP | POLLERR))
		return err_say(e, ECONNRESET,
			       "the target has ended before it was told to run; look at its log");
	return 0;
}

/* The last that can fail or take long while the guest would go on by itself if we died. */
static int leave(struct migration *m, struct err *e)
{
	pthread_mutex_lock(&m->watch.live.lock);
	int ret = migration_wanted(m, e);
	m->cancelable = false;
	pthread_mutex_unlock(&m->watch.live.lock);
	if (ret == 0)
		ret = links_take(&m->links, m->guest.tree.task.at[0]->pid, e);
	return ret < 0 ? ret : is_there(m, e);
}

/* From here on the target may run: the source never does again by itself. */
static int commit(struct migration *m, struct err *e)
{
	StreamSign go = STREAM_SIGN__INIT;
	_cleanup_msg_ StreamAnswer *a = NULL;
	int ret = guest_pin(&m->guest, e);

	if (ret == 0)
		ret = links_commit(&m->links, e);
	if (ret < 0)
		return -EREMOTEIO; /* nothing was said yet */
	if ((ret = stream_send(m->control, STREAM_GO, &go, e)) == 0)
		ret = stream_recv(m->control, STREAM_RUNNING, &a, ANSWER_MS, e);
	flow_report_mark(&m->report, "run");
	return ret;
}

/* Two hosts must not answer for one connection, so here nobody does. */
static int keep_lock(struct migration *m, pid_t root, struct err *e)
{
	struct err why = ERR_INIT;

	err_remedy(e, "look whether pid %d runs on the target: if so, kill it here (kill -KILL "
		   "%d); if not, let it go on (kill -CONT %d), without its TCP connections; then "
		   "lift the network lock (nft delete table inet criu-lite-%s)", root, root, root,
		   flow_net_id(m->links.net));
	if (flow_net_keep(steal_ptr(m->links.net), &why) < 0)
		log_warn("%s", why.text);
	return -e->code;
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
	err_in(e, "the link broke after the target was told to run; pid %d is kept stopped here",
	       root);
	if (m->links.net)
		return keep_lock(m, root, e);
	return err_remedy(e,
			  "look whether pid %d runs on the target: if so, kill it here (kill -KILL "
			  "%d); if not, let it go on (kill -CONT %d)",
			  root, root, root);
}

/* The last live round is over: both sides take precedence over other work of their machines, or
 * stopping spinning threads and every message would take milliseconds. */
static void hurry(struct migration *m, bool on)
{
	StreamSign soon = STREAM_SIGN__INIT;
	struct err ignored = ERR_INIT; /* a broken link will show in the next message */

	stream_send(m->control, on ? STREAM_HURRY : STREAM_EASE, &soon, &ignored);
	flow_hurry(on);
}

/* The guest goes on here, with its connections. */
static void stay(struct migration *m)
{
	kind_dump_undo(m->guest.kinds);
	links_undo(&m->links, m->o->pid);
	guest_thaw(&m->guest);
}

/* What its peers have sent here while it stood still. */
static void tell_caught(struct migration *m)
{
	StreamCaught c = STREAM_CAUGHT__INIT;
	_cleanup_(buf_free) struct buf packets = { 0 };
	struct err why = ERR_INIT;

	if (!m->links.net)
		return;
	if (flow_net_caught(m->links.net, &packets, &why) < 0)
		log_info("%s", why.text);
	c.packets = (ProtobufCBinaryData){ packets.n, packets.at };
	if (stream_send(m->control, STREAM_CAUGHT, &c, &why) < 0)
		log_info("%s", why.text);
}

/* Nothing is said yet that ends the rounds: they go on. */
static bool may_go_on(const struct migration *m, int ret)
{
	return ret == -EAGAIN && !m->last_said;
}

/* May fail so that rounds go on: the guest runs again. */
static int switch_over(struct migration *m, bool final, struct err *e)
{
	int ret;

	pthread_mutex_lock(&m->watch.live.lock);
	m->phase = "switch";
	pthread_mutex_unlock(&m->watch.live.lock);
	hurry(m, true);
	throttle_pause(m->throttle);
	links_close_listeners(&m->links, &m->guest);
	flow_report_freeze(&m->report);
	ret = guest_freeze(&m->guest, e);
	flow_report_mark(&m->report, "stop");
	if (ret < 0 || (ret = links_close(&m->links, &m->guest, e)) < 0 ||
	    (ret = prepare(m, final, e)) < 0) {
		stay(m);
		if (may_go_on(m, ret))
			hurry(m, false);
		else
			flow_hurry(false);
		throttle_resume(m->throttle);
		return ret;
	}
	bool gone = (ret = leave(m, e)) == 0;
	if (gone)
		ret = commit(m, e);
	flow_report_thaw(&m->report);
	flow_hurry(false);
	if (ret == 0) {
		flow_guard_over(&m->guest.guard, &m->guest.tree);
		guest_kill(&m->guest);
		tell_caught(m);
		round_count(m, m->last_dirty, &m->last_stats, m->last_stats.ns);
		return 0;
	}
	if (gone && ret != -EREMOTEIO)
		return undecided(m, e);
	if (gone)
		guest_unpin(&m->guest); /* the target itself says that it does not run there */
	stay(m);
	return -EREMOTEIO;
}

/* What a pre-dump has left to be tracked (--track-mem) would be told as clean to the dump after it:
 * we clear the bits. (A userfaultfd says so itself, there is but one.) */
static void end_pre_dumps(const struct migration *m)
{
	struct err ignored = ERR_INIT;
	struct tracker **t;
	size_t n;

	if (m->guest.tracker == TRACKER_SOFT_DIRTY)
		tracker_claim(&t, &n, m->o->pid, NULL, &ignored);
}

/* Rounds and the switch; rounds again if the stopped guest had more to send than was foreseen, or
 * was in a state that passes. */
static int move(struct migration *m, struct err *e)
{
	bool final;

	end_pre_dumps(m);
	int ret = guest_track(&m->guest, m->guest.tracker, e);

	while (ret == 0) {
		if ((ret = rounds(m, &final, e)) < 0)
			break;
		ret = switch_over(m, final || m->retreats >= RETREATS_MAX, e);
		if (!may_go_on(m, ret) || m->retreats > RETREATS_MAX)
			break;
		m->retreats++;
		m->converge.stalls = 0;
		log_info("went on again: %s", e->text);
		err_clear(e);
		ret = 0;
	}
	return ret;
}

static int tell_result(struct migration *m, int ret, struct err *e)
{
	struct samples_more more = { .predicted_ms = m->predicted_ms };
	struct err wrong = ERR_INIT;
	struct pages_stats all;

	if (!m->watch.o)
		return ret; /* it never began */
	if (ret < 0 && m->cancelable) {
		/* what broke when it was ended is not the reason */
		struct err why = ERR_INIT;

		if (migration_wanted(m, &why) < 0)
			*e = why;
	}
	/* a wish that came too late did not end it */
	bool wanted = m->watch.live.abort && (e->code == ECANCELED || e->code == ETIMEDOUT);
	const char *status = ret == 0 ? "completed" : wanted ? "aborted" : "failed";
	pages_sender_sample(m->sender, &all);
	more.same_pages = all.same_pages;
	if (watch_result(&m->watch, &m->report, status, &more, ret < 0 ? e : NULL, &wrong) < 0)
		log_warn("report: %s", wrong.text);
	m->report.predicted_ms = m->predicted_ms;
	bool lines = m->o->progress && !strcmp(m->o->progress, "json");
	if (ret == 0 && !lines && !m->o->quiet)
		flow_report_print(&m->report, m->o->json);
	return ret;
}

int flow_migrate(const struct flow_opts *o, struct err *e)
{
	struct migration m;
	int ret = begin(&m, o, e);

	if (ret == 0)
		ret = move(&m, e);
	throttle_free(steal_ptr(m.throttle)); /* the guest does not wait for what is told now */
	ret = tell_result(&m, ret, e);
	end(&m);
	return ret;
}
