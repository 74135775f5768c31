/* SPDX-License-Identifier: Apache-2.0 */
/*
 * --action-script PATH: a program of the administrator, run at the steps that CRIU names. It moves
 * what criu-lite does not know: a floating IP, a container's network, a load balancer's entry.
 *
 *   action                 when                                              if it fails
 *   pre-dump               before the guest is touched                       the operation fails
 *   network-lock           frozen; instead of or besides our own lock        "
 *   network-unlock         the lock is lifted, on success and on failure     is warned of
 *   post-dump              all is captured, the guest still frozen           the operation fails
 *   pre-restore            before anything is made                           "
 *   setup-namespaces       the root task stands, in its namespaces           "
 *   post-setup-namespaces  the namespaces are as they were                   "
 *   post-restore           all is restored, nothing runs yet                 "
 *   pre-resume             just before it runs                               "
 *   post-resume            it runs                                           is warned of
 *
 * Environment: CRTOOLS_SCRIPT_ACTION, CRTOOLS_IMAGE_DIR, CRTOOLS_INIT_PID (pid of the root task as
 * criu-lite sees it) as CRIU sets them; CRIU_LITE_PEER (the other host), CRIU_LITE_ID (of the
 * migration), CRIU_LITE_SIDE (source or target), CRIU_LITE_ADDRESSES (those that move, by spaces).
 * What is not known is not set. Standard input is /dev/null, its output goes to our standard
 * error.
 */
#pragma once

#include <sys/types.h>

#include "err.h"

#define FLOW_SCRIPT_TIMEOUT_MS 60000

struct script_env {
	const char *image_dir;       /* NULL: none, as below */
	pid_t init_pid;              /* 0: none yet */
	const char *peer, *id, *side, *addresses;
	unsigned timeout_ms;         /* 0: FLOW_SCRIPT_TIMEOUT_MS; then it is killed: a failure */
};

/* Before anything begins: it can be run. NULL: there is none, which is fine here and below. */
int flow_script_check(const char *script, struct err *e);
int flow_script_run(const char *script, const char *action, const struct script_env *env,
		    struct err *e);
