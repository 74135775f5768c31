/* SPDX-License-Identifier: Apache-2.0 */
#include "flow_script.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cleanup.h"
#include "log.h"
#include "vec.h"

#define OWN_VARIABLES 7

static const struct {
	const char *action;
	bool may_fail;               /* it is too late to take anything back */
} actions[] = {
	{ "pre-dump" }, { "post-dump" }, { "pre-restore" }, { "post-restore" },
	{ "pre-resume" }, { "post-resume", true },
	{ "network-lock" }, { "network-unlock", true },
	{ "setup-namespaces" }, { "post-setup-namespaces" },
};

static int find_action(const char *action)
{
	for (size_t i = 0; i < sizeof(actions) / sizeof(*actions); i++)
		if (!strcmp(actions[i].action, action))
			return (int)i;
	return -1;
}

int flow_script_check(const char *script, struct err *e)
{
	struct stat st;

	if (!script)
		return 0;
	if (stat(script, &st) < 0)
		return err_set(e, errno, "action script %s", script);
	if (S_ISREG(st.st_mode) && access(script, X_OK) == 0)
		return 0;
	err_say(e, EACCES, "action script %s cannot be run", script);
	return err_remedy(e, "chmod +x %s; its first line must name its interpreter, as #!/bin/sh",
			  script);
}

/* ---- environment ---- */

static void add(char **list, size_t *n, const char *name, const char *value)
{
	if (value)
		list[(*n)++] = xasprintf("%s=%s", name, value);
}

/* The caller's environment, with ours in place of what it has of these names; the first *own
 * strings are to be freed. */
static char **make_environment(const char *action, const struct script_env *env, size_t *own)
{
	static const char *const prefixes[] = { "CRTOOLS_", "CRIU_LITE_" };
	size_t n = 0;
	char pid[16];

	while (environ[n])
		n++;
	char **list = xcalloc(n + OWN_VARIABLES + 1, sizeof(*list));

	n = 0;
	snprintf(pid, sizeof(pid), "%d", env->init_pid);
	add(list, &n, "CRTOOLS_SCRIPT_ACTION", action);
	add(list, &n, "CRTOOLS_IMAGE_DIR", env->image_dir);
	add(list, &n, "CRTOOLS_INIT_PID", env->init_pid ? pid : NULL);
	add(list, &n, "CRIU_LITE_PEER", env->peer);
	add(list, &n, "CRIU_LITE_ID", env->id);
	add(list, &n, "CRIU_LITE_SIDE", env->side);
	add(list, &n, "CRIU_LITE_ADDRESSES", env->addresses);
	*own = n;
	for (char **v = environ; *v; v++)
		if (strncmp(*v, prefixes[0], strlen(prefixes[0])) &&
		    strncmp(*v, prefixes[1], strlen(prefixes[1])))
			list[n++] = *v;
	return list;
}

/* ---- running ---- */

/* As from a shell: no signal blocked or ignored, no descriptor of ours, usual scheduling (in the
 * switch we run before all others), a process group of its own to be killed as a whole. */
static int start(pid_t *pid, const char *script, char **environment)
{
	posix_spawnattr_t attr;
	posix_spawn_file_actions_t files;
	struct sched_param usual = { 0 };
	char *argv[] = { (char *)script, NULL };
	sigset_t none, all;

	sigemptyset(&none);
	sigfillset(&all);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
				 POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSCHEDULER);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &all);
	posix_spawnattr_setpgroup(&attr, 0);
	posix_spawnattr_setschedpolicy(&attr, SCHED_OTHER);
	posix_spawnattr_setschedparam(&attr, &usual);
	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_adddup2(&files, 2, 1);
	posix_spawn_file_actions_addclosefrom_np(&files, 3);
	/* vfork-like: no page tables are copied, however big we are */
	int code = posix_spawn(pid, script, &files, &attr, argv, environment);
	posix_spawn_file_actions_destroy(&files);
	posix_spawnattr_destroy(&attr);
	return code;
}

static bool ends_in_time(pid_t pid, unsigned timeout_ms)
{
	_cleanup_close_ int fd = (int)syscall(SYS_pidfd_open, pid, 0);
	struct pollfd p = { .fd = fd, .events = POLLIN };
	int n;

	do
		n = poll(&p, 1, (int)timeout_ms);
	while (n < 0 && errno == EINTR);
	return n == 1;
}

static int await(const char *script, const char *action, pid_t pid, unsigned timeout_ms,
		 struct err *e)
{
	bool ended = ends_in_time(pid, timeout_ms);
	int status = 0;

	if (!ended)
		kill(-pid, SIGKILL);
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return err_set(e, errno, "action script %s (%s): waitpid", script, action);
	if (!ended) {
		err_say(e, ETIMEDOUT,
			"action script %s (%s) did not end within %u s and was killed", script,
			action, timeout_ms / 1000);
		return err_remedy(
			e, "the guest waits for it: let it start long work in the background");
	}
	if (WIFSIGNALED(status))
		return err_say(e, ECANCELED, "action script %s (%s) was ended by signal %d (%s)",
			       script, action, WTERMSIG(status), strsignal(WTERMSIG(status)));
	if (WEXITSTATUS(status)) {
		err_say(e, ECANCELED, "action script %s (%s) ended with code %d", script, action,
			WEXITSTATUS(status));
		return err_remedy(e, "what it said is above; code 0 lets criu-lite go on");
	}
	return 0;
}

static int run(const char *script, const char *action, const struct script_env *env, struct err *e)
{
	size_t own;
	char **environment = make_environment(action, env, &own);
	pid_t pid;
	int code = start(&pid, script, environment);

	while (own > 0)
		free(environment[--own]);
	free(environment);
	if (code)
		return err_set(e, code, "action script %s (%s)", script, action);
	return await(script, action, pid,
		     env->timeout_ms ? env->timeout_ms : FLOW_SCRIPT_TIMEOUT_MS, e);
}

int flow_script_run(const char *script, const char *action, const struct script_env *env,
		    struct err *e)
{
	int which = find_action(action), ret;

	if (!script)
		return 0;
	if (which < 0)
		return err_say(e, EINVAL, "there is no action %s", action);
	log_debug("action script %s: %s", script, action);
	ret = run(script, action, env, e);
	if (ret == 0 || !actions[which].may_fail)
		return ret;
	log_warn("%s", e->text);
	err_clear(e);
	return 0;
}
