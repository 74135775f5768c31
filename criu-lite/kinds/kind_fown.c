/* SPDX-License-Identifier: Apache-2.0 */
#include "kind_fown.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kind_util.h"

#ifndef F_GETOWNER_UIDS
#define F_GETOWNER_UIDS 17
#endif

FownEntry *kind_fown_dump(int fd)
{
	FownEntry *f = kind_msg(FownEntry, fown_entry__init);
	struct f_owner_ex owner;
	uid_t uids[2];

	/* The kernel gives pid 0 if the owner is gone. */
	if (fcntl(fd, F_GETOWN_EX, &owner) == 0 && owner.pid > 0) {
		f->pid_type = (uint32_t)owner.type;
		f->pid = (uint32_t)owner.pid;
		if (fcntl(fd, F_GETOWNER_UIDS, uids) == 0) {
			f->uid = uids[0];
			f->euid = uids[1];
		}
	}
	int sig = fcntl(fd, F_GETSIG);
	if (sig > 0)
		f->signum = (uint32_t)sig;
	return f;
}

static int set_owner(int fd, const FownEntry *f, struct err *e)
{
	struct f_owner_ex owner = { .type = (int)f->pid_type, .pid = (pid_t)f->pid };
	uid_t uid, euid, suid;
	int ret = 0;

	/* The kernel remembers the ids of who sets the owner, and later sends the signal by their
	 * rights. The raw call changes this thread only. The saved id stays, so that there is a way
	 * back. */
	if (getresuid(&uid, &euid, &suid) < 0)
		return err_set(e, errno, "getresuid");
	bool other = uid != f->uid || euid != f->euid;
	if (other && syscall(SYS_setresuid, f->uid, f->euid, -1) < 0)
		return err_set(e, errno, "owner's uid %u", f->uid);
	if (fcntl(fd, F_SETOWN_EX, &owner) < 0)
		ret = err_set(e, errno, "owner: process %u", f->pid);
	if (other && syscall(SYS_setresuid, uid, euid, -1) < 0)
		return err_set(e, errno, "back from the owner's uid");
	return ret;
}

int kind_fown_restore(int fd, const FownEntry *f, struct err *e)
{
	if (f->signum && fcntl(fd, F_SETSIG, (int)f->signum) < 0)
		return err_set(e, errno, "owner's signal %u", f->signum);
	return f->pid ? set_owner(fd, f, e) : 0;
}

FownEntry **kind_fown_slot(FileEntry *fe)
{
	ProtobufCMessage *m = kind_message(fe);
	const ProtobufCFieldDescriptor *field =
		m ? protobuf_c_message_descriptor_get_field_by_name(m->descriptor, "fown") : NULL;

	if (!field || field->descriptor != &fown_entry__descriptor)
		return NULL;
	return (FownEntry **)(void *)((char *)m + field->offset);
}
