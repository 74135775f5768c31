/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names of unix sockets on the target: abstract, or files. Files are made aside, in a directory of
 * their own beside the place; unix_place() moves them there when the guest is about to run, and
 * until then what is there stays. We connect to them through a descriptor.
 */
#pragma once

#include "kind.h"
#include "sk-unix.pb-c.h"

/* Gives the socket its name, if the entry has one. The socket file of a former run will be
 * replaced, that of a living program never. A name that was deleted on the source leads nowhere
 * here, too. */
int unix_bind(struct kind_restore *c, int fd, const UnixSkEntry *m, struct err *e);

/* Would the name be free? */
int unix_name_check(struct kind_restore *c, const UnixSkEntry *m, struct err *e);

/* Connects to the socket that the entry describes. 0 or -errno. Never waits. */
int unix_connect(struct kind_restore *c, int fd, const UnixSkEntry *to);

/* Moves the socket's file to its place. */
void unix_place(struct kind_restore *c, const UnixSkEntry *m);

/* "/run/x.sock", "@x" */
const char *unix_name_text(const UnixSkEntry *m, char *out, size_t size);
