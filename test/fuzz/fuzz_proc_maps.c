/* SPDX-License-Identifier: Apache-2.0 */
/* /proc/PID/maps and smaps: what is accepted ascends and has a path. */
#include <stdint.h>
#include <stdlib.h>

#include "proc_maps.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int (*const parse[])(const char *, size_t, struct proc_maps *, struct err *) = {
		proc_maps_parse, proc_smaps_parse,
	};

	for (int i = 0; i < 2; i++) {
		struct err e = ERR_INIT;
		struct proc_maps m;
		uint64_t end = 0;

		if (parse[i]((const char *)data, size, &m, &e) < 0)
			continue;
		vec_each(&m.vma, v) {
			if (v->start < end || v->end <= v->start || !v->path)
				abort();
			end = v->end;
		}
		proc_maps_free(&m);
	}
	return 0;
}
