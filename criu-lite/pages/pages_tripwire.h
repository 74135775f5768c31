/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tells whether a shared memory object was changed other than by stores through mappings: by
 * write(2) and its relatives, splice, sendfile, copy_file_range, AIO, io_uring, ftruncate,
 * fallocate, MADV_REMOVE. No page table shows these, the inode's times move with stores, too, and
 * since 6.14 fsnotify is silent about memfds.
 *
 * But the kernel takes away the privileges of a file that changes: all these ways go through
 * file_remove_privs() or notify_change(), which remove the attribute "security.capability". A
 * store does not. So the object is given that attribute, with no capability in it, and who finds
 * it gone knows. The change itself follows its removal under the same inode lock that setting it
 * again takes: what is read after that has the change.
 */
#pragma once

#include <stdbool.h>

struct tripwire {
	int fd;                      /* ours */
	bool works, set;
};

/* Not set yet. `works` if this kernel, asked with an object of our own, does as above. */
void tripwire_init(struct tripwire *t, int object);
/* Whether it stands since the last call; sets it (anew), to be followed by reading. */
bool tripwire_intact(struct tripwire *t);
/* Looks only: no other call will follow. */
bool tripwire_stands(const struct tripwire *t);
/* Takes it away. */
void tripwire_lift(struct tripwire *t);
