/* SPDX-License-Identifier: Apache-2.0 */
#include "net_route.h"

#include <errno.h>
#include <linux/rtnetlink.h>
#include <string.h>
#include <time.h>

#include "net_nl.h"

static size_t ip_size(int family) { return family == AF_INET ? 4 : 16; }

struct saving {
	int family, index;
	const union net_ip *ip;
	struct buf *out;
};

static bool has_source(const struct nlmsghdr *nlh, int family, const union net_ip *ip)
{
	const struct nlattr *attr;

	mnl_attr_for_each(attr, nlh, sizeof(struct rtmsg))
		if (mnl_attr_get_type(attr) == RTA_PREFSRC)
			return !memcmp(mnl_attr_get_payload(attr), ip, ip_size(family));
	return false;
}

static bool has_hop(const struct nlattr *hops, int index)
{
	const struct rtnexthop *hop = mnl_attr_get_payload(hops);
	int left = mnl_attr_get_payload_len(hops);

	for (; RTNH_OK(hop, left); left -= RTNH_ALIGN(hop->rtnh_len), hop = RTNH_NEXT(hop))
		if (hop->rtnh_ifindex == index)
			return true;
	return false;
}

static bool uses_device(const struct nlmsghdr *nlh, int index)
{
	const struct nlattr *attr;

	mnl_attr_for_each(attr, nlh, sizeof(struct rtmsg)) {
		if (mnl_attr_get_type(attr) == RTA_OIF && mnl_attr_get_u32(attr) == (uint32_t)index)
			return true;
		if (mnl_attr_get_type(attr) == RTA_MULTIPATH && has_hop(attr, index))
			return true;
	}
	return false;
}

static int save(const struct nlmsghdr *nlh, void *data)
{
	const struct rtmsg *rtm = mnl_nlmsg_get_payload(nlh);
	const struct saving *s = data;
	static const char zero[NLMSG_ALIGNTO];

	if (nlh->nlmsg_type != RTM_NEWROUTE || (rtm->rtm_flags & RTM_F_CLONED) ||
	    rtm->rtm_protocol == RTPROT_KERNEL || rtm->rtm_protocol == RTPROT_RA ||
	    (!uses_device(nlh, s->index) && !has_source(nlh, s->family, s->ip)))
		return MNL_CB_OK;
	buf_put(s->out, nlh, nlh->nlmsg_len);
	buf_put(s->out, zero, MNL_ALIGN(nlh->nlmsg_len) - nlh->nlmsg_len);
	return MNL_CB_OK;
}

int net_routes_save(struct mnl_socket *rt, int family, int index, const union net_ip *ip,
		    struct buf *out, struct err *e)
{
	struct saving s = { .family = family, .index = index, .ip = ip, .out = out };
	char buf[256];
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(buf);

	nlh->nlmsg_type = RTM_GETROUTE;
	nlh->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	nlh->nlmsg_seq = (uint32_t)time(NULL);
	struct rtmsg *rtm = mnl_nlmsg_put_extra_header(nlh, sizeof(*rtm));
	rtm->rtm_family = (unsigned char)family;
	out->n = 0;
	int ret = net_nl_ask(rt, nlh, nlh->nlmsg_len, nlh->nlmsg_seq, save, &s);
	return ret < 0 ? err_set(e, -ret, "reading the routes") : 0;
}

#define each_route(routes, nlh, left) \
	for (left = (int)(routes)->n, nlh = (struct nlmsghdr *)(void *)(routes)->at; \
	     mnl_nlmsg_ok(nlh, left); nlh = mnl_nlmsg_next(nlh, &left))

unsigned net_routes_from(const struct buf *routes, int family, const union net_ip *ip)
{
	const struct nlmsghdr *nlh;
	unsigned n = 0;
	int left;

	each_route(routes, nlh, left)
		n += has_source(nlh, family, ip);
	return n;
}

/* A route that the kernel described is one that it takes, but for what is not a setting: state in
 * rtm_flags, and times. */
static int put_back(struct mnl_socket *rt, const struct nlmsghdr *saved)
{
	const struct nlattr *attr;
	_cleanup_free_ char *buf = xcalloc(1, saved->nlmsg_len + NLMSG_HDRLEN);
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(buf);
	struct rtmsg *rtm = mnl_nlmsg_put_extra_header(nlh, sizeof(*rtm));

	memcpy(rtm, mnl_nlmsg_get_payload(saved), sizeof(*rtm));
	rtm->rtm_flags &= RTNH_F_ONLINK;
	nlh->nlmsg_type = RTM_NEWROUTE;
	nlh->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
	nlh->nlmsg_seq = (uint32_t)time(NULL);
	mnl_attr_for_each(attr, saved, sizeof(*rtm))
		if (mnl_attr_get_type(attr) != RTA_CACHEINFO)
			mnl_attr_put(nlh, mnl_attr_get_type(attr), mnl_attr_get_payload_len(attr),
				     mnl_attr_get_payload(attr));
	return net_nl_ask(rt, nlh, nlh->nlmsg_len, nlh->nlmsg_seq, NULL, NULL);
}

int net_routes_put(struct mnl_socket *rt, const struct buf *routes, struct err *e)
{
	const struct nlmsghdr *nlh;
	int left, wrong = 0;
	unsigned n = 0;

	/* twice: a route may need another one to reach its gateway */
	for (int i = 0; i < 2; i++) {
		n = 0;
		each_route(routes, nlh, left) {
			int ret = put_back(rt, nlh);

			if (ret == 0 || ret == -EEXIST)
				continue;
			wrong = ret;
			n++;
		}
		if (!n)
			return 0;
	}
	return err_set(e, -wrong, "%u routes cannot be put back", n);
}

static int read_type(const struct nlmsghdr *nlh, void *data)
{
	const struct rtmsg *rtm = mnl_nlmsg_get_payload(nlh);

	if (nlh->nlmsg_type == RTM_NEWROUTE)
		*(int *)data = rtm->rtm_type;
	return MNL_CB_OK;
}

bool net_route_is_local(struct mnl_socket *rt, int family, const union net_ip *ip)
{
	char buf[256];
	int type = RTN_UNSPEC;
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(buf);

	nlh->nlmsg_type = RTM_GETROUTE;
	nlh->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
	nlh->nlmsg_seq = (uint32_t)time(NULL);
	struct rtmsg *rtm = mnl_nlmsg_put_extra_header(nlh, sizeof(*rtm));
	rtm->rtm_family = (unsigned char)family;
	rtm->rtm_dst_len = family == AF_INET ? 32 : 128;
	mnl_attr_put(nlh, RTA_DST, ip_size(family), ip);
	return net_nl_ask(rt, nlh, nlh->nlmsg_len, nlh->nlmsg_seq, read_type, &type) == 0 &&
	       type == RTN_LOCAL;
}
