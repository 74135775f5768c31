/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Holds one thing that cannot be moved, named by its argument, at fd 77 where it is an fd. A thread
 * in sigwaitinfo(2) says whether the victim was stopped at all: a stop ends the call by EINTR. The
 * file DIR/disturbed appears then; DIR/count (8 bytes, mapped) holds a number that goes up.
 */
#include "victim.h"

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/io_uring.h>
#include <linux/perf_event.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/shm.h>
#include <sys/socket.h>

#define FD 77

static int do_io_uring(void)
{
	struct io_uring_params p = {0};

	return syscall(SYS_io_uring_setup, 4, &p);
}

static int do_inotify(void)
{
	int fd = inotify_init1(IN_CLOEXEC);

	SYS(inotify_add_watch(fd, "/tmp", IN_CREATE));
	return fd;
}

static int do_fanotify(void)
{
	return fanotify_init(FAN_CLASS_NOTIF, O_RDONLY);
}
static int do_userfaultfd(void)
{
	return syscall(SYS_userfaultfd, O_CLOEXEC | 1);
}
static int do_netlink(void)
{
	return socket(AF_NETLINK, SOCK_RAW, 0);
}
static int do_packet(void)
{
	return socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));
}
static int do_raw(void)
{
	return socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
}
static int do_alg(void)
{
	return socket(AF_ALG, SOCK_SEQPACKET, 0);
}
static int do_kvm(void)
{
	return open("/dev/kvm", O_RDWR);
}
static int do_tun(void)
{
	return open("/dev/net/tun", O_RDWR);
}
static int do_pidfd(void)
{
	return syscall(SYS_pidfd_open, getpid(), 0);
}
static int do_namespace(void)
{
	return open("/proc/self/ns/net", O_RDONLY);
}
static int do_secret(void)
{
	return syscall(SYS_memfd_secret, 0);
}

static int do_perf(void)
{
	struct perf_event_attr attr = {
	    .type = PERF_TYPE_SOFTWARE, .size = sizeof(attr), .config = PERF_COUNT_SW_TASK_CLOCK};

	return syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0);
}

static int do_bpf(void)
{
	union bpf_attr attr = {
	    .map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 8, .max_entries = 1};

	return syscall(SYS_bpf, BPF_MAP_CREATE, &attr, sizeof(attr));
}

/* A connection that is established; its other end is the next fd. */
static int do_connection(void)
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	socklen_t len = sizeof(sa);
	int l = SYS(socket(AF_INET, SOCK_STREAM, 0)), c = SYS(socket(AF_INET, SOCK_STREAM, 0)), s;

	SYS(bind(l, (void *)&sa, len));
	SYS(listen(l, 1));
	SYS(getsockname(l, (void *)&sa, &len));
	SYS(connect(c, (void *)&sa, len));
	s = SYS(accept(l, NULL, NULL));
	SYS(dup2(s, FD + 1));
	close(s);
	close(l);
	return c;
}

/* Its peer is a process outside: the one that will be no part of the tree. */
static int do_outer_unix(void)
{
	int s[2];
	pid_t pid;

	SYS(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
	pid = SYS(fork());
	if (!pid) {
		close(s[0]);
		if (fork())
			_exit(0);
		v_wait();
		_exit(0);
	}
	close(s[1]);
	v_reap(pid, 0);
	return s[0];
}

/* A System V segment that a process outside has attached, too. */
static int do_outer_sysv(void)
{
	int id = SYS(shmget(IPC_PRIVATE, 4 * V_PAGE, 0600));
	pid_t pid;

	SYS((intptr_t)shmat(id, NULL, 0));
	SYS(shmctl(id, IPC_RMID, NULL));
	pid = SYS(fork());
	if (!pid) {
		if (fork())
			_exit(0);
		v_wait();
		_exit(0);
	}
	v_reap(pid, 0);
	return -2;
}

/* One of which a part is unmapped. */
static int do_part_of_sysv(void)
{
	int id = SYS(shmget(IPC_PRIVATE, 4 * V_PAGE, 0600));
	char *at = SYS((char *)shmat(id, NULL, 0));

	SYS(shmctl(id, IPC_RMID, NULL));
	SYS(munmap(at + V_PAGE, V_PAGE));
	return -2;
}

static int do_traced(void)
{
	pid_t parent = getpid(), pid = SYS(fork());

	if (!pid) {
		/* PTRACE_SEIZE */
		SYS(syscall(SYS_ptrace, 0x4206, parent, 0, 0));
		SYS(setsid());
		close(SYS(open(v_path("traced"), O_CREAT | O_WRONLY, 0600)));
		v_wait();
		_exit(0);
	}
	while (access(v_path("traced"), F_OK) < 0)
		v_sleep_ms(1);
	return -2;
}

static const struct {
	const char *name;
	int (*make)(void);
} kinds[] = {
    {"io_uring", do_io_uring},
    {"inotify", do_inotify},
    {"fanotify", do_fanotify},
    {"userfaultfd", do_userfaultfd},
    {"netlink", do_netlink},
    {"packet", do_packet},
    {"raw", do_raw},
    {"alg", do_alg},
    {"kvm", do_kvm},
    {"tun", do_tun},
    {"pidfd", do_pidfd},
    {"namespace", do_namespace},
    {"secret", do_secret},
    {"perf", do_perf},
    {"bpf", do_bpf},
    {"connection", do_connection},
    {"outer_unix", do_outer_unix},
    {"outer_sysv", do_outer_sysv},
    {"part_of_sysv", do_part_of_sysv},
    {"traced", do_traced},
};

static void *canary(void *arg)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	/* Once: it is not to fail the victim if it is stopped, only to tell. */
	if (sigwaitinfo(&set, NULL) < 0 && errno == EINTR)
		close(SYS(open(v_path("disturbed"), O_CREAT | O_WRONLY, 0666)));
	return arg;
}

int main(int argc, char **argv)
{
	_Atomic uint64_t *counter;
	size_t i;
	int fd;

	v_init(argc, argv);
	CHECK(argc == 3, "which kind?");
	signal(SIGUSR2, SIG_IGN);
	for (i = 0; i < V_COUNT(kinds) && strcmp(argv[2], kinds[i].name); i++)
		;
	CHECK(i < V_COUNT(kinds), "no such kind: %s", argv[2]);
	fd = kinds[i].make();
	if (fd == -1)
		v_skip("%s: %s", kinds[i].name, strerror(errno));
	if (fd >= 0) {
		SYS(dup2(fd, FD));
		close(fd);
	}
	fd = SYS(open(v_path("count"), O_CREAT | O_RDWR, 0666));
	SYS(ftruncate(fd, V_PAGE));
	counter = v_map(V_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (strcmp(argv[2], "traced"))
		v_thread(canary, NULL);
	v_ready();
	while (!v_stopping()) {
		++*counter;
		v_sleep_ms(1);
	}
	v_ok();
}
