/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vfork(2), posix_spawn(3) and execve(2) in children, all the time. A parent in vfork cannot be
 * stopped until its child lets go; some children take 20 ms for that. Run with --child N, it is
 * the program that the children become.
 */
#include "victim.h"

#include <spawn.h>

extern char **environ;

static void vfork_once(char *self, int n)
{
	char number[16], *args[] = {self, (char *)"--child", number, NULL};
	struct timespec ts = {0, n % 7 ? 100000 : 20000000};
	pid_t pid;

	snprintf(number, sizeof(number), "%d", n & 127);
	pid = vfork();
	if (!pid) {
		nanosleep(&ts, NULL);
		if (n % 2)
			execve(self, args, environ);
		_exit(n & 127);
	}
	CHECK(pid > 0, "vfork: %s", strerror(errno));
	v_reap(pid, (n & 127) << 8);
}

static void spawn_once(char *self, int n)
{
	char number[16], *args[] = {self, (char *)"--child", number, NULL};
	pid_t pid;
	int ret;

	snprintf(number, sizeof(number), "%d", n & 127);
	ret = posix_spawn(&pid, self, NULL, NULL, args, environ);
	CHECK(!ret, "posix_spawn: %s", strerror(ret));
	v_reap(pid, (n & 127) << 8);
}

int main(int argc, char **argv)
{
	char self[512];
	ssize_t len;
	int n;

	if (argc == 3 && !strcmp(argv[1], "--child"))
		return atoi(argv[2]);
	v_init(argc, argv);
	len = SYS(readlink("/proc/self/exe", self, sizeof(self) - 1));
	self[len] = 0;
	v_ready();
	for (n = 0; !v_stopping(); n++) {
		vfork_once(self, n);
		if (n % 4 == 0)
			spawn_once(self, n);
		v_sleep_ms(1);
	}
	v_ok();
}
