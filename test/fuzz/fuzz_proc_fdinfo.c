/* SPDX-License-Identifier: Apache-2.0 */
/* /proc/PID/fdinfo/N */
#include <stdint.h>
#include <stdlib.h>

#include "proc_fdinfo.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct err e = ERR_INIT;
	struct proc_fdinfo i;

	if (proc_fdinfo_parse((const char *)data, size, &i, &e) < 0)
		return 0;
	vec_each(&i.locks, l)
		if (l->start < 0 || l->len < 0)
			abort();
	proc_fdinfo_free(&i);
	return 0;
}
