/* SPDX-License-Identifier: Apache-2.0 */
/* Descriptors of memfds: descriptions of a shared memory object (kind_shm.h). */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "kind_priv.h"
#include "kind_util.h"

static bool memfd_match(const struct fd_view *v)
{
	return S_ISREG(v->st.st_mode) && !v->st.st_nlink && !(v->flags & O_PATH) &&
	       !strncmp(v->link, "/memfd:", strlen("/memfd:"));
}

static int memfd_check(struct kind_dump *c, const struct fd_view *v, struct err *e)
{
	struct statfs fs;

	if (fstatfs(v->local, &fs) < 0)
		return err_set(e, errno, "%s", v->link);
	if ((uint32_t)fs.f_type == TMPFS_MAGIC)
		return 0;
	err_say(e, ENOTSUP, "%s: memfd with huge pages of hugetlbfs is not supported", v->link);
	return err_remedy(e, "let the program use transparent huge pages instead");
}

static int memfd_dump(struct kind_dump *c, const struct fd_view *v, FileEntry *fe, struct err *e)
{
	MemfdFileEntry *m = kind_msg(MemfdFileEntry, memfd_file_entry__init);
	const struct shm_object *o = shm_seen(c, v->local, true, e);

	fe->memfd = m;
	if (!o)
		return -e->code;
	m->id = v->id;
	m->flags = (uint32_t)v->flags;
	m->pos = (uint64_t)v->pos;
	m->inode_id = o->id;
	return 0;
}

static int memfd_create_fd(struct kind_restore *c, const FileEntry *fe, int *out, struct err *e)
{
	const MemfdFileEntry *f = fe->memfd;
	const MemfdInodeEntry *m = kind_shm_inode(c, f->inode_id);
	struct shm_object *o;

	if (!m)
		return err_set(e, EBADMSG, "memfd.img: there is no inode %u", f->inode_id);
	int ret = shm_get(c, m->shmid, &o, e);
	if (ret)
		return ret;
	_cleanup_close_ int fd = kind_reopen(o->fd, (int)(f->flags & O_ACCMODE));
	if (fd < 0)
		return err_set(e, -fd, "memfd %s", m->name);
	if (lseek(fd, (off_t)f->pos, SEEK_SET) < 0)
		return err_set(e, errno, "memfd %s: seek", m->name);
	ret = kind_set_flags(fd, f->flags, e);
	if (!ret)
		*out = steal_fd(fd);
	return ret;
}

const struct kind kind_memfd = {
	.name = "memfd",
	.type = FD_TYPES__MEMFD,
	.match = memfd_match,
	.check = memfd_check,
	.dump = memfd_dump,
	.create = memfd_create_fd,
};
