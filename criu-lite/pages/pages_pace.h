/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bandwidth limit: one token bucket for all connections. It fills while nobody sends, up to 10
 * ms worth: that makes up for late wakeups and for the time a frame takes to be read and
 * compressed, and is too little to be seen over a second. Senders may overdraw it by one piece
 * each.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct pace {
	pthread_mutex_t lock;
	pthread_cond_t change;
	uint64_t rate;               /* bytes per second on the wire, 0: no limit */
	double tokens;               /* bytes that may go at once; below 0: owed */
	uint64_t at;                 /* io_now_ns() when tokens was right */
	bool stop;
};

void pace_init(struct pace *p, uint64_t rate);
void pace_free(struct pace *p);
/* From any thread: counts at once, also for those who wait. */
void pace_set(struct pace *p, uint64_t rate);
/* Nobody waits any more, now or later. */
void pace_stop(struct pace *p);

/* Waits until something may be sent. Returns how much of `want` bytes; 0: stopped. *waited: it had
 * to wait (else unchanged). */
size_t pace_take(struct pace *p, size_t want, bool *waited);
