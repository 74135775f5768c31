/* SPDX-License-Identifier: Apache-2.0 */
/* Options of sockets, whatever their family. */
#pragma once

#include "kind.h"
#include "sk-opts.pb-c.h"

/* All options of the socket; *out is from malloc and set also on failure. An option that the
 * socket does not have is left out; one that cannot be read is an error. */
int kind_sockopt_dump(struct kind_dump *c, int fd, SkOptsEntry **out, struct err *e);
/* Of a preflight: is there an option that cannot be kept? */
int kind_sockopt_check(int fd, struct err *e);

/* Sets what differs. Before bind(). */
int kind_sockopt_restore(int fd, const SkOptsEntry *m, struct err *e);
/* Only the sizes of its buffers. */
int kind_sockopt_restore_buffers(int fd, const SkOptsEntry *m, struct err *e);

/* One integer option. 0 or -errno. */
int kind_sockopt_get(int fd, int level, int name, int *value);
/* Sets it if it differs. */
int kind_sockopt_set(int fd, int level, int name, int value);
