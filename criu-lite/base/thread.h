/* SPDX-License-Identifier: Apache-2.0 */
/* Threads beside the main one, and how long they wait. */
#pragma once

#include <pthread.h>
#include <stdint.h>

#include "err.h"

/* Starts a thread that has all signals blocked: they are the main thread's, which may be waiting
 * for them. To be joined. */
int thread_start(pthread_t *t, void *(*run)(void *), void *arg, struct err *e);

/* Waits for the condition, but not beyond that time of io_now_ns(). As with every condition,
 * whether it has come is to be looked at again. */
void thread_wait_until(pthread_cond_t *c, pthread_mutex_t *locked, uint64_t at);
