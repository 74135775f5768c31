/* SPDX-License-Identifier: Apache-2.0 */
/* Requests to the control socket: each gets one line, and limits stay such as may be. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "flow_ctl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct flow_live l;
	struct err e = ERR_INIT;

	live_begin(&l);
	char *answer = ctl_answer(&l, (const char *)data, size);
	json_t *o = json_loads(answer, 0, NULL);
	if (!o || !json_is_boolean(json_object_get(o, "ok")) ||
	    strchr(answer, '\n') != answer + strlen(answer) - 1 || qos_check(&l.qos, &e) < 0)
		abort();
	json_decref(o);
	free(answer);
	live_end(&l);
	return 0;
}
