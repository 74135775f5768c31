/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io.h"
#include "netlab.h"

static struct {
	int ns[LAB_HOSTS], bridge, own;
} lab;

static int open_ns(void)
{
	int fd = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

static int new_ns(void)
{
	assert_int_equal(unshare(CLONE_NEWNET), 0);
	return open_ns();
}

void lab_enter(int host)
{
	assert_int_equal(setns(lab.ns[host], CLONE_NEWNET), 0);
}

int lab_ns(int host)
{
	return lab.ns[host];
}

static char *run(const char *cmd)
{
	struct buf out = { 0 };
	char piece[4096];
	size_t n;
	FILE *f = popen(cmd, "re");

	assert_non_null(f);
	while ((n = fread(piece, 1, sizeof(piece), f)) > 0)
		buf_put(&out, piece, n);
	buf_put(&out, "", 1);
	int status = pclose(f);
	if (status)
		print_error("%s: status %d\n", cmd, status);
	assert_int_equal(status, 0);
	return (char *)out.at;
}

char *lab_run(int host, const char *fmt, ...)
{
	char *cmd;
	va_list ap;

	va_start(ap, fmt);
	assert_true(vasprintf(&cmd, fmt, ap) > 0);
	va_end(ap);
	lab_enter(host);
	char *out = run(cmd);
	free(cmd);
	return out;
}

int lab_setup(void **state)
{
	char cmd[256];

	assert_int_equal(unshare(CLONE_NEWNS), 0);
	assert_int_equal(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
	mkdir("/run/criu-lite", 0755);
	assert_int_equal(mount("lab", "/run/criu-lite", "tmpfs", 0, "mode=755"), 0);
	lab.own = open_ns();
	lab.bridge = new_ns();
	/* no snooping: a bridge that is new floods no multicast for a while */
	free(run("ip link add br0 type bridge mcast_snooping 0 && ip link set br0 up"));
	for (int i = 0; i < LAB_HOSTS; i++) {
		lab.ns[i] = new_ns();
		free(run("ip link set lo up"));
		assert_int_equal(setns(lab.bridge, CLONE_NEWNET), 0);
		snprintf(cmd, sizeof(cmd),
			 "ip link add p%d type veth peer name eth0 netns /proc/%d/fd/%d && "
			 "ip link set p%d master br0 up",
			 i, getpid(), lab.ns[i], i);
		free(run(cmd));
		free(lab_run(i, "ip addr add 10.9.0.%d/24 dev eth0 && ip link set eth0 up && "
			     "ip addr add fd09::%d/64 dev eth0 nodad", i + 1, i + 1));
	}
	lab_enter(LAB_HOST);
	return 0;
}

int lab_teardown(void **state)
{
	assert_int_equal(setns(lab.own, CLONE_NEWNET), 0);
	for (int i = 0; i < LAB_HOSTS; i++)
		close(lab.ns[i]);
	close(lab.bridge);
	close(lab.own);
	umount2("/run/criu-lite", MNT_DETACH);
	return 0;
}

/* ---- connections ---- */

static socklen_t make_addr(struct sockaddr_storage *sa, int family, uint16_t port, bool any)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)sa;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)sa;

	memset(sa, 0, sizeof(*sa));
	sa->ss_family = (sa_family_t)family;
	if (family == AF_INET) {
		v4->sin_port = htons(port);
		v4->sin_addr.s_addr = htonl(any ? INADDR_ANY : 0x0a090001);
		return sizeof(*v4);
	}
	v6->sin6_port = htons(port);
	if (!any)
		inet_pton(AF_INET6, "fd09::1", &v6->sin6_addr);
	return sizeof(*v6);
}

void lab_connect(struct lab_tcp *t, int family, uint16_t port)
{
	int here = family == AF_INET ? AF_INET : AF_INET6,
	    there = family == AF_INET6 ? AF_INET6 : AF_INET;
	struct sockaddr_storage sa;
	int on = 1;

	lab_enter(LAB_HOST);
	t->listener = socket(here, SOCK_STREAM | SOCK_CLOEXEC, 0);
	setsockopt(t->listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	socklen_t n = make_addr(&sa, here, port, true);
	assert_int_equal(bind(t->listener, (struct sockaddr *)&sa, n), 0);
	assert_int_equal(listen(t->listener, 10), 0);
	lab_enter(LAB_PEER);
	t->peer = socket(there, SOCK_STREAM | SOCK_CLOEXEC, 0);
	n = make_addr(&sa, there, port, false);
	assert_int_equal(connect(t->peer, (struct sockaddr *)&sa, n), 0);
	lab_enter(LAB_HOST);
	t->host = accept4(t->listener, NULL, NULL, SOCK_CLOEXEC);
	assert_true(t->host >= 0);
}

void lab_disconnect(struct lab_tcp *t)
{
	close(t->peer);
	close(t->host);
	close(t->listener);
}

/* ---- looking ---- */

int lab_capture(int host)
{
	int size = 32 << 20;

	lab_enter(host);
	struct sockaddr_ll sll = {
		.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL),
		.sll_ifindex = (int)if_nametoindex("eth0"),
	};
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	assert_true(fd >= 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
	assert_int_equal(bind(fd, (struct sockaddr *)&sll, sizeof(sll)), 0);
	return fd;
}

unsigned lab_captured(int fd, bool (*want)(const uint8_t *frame, size_t n, void *data), void *data)
{
	static uint8_t frame[70000];
	unsigned count = 0;
	ssize_t n;

	while ((n = recv(fd, frame, sizeof(frame), 0)) > 0)
		count += want(frame, (size_t)n, data);
	return count;
}

bool lab_is_reset(const uint8_t *frame, size_t n, void *data)
{
	bool v4 = frame[12] == 0x08 && frame[13] == 0x00,
	     v6 = frame[12] == 0x86 && frame[13] == 0xdd;
	size_t tcp = v4 ? 14 + (size_t)(frame[14] & 15) * 4 : 14 + 40;

	if (n < tcp + 20 ||
	    !((v4 && frame[14 + 9] == IPPROTO_TCP) || (v6 && frame[14 + 6] == IPPROTO_TCP)))
		return false;
	return frame[tcp + 13] & 4;
}

bool lab_arrives(int fd, size_t n, int ms)
{
	static char buf[65536];
	struct pollfd p = { .fd = fd, .events = POLLIN };
	double end = lab_now_ms() + ms;

	while (n) {
		double left = end - lab_now_ms();
		if (poll(&p, 1, left > 0 ? (int)left + 1 : 0) != 1)
			return false;
		ssize_t got = recv(fd, buf, n < sizeof(buf) ? n : sizeof(buf), MSG_DONTWAIT);
		if (got <= 0)
			return false;
		n -= (size_t)got;
	}
	return true;
}

double lab_now_ms(void)
{
	return (double)io_now_ns() / 1e6;
}

void lab_ok(int ret, struct err *e)
{
	if (ret < 0)
		fail_msg("%s; %s", e->text, e->remedy);
	err_clear(e);
}
