/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses as text: what the user gives, and what goes into records and messages. */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/if_addr.h>
#include <stdio.h>
#include <string.h>

#include "cleanup.h"
#include "net_addr.h"

#define FORM "ADDRESS/LENGTH[@DEVICE[=TARGET-DEVICE]]"

static int take_name(char to[IFNAMSIZ], const char *from, size_t n, const char *what, struct err *e)
{
	if (!n || n >= IFNAMSIZ || memchr(from, '/', n) || memchr(from, ' ', n))
		return err_say(e, EINVAL, "\"%.*s\" is not a name of a %s", (int)n, from, what);
	memcpy(to, from, n);
	to[n] = '\0';
	return 0;
}

static int take_ip(struct net_addr *a, char *text, struct err *e)
{
	char *slash = strchr(text, '/'), *end;

	if (!slash)
		return err_say(e, EINVAL, "the length of its prefix is missing, as in %s/24", text);
	*slash = '\0';
	a->family = strchr(text, ':') ? AF_INET6 : AF_INET;
	if (inet_pton(a->family, text, &a->ip) != 1)
		return err_say(e, EINVAL, "\"%s\" is not an IPv4 or IPv6 address", text);
	unsigned long prefix = strtoul(slash + 1, &end, 10), max = a->family == AF_INET ? 32 : 128;

	if (end == slash + 1 || *end || slash[1] == '-' || slash[1] == '+' || !prefix ||
	    prefix > max)
		return err_say(e, EINVAL, "the length of its prefix must be 1 to %lu, not \"%s\"",
			       max, slash + 1);
	a->prefix = (uint8_t)prefix;
	return 0;
}

static int take_devices(struct net_addr *a, const char *at, struct err *e)
{
	const char *equals = strchr(at, '=');
	int ret = take_name(a->dev, at, equals ? (size_t)(equals - at) : strlen(at), "device", e);

	if (ret < 0 || !equals)
		return ret;
	return take_name(a->target, equals + 1, strlen(equals + 1), "target device", e);
}

int net_addr_parse(struct net_addr *a, const char *text, struct err *e)
{
	_cleanup_free_ char *copy = xstrdup(text);
	char *at = strchr(copy, '@');
	int ret = 0;

	*a = (struct net_addr){ .valid = NET_ADDR_FOREVER, .preferred = NET_ADDR_FOREVER };
	if (at)
		*at++ = '\0';
	if ((ret = take_ip(a, copy, e)) == 0 && at)
		ret = take_devices(a, at, e);
	if (ret < 0) {
		err_in(e, "address %s", text);
		return err_remedy(e, "give it as " FORM);
	}
	return 0;
}

void net_addr_free(struct net_addr *a)
{
	buf_free(&a->routes);
}

const char *net_addr_text(const struct net_addr *a, char buf[INET6_ADDRSTRLEN + 4])
{
	inet_ntop(a->family, &a->ip, buf, INET6_ADDRSTRLEN);
	sprintf(buf + strlen(buf), "/%u", a->prefix);
	return buf;
}

/* ---- a line: 1 ADDRESS/LENGTH SCOPE FLAGS VALID PREFERRED METRIC DEV TARGET LABEL BROADCAST PEER;
 * "-" stands for what is not there. */

#define VERSION 1

static const char *or_none(const char *s) { return *s ? s : "-"; }

char *net_addr_pack(const struct net_addr *a)
{
	char broadcast[INET_ADDRSTRLEN] = "-", peer[INET6_ADDRSTRLEN] = "-";
	char ip[INET6_ADDRSTRLEN + 4];

	if (a->has_broadcast)
		inet_ntop(AF_INET, &a->broadcast, broadcast, sizeof(broadcast));
	if (a->has_peer)
		inet_ntop(a->family, &a->peer, peer, sizeof(peer));
	return xasprintf("%d %s %u %" PRIu32 " %" PRIu32 " %" PRIu32 " %" PRIu32 " %s %s %s %s %s",
			 VERSION, net_addr_text(a, ip), a->scope, a->flags, a->valid, a->preferred,
			 a->metric, or_none(a->dev), or_none(a->target), or_none(a->label),
			 broadcast, peer);
}

static int take_field(char to[IFNAMSIZ], const char *from, const char *what, struct err *e)
{
	return strcmp(from, "-") ? take_name(to, from, strlen(from), what, e) : 0;
}

static int take_other_ip(int family, const char *from, void *to, bool *has, struct err *e)
{
	*has = strcmp(from, "-") != 0;
	if (!*has || inet_pton(family, from, to) == 1)
		return 0;
	return err_say(e, EBADMSG, "\"%s\" is not an address of its family", from);
}

int net_addr_unpack(struct net_addr *a, const char *line, struct err *e)
{
	char ip[64], dev[20], target[20], label[20], broadcast[64], peer[64];
	struct net_addr got = { 0 };
	unsigned version, scope;
	int end = 0, ret;

	*a = got;
	if (sscanf(line, "%u %63s %u %" SCNu32 " %" SCNu32 " %" SCNu32 " %" SCNu32
		   " %19s %19s %19s %63s %63s%n", &version, ip, &scope, &got.flags, &got.valid,
		   &got.preferred, &got.metric, dev, target, label, broadcast, peer, &end) != 12 ||
	    line[end] || version != VERSION || scope > 255)
		return err_say(e, EBADMSG, "not a record of an address: %.100s", line);
	got.scope = (uint8_t)scope;
	if ((ret = take_ip(&got, ip, e)) < 0 || (ret = take_field(got.dev, dev, "device", e)) < 0 ||
	    (ret = take_field(got.target, target, "target device", e)) < 0 ||
	    (ret = take_field(got.label, label, "label", e)) < 0 ||
	    (ret = take_other_ip(AF_INET, broadcast, &got.broadcast, &got.has_broadcast, e)) < 0 ||
	    (ret = take_other_ip(got.family, peer, &got.peer, &got.has_peer, e)) < 0)
		return err_in(e, "record of an address");
	*a = got;
	return 0;
}

void net_addr_land(struct net_addr *a)
{
	char label[3 * IFNAMSIZ];
	size_t n = strlen(a->dev);

	if (*a->target) {
		/* "eth0:db" on eth1 is "eth1:db", if there is room for that */
		bool own = n && !strncmp(a->label, a->dev, n) &&
			   (a->label[n] == ':' || !a->label[n]);

		snprintf(label, sizeof(label), "%s%s", a->target, own ? a->label + n : "");
		strcpy(a->dev, a->target);
		if (*a->label)
			strcpy(a->label, strlen(label) < IFNAMSIZ ? label : a->target);
	}
	*a->target = '\0';
}
