/* SPDX-License-Identifier: Apache-2.0 */
/* The control socket of a migration that is none: answers, and what rude clients can do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cleanup.h"
#include "flow_ctl.h"
#include "io.h"

struct scene {
	char dir[64], inner[80];
	struct flow_live live;
	struct ctl *ctl;
};

static void fill(struct flow_live *l, pid_t pid)
{
	live_begin(l);
	l->pid = pid;
	strcpy(l->id, "ab12cd34ab12cd34ab12cd34ab12cd34");
	strcpy(l->guest, "redis-server");
	strcpy(l->target, "tcp://10.9.0.2:9400");
	l->now = (struct flow_sample){ .phase = "round", .round = 3, .total_bytes = 1 << 30,
				       .remaining_bytes = 5 << 20, .predicted_ms = 812.5 };
}

static int set_up(void **state)
{
	struct scene *s = xcalloc(1, sizeof(*s));
	struct err e = ERR_INIT;

	strcpy(s->dir, "/tmp/unit-ctl.XXXXXX");
	if (!mkdtemp(s->dir))
		return -1;
	snprintf(s->inner, sizeof(s->inner), "%s/m", s->dir);
	fill(&s->live, 1234);
	*state = s;
	return ctl_serve_in(s->inner, &s->ctl, &s->live, &e);
}

static int tear_down(void **state)
{
	struct scene *s = *state;

	ctl_end(s->ctl);
	live_end(&s->live);
	/* nothing is left: the directories are empty */
	int bad = rmdir(s->inner) < 0 || rmdir(s->dir) < 0;
	free(s);
	return bad;
}

/* ---- answers ---- */

static json_t *answer(struct flow_live *l, const char *line)
{
	_cleanup_free_ char *text = ctl_answer(l, line, strlen(line));
	json_t *o = json_loads(text, 0, NULL);

	assert_non_null(o);
	assert_int_equal(text[strlen(text) - 1], '\n');
	assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
	return o;
}

/* The answer says so; NULL: it is well. */
static void expect(struct flow_live *l, const char *line, const char *error, const char *word)
{
	json_t *o = answer(l, line);
	bool ok = json_is_true(json_object_get(o, "ok"));
	const char *said = json_string_value(json_object_get(o, ok ? "said" : "error"));
	const char *remedy = json_string_value(json_object_get(o, "remedy"));

	if (ok != !error || !said || !strstr(said, error ? error : word))
		fail_msg("%s: %s", line, said);
	if (error && word && (!remedy || !strstr(remedy, word)))
		fail_msg("%s: remedy %s", line, remedy);
	json_decref(o);
}

static void test_status(void **state)
{
	struct flow_live l;

	fill(&l, 7);
	strcpy(l.guest, "\xff\xfe");
	l.now.dirty_rate = 0.0 / 0.0;
	json_t *o = answer(&l, "{\"cmd\":\"status\"}");
	assert_true(json_is_true(json_object_get(o, "ok")));
	assert_int_equal(json_integer_value(json_object_get(o, "pid")), 7);
	assert_int_equal(json_integer_value(json_object_get(o, "round")), 3);
	assert_int_equal(json_integer_value(json_object_get(o, "remaining_bytes")), 5 << 20);
	assert_string_equal(json_string_value(json_object_get(o, "phase")), "round");
	assert_true(json_number_value(json_object_get(o, "predicted_ms")) == 812.5);
	assert_int_equal(json_object_size(json_object_get(o, "policy")), QOS_ROWS);
	assert_true(json_is_false(json_object_get(o, "abort")));
	json_decref(o);
	live_end(&l);
}

static void test_set(void **state)
{
	struct flow_live l;

	fill(&l, 7);
	expect(&l, "{\"cmd\":\"set\",\"values\":{\"bandwidth\":50}}", NULL, "bandwidth: 50, was 0");
	assert_int_equal(l.qos.bandwidth, 50);
	assert_int_equal(l.changes, 1);
	expect(&l,
	       "{\"cmd\":\"set\",\"values\":{\"auto-converge\":false,\"comp-method\":\"zstd\"}}",
	       NULL, "auto-converge: no, was yes; comp-method: zstd, was auto");
	assert_int_equal(l.changes, 2);
	/* all or nothing */
	expect(&l, "{\"cmd\":\"set\",\"values\":{\"bandwidth\":60,\"comp-level\":\"99\"}}",
	       "comp-level: 99: wrong value", "1 to 19");
	expect(&l, "{\"cmd\":\"set\",\"values\":{\"bandwidth\":60,\"auto-converge-max\":10}}",
	       "auto-converge-initial 20 is above", "");
	expect(&l, "{\"cmd\":\"set\",\"values\":{\"bandwidth\":-1}}", "-1: wrong value", "0 to");
	expect(&l, "{\"cmd\":\"set\",\"values\":{\"bandwidth\":1.5}}", "bandwidth: a text", NULL);
	expect(&l, "{\"cmd\":\"set\",\"values\":{\"bandwidth\":[]}}", "bandwidth: a text", NULL);
	expect(&l, "{\"cmd\":\"set\",\"values\":{\"bandwith\":1}}", "unknown key bandwith",
	       "bandwidth");
	expect(&l, "{\"cmd\":\"set\",\"values\":{\"throttle\":\"freezer\"}}",
	       "throttle is fixed when a migration begins", "max-downtime, auto-converge");
	expect(&l, "{\"cmd\":\"set\",\"values\":{\"max-rounds\":5}}", "max-rounds is fixed", NULL);
	expect(&l, "{\"cmd\":\"set\",\"values\":{}}", "nothing to set", "KEY=VALUE");
	expect(&l, "{\"cmd\":\"set\",\"values\":5}", "nothing to set", NULL);
	expect(&l, "{\"cmd\":\"set\"}", "nothing to set", NULL);
	assert_int_equal(l.qos.bandwidth, 50);
	assert_int_equal(l.changes, 2);
	l.now.phase = "switch";
	expect(&l, "{\"cmd\":\"set\",\"values\":{\"bandwidth\":60}}", "too late", NULL);
	live_end(&l);
}

static void test_end(void **state)
{
	struct flow_live l;

	fill(&l, 7);
	expect(&l, "{\"cmd\":\"force-complete\"}", NULL, "812 ms");
	assert_true(l.force);
	assert_false(l.abort);
	expect(&l, "{\"cmd\":\"abort\"}", NULL, "runs on here");
	assert_true(l.abort);
	expect(&l, "{\"cmd\":\"force-complete\"}", "being aborted", NULL);
	l.now.phase = "switch";
	expect(&l, "{\"cmd\":\"abort\"}", NULL, "already");
	expect(&l, "{\"cmd\":\"force-complete\"}", "too late", NULL);
	l.now.phase = "completed";
	expect(&l, "{\"cmd\":\"abort\"}", "too late", NULL);
	live_end(&l);
}

static void test_garbage(void **state)
{
	static const char *const lines[] = {
		"", " ", "x", "{", "[]", "null", "5", "\"status\"", "{}", "{\"cmd\":5}",
		"{\"cmd\":null}",
		"{\"cmd\":\"\"}", "{\"cmd\":\"die\"}", "{\"cmd\":\"status\"} x",
		"{\"cmd\":\"status\",\"cmd\":\"abort\"}", "\xff\xff", "{\"cmd\":\"\\u0000\"}",
		"{\"cmd\":\"ab\\u0000ort\"}",
	};
	struct flow_live l;

	fill(&l, 7);
	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
		json_t *o = answer(&l, lines[i]);

		if (!json_is_false(json_object_get(o, "ok")))
			fail_msg("%s was taken", lines[i]);
		json_decref(o);
	}
	assert_false(l.abort);
	live_end(&l);
}

/* ---- the socket ---- */

static int connect_to(const struct scene *s)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	struct timeval t = { .tv_sec = 20 };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "%s/%s.sock", s->inner, ctl_id(s->ctl));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t));
	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0)
		return fd;
	int ret = -errno;
	close(fd);
	return ret;
}

static int ask(const struct scene *s, const char *id, const char *cmd, json_t **o, struct err *e)
{
	json_t *request = json_pack("{s:s}", "cmd", cmd);

	err_clear(e);
	*o = NULL;
	int ret = ctl_ask(s->inner, id, request, o, e);
	json_decref(request);
	return ret;
}

static void test_ask(void **state)
{
	struct scene *s = *state;
	struct err e = ERR_INIT;
	struct stat st;
	json_t *o;
	_cleanup_free_ char *path = xasprintf("%s/1234-ab12.sock", s->inner);

	assert_string_equal(ctl_id(s->ctl), "1234-ab12");
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(stat(s->inner, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0700);
	static const char *const good[] = { NULL, "1234", "1234-a", "1234-ab12" };
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		if (ask(s, good[i], "status", &o, &e) < 0)
			fail_msg("%s", e.text);
		assert_string_equal(json_string_value(json_object_get(o, "ctl")), "1234-ab12");
		assert_int_equal(json_integer_value(json_object_get(o, "round")), 3);
		json_decref(o);
	}
	static const char *const bad[] = { "123", "12345", "1234-b", "", "../m/1234-ab12", "x" };
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(ask(s, bad[i], "status", &o, &e), -ESRCH);
		assert_non_null(strstr(e.remedy, "1234-ab12"));
	}
	assert_int_equal(ask(s, NULL, "nonsense", &o, &e), -EINVAL);
	assert_non_null(strstr(e.text, "migration 1234-ab12: unknown command nonsense"));
	assert_int_equal(ask(s, NULL, "abort", &o, &e), 0);
	json_decref(o);
	assert_true(s->live.abort);
}

/* Two run, one is dead. */
static void test_list(void **state)
{
	struct scene *s = *state;
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	_cleanup_(ctl_ids_free) ctl_ids ids = { 0 };
	struct flow_live other;
	struct ctl *second;
	struct err e = ERR_INIT;
	json_t *o;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "%s/99-dead.sock", s->inner);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(fd, 1), 0);
	close(fd);
	assert_int_equal(ctl_list(s->inner, &ids, &e), 0);
	assert_int_equal(ids.n, 1);
	assert_string_equal(ids.at[0], "1234-ab12");
	assert_int_equal(access(a.sun_path, F_OK), -1);
	fill(&other, 77);
	assert_int_equal(ctl_serve_in(s->inner, &second, &other, &e), 0);
	assert_int_equal(ask(s, NULL, "status", &o, &e), -EINVAL);
	assert_string_equal(e.text, "2 migrations are meant");
	assert_non_null(strstr(e.remedy, "77-ab12, 1234-ab12"));
	assert_int_equal(ask(s, "77", "abort", &o, &e), 0);
	json_decref(o);
	assert_true(other.abort);
	assert_false(s->live.abort);
	ctl_end(second);
	live_end(&other);
	assert_int_equal(ask(s, "77", "status", &o, &e), -ESRCH);
	assert_int_equal(ctl_list("/no/such/dir", &ids, &e), 0);
}

static void send_all(int fd, const void *p, size_t n)
{
	for (const char *c = p; n > 0;) {
		ssize_t got = send(fd, c, n, MSG_NOSIGNAL);

		if (got <= 0)
			return;
		c += got;
		n -= (size_t)got;
	}
}

/* A request in pieces, several at once, one that is too long: after that the line is closed. */
static void test_pieces(void **state)
{
	struct scene *s = *state;
	static char big[3 * CTL_REQUEST_MAX];
	char in[64 * 1024];
	size_t n = 0, lines = 0;
	ssize_t got;
	int fd = connect_to(s);

	assert_true(fd >= 0);
	send_all(fd, "{\"cmd\":", 7);
	usleep(20000);
	send_all(fd, "\"status\"}\n{\"cmd\":\"no\"}\n", 23);
	memset(big, ' ', sizeof(big));
	send_all(fd, big, sizeof(big));
	while (n < sizeof(in) - 1 && (got = recv(fd, in + n, sizeof(in) - 1 - n, 0)) > 0)
		n += (size_t)got;
	in[n] = '\0';
	close(fd);
	for (char *c = in; (c = strchr(c, '\n')); c++)
		lines++;
	assert_int_equal(lines, 3);
	assert_non_null(strstr(in, "\"round\":3"));
	assert_non_null(strstr(in, "unknown command no"));
	assert_non_null(strstr(in, "too long"));
}

/* More clients than there are places, silent ones and such that never read: who comes then is
 * answered, and the end waits for none of them. */
static void test_rude(void **state)
{
	struct scene *s = *state;
	struct err e = ERR_INIT;
	json_t *o;
	int fd[20];

	for (size_t i = 0; i < 20; i++) {
		assert_true((fd[i] = connect_to(s)) >= 0);
		struct timeval t = { .tv_usec = 50000 };
		setsockopt(fd[i], SOL_SOCKET, SO_SNDTIMEO, &t, sizeof(t));
		for (int k = 0; i % 2 && k < 3000; k++)
			if (send(fd[i], "{\"cmd\":\"status\"}\n", 17, MSG_NOSIGNAL) != 17)
				break;
	}
	if (ask(s, NULL, "status", &o, &e) < 0)
		fail_msg("%s", e.text);
	json_decref(o);
	for (size_t i = 0; i < 10; i++)
		close(fd[i]);
	assert_int_equal(ask(s, NULL, "status", &o, &e), 0);
	json_decref(o);
	uint64_t before = io_now_ns();
	ctl_end(s->ctl);
	s->ctl = NULL;
	/* who hangs on has a minute, the end has not */
	assert_true(io_now_ns() - before < 20000000000ull);
	for (size_t i = 10; i < 20; i++)
		close(fd[i]);
}

/* Not even when the modes of the files let him in. */
static void test_not_root(void **state)
{
	struct scene *s = *state;
	_cleanup_free_ char *path = xasprintf("%s/1234-ab12.sock", s->inner);
	int status;

	if (geteuid() != 0)
		skip();
	chmod(path, 0666);
	chmod(s->inner, 0711);
	chmod(s->dir, 0711);
	pid_t pid = fork();
	if (pid == 0) {
		char byte;

		if (setgid(65534) < 0 || setuid(65534) < 0)
			_exit(3);
		int fd = connect_to(s);
		if (fd < 0)
			_exit(4);
		send(fd, "{\"cmd\":\"abort\"}\n", 16, MSG_NOSIGNAL);
		_exit(recv(fd, &byte, 1, 0) > 0 ? 5 : 0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_false(s->live.abort);
	chmod(s->inner, 0700);
}

/* A directory that others may write to, and one that cannot be made. */
static void test_bad_place(void **state)
{
	struct scene *s = *state;
	struct err e = ERR_INIT;
	struct ctl *c;
	_cleanup_free_ char *file = xasprintf("%s/1234-ab12.sock/sub", s->inner);

	chmod(s->inner, 0777);
	assert_int_equal(ctl_serve_in(s->inner, &c, &s->live, &e), -EPERM);
	assert_true(*e.remedy);
	chmod(s->inner, 0700);
	err_clear(&e);
	assert_int_equal(ctl_serve_in(file, &c, &s->live, &e), -ENOTDIR);
	ctl_end(NULL);
}

#define IN_SCENE(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_status), cmocka_unit_test(test_set),
		cmocka_unit_test(test_end),
		cmocka_unit_test(test_garbage), IN_SCENE(test_ask), IN_SCENE(test_list),
		IN_SCENE(test_pieces), IN_SCENE(test_rude), IN_SCENE(test_not_root),
		IN_SCENE(test_bad_place),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
