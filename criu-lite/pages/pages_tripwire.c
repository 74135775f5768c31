/* SPDX-License-Identifier: Apache-2.0 */
#include "pages_tripwire.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "io.h"

#define ATTRIBUTE "security.capability"

/* A program file with it would be given nothing. */
static const struct vfs_cap_data nothing = { .magic_etc = VFS_CAP_REVISION_2 };

bool tripwire_stands(const struct tripwire *t)
{
	struct vfs_cap_data now;

	return t->set && fgetxattr(t->fd, ATTRIBUTE, &now, sizeof(now)) == XATTR_CAPS_SZ_2 &&
	       !memcmp(&now, &nothing, XATTR_CAPS_SZ_2);
}

/* Never over what somebody else has set; one of ours may be left by a run that was killed. */
static bool put(struct tripwire *t)
{
	if (fsetxattr(t->fd, ATTRIBUTE, &nothing, XATTR_CAPS_SZ_2, XATTR_CREATE) == 0)
		return true;
	if (errno != EEXIST)
		return false;
	bool was = t->set;
	t->set = true;
	bool ours = tripwire_stands(t);
	t->set = was;
	return ours;
}

bool tripwire_intact(struct tripwire *t)
{
	if (!t->works)
		return false;
	bool intact = tripwire_stands(t);
	if (!intact)
		t->works = t->set = put(t);
	return intact;
}

void tripwire_lift(struct tripwire *t)
{
	if (tripwire_stands(t))
		fremovexattr(t->fd, ATTRIBUTE);
	if (t->fd >= 0)
		close(t->fd);
	t->fd = -1;
	t->set = t->works = false;
}

/* ---- does this kernel do so? ---- */

static bool writes(int fd) { return pwrite(fd, "x", 1, 0) == 1; }
static bool truncates(int fd) { return ftruncate(fd, 3 * PAGE_SIZE) == 0; }

static bool punches(int fd)
{
	return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE_SIZE) == 0;
}

/* Each must trip it, a store must not. */
static bool kernel_does(struct tripwire *t, int fd)
{
	static bool (*const changes[])(int) = { writes, truncates, punches };
	bool ok = ftruncate(fd, 2 * PAGE_SIZE) == 0;

	t->works = true;
	for (size_t i = 0; ok && i < sizeof(changes) / sizeof(changes[0]); i++) {
		tripwire_intact(t);
		ok = t->set && changes[i](fd) && !tripwire_stands(t);
	}
	if (!ok)
		return false;
	tripwire_intact(t);
	uint8_t *p = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		return false;
	*(volatile uint8_t *)p = 1;
	munmap(p, PAGE_SIZE);
	return tripwire_stands(t);
}

void tripwire_init(struct tripwire *t, int object)
{
	int fd = memfd_create("criu-lite", MFD_CLOEXEC);
	struct tripwire probe = { .fd = fd };

	*t = (struct tripwire){ .fd = fcntl(object, F_DUPFD_CLOEXEC, 0) };
	t->works = t->fd >= 0 && fd >= 0 && kernel_does(&probe, fd);
	if (fd >= 0)
		close(fd);
}
