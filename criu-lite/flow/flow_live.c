/* SPDX-License-Identifier: Apache-2.0 */
#include "flow_live.h"

#include <string.h>

/* The lock is taken by whoever watches, too: in the switch, when the migration runs with real time
 * priority, it must not wait for a thread that does not. */
void live_begin(struct flow_live *l)
{
	pthread_mutexattr_t a;

	memset(l, 0, sizeof(*l));
	qos_defaults(&l->qos);
	l->now.phase = "setup";
	pthread_mutexattr_init(&a);
	pthread_mutexattr_setprotocol(&a, PTHREAD_PRIO_INHERIT);
	pthread_mutex_init(&l->lock, &a);
	pthread_mutexattr_destroy(&a);
}

void live_end(struct flow_live *l)
{
	pthread_mutex_destroy(&l->lock);
}
