/* SPDX-License-Identifier: Apache-2.0 */
#include "kind_locks.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/syscall.h>

#include "kind_priv.h"
#include "kind_util.h"

/* FileLockEntry.flag: FL_* of the kernel */
#define LOCK_POSIX 1u
#define LOCK_FLOCK 2u
#define LOCK_OFD   1024u

static const char *const names[] = {
	[PROC_LOCK_POSIX] = "POSIX lock", [PROC_LOCK_FLOCK] = "flock", [PROC_LOCK_OFD] = "OFD lock",
	[PROC_LOCK_LEASE] = "lease",
};

int kind_locks_check(const struct kind_dump *c, const struct fd_view *v, struct err *e)
{
	vec_each(&v->info.locks, l) {
		if (l->kind == PROC_LOCK_LEASE) {
			err_say(e, ENOTSUP, "%s: holds a lease", v->link);
			return err_remedy(e, "let the program give up the lease (F_SETLEASE)");
		}
		if (!c->opts.file_locks) {
			err_say(e, ENOTSUP, "%s: holds a file lock (%s)", v->link, names[l->kind]);
			return err_remedy(e, "use --file-locks, if nobody outside of the tree "
					  "needs the lock");
		}
	}
	return 0;
}

/* The same lock shows in every descriptor of its description, in each process that has it. */
static bool seen(struct kind_dump *c, const struct kind_lock_seen *want)
{
	vec_each(&c->lock, l)
		if (!memcmp(l, want, sizeof(*l)))
			return true;
	vec_push(&c->lock, *want);
	return false;
}

int kind_locks_dump(struct kind_dump *c, const struct fd_view *v, struct err *e)
{
	static const uint32_t flags[] = {
		[PROC_LOCK_POSIX] = LOCK_POSIX, [PROC_LOCK_FLOCK] = LOCK_FLOCK,
		[PROC_LOCK_OFD] = LOCK_OFD,
	};

	vec_each(&v->info.locks, l) {
		FileLockEntry f = FILE_LOCK_ENTRY__INIT;
		struct kind_lock_seen s;

		memset(&s, 0, sizeof(s));
		s.owner = l->kind == PROC_LOCK_POSIX ? (uint64_t)l->pid : v->id;
		s.dev = l->dev;
		s.ino = l->ino;
		s.start = l->start;
		s.len = l->len;
		s.flag = flags[l->kind];
		s.type = l->write ? F_WRLCK : F_RDLCK;
		if (seen(c, &s))
			continue;
		f.flag = s.flag;
		f.type = s.type;
		f.pid = v->pid;
		f.fd = v->fd;
		f.start = l->start;
		f.len = l->len;
		img_put(c->set, IMG_FILE_LOCKS, 0, &f.base);
	}
	return 0;
}

static int in_process(struct remote *in, const FileLockEntry *l, struct flock *fl, struct err *e)
{
	if (!in)
		return fcntl(l->fd, F_SETLK, fl) < 0 ? -errno : 0;

	_cleanup_batch_ struct batch b = BATCH(remote_leader(in));
	gaddr at = batch_in(&b, fl, sizeof(*fl));
	size_t i = batch_call(&b, "?fcntl F_SETLK", SYS_fcntl, l->fd, F_SETLK, at);
	int ret = batch_run(&b, e);
	return ret ? ret : (int)b.call.at[i].ret;
}

static int take(const FileLockEntry *l, struct remote *in, int local, struct err *e)
{
	struct flock fl = {
		.l_type = (short)l->type, .l_whence = SEEK_SET, .l_start = l->start,
		.l_len = l->len,
	};

	switch (l->flag) {
	case LOCK_POSIX:
		return in_process(in, l, &fl, e);
	case LOCK_FLOCK:
		return flock(local, LOCK_NB | (l->type == F_WRLCK ? LOCK_EX : LOCK_SH)) < 0
			       ? -errno : 0;
	case LOCK_OFD:
		return fcntl(local, F_OFD_SETLK, &fl) ? -errno : 0;
	default:
		return -EBADMSG;
	}
}

static const struct kind_file *find_holder(struct kind_restore *c, const FileLockEntry *l,
				     struct remote **in)
{
	vec_each(&c->file, f) {
		vec_each(&f->holder, h) {
			pid_t pid = h->in ? remote_pid(h->in) : getpid();

			if (h->fd != l->fd || pid != l->pid)
				continue;
			*in = h->in;
			return f;
		}
	}
	return NULL;
}

static int restore_one(struct kind_restore *c, const FileLockEntry *l, struct err *e)
{
	struct remote *in = NULL;
	const struct kind_file *f = find_holder(c, l, &in);

	err_clear(e);
	if (!f || (l->type != F_RDLCK && l->type != F_WRLCK) || l->start < 0 || l->len < 0)
		return err_set(e, EBADMSG, "filelocks.img: pid %d, fd %d: makes no sense", l->pid,
			       l->fd);
	int ret = take(l, in, f->fd, e);
	if (!ret || err_is(e))
		return ret;
	const char *name = f->fe->reg ? f->fe->reg->name : f->kind->name;
	if (ret == -EACCES)
		ret = -EAGAIN;
	err_set(e, -ret, "pid %d: fd %d: %s: file lock", l->pid, l->fd, name);
	if (ret == -EAGAIN)
		err_remedy(e, "end whoever holds the lock on the target's side");
	return ret;
}

int kind_locks_restore(struct kind_restore *c, struct err *e)
{
	size_t n = img_count(c->set, IMG_FILE_LOCKS, 0);

	for (size_t i = 0; i < n; i++) {
		_cleanup_msg_ FileLockEntry *l = NULL;
		int ret = img_get(c->set, IMG_FILE_LOCKS, 0, i, &l, e);

		if (!ret)
			ret = restore_one(c, l, e);
		if (ret)
			return ret;
	}
	return 0;
}
