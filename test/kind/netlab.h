/* SPDX-License-Identifier: Apache-2.0 */
/* Hosts inside a test: network namespaces joined by a bridge, entered in turn by the one thread
 * that tests. A socket stays in the network in which it was opened. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <netinet/in.h>

#include "err.h"

enum { LAB_HOST, LAB_TARGET, LAB_PEER, LAB_HOSTS };   /* 10.9.0.1, .2, .3; fd09::1, ... on eth0 */

/* For cmocka_run_group_tests(): lays the hosts, also gives the test a /run/criu-lite of its own. */
int lab_setup(void **state);
int lab_teardown(void **state);

void lab_enter(int host);
int lab_ns(int host);             /* its network namespace */
/* Runs a command there (sh), which must succeed; its output, to be freed. */
char *lab_run(int host, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* A TCP connection from the peer to LAB_HOST; family AF_INET, AF_INET6, or 46: IPv4 on an IPv6
 * socket at the host's end. */
struct lab_tcp {
	int listener, host, peer;
};
void lab_connect(struct lab_tcp *t, int family, uint16_t port);
void lab_disconnect(struct lab_tcp *t);

/* Sees all frames of a host's eth0, both ways. */
int lab_capture(int host);
/* Reads what was captured: counts frames for which `want` is true. */
unsigned lab_captured(int fd, bool (*want)(const uint8_t *frame, size_t n, void *data), void *data);
/* A TCP segment with RST. data: unused */
bool lab_is_reset(const uint8_t *frame, size_t n, void *data);

/* Whether `n` bytes arrive within `ms`. */
bool lab_arrives(int fd, size_t n, int ms);
double lab_now_ms(void);
/* Fails the test with what the error says; else clears it. */
void lab_ok(int ret, struct err *e);
