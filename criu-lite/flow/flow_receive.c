/* SPDX-License-Identifier: Apache-2.0 */
/* receive: the target's side of a migration, one after another. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "flow.h"
#include "flow_guard.h"
#include "flow_host.h"
#include "flow_landing.h"
#include "flow_links.h"
#include "flow_map.h"
#include "flow_stream.h"
#include "io.h"
#include "log.h"
#include "wire_conn.h"

#define HELLO_MS 10000             /* preflight and data connections follow at once */

struct arrival {
	const struct flow_opts *o;
	struct wire_listener *listener;
	struct wire_peer peer;       /* control */
	struct landing landing;
	struct links links;
	struct flow_guard guard;     /* if we touch the network */
	VEC(char *) maps;            /* of addresses, the source's and our own */
	struct pages_receiver *pages;
	bool running;
	char guest[64];
	pid_t pid;
};

/* ---- may it come? ---- */

static int check_memory(uint64_t need, struct err *e)
{
	uint64_t have = flow_memory_available();

	if (need <= have)
		return 0;
	err_say(e, ENOMEM, "not enough memory: the guest has %lu MiB, %lu MiB are available here",
		need >> 20, have >> 20);
	return err_remedy(e, "free memory on the target or raise its cgroup limit");
}

static int take_maps(struct arrival *a, const StreamPreflight *p, struct err *e)
{
	for (size_t i = 0; i < p->n_map_address; i++)
		vec_push(&a->maps, xstrdup(p->map_address[i]));
	for (unsigned i = 0; i < a->o->n_map_address; i++)
		vec_push(&a->maps, xstrdup(a->o->map_address[i]));
	return flow_map_check((const char *const *)a->maps.at, a->maps.n, e);
}

/* A state that came, with the addresses of this place. */
static int decode(struct arrival *a, const ProtobufCBinaryData *state, struct img_set **set,
		  struct err *e)
{
	size_t ended;
	int ret = img_set_decode(set, state->data, state->len, e);

	if (ret < 0 || !a->maps.n)
		return ret;
	if ((ret = flow_map_apply(*set, (const char *const *)a->maps.at, a->maps.n, &ended, e)) < 0)
		img_set_free(steal_ptr(*set));
	else if (ended)
		log_info("%zu connections of addresses that are others here end", ended);
	return ret;
}

static int accept_data(struct arrival *a, uint32_t n, struct err *e)
{
	struct wire_peer data;
	int ret;

	for (uint32_t i = 0; i < n; i++) {
		if ((ret = wire_listener_accept(a->listener, &data, HELLO_MS, e)) < 0)
			return err_in(e, "data connection %u of %u more", i + 1, n);
		if (data.role != WIRE_DATA) {
			close(data.fd);
			return err_say(e, EPROTO, "a second control connection");
		}
		if ((ret = pages_receiver_add(a->pages, data.fd, e)) < 0)
			return ret;
	}
	return 0;
}

static int preflight(struct arrival *a, struct err *e)
{
	_cleanup_msg_ StreamPreflight *p = NULL;
	struct kind_opts k = a->o->kinds;
	struct img_set *set = NULL;
	struct err wrong = ERR_INIT;
	int ret = stream_recv(a->peer.fd, STREAM_PREFLIGHT, &p, HELLO_MS, e);

	if (ret < 0)
		return ret;
	snprintf(a->guest, sizeof(a->guest), "%s", p->guest);
	log_info("%s: guest %s, %lu MiB", a->peer.name, a->guest, p->memory >> 20);
	k.shell_job |= p->shell_job;
	k.ext_unix_sk |= p->ext_unix_sk;
	k.tcp_close |= p->tcp_close;
	k.file_locks |= p->file_locks;
	k.tcp_established |= p->tcp_established;
	k.skip_in_flight |= p->skip_in_flight;
	landing_begin(&a->landing, a->o, &k, 0);
	if ((ret = take_maps(a, p, &wrong)) == 0)
		ret = decode(a, &p->state, &set, &wrong);
	if (ret == 0)
		ret = check_memory(p->memory, &wrong);
	if (ret == 0)
		ret = landing_check(&a->landing, set, &wrong);
	if (ret == 0)
		ret = links_target(&a->links, a->o, k.tcp_established, p->id ? p->id : "",
				   a->peer.name, p->address, p->n_address, &wrong);
	if (set)
		vec_push(&a->landing.old, set);
	if (ret < 0) {
		struct err ignored = ERR_INIT;

		stream_answer(a->peer.fd, STREAM_VERDICT, &wrong, 0, &ignored);
		*e = wrong;
		return ret;
	}
	if (p->connections < 1 || p->connections > PAGES_CONNS_MAX)
		return err_say(e, EPROTO, "%u data connections", p->connections);
	if ((ret = stream_answer(a->peer.fd, STREAM_VERDICT, NULL, 0, e)) < 0 ||
	    (ret = pages_receiver_new(&a->pages, e)) < 0)
		return ret;
	wire_listener_expect(a->listener, &a->peer.id);
	return accept_data(a, p->connections, e);
}

/* ---- rounds ---- */

static int punch(struct arrival *a, const StreamVoid *v, struct err *e)
{
	struct shm_object *o;
	int ret = shm_get(a->landing.kinds, v->id, &o, e);

	for (size_t i = 0; ret == 0 && i + 1 < v->n_range; i += 2)
		if (fallocate(o->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)v->range[i],
			      (off_t)(v->range[i + 1] - v->range[i])) < 0)
			ret = err_set(e, errno, "shared memory object %u: punch a hole", v->id);
	return ret;
}

static int make_void(struct arrival *a, const StreamVoid *v, struct err *e)
{
	for (size_t i = 0; i + 1 < v->n_range; i += 2)
		if (v->range[i] >= v->range[i + 1])
			return err_say(e, EBADMSG, "void range out of order");
	if (v->kind == PAGES_SHM)
		return punch(a, v, e);
	pages_receiver_void(a->pages, PAGES_TASK, v->id,
			    (const struct prange *)(const void *)v->range, v->n_range / 2);
	struct task *t = shape_find(&a->landing.shape, (pid_t)v->id);
	if (!t || !t->remote)
		return err_say(e, EBADMSG, "void range of unknown task %u", v->id);
	return shape_drop(t, (const struct grange *)(const void *)v->range, v->n_range / 2, e);
}

static int tell_places(struct arrival *a, struct err *e)
{
	struct pages_place to;
	struct task *t;
	size_t n;
	int ret = 0;

	for (size_t i = 0; ret == 0 && (t = shape_at(&a->landing.shape, i)); i++) {
		struct pages_space s = { .kind = PAGES_TASK, .id = (uint32_t)t->pid };

		if (t->state == TASK_DEAD || !t->remote)
			continue;
		if ((ret = landing_place(&a->landing, &s, &to, e)) == 0)
			pages_receiver_space(a->pages, PAGES_TASK, s.id, to);
	}
	struct shm_object *const *o = shm_got_all(a->landing.kinds, &n);
	for (size_t i = 0; ret == 0 && i < n; i++) {
		struct pages_space s = { .kind = PAGES_SHM, .id = o[i]->id };

		if ((ret = landing_place(&a->landing, &s, &to, e)) == 0)
			pages_receiver_space(a->pages, PAGES_SHM, s.id, to);
	}
	return ret;
}

/* All is as it will be: files, which may be the reason for missing memory, then what came. */
static int seal(struct arrival *a, struct err *e)
{
	struct task *t;
	int ret = pages_receiver_error(a->pages, e);

	if (ret == 0)
		ret = landing_seal(&a->landing, e);
	for (size_t i = 0; ret == 0 && (t = shape_at(&a->landing.shape, i)); i++)
		if (t->remote)
			ret = pages_receiver_complete(a->pages, PAGES_TASK, (uint32_t)t->pid, e);
	return ret;
}

static int take_shape(struct arrival *a, const StreamRound *r, struct err *e)
{
	struct img_set *set;
	int ret = 0;

	if (r->has_state) {
		if ((ret = decode(a, &r->state, &set, e)) < 0)
			return ret;
		if ((ret = landing_shape(&a->landing, set, e)) < 0 ||
		    (ret = landing_objects(&a->landing, e)) < 0)
			return ret;
	} else if (!a->landing.set) {
		return err_say(e, EPROTO, "the first round has no state");
	}
	for (size_t i = 0; ret == 0 && i < r->n_voids; i++)
		ret = make_void(a, r->voids[i], e);
	return ret < 0 ? ret : tell_places(a, e);
}

/* Says READY or what is wrong. */
static int answer(struct arrival *a, enum stream_type type, int result, uint64_t since,
		  struct err *e)
{
	struct err ignored = ERR_INIT;

	if (result == 0)
		return stream_answer(a->peer.fd, type, NULL, io_now_ns() - since, e);
	stream_answer(a->peer.fd, type, e, 0, &ignored);
	return result;
}

static int more(struct arrival *a, uint32_t n, struct err *e)
{
	uint64_t since = io_now_ns();
	int ret = n > PAGES_CONNS_MAX ? err_say(e, EPROTO, "%u more connections", n)
				      : accept_data(a, n, e);

	return answer(a, STREAM_READY, ret, since, e);
}

static int rounds(struct arrival *a, struct err *e)
{
	for (;;) {
		_cleanup_msg_ ProtobufCMessage *msg = NULL;
		enum stream_type type;
		int ret = stream_recv_any(a->peer.fd, &type, &msg, -1, e);
		const StreamRound *r = (const StreamRound *)msg;
		uint64_t since = io_now_ns();

		if (ret < 0)
			return ret;
		if (type == STREAM_HURRY) {
			flow_hurry(true);
			shape_hurry(&a->landing.shape);
			continue;
		}
		if (type == STREAM_EASE) {
			flow_hurry(false);
			continue;
		}
		if (type == STREAM_MORE) {
			if ((ret = more(a, ((const StreamMore *)msg)->connections, e)) < 0)
				return ret;
			continue;
		}
		if (type != STREAM_ROUND && type != STREAM_LAST)
			return err_say(e, EPROTO, "a message out of order");
		if ((ret = pages_receiver_error(a->pages, e)) == 0)
			ret = take_shape(a, r, e);
		if ((ret = answer(a, STREAM_READY, ret, since, e)) < 0)
			return ret;
		log_debug("round %u shaped in %.2f ms", r->number,
			  (double)(io_now_ns() - since) / 1e6);
		if (type == STREAM_LAST)
			return 0;
	}
}

/* ---- the switch ---- */

/* It runs: what its peers need to know, and what they have said. */
static void after(struct arrival *a)
{
	_cleanup_msg_ StreamCaught *c = NULL;
	struct err why = ERR_INIT;

	links_running(&a->links, landing_pid(&a->landing));
	if (!a->links.net)
		return;
	if (stream_recv(a->peer.fd, STREAM_CAUGHT, &c, HELLO_MS, &why) < 0)
		log_info("what came during the switch is lost: %s", why.text);
	else
		flow_net_replay(a->links.net, c->packets.data, c->packets.len);
}

static int switch_over(struct arrival *a, struct err *e)
{
	_cleanup_msg_ StreamSign *sign = NULL, *go = NULL;
	uint64_t since = io_now_ns(), filled;
	int ret = links_arrive(&a->links, a->landing.kinds, a->landing.set, e);

	if (ret == 0)
		ret = landing_fill(&a->landing, e);
	filled = io_now_ns();
	if (ret < 0)
		return answer(a, STREAM_PREPARED, ret, since, e);
	if ((ret = stream_recv(a->peer.fd, STREAM_SEAL, &sign, -1, e)) < 0)
		return ret;
	uint64_t sealing = io_now_ns();
	if ((ret = seal(a, e)) == 0)
		ret = links_script(&a->links, "post-restore", landing_pid(&a->landing), e);
	if ((ret = answer(a, STREAM_PREPARED, ret, since, e)) < 0)
		return ret;
	uint64_t sealed = io_now_ns();
	if ((ret = stream_recv(a->peer.fd, STREAM_GO, &go, -1, e)) < 0)
		return ret;
	uint64_t going = io_now_ns();
	if ((ret = links_open(&a->links, landing_pid(&a->landing), e)) == 0)
		ret = landing_run(&a->landing, e);
	a->running = ret == 0;
	ret = answer(a, STREAM_RUNNING, ret, since, e);
	if (a->running && ret < 0) {
		log_warn("the guest runs here, but its source could not be told: %s", e->text);
		err_clear(e);
		ret = 0;
	}
	if (a->running)
		after(a);
	log_info("switch: fill %.2f, seal %.2f, run %.2f ms", (double)(filled - since) / 1e6,
		 (double)(sealed - sealing) / 1e6, (double)(io_now_ns() - going) / 1e6);
	return ret;
}

static int serve(struct arrival *a, struct err *e)
{
	int ret = preflight(a, e);

	if (ret == 0 && a->links.net)
		ret = flow_guard_target(&a->guard, e);
	if (ret == 0)
		ret = rounds(a, e);
	if (ret == 0)
		ret = switch_over(a, e);
	flow_hurry(false);
	pages_receiver_free(a->pages);
	a->pid = landing_pid(&a->landing);
	landing_end(&a->landing);
	if (a->running)
		links_end(&a->links);
	else if (a->links.o)
		links_give_up(&a->links, a->pid);
	flow_guard_end(&a->guard);
	close(a->peer.fd);
	vec_each(&a->maps, m)
		free(*m);
	vec_free(&a->maps);
	return ret;
}

/* Each migration has a process of its own: what goes wrong with one does not touch the next,
 * and its shells die with it. */
static int serve_in_child(const struct flow_opts *o, struct wire_listener *l,
			  const struct wire_peer *peer, struct err *e)
{
	pid_t child = fork();
	int status;

	if (child < 0)
		return err_set(e, errno, "fork");
	if (child == 0) {
		struct arrival a = { .o = o, .listener = l, .peer = *peer };
		struct err wrong = ERR_INIT;
		int ret = serve(&a, &wrong);

		if (ret == 0) {
			printf("guest %s (pid %d) runs here now\n", a.guest, a.pid);
			fflush(stdout);
		} else {
			err_in(&wrong, "migration from %s", peer->name);
			err_print(&wrong);
		}
		_exit(ret == 0 ? 0 : 1);
	}
	close(peer->fd);
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	if (WIFSIGNALED(status))
		flow_net_sweep(); /* the source has the guest, so nothing of it may answer here */
	return err_say(e, EIO, "the migration from %s failed", peer->name);
}

static void reap_guests(void)
{
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
}

int flow_receive(const struct flow_opts *o, struct err *e)
{
	struct wire_listener *l;
	int ret = flow_need_root(e);

	if (ret < 0 || (ret = wire_listener_new(&l, o->where, e)) < 0)
		return ret;
	flow_raise_limits();
	flow_net_sweep();
	printf("listening on %s\n", o->where);
	fflush(stdout);
	for (;;) {
		struct wire_peer peer;

		ret = wire_listener_accept(l, &peer, -1, e);
		if (ret < 0)
			break;
		if (peer.role != WIRE_CONTROL) {
			close(peer.fd);
			continue;
		}
		ret = serve_in_child(o, l, &peer, e);
		reap_guests();
		if (o->once)
			break;
		err_clear(e);
	}
	wire_listener_free(l);
	return ret;
}
