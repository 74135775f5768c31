/* SPDX-License-Identifier: Apache-2.0 */
#include "net_announce.h"

#include <errno.h>
#include <libnet.h>
#include <linux/netlink.h>
#include <net/if_arp.h>
#include <netinet/icmp6.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cleanup.h"
#include "io.h"
#include "log.h"
#include "net_nl.h"
#include "net_route.h"

struct net_announcer {
	int line;                    /* one byte says go, its end says never */
};

static const uint8_t everyone[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
static const uint8_t all_nodes_mac[6] = { 0x33, 0x33, 0, 0, 0, 1 };

/* ---- frames ---- */

static void send_arp(libnet_t *l, const uint8_t *mac, const struct in_addr *ip, uint16_t op)
{
	static const uint8_t nobody[6];
	const uint8_t *ip_bytes = (const uint8_t *)ip;

	libnet_clear_packet(l);
	if (libnet_build_arp(ARPHRD_ETHER, ETHERTYPE_IP, 6, 4, op, mac, ip_bytes,
			     op == ARPOP_REQUEST ? nobody : mac, ip_bytes, NULL, 0, l, 0) >= 0 &&
	    libnet_build_ethernet(everyone, mac, ETHERTYPE_ARP, NULL, 0, l, 0) >= 0)
		libnet_write(l);
}

/* A host that forwards must say that it is a router, or those who use it as one forget it. */
static bool is_router(const char *dev)
{
	char path[128];
	_cleanup_(buf_free) struct buf b = { 0 };
	struct err ignored = ERR_INIT;

	snprintf(path, sizeof(path), "/proc/sys/net/ipv6/conf/%s/forwarding", dev);
	return io_slurp_at(AT_FDCWD, path, &b, &ignored) == 0 && b.n && b.at[0] != '0';
}

static void send_advertisement(libnet_t *l, const uint8_t *mac, const struct net_addr *a)
{
	struct libnet_in6_addr ip, all_nodes = { .__u6_addr.__u6_addr8 = { 0xff, 2, [15] = 1 } };
	uint32_t flags = ND_NA_FLAG_OVERRIDE | (is_router(a->dev) ? ND_NA_FLAG_ROUTER : 0);
	uint8_t option[6];

	memcpy(&ip, &a->ip.v6, sizeof(ip));
	memcpy(option, mac, sizeof(option));
	libnet_clear_packet(l);
	if (libnet_build_icmpv6_ndp_opt(ND_OPT_TARGET_LINKADDR, option, sizeof(option), l, 0) >= 0 &&
	    libnet_build_icmpv6_ndp_nadv(ND_NEIGHBOR_ADVERT, 0, 0, ntohl(flags), ip, NULL, 0, l, 0) >= 0 &&
	    libnet_build_ipv6(0, 0, 32, IPPROTO_ICMPV6, 255, ip, all_nodes, NULL, 0, l, 0) >= 0 &&
	    libnet_build_ethernet(all_nodes_mac, mac, ETHERTYPE_IPV6, NULL, 0, l, 0) >= 0)
		libnet_write(l);
}

static void announce(libnet_t *l, const struct net_addr *a)
{
	struct libnet_ether_addr *own = libnet_get_hwaddr(l);

	if (!own)
		return;
	if (a->family == AF_INET) {
		send_arp(l, own->ether_addr_octet, &a->ip.v4, ARPOP_REQUEST);
		send_arp(l, own->ether_addr_octet, &a->ip.v4, ARPOP_REPLY);
	} else {
		send_advertisement(l, own->ether_addr_octet, a);
	}
}

/* ---- the process ---- */

/* An address may have moved on since the last round: then it is another host's to announce. */
static void rounds(libnet_t **l, struct mnl_socket *rt, const struct net_addr *addrs, size_t n)
{
	long ms = NET_ANNOUNCE_INITIAL_MS;

	for (int round = 1;; round++) {
		for (size_t i = 0; i < n; i++)
			if (l[i] && net_route_is_local(rt, addrs[i].family, &addrs[i].ip))
				announce(l[i], &addrs[i]);
		if (round == NET_ANNOUNCE_ROUNDS)
			return;
		nanosleep(&(struct timespec){ .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 }, NULL);
		ms += NET_ANNOUNCE_STEP_MS;
		if (ms > NET_ANNOUNCE_MAX_MS)
			ms = NET_ANNOUNCE_MAX_MS;
	}
}

static bool has_neighbours(const char *dev)
{
	struct ifreq hw = { 0 }, flags;
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	snprintf(hw.ifr_name, sizeof(hw.ifr_name), "%s", dev);
	flags = hw;
	return fd >= 0 && ioctl(fd, SIOCGIFHWADDR, &hw) == 0 && ioctl(fd, SIOCGIFFLAGS, &flags) == 0 &&
	       hw.ifr_hwaddr.sa_family == ARPHRD_ETHER && !(flags.ifr_flags & (IFF_NOARP | IFF_LOOPBACK));
}

static void serve(int line, const struct net_addr *addrs, size_t n)
{
	_cleanup_free_ libnet_t **l = xcalloc(n, sizeof(*l));
	_cleanup_nl_ struct mnl_socket *rt = NULL;
	struct err ignored = ERR_INIT;
	char why[LIBNET_ERRBUF_SIZE], word;

	for (size_t i = 0; i < n; i++)
		if (has_neighbours(addrs[i].dev))
			l[i] = libnet_init(LIBNET_LINK, addrs[i].dev, why);
	if (net_nl_open(&rt, NETLINK_ROUTE, -1, &ignored) == 0 && read(line, &word, 1) == 1)
		rounds(l, rt, addrs, n);
}

/* Nothing of the caller is kept: who waits for the end of its output does not wait for us. */
static _Noreturn void become(int line, int netns, const struct net_addr *addrs, size_t n)
{
	struct err ignored = ERR_INIT;
	int back, null = open("/dev/null", O_RDWR);
	sigset_t none;

	setsid();
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (net_ns_enter(netns, &back, &ignored) < 0)
		_exit(1);
	for (int fd = 0; fd < 3; fd++)
		dup2(null, fd);
	dup2(line, 3);
	syscall(SYS_close_range, 4, ~0u, 0);
	setpriority(PRIO_PROCESS, 0, -20);
	serve(3, addrs, n);
	_exit(0);
}

int net_announcer_new(struct net_announcer **out, int netns, const struct net_addr *addrs, size_t n,
		      struct err *e)
{
	int line[2];

	*out = NULL;
	if (pipe2(line, O_CLOEXEC) < 0)
		return err_set(e, errno, "announcing addresses: pipe");
	pid_t child = fork();
	if (child == 0) {
		/* a child of init: the caller need not wait for it */
		if (fork() == 0) {
			close(line[1]);
			become(line[0], netns, addrs, n);
		}
		_exit(0);
	}
	close(line[0]);
	if (child < 0) {
		close(line[1]);
		return err_set(e, errno, "announcing addresses: fork");
	}
	while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
		;
	*out = xcalloc(1, sizeof(**out));
	(*out)->line = line[1];
	return 0;
}

void net_announcer_go(struct net_announcer *a)
{
	if (!a)
		return;
	if (write(a->line, "g", 1) != 1)
		log_warn("the new place of the guest's addresses is not announced: its process has died");
	net_announcer_cancel(a);
}

void net_announcer_cancel(struct net_announcer *a)
{
	if (!a)
		return;
	close(a->line);
	free(a);
}
