/* SPDX-License-Identifier: Apache-2.0 */
/* vDSO images: entries lie inside, and no patch changes what the image is. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "task_vdso.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct err e = ERR_INIT;
	struct vdso v;

	if (vdso_parse(data, size, &v, &e) < 0)
		return 0;
	if (v.end > size)
		abort();
	for (size_t i = 0; i < v.n_entries; i++)
		if (v.entry[i].at >= v.end || v.entry[i].room > v.end - v.entry[i].at)
			abort();
	uint8_t *copy = malloc(size);
	if (!copy)
		abort();
	memcpy(copy, data, size);
	if (vdso_patch(copy, size, &v, &v, 0x2e00c0de0000, &e) < 0 && !e.remedy[0])
		abort();
	free(copy);
	return 0;
}
