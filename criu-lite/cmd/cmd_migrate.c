/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>

#include "cleanup.h"
#include "cmd.h"
#include "flow_policy.h"

/* What is in force. Printed, if that is wanted, before it is judged. */
static int policy(struct cmd_line *l, struct err *e)
{
	struct policy_ask ask = { .dir = l->policy_dir, .guest_name = l->flow.guest_name,
				  .pid = l->flow.pid, .given = l->qos };
	_cleanup_(policy_free) struct policy p = { 0 };
	int ret = policy_load(&p, &ask, e);

	if (ret < 0)
		return ret;
	if (l->flow.print_policy)
		policy_print(&p, l->flow.json, stdout);
	l->flow.qos = p.qos;
	if (qos_check(&p.qos, e) < 0)
		return err_remedy(e, "see criu-lite migrate --print-policy");
	return 0;
}

int cmd_migrate(struct cmd_line *l, struct err *e)
{
	int ret;

	/* the default policy can be asked for without a guest */
	if (!l->flow.pid && !l->flow.print_policy) {
		err_say(e, EINVAL, "which process?");
		return err_remedy(e, "name it with -t PID");
	}
	if (!l->n_args && !l->flow.print_policy) {
		err_say(e, EINVAL, "migrate: the target's HOST:PORT is missing");
		return err_remedy(e, "see criu-lite migrate --help");
	}
	if ((ret = policy(l, e)) < 0 || l->flow.print_policy)
		return ret;
	l->flow.where = l->args[0];
	return flow_migrate(&l->flow, e);
}
