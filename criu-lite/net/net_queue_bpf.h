/* SPDX-License-Identifier: Apache-2.0 */
/* What net_queue.c needs of BPF. */
#pragma once

#include <stdint.h>

#include "err.h"

/* As the kernel has it (include/net/tcp.h). */
struct queue_attrs {
	uint32_t rcv_tsval, rcv_tsecr;
	uint16_t mss;
	uint8_t rcv_wscale, snd_wscale;
	uint8_t ecn_ok, wscale_ok, sack_ok, tstamp_ok, usec_ts_ok;
	uint8_t reserved[3];
};

/* What goes in, and what the kernel said. */
struct queue_slot {
	struct queue_attrs attrs;
	int32_t result;
	uint32_t used;
};

struct queue_bpf {
	int prog, link, slot, sock;  /* descriptors */
};
#define QUEUE_BPF_INIT { .prog = -1, .link = -1, .slot = -1, .sock = -1 }

/* -ENOTSUP: the kernel does not know how. */
int queue_bpf_open(struct queue_bpf *b, struct err *e);
void queue_bpf_close(struct queue_bpf *b);
