/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A server that gave up root: other ids for real, effective, saved and file system, groups, some
 * capabilities of each sort, securebits, no_new_privs. A child keeps other credentials again.
 */
#include "victim.h"

#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/fsuid.h>

static void set_caps(uint64_t effective, uint64_t permitted, uint64_t inheritable)
{
	struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct data[2] = {
	    {effective, permitted, inheritable},
	    {effective >> 32, permitted >> 32, inheritable >> 32},
	};

	SYS(syscall(SYS_capset, &head, data));
}

#define CAP(name) (1ULL << CAP_##name)

static void give_up_root(void)
{
	static const gid_t groups[] = {7, 100, 65534, 70000};

	SYS(prctl(PR_CAPBSET_DROP, CAP_SYS_MODULE));
	SYS(prctl(PR_CAPBSET_DROP, CAP_SYS_TIME));
	SYS(prctl(PR_SET_SECUREBITS, SECBIT_KEEP_CAPS | SECBIT_NO_SETUID_FIXUP | SECBIT_NOROOT));
	SYS(setgroups(V_COUNT(groups), groups));
	SYS(setresgid(65534, 100, 7));
	SYS(setresuid(65534, 65533, 65532));
	setfsgid(70000);
	setfsuid(65531);
	set_caps(CAP(NET_BIND_SERVICE) | CAP(CHOWN), CAP(NET_BIND_SERVICE) | CAP(CHOWN) | CAP(KILL),
		 CAP(NET_BIND_SERVICE) | CAP(KILL));
	SYS(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_BIND_SERVICE, 0, 0));
	SYS(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
}

/* What the credentials are good for, not only what they are called. */
static void try_them(void)
{
	int fd;

	CHECK(open("/etc/shadow", O_RDONLY) < 0 && errno == EACCES, "can read /etc/shadow");
	CHECK(setuid(0) < 0 && errno == EPERM, "can become root again");
	fd = SYS(open(v_path("owned"), O_CREAT | O_RDWR, 0600));
	SYS(fchown(fd, 12345, 12345));
	close(fd);
	SYS(unlink(v_path("owned")));
}

/* A child as another plain user, without anything. */
static pid_t plain_child(void)
{
	pid_t pid = SYS(fork());

	if (pid)
		return pid;
	SYS(setgroups(0, NULL));
	SYS(setresgid(1234, 1234, 1234));
	SYS(setresuid(1234, 1234, 1234));
	SYS(prctl(PR_SET_DUMPABLE, 1));
	v_remember();
	SYS(open(v_path("child-ready"), O_CREAT | O_WRONLY | O_CLOEXEC, 0666));
	v_remember();
	v_wait();
	v_recheck();
	CHECK(getuid() == 1234 && geteuid() == 1234 && getgid() == 1234, "ids of the child");
	CHECK(kill(getppid(), 0) < 0 && errno == EPERM, "the child has rights it should not have");
	_exit(0);
}

int main(int argc, char **argv)
{
	pid_t pid;

	v_init(argc, argv);
	pid = plain_child();
	while (access(v_path("child-ready"), F_OK) < 0)
		v_sleep_ms(1);
	give_up_root();
	SYS(prctl(PR_SET_DUMPABLE, 1));
	v_ready();
	v_wait();
	v_recheck();
	try_them();
	v_reap(pid, 0);
	v_ok();
}
