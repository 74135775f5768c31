/* SPDX-License-Identifier: Apache-2.0 */
/* Every kind of open file. The first match wins. */
#include "kind.h"

extern const struct kind kind_reg, kind_pipe, kind_fifo, kind_memfd;
extern const struct kind kind_eventfd, kind_eventpoll, kind_timerfd, kind_signalfd;
extern const struct kind kind_inet, kind_unix, kind_tty;

const struct kind *const kind_table[] = {
	&kind_memfd,
	&kind_pipe,
	&kind_fifo,
	&kind_eventfd,
	&kind_eventpoll,
	&kind_timerfd,
	&kind_signalfd,
	&kind_inet,
	&kind_unix,
	&kind_tty,        /* before kind_reg: terminals are device nodes, too */
	&kind_reg,
	NULL,
};
