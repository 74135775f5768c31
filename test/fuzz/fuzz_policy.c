/* SPDX-License-Identifier: Apache-2.0 */
/* Policy files: what is accepted has values that are allowed; what is refused says where. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "flow_policy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct policy_file f;
	struct err e = ERR_INIT;

	if (policy_parse(&f, "p", (const char *)data, size, &e) < 0) {
		if (strncmp(e.text, "p:", 2))
			abort();
	} else {
		for (int i = 0; i < QOS_ROWS; i++) {
			struct flow_qos q = { 0 };
			char text[64];

			if (!f.line[i])
				continue;
			qos_text(&f.qos, &qos_table[i], text, sizeof(text));
			if (qos_set(&q, &qos_table[i], text, &e) < 0)
				abort();
		}
	}
	policy_file_free(&f);
	return 0;
}
