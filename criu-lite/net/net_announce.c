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

/* An address's device. libnet asks in the network that the thread is in: so once, at the
 * beginning. */
struct link {
	libnet_t *l;                 /* NULL: nobody to tell */
	uint8_t mac[6];
	bool is_router;
};

struct net_announcer {
	int line;                    /* one byte says go, its end says never */
	struct link *links;          /* one for each address */
	struct net_addr *addrs;      /* without their routes */
	size_t n;
};

static const uint8_t everyone[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
static const uint8_t all_nodes_mac[6] = { 0x33, 0x33, 0, 0, 0, 1 };

/* ---- frames ---- */

static void send_arp(const struct link *to, const struct in_addr *ip, uint16_t op)
{
	static const uint8_t nobody[6];
	const uint8_t *mac = to->mac;
	libnet_t *l = to->l;
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
	_cleanup_(buf_free) struct buf b = { 0 };
	struct err ignored = ERR_INIT;

	return io_slurp(&b, &ignored, "/proc/sys/net/ipv6/conf/%s/forwarding", dev) == 0 &&
	       b.n && b.at[0] != '0';
}

static void send_advertisement(const struct link *to, const struct net_addr *a)
{
	struct libnet_in6_addr ip, all_nodes = { .__u6_addr.__u6_addr8 = { 0xff, 2, [15] = 1 } };
	uint32_t flags = ntohl(ND_NA_FLAG_OVERRIDE | (to->is_router ? ND_NA_FLAG_ROUTER : 0));
	uint8_t option[6];
	libnet_t *l = to->l;

	memcpy(&ip, &a->ip.v6, sizeof(ip));
	memcpy(option, to->mac, sizeof(option));
	libnet_clear_packet(l);
	if (libnet_build_icmpv6_ndp_opt(ND_OPT_TARGET_LINKADDR, option, 6, l, 0) >= 0 &&
	    libnet_build_icmpv6_ndp_nadv(ND_NEIGHBOR_ADVERT, 0, 0, flags, ip, NULL, 0, l, 0) >= 0 &&
	    libnet_build_ipv6(0, 0, 32, IPPROTO_ICMPV6, 255, ip, all_nodes, NULL, 0, l, 0) >= 0 &&
	    libnet_build_ethernet(all_nodes_mac, to->mac, ETHERTYPE_IPV6, NULL, 0, l, 0) >= 0)
		libnet_write(l);
}

static void announce(const struct link *to, const struct net_addr *a)
{
	if (a->family == AF_INET) {
		send_arp(to, &a->ip.v4, ARPOP_REQUEST);
		send_arp(to, &a->ip.v4, ARPOP_REPLY);
	} else {
		send_advertisement(to, a);
	}
}

/* ---- the process ---- */

/* The rounds after the first. An address may have moved on since the last one: then it is another
 * host's to announce. */
static void rounds(const struct link *links, struct mnl_socket *rt, const struct net_addr *addrs,
		   size_t n)
{
	long ms = NET_ANNOUNCE_INITIAL_MS;

	for (int round = 1; round < NET_ANNOUNCE_ROUNDS; round++) {
		nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000},
			  NULL);
		for (size_t i = 0; i < n; i++)
			if (links[i].l && net_route_is_local(rt, addrs[i].family, &addrs[i].ip))
				announce(&links[i], &addrs[i]);
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
	return fd >= 0 && ioctl(fd, SIOCGIFHWADDR, &hw) == 0 &&
	       ioctl(fd, SIOCGIFFLAGS, &flags) == 0 && hw.ifr_hwaddr.sa_family == ARPHRD_ETHER &&
	       !(flags.ifr_flags & (IFF_NOARP | IFF_LOOPBACK));
}

static struct link *open_links(const struct net_addr *addrs, size_t n)
{
	struct link *links = xcalloc(n, sizeof(*links));

	for (size_t i = 0; i < n; i++) {
		char why[LIBNET_ERRBUF_SIZE];
		struct libnet_ether_addr *mac;
		libnet_t *l;

		if (!has_neighbours(addrs[i].dev))
			continue;
		if (!(l = libnet_init(LIBNET_LINK, addrs[i].dev, why)) ||
		    !(mac = libnet_get_hwaddr(l))) {
			log_warn("address on %s will not be announced: %s", addrs[i].dev,
				 l ? "no MAC" : why);
			if (l)
				libnet_destroy(l);
			continue;
		}
		links[i].l = l;
		links[i].is_router = is_router(addrs[i].dev);
		memcpy(links[i].mac, mac, sizeof(links[i].mac));
	}
	return links;
}

static void serve(int line, const struct net_addr *addrs, size_t n)
{
	_cleanup_nl_ struct mnl_socket *rt = NULL;
	struct err ignored = ERR_INIT;
	struct link *links = open_links(addrs, n);
	char word;

	if (net_nl_open(&rt, NETLINK_ROUTE, -1, &ignored) == 0 && read(line, &word, 1) == 1)
		rounds(links, rt, addrs, n);
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

static int start(struct net_announcer *a, int netns, struct err *e)
{
	int line[2];

	if (pipe2(line, O_CLOEXEC) < 0)
		return err_set(e, errno, "announcing addresses: pipe");
	pid_t child = fork();
	if (child == 0) {
		/* a child of init: the caller need not wait for it */
		if (fork() == 0) {
			close(line[1]);
			become(line[0], netns, a->addrs, a->n);
		}
		_exit(0);
	}
	close(line[0]);
	a->line = line[1];
	if (child < 0)
		return err_set(e, errno, "announcing addresses: fork");
	while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
		;
	return 0;
}

int net_announcer_new(struct net_announcer **out, int netns, const struct net_addr *addrs, size_t n,
		      struct err *e)
{
	struct net_announcer *a = xcalloc(1, sizeof(*a));
	_cleanup_ns_ int back = -1;

	*out = NULL;
	*a = (struct net_announcer){ .line = -1, .n = n, .addrs = xcalloc(n, sizeof(*addrs)) };
	for (size_t i = 0; i < n; i++) {
		a->addrs[i] = addrs[i];
		a->addrs[i].routes = (struct buf){ 0 };
	}
	int ret = start(a, netns, e);
	if (ret == 0 && (ret = net_ns_enter(netns, &back, e)) == 0) {
		a->links = open_links(a->addrs, n);
		*out = a;
		return 0;
	}
	net_announcer_free(a);
	return ret;
}

void net_announcer_go(struct net_announcer *a)
{
	if (!a)
		return;
	/* the first round itself: the other process may have to wait for a processor */
	for (size_t i = 0; i < a->n; i++)
		if (a->links[i].l)
			announce(&a->links[i], &a->addrs[i]);
	if (write(a->line, "g", 1) != 1)
		log_warn("the guest's addresses are announced once only: the process for more has "
			 "died");
}

void net_announcer_free(struct net_announcer *a)
{
	if (!a)
		return;
	for (size_t i = 0; a->links && i < a->n; i++)
		if (a->links[i].l)
			libnet_destroy(a->links[i].l);
	if (a->line >= 0)
		close(a->line);
	free(a->links);
	free(a->addrs);
	free(a);
}
