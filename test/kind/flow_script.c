/* SPDX-License-Identifier: Apache-2.0 */
/* --action-script: what it finds, and what its end means. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cleanup.h"
#include "flow_script.h"
#include "io.h"

static char dir[] = "/tmp/flow_script.XXXXXX", script[64], out[64];
static struct err e;

static void write_script(const char *text, mode_t mode)
{
	_cleanup_free_ char *all = xasprintf("#!/bin/sh\nexec >%s 2>&1\n%s\n", out, text);

	unlink(script);
	assert_int_equal(io_spill(script, all, strlen(all), &e), 0);
	assert_int_equal(chmod(script, mode), 0);
}

static bool said(const char *line)
{
	_cleanup_(buf_free) struct buf b = { 0 };
	struct err none = ERR_INIT;
	_cleanup_free_ char *want = xasprintf("\n%s\n", line);

	buf_put(&b, "\n", 1);
	_cleanup_(buf_free) struct buf text = { 0 };
	assert_int_equal(io_slurp_at(AT_FDCWD, out, &text, &none), 0);
	buf_put(&b, text.at, text.n + 1);
	return strstr((char *)b.at, want) != NULL;
}

static int run(const char *action, const struct script_env *env)
{
	err_clear(&e);
	return flow_script_run(script, action, env, &e);
}

static void test_environment(void **state)
{
	struct script_env env = {
		.image_dir = "/images",
		.init_pid = 4711,
		.peer = "hostb",
		.side = "source",
		.addresses = "a b",
	};

	setenv("CRTOOLS_IMAGE_DIR", "stale", 1);
	setenv("CRIU_LITE_ID", "stale", 1);
	setenv("OTHER", "kept", 1);
	write_script("env", 0755);
	assert_int_equal(flow_script_check(script, &e), 0);
	assert_int_equal(run("network-lock", &env), 0);
	assert_true(said("CRTOOLS_SCRIPT_ACTION=network-lock"));
	assert_true(said("CRTOOLS_IMAGE_DIR=/images"));
	assert_true(said("CRTOOLS_INIT_PID=4711"));
	assert_true(said("CRIU_LITE_PEER=hostb"));
	assert_true(said("CRIU_LITE_SIDE=source"));
	assert_true(said("CRIU_LITE_ADDRESSES=a b"));
	assert_true(said("OTHER=kept"));
	assert_false(said("CRTOOLS_IMAGE_DIR=stale"));
	assert_false(said("CRIU_LITE_ID=stale"));
	assert_int_equal(run("pre-dump", &(struct script_env){ 0 }), 0);
	assert_false(said("CRTOOLS_INIT_PID=0"));
	unsetenv("CRTOOLS_IMAGE_DIR");
	unsetenv("CRIU_LITE_ID");
}

/* Masks, handlers, descriptors and scheduling are not ours. */
static void test_clean(void **state)
{
	sigset_t set, before;
	int fd = open("/dev/null", O_RDONLY); /* without O_CLOEXEC */
	struct sched_param first = { .sched_priority = 1 };

	assert_true(fd >= 3);
	sigfillset(&set);
	sigprocmask(SIG_SETMASK, &set, &before);
	signal(SIGPIPE, SIG_IGN);
	bool hurried = sched_setscheduler(0, SCHED_FIFO, &first) == 0;
	write_script("grep -E 'SigBlk|SigIgn' /proc/self/status | tr -d '\\t'\n"
		     "[ -e /proc/$$/fd/3 ] && echo 'fd 3'; readlink /proc/$$/fd/0\n"
		     "echo policy $(sed 's/.*) //' /proc/$$/stat | cut -d' ' -f39)", 0755);
	int ret = run("pre-dump", &(struct script_env){ 0 });
	if (hurried)
		sched_setscheduler(0, SCHED_OTHER, &(struct sched_param){ 0 });
	sigprocmask(SIG_SETMASK, &before, NULL);
	signal(SIGPIPE, SIG_DFL);
	close(fd);
	assert_int_equal(ret, 0);
	assert_true(said("SigBlk:0000000000000000"));
	/* two signals are glibc's own */
	assert_true(said("SigIgn:0000000000000000") || said("SigIgn:0000000180000000"));
	assert_true(said("/dev/null"));
	assert_true(said("policy 0"));
	assert_false(said("fd 3"));
}

static void has(const char *text)
{
	if (!strstr(e.text, text))
		fail_msg("\"%s\" is not in \"%s\"", text, e.text);
}

static void test_ends(void **state)
{
	struct script_env env = { 0 };

	write_script("exit 3", 0755);
	assert_int_equal(run("post-dump", &env), -ECANCELED);
	has(script);
	has("(post-dump)");
	has("code 3");
	assert_int_equal(run("post-resume", &env), 0);    /* too late to fail */
	assert_int_equal(run("network-unlock", &env), 0);
	write_script("kill -TERM $$", 0755);
	assert_int_equal(run("pre-restore", &env), -ECANCELED);
	has("signal 15");
	assert_int_equal(run("no-such-action", &env), -EINVAL);
	assert_int_equal(flow_script_run(NULL, "pre-dump", &env, &e), 0);
}

static void test_cannot_run(void **state)
{
	struct script_env env = { 0 };

	write_script("true", 0644);
	assert_int_equal(flow_script_check(script, &e), -EACCES);
	assert_true(strstr(e.remedy, "chmod") != NULL);
	assert_int_equal(run("pre-dump", &env), -EACCES);
	has(script);
	unlink(script);
	err_clear(&e);
	assert_int_equal(flow_script_check(script, &e), -ENOENT);
	assert_int_equal(run("pre-dump", &env), -ENOENT);
	assert_int_equal(flow_script_check("/tmp", &e), -EACCES);
	assert_int_equal(flow_script_check(NULL, &e), 0);
}

/* The script and what it started end. */
static void test_timeout(void **state)
{
	struct script_env env = { .timeout_ms = 200 };
	_cleanup_(buf_free) struct buf b = { 0 };
	int pid = 0;

	write_script("sleep 300 & echo $!; wait", 0755);
	assert_int_equal(run("network-lock", &env), -ETIMEDOUT);
	has("(network-lock) did not end");
	assert_int_equal(io_slurp_at(AT_FDCWD, out, &b, &e), 0);
	assert_int_equal(sscanf((char *)b.at, "%d", &pid), 1);
	for (int i = 0; i < 500 && kill(pid, 0) == 0; i++)
		usleep(10000); /* until init has reaped it */
	b.n = 0;
	if (io_slurp(&b, &e, "/proc/%d/stat", pid) == 0)
		assert_non_null(strstr((char *)b.at, ") Z "));
}

static int setup(void **state)
{
	assert_non_null(mkdtemp(dir));
	snprintf(script, sizeof(script), "%s/script", dir);
	snprintf(out, sizeof(out), "%s/out", dir);
	return 0;
}

static int teardown(void **state)
{
	unlink(script);
	unlink(out);
	rmdir(dir);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_environment),
		cmocka_unit_test(test_clean),
		cmocka_unit_test(test_ends),
		cmocka_unit_test(test_cannot_run),
		cmocka_unit_test(test_timeout),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
