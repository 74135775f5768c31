/* SPDX-License-Identifier: Apache-2.0 */
/* Connections and listening sockets as the network sees them. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include "fdinfo.pb-c.h"
#include "kind_inet.h"
#include "kind_sockopt.h"
#include "kind_tcp.h"
#include "kind_tcp_image.h"
#include "kind_tcp_priv.h"

/* ---- of running processes ---- */

struct sock_at {
	unsigned long ino;
	size_t process;
	int fd;
};
typedef VEC(struct sock_at) sock_vec;

static int by_ino(const void *a, const void *b)
{
	const struct sock_at *x = a, *y = b;

	return x->ino < y->ino ? -1 : x->ino > y->ino;
}

static int list_sockets(pid_t pid, size_t process, sock_vec *out, struct err *e)
{
	char path[64], link[64];

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	_cleanup_closedir_ DIR *d = opendir(path);
	if (!d)
		return errno == ENOENT ? 0 : err_set(e, errno, "%s", path);
	for (struct dirent *de; (de = readdir(d));) {
		ssize_t n = isdigit((unsigned char)de->d_name[0]) ?
			    readlinkat(dirfd(d), de->d_name, link, sizeof(link) - 1) : -1;

		if (n < 8 || memcmp(link, "socket:[", 8))
			continue;
		link[n] = '\0';
		vec_push(out, (struct sock_at){ strtoul(link + 8, NULL, 10), process,
						atoi(de->d_name) });
	}
	return 0;
}

void tcp_add_listener(int fd, net_conn_vec *out)
{
	struct net_conn c;
	union inet_addr us = {0}, v4 = {0};
	socklen_t len = sizeof(us);
	int v6only = 0;

	if (getsockname(fd, &us.sa, &len) < 0)
		return;
	v4.v4 = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = us.v6.sin6_port };
	if (net_conn_set(&c, &us.sa, NULL))
		vec_push(out, c);
	if (us.sa.sa_family == AF_INET6 && IN6_IS_ADDR_UNSPECIFIED(&us.v6.sin6_addr) &&
	    !kind_sockopt_get(fd, IPPROTO_IPV6, IPV6_V6ONLY, &v6only) && !v6only &&
	    net_conn_set(&c, &v4.sa, NULL))
		vec_push(out, c);
}

static void look_at(int fd, net_conn_vec *out)
{
	struct tcp_info info = {0};
	union inet_addr us = {0}, them = {0};
	socklen_t len = sizeof(info), us_len = sizeof(us);
	int proto;
	struct net_conn c;

	if (kind_sockopt_get(fd, SOL_SOCKET, SO_PROTOCOL, &proto) || proto != IPPROTO_TCP ||
	    getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0 ||
	    getsockname(fd, &us.sa, &us_len) < 0)
		return;
	if (info.tcpi_state == TCP_LISTEN)
		tcp_add_listener(fd, out);
	else if (tcp_is_open(info.tcpi_state) && !inet_addr_of_peer(fd, &them) &&
		 net_conn_set(&c, &us.sa, &them.sa))
		vec_push(out, c);
}

static void look_at_all(const pid_t *pids, size_t n, const sock_vec *socks, net_conn_vec *out)
{
	_cleanup_free_ int *pidfd = xmalloc(n * sizeof(*pidfd) + 1);

	for (size_t i = 0; i < n; i++)
		pidfd[i] = (int)syscall(SYS_pidfd_open, pids[i], 0);
	for (size_t i = 0; i < socks->n; i++) {
		const struct sock_at *s = &socks->at[i];

		if (i && s->ino == s[-1].ino)
			continue;
		_cleanup_close_ int fd = (int)syscall(SYS_pidfd_getfd, pidfd[s->process], s->fd, 0);
		if (fd >= 0)
			look_at(fd, out);
	}
	for (size_t i = 0; i < n; i++)
		cleanup_close(&pidfd[i]);
}

int kind_tcp_conns(const pid_t *pids, size_t n, net_conn_vec *out, struct err *e)
{
	sock_vec socks = {0};
	int ret = 0;

	for (size_t i = 0; !ret && i < n; i++)
		ret = list_sockets(pids[i], i, &socks, e);
	if (!ret && socks.n) {
		qsort(socks.at, socks.n, sizeof(*socks.at), by_ino);
		look_at_all(pids, n, &socks, out);
	}
	vec_free(&socks);
	return ret;
}

/* ---- of a dumped guest ---- */

static uint16_t window_field(const TcpStreamEntry *m)
{
	uint32_t w = m->has_rcv_wnd ? m->rcv_wup + m->rcv_wnd - m->inq_seq : 65535;

	if ((int32_t)w < 0)
		w = 0;
	if (m->opt_mask & TCPI_OPT_WSCALE && m->has_rcv_wscale && m->rcv_wscale < 15)
		w >>= m->rcv_wscale;
	return w > 65535 ? 65535 : (uint16_t)w;
}

int tcp_image_conn(const InetSkEntry *m, const struct tcp_image *t, struct net_conn *c,
		   struct err *e)
{
	union inet_addr us, them;
	socklen_t len;

	memset(c, 0, sizeof(*c));
	if (inet_addr_local(m, &us, &len, e) < 0 || inet_addr_peer(m, &them, &len, e) < 0)
		return -e->code;
	if (!net_conn_set(c, &us.sa, &them.sa))
		return err_say(e, EBADMSG, "socket %u: addresses of two families", m->id);
	if (t->state == TCP_SYN_SENT)
		return 0;
	c->has_seq = true;
	c->snd_nxt = t->snd_nxt;
	c->rcv_nxt = t->m->inq_seq;
	c->window = window_field(t->m);
	c->has_ts = t->m->has_timestamp && t->m->opt_mask & TCPI_OPT_TIMESTAMPS;
	c->ts_val = t->m->timestamp;
	return 0;
}

static int add_entry(const struct img_set *set, const InetSkEntry *m, net_conn_vec *out,
		     struct err *e)
{
	_cleanup_(tcp_image_free) struct tcp_image t = {0};
	union inet_addr us;
	socklen_t len;
	struct net_conn c;

	if (m->proto != IPPROTO_TCP || m->state == TCP_CLOSE)
		return 0;
	if (m->state == TCP_LISTEN) {
		if (inet_addr_local(m, &us, &len, e) < 0)
			return -e->code;
		if (net_conn_set(&c, &us.sa, NULL))
			vec_push(out, c);
		us.v4 = (struct sockaddr_in){ .sin_family = AF_INET,
					      .sin_port = htons((uint16_t)m->src_port) };
		if (m->family == AF_INET6 && !m->src_addr[0] && !m->src_addr[1] &&
		    !m->src_addr[2] && !m->src_addr[3] && !(m->has_v6only && m->v6only) &&
		    net_conn_set(&c, &us.sa, NULL))
			vec_push(out, c);
		return 0;
	}
	if (tcp_image_get(set, m, &t, e) < 0 || tcp_image_conn(m, &t, &c, e) < 0)
		return -e->code;
	vec_push(out, c);
	return 0;
}

int kind_tcp_conns_in(const struct img_set *set, net_conn_vec *out, struct err *e)
{
	size_t n = img_count(set, IMG_FILES, 0);
	int ret = 0;

	for (size_t i = 0; !ret && i < n; i++) {
		_cleanup_msg_ FileEntry *fe = NULL;

		ret = img_get(set, IMG_FILES, 0, i, &fe, e);
		if (!ret && fe->type == FD_TYPES__INETSK && fe->isk)
			ret = add_entry(set, fe->isk, out, e);
	}
	return ret;
}
