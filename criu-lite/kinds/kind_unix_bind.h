/* SPDX-License-Identifier: Apache-2.0 */
/* Names of unix sockets on the target: abstract, or files. */
#pragma once

#include "err.h"
#include "sk-unix.pb-c.h"

/* Gives the socket its name, if the entry has one; the socket file of a former run is replaced, that
 * of a living program never. A name that was deleted on the source is deleted again. */
int unix_bind(int fd, const UnixSkEntry *m, struct err *e);

/* Connects to the socket that the entry describes. 0 or -errno. Never waits. */
int unix_connect(int fd, const UnixSkEntry *to);

/* "/run/x.sock", "@x" */
const char *unix_name_text(const UnixSkEntry *m, char *out, size_t size);
