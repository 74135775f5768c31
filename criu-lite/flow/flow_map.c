/* SPDX-License-Identifier: Apache-2.0 */
#include "flow_map.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>

#include "cleanup.h"
#include "fdinfo.pb-c.h"

#define WORDS_MAX 4

/* An address as the images have it: words of the wire. */
struct addr {
	size_t n;
	uint32_t word[WORDS_MAX];
};

struct map {
	struct addr from, to;
};

static bool parse_one(const char *text, struct addr *a)
{
	a->n = 1;
	if (inet_pton(AF_INET, text, a->word) == 1)
		return true;
	a->n = WORDS_MAX;
	return inet_pton(AF_INET6, text, a->word) == 1;
}

static int parse(const char *text, struct map *m, struct err *e)
{
	char from[INET6_ADDRSTRLEN] = "";
	const char *to = strchr(text, '=');

	if (to && (size_t)(to - text) < sizeof(from))
		memcpy(from, text, (size_t)(to - text));
	if (to && parse_one(from, &m->from) && parse_one(to + 1, &m->to) && m->from.n == m->to.n)
		return 0;
	err_say(e, EINVAL, "--map-address %s: not two addresses of one family", text);
	return err_remedy(e, "write OLD=NEW, such as 10.0.0.1=10.0.1.1");
}

int flow_map_check(const char *const *maps, size_t n, struct err *e)
{
	struct map m;
	int ret = 0;

	for (size_t i = 0; ret == 0 && i < n; i++)
		ret = parse(maps[i], &m, e);
	return ret;
}

/* The words of `have` that are the address: all, or the last one of an IPv4 address in IPv6's. */
static uint32_t *find(const struct addr *a, uint32_t *have, size_t n)
{
	static const uint32_t zero[2];

	if (n == a->n)
		return memcmp(have, a->word, 4 * n) ? NULL : have;
	if (a->n == 1 && n == WORDS_MAX && !memcmp(have, zero, sizeof(zero)) &&
	    have[2] == htonl(0xffff) && have[3] == a->word[0])
		return &have[3];
	return NULL;
}

static bool is_connection(const InetSkEntry *s)
{
	return s->proto == IPPROTO_TCP && s->state != TCP_LISTEN && s->state != TCP_CLOSE;
}

/* True if it is a connection, which ends. */
static bool apply_one(const struct map *m, InetSkEntry *s)
{
	uint32_t *at = find(&m->from, s->src_addr, s->n_src_addr);

	if (!at)
		return false;
	if (!is_connection(s)) {
		memcpy(at, m->to.word, 4 * m->to.n);
		return false;
	}
	s->state = TCP_CLOSE;
	s->has_shutdown = true;
	s->shutdown = SK_SHUTDOWN__BOTH;
	s->src_port = 0;
	s->n_src_addr = 0;
	return true;
}

static int apply(struct img_set *set, struct img_set *out, const struct map *m, size_t *ended,
		 struct err *e)
{
	size_t n = img_count(set, IMG_FILES, 0);

	for (size_t i = 0; i < n; i++) {
		_cleanup_msg_ FileEntry *f = NULL;
		int ret = img_get(set, IMG_FILES, 0, i, &f, e);

		if (ret < 0)
			return ret;
		if (f->isk)
			*ended += apply_one(m, f->isk);
		img_put(out, IMG_FILES, 0, &f->base);
	}
	return 0;
}

/* Takes what was put there over into the set. */
static int replace(struct img_set *set, struct img_set *changed, struct err *e)
{
	size_t n = img_count(changed, IMG_FILES, 0);

	img_drop(set, IMG_FILES, 0);
	for (size_t i = 0; i < n; i++) {
		_cleanup_msg_ FileEntry *f = NULL;
		int ret = img_get(changed, IMG_FILES, 0, i, &f, e);

		if (ret < 0)
			return ret;
		img_put(set, IMG_FILES, 0, &f->base);
	}
	return 0;
}

int flow_map_apply(struct img_set *set, const char *const *maps, size_t n, size_t *ended,
		   struct err *e)
{
	int ret = 0;

	*ended = 0;
	for (size_t i = 0; ret == 0 && i < n; i++) {
		struct img_set *changed = img_set_new();
		struct map m;

		if ((ret = parse(maps[i], &m, e)) == 0 &&
		    (ret = apply(set, changed, &m, ended, e)) == 0)
			ret = replace(set, changed, e);
		img_set_free(changed);
	}
	return ret;
}
