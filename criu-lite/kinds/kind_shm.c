/* SPDX-License-Identifier: Apache-2.0 */
/* Shared memory objects, both sides. */
#include "kind_shm.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <unistd.h>

#include "kind_priv.h"
#include "kind_util.h"

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif

static void free_object(struct shm_object *o)
{
	close(o->fd);
	free(o);
}

/* ---- source ---- */

static int memfd_name(int fd, char *name, size_t size, struct err *e)
{
	static const char prefix[] = "/memfd:", suffix[] = " (deleted)";
	char link[32];

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	ssize_t n = readlink(link, name, size - 1);
	if (n < 0)
		return err_set(e, errno, "memfd: name");
	name[n] = '\0';
	if (strncmp(name, prefix, strlen(prefix)) != 0)
		return err_set(e, EINVAL, "%s is not a memfd", name);
	size_t end = (size_t)n;
	if (end >= strlen(suffix) && !strcmp(name + end - strlen(suffix), suffix))
		end -= strlen(suffix);
	memmove(name, name + strlen(prefix), end - strlen(prefix));
	name[end - strlen(prefix)] = '\0';
	return 0;
}

static int put_inode(struct kind_dump *c, const struct shm_object *o, const struct stat *st,
		     struct err *e)
{
	MemfdInodeEntry m = MEMFD_INODE_ENTRY__INIT;
	char name[PATH_MAX];

	int seals = fcntl(o->fd, F_GET_SEALS);
	if (seals < 0)
		return err_set(e, errno, "memfd: seals");
	int ret = memfd_name(o->fd, name, sizeof(name), e);
	if (ret)
		return ret;
	m.name = name;
	m.uid = st->st_uid;
	m.gid = st->st_gid;
	m.size = o->size;
	m.shmid = o->id;
	m.inode_id = o->id;
	m.seals = (uint32_t)seals;
	m.has_mode = true;
	m.mode = st->st_mode;
	img_put(c->set, IMG_MEMFD_INODE, 0, &m.base);
	return 0;
}

/* System V's segments have numbers of their own for inodes. */
enum origin { SHM_ANONYMOUS, SHM_MEMFD, SHM_SYSV };

static struct shm_object *see(struct kind_dump *c, int fd, const struct stat *st,
			      enum origin origin, struct err *e)
{
	uint32_t id = kind_number(c, KIND_SPACE_SHM, st->st_dev, st->st_ino, origin == SHM_SYSV);

	vec_each(&c->shm, s) {
		if (s->object->id == id) {
			/* One size for the whole pass: the one that goes into the record. */
			if (s->pass != c->pass)
				s->object->size = (uint64_t)st->st_size;
			s->pass = c->pass;
			return s->object;
		}
	}
	/* Ours is readable, whatever the guest's is. The access time is to move by others only. */
	int own = kind_reopen(fd, O_RDONLY | O_NOATIME);
	if (own == -EPERM)
		own = kind_reopen(fd, O_RDONLY);
	if (own < 0) {
		err_set(e, -own, "shared memory");
		return NULL;
	}
	struct shm_object *o = xcalloc(1, sizeof(*o));
	o->id = id;
	o->dev = st->st_dev;
	o->ino = st->st_ino;
	o->size = (uint64_t)st->st_size;
	o->fd = own;
	o->memfd = origin == SHM_MEMFD;
	o->sysv = origin == SHM_SYSV;
	vec_push(&c->shm, (struct kind_shm_seen){ o, c->pass });
	return o;
}

static struct shm_object *look(struct kind_dump *c, int fd, enum origin origin, struct stat *st,
			       struct err *e)
{
	if (fstat(fd, st) < 0) {
		err_set(e, errno, "shared memory");
		return NULL;
	}
	return see(c, fd, st, origin, e);
}

struct shm_object *shm_seen(struct kind_dump *c, int fd, bool memfd, struct err *e)
{
	struct stat st;
	struct shm_object *o = look(c, fd, memfd ? SHM_MEMFD : SHM_ANONYMOUS, &st, e);

	if (!o)
		return NULL;
	if (o->memfd && c->set && kind_first(c, KIND_SPACE_SHM, o->id) &&
	    put_inode(c, o, &st, e) < 0)
		return NULL;
	return o;
}

struct shm_object *shm_seen_sysv(struct kind_dump *c, int fd, int shmid, struct err *e)
{
	struct stat st;
	struct shm_object *o = look(c, fd, SHM_SYSV, &st, e);

	if (!o)
		return NULL;
	o->shmid = shmid;
	if (c->set && kind_first(c, KIND_SPACE_SHM, o->id) && kind_sysv_put(c, o, e) < 0)
		return NULL;
	return o;
}

struct shm_object *const *shm_seen_all(struct kind_dump *c, size_t *n)
{
	c->shm_list.n = 0;
	vec_each(&c->shm, s)
		if (s->pass == c->pass)
			vec_push(&c->shm_list, s->object);
	*n = c->shm_list.n;
	return c->shm_list.at;
}

/* The guest has let go of those that the last pass did not see. */
void kind_shm_begin_dump(struct kind_dump *c)
{
	size_t n = 0;

	for (size_t i = 0; i < c->shm.n; i++) {
		if (c->shm.at[i].pass + 1 >= c->pass)
			c->shm.at[n++] = c->shm.at[i];
		else
			free_object(c->shm.at[i].object);
	}
	c->shm.n = n;
}

void kind_shm_free_dump(struct kind_dump *c)
{
	vec_each(&c->shm, s)
		free_object(s->object);
	vec_free(&c->shm);
	vec_free(&c->shm_list);
}

/* ---- target ---- */

const MemfdInodeEntry *kind_shm_inode(const struct kind_restore *c, uint32_t inode_id)
{
	vec_each(&c->memfd, m)
		if ((*m)->inode_id == inode_id)
			return *m;
	return NULL;
}

static const MemfdInodeEntry *inode_of_shm(const struct kind_restore *c, uint32_t shmid)
{
	vec_each(&c->memfd, m)
		if ((*m)->shmid == shmid)
			return *m;
	return NULL;
}

static struct shm_object *find_got(const struct kind_restore *c, uint32_t id)
{
	vec_each(&c->shm, o)
		if ((*o)->id == id)
			return *o;
	return NULL;
}

static int add_got(struct kind_restore *c, uint32_t id, int fd, enum origin origin,
		   struct shm_object **out, struct err *e)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return err_set(e, errno, "shared memory %u", id);
	struct shm_object *o = xcalloc(1, sizeof(*o));
	o->id = id;
	o->dev = st.st_dev;
	o->ino = st.st_ino;
	o->size = (uint64_t)st.st_size;
	o->fd = fd;
	o->memfd = origin == SHM_MEMFD;
	o->sysv = origin == SHM_SYSV;
	vec_push(&c->shm, o);
	*out = o;
	return 0;
}

static int resize(int fd, const MemfdInodeEntry *m, struct err *e)
{
	if (m->size > INT64_MAX || ftruncate(fd, (off_t)m->size) < 0)
		return err_set(e, m->size > INT64_MAX ? EBADMSG : errno,
			       "memfd %s of %" PRIu64 " bytes", m->name, m->size);
	return 0;
}

static int make_memfd(const MemfdInodeEntry *m, struct err *e)
{
	unsigned int flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
	mode_t mode = m->has_mode ? m->mode & 07777 : 0777;

	if (m->has_hugetlb_flag && m->hugetlb_flag)
		return err_say(e, ENOTSUP, "memfd %s: huge pages of hugetlbfs are not supported",
			       m->name);
	/* Sealable for us; what the guest may do is settled by the seals given at the end. Kernels
	 * before 6.3 do not know MFD_EXEC and always behave like it. */
	_cleanup_close_ int fd = memfd_create(m->name, flags | MFD_EXEC);
	if (fd < 0 && errno == EINVAL)
		fd = memfd_create(m->name, flags);
	if (fd < 0) {
		err_set(e, errno, "memfd %s", m->name);
		if (e->code == EACCES)
			err_remedy(e, "set sysctl vm.memfd_noexec to 0 or 1");
		return -e->code;
	}
	if (fchown(fd, m->uid, m->gid) < 0 || fchmod(fd, mode) < 0)
		return err_set(e, errno, "memfd %s: owner and mode", m->name);
	int ret = resize(fd, m, e);
	return ret ? ret : steal_fd(fd);
}

int shm_get(struct kind_restore *c, uint32_t id, struct shm_object **out, struct err *e)
{
	const MemfdInodeEntry *m = inode_of_shm(c, id);
	const IpcShmEntry *s = m ? NULL : kind_sysv_of(c, id);
	bool made = false;

	*out = find_got(c, id);
	if (*out)
		return 0;
	if (!m && !s)
		return err_set(e, ENOENT, "shared memory %u", id);
	_cleanup_close_ int fd = m ? make_memfd(m, e) : kind_sysv_make(s, &made, e);
	if (fd < 0)
		return fd;
	int ret = add_got(c, id, fd, m ? SHM_MEMFD : SHM_SYSV, out, e);
	if (ret)
		return ret;
	(void)steal_fd(fd);
	(*out)->shmid = s ? (int)s->desc->id : -1;
	(*out)->made = made;
	return 0;
}

int shm_offer(struct kind_restore *c, uint32_t id, int fd, struct err *e)
{
	struct shm_object *o;

	if (find_got(c, id))
		return err_set(e, EEXIST, "shared memory %u", id);
	_cleanup_close_ int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (own < 0)
		return err_set(e, errno, "shared memory %u", id);
	int ret = add_got(c, id, own, SHM_ANONYMOUS, &o, e);
	if (!ret)
		(void)steal_fd(own);
	return ret;
}

struct shm_object *const *shm_got_all(struct kind_restore *c, size_t *n)
{
	*n = c->shm.n;
	return c->shm.at;
}

static void forget_inodes(struct kind_restore *c)
{
	vec_each(&c->memfd, m)
		memfd_inode_entry__free_unpacked(*m, NULL);
	vec_free(&c->memfd);
	kind_sysv_forget(c);
}

static int load_inodes(struct kind_restore *c, struct err *e)
{
	size_t n = img_count(c->set, IMG_MEMFD_INODE, 0);

	forget_inodes(c);
	for (size_t i = 0; i < n; i++) {
		MemfdInodeEntry *m = NULL;
		int ret = img_get(c->set, IMG_MEMFD_INODE, 0, i, &m, e);

		if (ret)
			return ret;
		bool twice = inode_of_shm(c, m->shmid) != NULL;
		vec_push(&c->memfd, m);
		if (twice)
			return err_set(e, EBADMSG, "memfd.img: two entries have id %u", m->shmid);
	}
	return kind_sysv_load(c, e);
}

/* Objects outlive rounds, as pages have landed in them; sizes may have changed, and pages of an
 * object that has grown meanwhile make it longer than its last size. */
int kind_shm_begin(struct kind_restore *c, struct err *e)
{
	int ret = load_inodes(c, e);

	for (size_t i = 0; !ret && i < c->shm.n; i++) {
		struct shm_object *o = c->shm.at[i];
		const MemfdInodeEntry *m = o->memfd ? inode_of_shm(c, o->id) : NULL;

		if (!m)
			continue;
		ret = resize(o->fd, m, e);
		o->size = m->size;
	}
	return ret;
}

/* After the contents are placed, and every descriptor that may write is open. */
int kind_shm_seal(struct kind_restore *c, struct err *e)
{
	vec_each(&c->shm, o) {
		const MemfdInodeEntry *m = (*o)->memfd ? inode_of_shm(c, (*o)->id) : NULL;
		int seals = m ? fcntl((*o)->fd, F_GET_SEALS) : 0;

		if (seals < 0)
			return err_set(e, errno, "memfd %s: seals", m->name);
		if ((*o)->sysv) {
			const IpcShmEntry *s = kind_sysv_of(c, (*o)->id);
			int ret = s ? kind_sysv_finish(s, e) : 0;

			if (ret)
				return ret;
		}
		if (!m || !(m->seals & ~(uint32_t)seals))
			continue;
		if (fcntl((*o)->fd, F_ADD_SEALS, (int)m->seals) < 0)
			return err_set(e, errno, "memfd %s: seals 0x%x", m->name, m->seals);
	}
	return 0;
}

/* The segments are the guest's from here on. */
void kind_shm_done(struct kind_restore *c)
{
	vec_each(&c->shm, o)
		(*o)->made = false;
}

void kind_shm_free(struct kind_restore *c)
{
	vec_each(&c->shm, o) {
		if ((*o)->made)
			shmctl((*o)->shmid, IPC_RMID, NULL);
		free_object(*o);
	}
	vec_free(&c->shm);
	forget_inodes(c);
}
