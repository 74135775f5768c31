/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the sender: the queue (pages_send.c) and what a connection does (pages_send_conn.c). */
#pragma once

#include <pthread.h>

#include "pages_comp.h"
#include "pages_frame.h"
#include "pages_pace.h"
#include "pages_same.h"
#include "pages_send.h"
#include "pages_send_read.h"

struct job {
	struct pages_space from;
	bool fresh, live;
	struct prange *r;
	size_t n;
	size_t i;                    /* r[i] comes next, */
	uint64_t at;                 /* from here */
};

struct conn {
	struct pages_sender *s;
	size_t number;
	int fd;
	pthread_t thread;
	uint64_t sent;               /* frames */
	struct frame_ack ack;        /* the last one */
	struct comp comp;
	uint8_t *raw, *packed;       /* FRAME_BYTES each */
	struct pages_slice slice;
	struct pages_opts opts;      /* for this slice */
	struct frame frame;
	struct buf answer;
};

struct pages_sender {
	pthread_mutex_t lock;        /* for what follows */
	pthread_cond_t work;         /* jobs came, or stop, or another number of connections */
	pthread_cond_t idle;         /* all jobs done, or failed */
	struct pages_opts opts;
	VEC(struct job) jobs;
	size_t next;                 /* jobs.at[next] is in work */
	uint64_t queued;             /* bytes of guest memory in jobs */
	size_t busy;                 /* threads with a slice in hand */
	bool stop;
	struct err err;              /* the first failure */
	struct pages_stats total;    /* since the beginning; */
	struct pages_stats flushed;  /* at the last flush */
	uint64_t begun;              /* 0: nothing was sent since the last flush */
	VEC(struct conn *) conns;
	size_t use;                  /* the first of them */
	struct pace pace;            /* has a lock of its own, */
	struct same *same;           /* too; NULL: not wanted */
};

/* Makes a connection's buffers. */
int conn_init(struct conn *c, struct err *e);
void conn_free(struct conn *c);
/* Reads, compresses and sends the slice in hand. */
int conn_send(struct conn *c, struct err *e);
/* Waits for the acknowledgement of all that was sent. */
int conn_drain(struct conn *c, struct err *e);
/* Says that the stream ends here and in good order. */
void conn_end(struct conn *c);
