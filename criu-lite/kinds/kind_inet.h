/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of TCP and UDP sockets share. */
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include "kind.h"
#include "sk-inet.pb-c.h"

/* An address of either family. */
union inet_addr {
	struct sockaddr sa;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

#define INET_ADDR_TEXT 64
const char *inet_addr_text(const union inet_addr *a, char out[INET_ADDR_TEXT]);

/* getpeername(), which does not answer while connect() is under way, though the peer is known
 * then. */
int inet_addr_of_peer(int fd, union inet_addr *a);

/* Addresses of a socket into its entry. `over`: of none any more. */
void inet_addr_dump(int fd, InetSkEntry *m, bool over);
/* ... and out of it. */
int inet_addr_local(const InetSkEntry *m, union inet_addr *a, socklen_t *len, struct err *e);
int inet_addr_peer(const InetSkEntry *m, union inet_addr *a, socklen_t *len, struct err *e);
bool inet_addr_is_bound(const InetSkEntry *m);
/* "WHAT TCP 10.0.0.1:80: Address already in use", with what to do about it. */
int inet_addr_refuse(const InetSkEntry *m, const union inet_addr *a, const char *what, int code,
		     struct err *e);

/* Options of IP and TCP; those of every socket are in kind_sockopt.h. */
void inet_opts_dump(int fd, InetSkEntry *m);
/* All options of the socket, also those of every socket. Before bind(). */
int inet_opts_restore(int fd, const InetSkEntry *m, struct err *e);
