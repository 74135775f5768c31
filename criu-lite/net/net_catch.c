/* SPDX-License-Identifier: Apache-2.0 */
#include "net_catch.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_log.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "log.h"
#include "net_nl.h"

#define BUFFER     (16 << 20)    /* a few windows of a fast connection */
#define MESSAGE    (128 << 10)   /* NFULNL_NLBUFSIZ_MAX */
#define FIRST      24000         /* group numbers, where rules of administrators hardly are */
#define GROUPS     1000

struct net_catch {
	struct mnl_socket *nl;
	int group;
	bool lost_said;
};

static struct nlmsghdr *config(void *buf, int group)
{
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(buf);
	struct nfgenmsg *nfg;

	nlh->nlmsg_type = NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_CONFIG;
	nlh->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
	nlh->nlmsg_seq = 1;
	nfg = mnl_nlmsg_put_extra_header(nlh, sizeof(*nfg));
	nfg->nfgen_family = AF_UNSPEC;
	nfg->version = NFNETLINK_V0;
	nfg->res_id = htons((uint16_t)group);
	return nlh;
}

static int bind_group(struct net_catch *c, int group)
{
	struct nfulnl_msg_config_cmd cmd = { .command = NFULNL_CFG_CMD_BIND };
	char buf[256];
	struct nlmsghdr *nlh = config(buf, group);

	mnl_attr_put(nlh, NFULA_CFG_CMD, sizeof(cmd), &cmd);
	return net_nl_ask(c->nl, nlh, nlh->nlmsg_len, 1, NULL, NULL);
}

static int set_mode(struct net_catch *c)
{
	struct nfulnl_msg_config_mode mode = {
		.copy_mode = NFULNL_COPY_PACKET, .copy_range = htonl(0xffff),
	};
	char buf[256];
	struct nlmsghdr *nlh = config(buf, c->group);

	mnl_attr_put(nlh, NFULA_CFG_MODE, sizeof(mode), &mode);
	mnl_attr_put_u32(nlh, NFULA_CFG_NLBUFSIZ, htonl(MESSAGE));
	mnl_attr_put_u32(nlh, NFULA_CFG_QTHRESH, htonl(1)); /* each one at once */
	return net_nl_ask(c->nl, nlh, nlh->nlmsg_len, 1, NULL, NULL);
}

static int open_group(struct net_catch *c, struct err *e)
{
	int size = BUFFER, ret = -EBUSY;

	for (int i = 0; ret == -EBUSY && i < GROUPS; i++) {
		c->group = FIRST + (int)((unsigned)getpid() + (unsigned)i) % GROUPS;
		ret = bind_group(c, c->group);
	}
	if (ret == 0)
		ret = set_mode(c);
	if (ret == -EINVAL || ret == -ENOENT) /* no such subsystem of nfnetlink */
		return err_say(e, EOPNOTSUPP,
			       "this kernel has no NFLOG (CONFIG_NETFILTER_NETLINK_LOG)");
	if (ret < 0)
		return err_set(e, -ret, "NFLOG");
	int fd = net_catch_fd(c);
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)) < 0)
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	return 0;
}

int net_catch_new(struct net_catch **out, int netns, struct err *e)
{
	struct net_catch *c = xcalloc(1, sizeof(*c));
	int ret = net_nl_open(&c->nl, NETLINK_NETFILTER, netns, e);

	*out = NULL;
	if (ret == 0 && (ret = open_group(c, e)) == 0)
		*out = c;
	else
		net_catch_free(c);
	return ret;
}

int net_catch_group(const struct net_catch *c) { return c->group; }

int net_catch_fd(const struct net_catch *c) { return mnl_socket_get_fd(c->nl); }

void net_catch_free(struct net_catch *c)
{
	if (!c)
		return;
	net_nl_close(&c->nl);
	free(c);
}

static int keep(const struct nlmsghdr *nlh, void *data)
{
	const struct nlattr *attr;
	struct buf *out = data;

	if (nlh->nlmsg_type != (NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_PACKET))
		return MNL_CB_OK;
	mnl_attr_for_each(attr, nlh, sizeof(struct nfgenmsg)) {
		uint32_t n = mnl_attr_get_payload_len(attr);

		if (mnl_attr_get_type(attr) != NFULA_PAYLOAD)
			continue;
		uint8_t le[4] = {(uint8_t)n, (uint8_t)(n >> 8), (uint8_t)(n >> 16),
				 (uint8_t)(n >> 24)};
		buf_put(out, le, sizeof(le));
		buf_put(out, mnl_attr_get_payload(attr), n);
	}
	return MNL_CB_OK;
}

int net_catch_take(struct net_catch *c, struct buf *out, struct err *e)
{
	_cleanup_free_ char *buf = xmalloc(MESSAGE);

	for (;;) {
		ssize_t n = recv(mnl_socket_get_fd(c->nl), buf, MESSAGE, MSG_DONTWAIT);

		if (n < 0 && errno == EAGAIN)
			return 0;
		if (n < 0 && errno == ENOBUFS) {
			if (!c->lost_said)
				log_info("more came during the switch than can be kept: peers will "
					 "repeat it");
			c->lost_said = true;
			continue;
		}
		if (n < 0 && errno != EINTR)
			return err_set(e, errno, "NFLOG");
		if (n > 0)
			mnl_cb_run(buf, (size_t)n, 0, 0, keep, out);
	}
}
