/* SPDX-License-Identifier: Apache-2.0 */
/* The files of one task; the first byte says which. */
#include <stdint.h>
#include <stdlib.h>

#include "proc_task.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *text = (const char *)data + 1;
	struct err e = ERR_INIT;
	struct proc_status status;
	struct proc_stat stat;
	proc_timer_vec timers;
	proc_mount_vec mounts;
	pid_vec pids;

	if (!size)
		return 0;
	size--;
	switch (data[0]) {
	case 's':
		proc_stat_parse(text, size, &stat, &e);
		break;
	case 'S':
		if (proc_status_parse(text, size, &status, &e) == 0)
			proc_status_free(&status);
		break;
	case 'c':
		if (proc_children_parse(text, size, &pids, &e) == 0)
			vec_free(&pids);
		break;
	case 't':
		if (proc_timers_parse(text, size, &timers, &e) == 0)
			vec_free(&timers);
		break;
	case 'm':
		if (proc_mountinfo_parse(text, size, &mounts, &e) == 0)
			proc_mountinfo_free(&mounts);
		break;
	case 'a':
		proc_auxv_get(data + 1, size, 33);
		break;
	}
	return 0;
}
