/* SPDX-License-Identifier: Apache-2.0 */
#include "net_addr.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_addr.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "log.h"
#include "net_nl.h"
#include "net_route.h"

/* linux/ip.h has the numbers, but not beside netinet/ip.h */
#define PROMOTE_SECONDARIES 20   /* IPV4_DEVCONF_PROMOTE_SECONDARIES */

#define KEPT_FLAGS \
	(IFA_F_HOMEADDRESS | IFA_F_MANAGETEMPADDR | IFA_F_NOPREFIXROUTE | IFA_F_MCAUTOJOIN)
#define USABLE_MS  100           /* an IPv6 address gets its route from a work queue */

static size_t ip_size(int family) { return family == AF_INET ? 4 : 16; }

static bool same_ip(int family, const union net_ip *a, const void *b)
{
	return !memcmp(a, b, ip_size(family));
}

/* ---- devices ---- */

struct link {
	int index;
	bool up, promotes;
	char name[IFNAMSIZ];
};

static void read_af_spec(const struct nlattr *spec, struct link *l)
{
	const struct nlattr *family, *part;

	mnl_attr_for_each_nested(family, spec)
		if (mnl_attr_get_type(family) == AF_INET)
			mnl_attr_for_each_nested(part, family)
				/* an array of all settings, the first has number 1 */
				if (mnl_attr_get_type(part) == IFLA_INET_CONF &&
				    mnl_attr_get_payload_len(part) >= 4 * PROMOTE_SECONDARIES)
					l->promotes = ((const int32_t *)mnl_attr_get_payload(part))
						      [PROMOTE_SECONDARIES - 1];
}

static int read_link(const struct nlmsghdr *nlh, void *data)
{
	const struct ifinfomsg *info = mnl_nlmsg_get_payload(nlh);
	struct link *l = data;
	const struct nlattr *attr;

	if (nlh->nlmsg_type != RTM_NEWLINK)
		return MNL_CB_OK;
	l->index = info->ifi_index;
	l->up = info->ifi_flags & IFF_UP;
	mnl_attr_for_each(attr, nlh, sizeof(*info)) {
		if (mnl_attr_get_type(attr) == IFLA_AF_SPEC)
			read_af_spec(attr, l);
		else if (mnl_attr_get_type(attr) == IFLA_IFNAME)
			snprintf(l->name, sizeof(l->name), "%s", mnl_attr_get_str(attr));
	}
	return MNL_CB_OK;
}

static struct nlmsghdr *message(void *buf, uint16_t type, uint16_t flags)
{
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(buf);

	nlh->nlmsg_type = type;
	nlh->nlmsg_flags = NLM_F_REQUEST | flags;
	nlh->nlmsg_seq = (uint32_t)time(NULL);
	return nlh;
}

static int ask(struct mnl_socket *rt, const struct nlmsghdr *nlh, mnl_cb_t cb, void *data)
{
	return net_nl_ask(rt, nlh, nlh->nlmsg_len, nlh->nlmsg_seq, cb, data);
}

/* By name, or by number if the name is NULL. */
static int find_link(struct mnl_socket *rt, const char *name, int index, struct link *l)
{
	char buf[512];
	struct nlmsghdr *nlh = message(buf, RTM_GETLINK, NLM_F_ACK);
	struct ifinfomsg *info = mnl_nlmsg_put_extra_header(nlh, sizeof(*info));

	*l = (struct link){ 0 };
	info->ifi_index = index;
	if (name)
		mnl_attr_put_strz(nlh, IFLA_IFNAME, name);
	return ask(rt, nlh, read_link, l);
}

static int need_link(struct mnl_socket *rt, const char *name, struct link *l, struct err *e)
{
	int ret = find_link(rt, name, 0, l);

	if (ret == -ENODEV) {
		err_say(e, ENODEV, "there is no device %s here", name);
		return err_remedy(e, "name the right device: ADDRESS/LENGTH@DEVICE=TARGET-DEVICE");
	}
	return ret < 0 ? err_set(e, -ret, "device %s", name) : 0;
}

/* Whether the second address of a subnet takes the place of the first when that is removed. */
static int set_promotes(struct mnl_socket *rt, int index, bool on, struct err *e)
{
	char buf[512];
	struct nlmsghdr *nlh = message(buf, RTM_SETLINK, NLM_F_ACK);
	struct ifinfomsg *info = mnl_nlmsg_put_extra_header(nlh, sizeof(*info));

	info->ifi_index = index;
	struct nlattr *spec = mnl_attr_nest_start(nlh, IFLA_AF_SPEC);
	struct nlattr *inet = mnl_attr_nest_start(nlh, AF_INET);
	struct nlattr *conf = mnl_attr_nest_start(nlh, IFLA_INET_CONF);
	mnl_attr_put_u32(nlh, PROMOTE_SECONDARIES, on);
	mnl_attr_nest_end(nlh, conf);
	mnl_attr_nest_end(nlh, inet);
	mnl_attr_nest_end(nlh, spec);
	int ret = ask(rt, nlh, NULL, NULL);
	return ret < 0 ? err_set(e, -ret, "promote_secondaries of device %d", index) : 0;
}

/* ---- looking ---- */

struct search {
	struct net_addr *a;
	int index;                   /* only there, 0: anywhere */
	unsigned found, others, same_net;
	bool other_length;
	struct net_addr got;
};

static void read_attrs(const struct nlmsghdr *nlh, struct net_addr *a)
{
	const struct nlattr *attr;
	bool has_local = false;
	union net_ip address = { 0 };

	mnl_attr_for_each(attr, nlh, sizeof(struct ifaddrmsg)) {
		const void *p = mnl_attr_get_payload(attr);
		const struct ifa_cacheinfo *life = p;

		switch (mnl_attr_get_type(attr)) {
		case IFA_LOCAL: memcpy(&a->ip, p, ip_size(a->family)); has_local = true; break;
		case IFA_ADDRESS: memcpy(&address, p, ip_size(a->family)); break;
		case IFA_BROADCAST: memcpy(&a->broadcast, p, 4); a->has_broadcast = true; break;
		case IFA_LABEL: snprintf(a->label, sizeof(a->label), "%s", (const char *)p); break;
		case IFA_FLAGS: a->flags = mnl_attr_get_u32(attr); break;
		case IFA_RT_PRIORITY: a->metric = mnl_attr_get_u32(attr); break;
		case IFA_CACHEINFO:
			a->valid = life->ifa_valid;
			a->preferred = life->ifa_prefered;
			break;
		}
	}
	if (!has_local)
		a->ip = address;
	a->has_peer = has_local && memcmp(&a->ip, &address, ip_size(a->family));
	a->peer = address;
}

static bool same_net(const struct net_addr *a, const struct net_addr *b)
{
	if (a->family != AF_INET || a->prefix != b->prefix)
		return false;
	return !((a->ip.v4.s_addr ^ b->ip.v4.s_addr) & htonl(~0u << (32 - a->prefix)));
}

static int match_addr(const struct nlmsghdr *nlh, void *data)
{
	const struct ifaddrmsg *ifa = mnl_nlmsg_get_payload(nlh);
	struct search *s = data;
	struct net_addr got = {
		.family = ifa->ifa_family, .prefix = ifa->ifa_prefixlen, .scope = ifa->ifa_scope,
		.flags = ifa->ifa_flags, .index = (int)ifa->ifa_index,
		.valid = NET_ADDR_FOREVER, .preferred = NET_ADDR_FOREVER,
	};

	if (nlh->nlmsg_type != RTM_NEWADDR || ifa->ifa_family != s->a->family ||
	    (s->index && got.index != s->index))
		return MNL_CB_OK;
	read_attrs(nlh, &got);
	if (!same_ip(got.family, &got.ip, &s->a->ip)) {
		s->others++;
		s->same_net += same_net(&got, s->a);
	} else if (got.prefix != s->a->prefix) {
		s->other_length = true;
		s->got = got;
	} else {
		s->found++;
		s->got = got;
	}
	return MNL_CB_OK;
}

static int search(struct mnl_socket *rt, struct search *s, struct err *e)
{
	char buf[256];
	struct nlmsghdr *nlh = message(buf, RTM_GETADDR, NLM_F_DUMP);
	struct ifaddrmsg *ifa = mnl_nlmsg_put_extra_header(nlh, sizeof(*ifa));

	ifa->ifa_family = s->a->family;
	int ret = ask(rt, nlh, match_addr, s);
	return ret < 0 ? err_set(e, -ret, "reading the addresses") : 0;
}

static int complain(const struct search *s, struct err *e)
{
	if (s->other_length) {
		err_say(e, EADDRNOTAVAIL, "it is here with another length of prefix, /%u",
			s->got.prefix);
		return err_remedy(e, "give its length as \"ip address\" shows it");
	}
	if (s->found > 1) {
		err_say(e, ENOTUNIQ, "%u devices have it", s->found);
		return err_remedy(e, "name the device: ADDRESS/LENGTH@DEVICE");
	}
	err_say(e, EADDRNOTAVAIL, "%s%s does not have it", s->index ? "device " : "",
		s->index ? s->a->dev : "this host");
	return err_remedy(e, "look at \"ip address\"");
}

static void warn_of_routes(const struct net_addr *a, bool last)
{
	char ip[INET6_ADDRSTRLEN + 4];
	unsigned by_source = net_routes_from(&a->routes, a->family, &a->ip);

	net_addr_text(a, ip);
	if (last && a->family == AF_INET)
		log_warn("%s is the last IPv4 address of %s: all IPv4 routes through %s go with it",
			 ip, a->dev, a->dev);
	else if (by_source)
		log_warn("%s: %u routes have it as their source and go with it", ip, by_source);
}

/* Where it is; on a.index if that is known. */
static int locate(struct mnl_socket *rt, struct net_addr *a, struct search *s, struct err *e)
{
	*s = (struct search){ .a = a, .index = a->index };
	int ret = search(rt, s, e);

	return ret < 0 || s->found == 1 ? ret : complain(s, e);
}

static int look(struct mnl_socket *rt, struct net_addr *a, struct err *e)
{
	struct link l = { 0 };
	struct search s;
	int ret = *a->dev ? need_link(rt, a->dev, &l, e) : 0;

	a->index = l.index;
	if (ret < 0 || (ret = locate(rt, a, &s, e)) < 0)
		return ret;
	a->index = s.got.index;
	if ((ret = find_link(rt, NULL, a->index, &l)) < 0)
		return err_set(e, -ret, "device %d", a->index);
	strcpy(a->dev, l.name);
	if ((ret = locate(rt, a, &s, e)) < 0 || /* now counting this device's addresses only */
	    (ret = net_routes_save(rt, a->family, a->index, &a->ip, &a->routes, e)) < 0)
		return ret;
	s.got.promote = s.same_net && !(s.got.flags & IFA_F_SECONDARY) && !l.promotes;
	s.got.flags &= KEPT_FLAGS;
	s.got.routes = a->routes;
	memcpy(s.got.dev, a->dev, sizeof(a->dev));
	memcpy(s.got.target, a->target, sizeof(a->target));
	*a = s.got;
	warn_of_routes(a, !s.others);
	return 0;
}

int net_addr_look(struct mnl_socket *rt, struct net_addr *a, struct err *e)
{
	char ip[INET6_ADDRSTRLEN + 4];

	return look(rt, a, e) < 0 ? err_in(e, "address %s", net_addr_text(a, ip)) : 0;
}

static int room(struct mnl_socket *rt, struct net_addr *a, struct err *e)
{
	struct search s = { .a = a };
	struct link l = { 0 };
	int ret;

	if (!*a->dev)
		return err_say(e, EINVAL, "its device is not known");
	if ((ret = need_link(rt, a->dev, &l, e)) < 0 || (ret = search(rt, &s, e)) < 0)
		return ret;
	a->index = l.index;
	if (!l.up) {
		err_say(e, ENETDOWN, "device %s is down", a->dev);
		return err_remedy(e, "ip link set %s up", a->dev);
	}
	if (!s.found && !s.other_length)
		return 0;
	err_say(e, EADDRINUSE, "the target has it already");
	return err_remedy(e, "take it away there, or do not move it");
}

int net_addr_room(struct mnl_socket *rt, struct net_addr *a, struct err *e)
{
	char ip[INET6_ADDRSTRLEN + 4];

	return room(rt, a, e) < 0 ? err_in(e, "address %s", net_addr_text(a, ip)) : 0;
}

/* ---- taking and putting ---- */

static struct nlmsghdr *address_message(void *buf, uint16_t type, uint16_t flags,
					const struct net_addr *a)
{
	struct nlmsghdr *nlh = message(buf, type, NLM_F_ACK | flags);
	struct ifaddrmsg *ifa = mnl_nlmsg_put_extra_header(nlh, sizeof(*ifa));

	ifa->ifa_family = a->family;
	ifa->ifa_prefixlen = a->prefix;
	ifa->ifa_scope = a->scope;
	ifa->ifa_index = (uint32_t)a->index;
	mnl_attr_put(nlh, IFA_LOCAL, ip_size(a->family), &a->ip);
	mnl_attr_put(nlh, IFA_ADDRESS, ip_size(a->family), a->has_peer ? &a->peer : &a->ip);
	return nlh;
}

int net_addr_take(struct mnl_socket *rt, const struct net_addr *a, struct err *e)
{
	char buf[512], ip[INET6_ADDRSTRLEN + 4];
	struct err ignored = ERR_INIT;
	int ret = a->promote ? set_promotes(rt, a->index, true, e) : 0;

	if (ret < 0)
		return err_in(e, "address %s", net_addr_text(a, ip));
	struct nlmsghdr *nlh = address_message(buf, RTM_DELADDR, 0, a);
	ret = ask(rt, nlh, NULL, NULL);
	if (a->promote)
		set_promotes(rt, a->index, false, &ignored);
	if (ret == 0)
		return 0;
	return err_set(e, -ret, "address %s: taking it from %s", net_addr_text(a, ip), a->dev);
}

static int wait_usable(struct mnl_socket *rt, const struct net_addr *a, struct err *e)
{
	for (int i = 0; i < USABLE_MS * 20; i++) {
		if (net_route_is_local(rt, a->family, &a->ip))
			return 0;
		nanosleep(&(struct timespec){ .tv_nsec = 50000 }, NULL);
	}
	return err_say(e, ETIMEDOUT, "it has no route after %d ms", USABLE_MS);
}

static int put(struct mnl_socket *rt, const struct net_addr *a, bool back, struct err *e)
{
	struct ifa_cacheinfo life = { .ifa_valid = a->valid, .ifa_prefered = a->preferred };
	char buf[1024];
	struct nlmsghdr *nlh = address_message(buf, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, a);

	/* a second look whether anyone has it would close it for a second */
	mnl_attr_put_u32(nlh, IFA_FLAGS, a->flags | (a->family == AF_INET6 ? IFA_F_NODAD : 0));
	if (a->has_broadcast)
		mnl_attr_put(nlh, IFA_BROADCAST, sizeof(a->broadcast), &a->broadcast);
	if (*a->label && a->family == AF_INET)
		mnl_attr_put_strz(nlh, IFA_LABEL, a->label);
	if (a->metric)
		mnl_attr_put_u32(nlh, IFA_RT_PRIORITY, a->metric);
	mnl_attr_put(nlh, IFA_CACHEINFO, sizeof(life), &life);
	int ret = ask(rt, nlh, NULL, NULL);
	if (ret < 0 && !(back && ret == -EEXIST))
		return err_set(e, -ret, "putting it on %s", a->dev);
	if (a->family == AF_INET6 && (ret = wait_usable(rt, a, e)) < 0)
		return ret;
	return back ? net_routes_put(rt, &a->routes, e) : 0;
}

int net_addr_put(struct mnl_socket *rt, const struct net_addr *a, bool back, struct err *e)
{
	struct net_addr with = *a;
	char ip[INET6_ADDRSTRLEN + 4];
	struct link l;
	int ret = a->index ? 0 : need_link(rt, a->dev, &l, e);

	if (ret == 0 && !a->index)
		with.index = l.index;
	if (ret == 0)
		ret = put(rt, &with, back, e);
	return ret < 0 ? err_in(e, "address %s", net_addr_text(a, ip)) : 0;
}
