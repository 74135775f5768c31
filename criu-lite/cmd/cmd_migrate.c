/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>

#include "cmd.h"

int cmd_migrate(struct cmd_line *l, struct err *e)
{
	int ret;

	if (!l->flow.pid) {
		err_say(e, EINVAL, "which process?");
		return err_remedy(e, "name it with -t PID");
	}
	if (!l->n_args) {
		err_say(e, EINVAL, "migrate: the target's HOST:PORT is missing");
		return err_remedy(e, "see criu-lite migrate --help");
	}
	qos_defaults(&l->flow.qos);
	for (int i = 0; i < QOS_ROWS; i++)
		if (l->qos[i] && (ret = qos_set(&l->flow.qos, &qos_table[i], l->qos[i], e)) < 0)
			return ret;
	if ((ret = qos_check(&l->flow.qos, e)) < 0)
		return ret;
	l->flow.where = l->args[0];
	return flow_migrate(&l->flow, e);
}
