/* SPDX-License-Identifier: Apache-2.0 */
#include "flow_clock.h"

#include <errno.h>
#include <time.h>

#include "log.h"
#include "task_clock.h"

#define NSEC     1000000000ll
#define WAIT_MAX (10 * NSEC)

void flow_clock_put(InventoryEntry *in, pid_t root)
{
	struct err e = ERR_INIT;
	struct clocks now;
	bool own;

	if (task_clock_now(root, &now, &own, &e) < 0) {
		log_warn("%s", e.text);
		return;
	}
	in->has_cl_monotonic = in->has_cl_boottime = in->has_cl_monotonic_coarse = true;
	in->cl_monotonic_coarse = now.coarse;
	in->cl_monotonic = now.monotonic;
	in->cl_boottime = now.boottime;
	in->has_cl_timens = own;
	in->cl_timens = own;
}

int flow_clock_adopt(const InventoryEntry *in, struct shape *s, struct err *e)
{
	const struct clocks now = { in->cl_monotonic, in->cl_boottime };

	s->timens |= in->has_cl_timens && in->cl_timens;
	if (!s->timens)
		return 0;
	if (!in->has_cl_monotonic || !in->has_cl_boottime) {
		err_say(e, ENOTSUP, "inventory.img does not say what the guest's clocks showed");
		return err_remedy(e, "leave out --timens");
	}
	return task_clock_text(&now, s->timens_offsets, sizeof(s->timens_offsets), e);
}

static int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }

int flow_clock_wait(const struct img_set *set, struct task *root, struct err *e)
{
	_cleanup_msg_ InventoryEntry *in = NULL;
	int64_t behind, waited = 0;
	struct clocks now;
	int ret;

	if ((ret = img_get(set, IMG_INVENTORY, 0, 0, &in, e)) < 0)
		return ret;
	for (;; waited += behind) {
		if ((ret = task_clock_ask(root, &now, e)) < 0)
			return ret;
		behind = max(in->cl_monotonic - now.monotonic, in->cl_boottime - now.boottime);
		if (in->has_cl_monotonic_coarse)
			behind = max(behind, in->cl_monotonic_coarse - now.coarse);
		if (behind <= 0)
			break;
		if (behind + waited > WAIT_MAX)
			return err_say(e, ERANGE, "the guest's clocks would go back by %.3f s",
				       (double)behind / NSEC);
		nanosleep(&(struct timespec){ behind / NSEC, behind % NSEC }, NULL);
	}
	if (waited)
		log_info("waited %.3f ms for the guest's clocks", (double)waited / 1e6);
	return 0;
}
