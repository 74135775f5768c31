/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System V shared memory. A segment is a shared memory object like others, but it has a number and
 * perhaps a key by which programs find it, and it stays when nobody has it attached: so on the
 * source it goes with the guest, on the target it comes with the same number and key, or not at
 * all.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <unistd.h>

#include "io.h"
#include "kind_priv.h"
#include "kind_shm.h"
#include "log.h"

#define NEXT_ID "/proc/sys/kernel/shm_next_id"

/* ---- source ---- */

int kind_sysv_put(struct kind_dump *c, const struct shm_object *o, struct err *e)
{
	IpcShmEntry m = IPC_SHM_ENTRY__INIT;
	IpcDescEntry d = IPC_DESC_ENTRY__INIT;
	struct shmid_ds ds;

	if (shmctl(o->shmid, IPC_STAT, &ds) < 0)
		return err_set(e, errno, "System V segment %d", o->shmid);
	d.key = (uint32_t)ds.shm_perm.__key;
	d.uid = ds.shm_perm.uid;
	d.gid = ds.shm_perm.gid;
	d.cuid = ds.shm_perm.cuid;
	d.cgid = ds.shm_perm.cgid;
	d.mode = ds.shm_perm.mode;
	d.id = (uint32_t)o->shmid;
	m.desc = &d;
	m.size = ds.shm_segsz;
	m.has_in_pagemaps = m.in_pagemaps = true;
	m.has_cl_object = true;
	m.cl_object = o->id;
	m.has_cl_ctime = true;
	m.cl_ctime = (uint64_t)ds.shm_ctime;
	img_put(c->set, IMG_IPCNS_SHM, 0, &m.base);
	return 0;
}

void shm_sysv_remove(struct kind_dump *c)
{
	vec_each(&c->shm, s)
		if (s->object->sysv && s->pass == c->pass &&
		    shmctl(s->object->shmid, IPC_RMID, NULL) < 0 && errno != EINVAL &&
		    errno != EIDRM)
			log_warn("System V shared memory segment %d stays here: %s",
				 s->object->shmid, strerror(errno));
}

/* ---- target ---- */

int kind_sysv_load(struct kind_restore *c, struct err *e)
{
	size_t n = img_count(c->set, IMG_IPCNS_SHM, 0);

	for (size_t i = 0; i < n; i++) {
		IpcShmEntry *m = NULL;
		int ret = img_get(c->set, IMG_IPCNS_SHM, 0, i, &m, e);

		if (ret)
			return ret;
		bool twice = kind_sysv_of(c, m->cl_object) != NULL;
		vec_push(&c->sysv, m);
		if (twice || !m->has_cl_object || m->desc->id > INT32_MAX || m->size == 0 ||
		    m->size > INT64_MAX)
			return err_set(e, EBADMSG, "ipcns-shm: segment %u", m->desc->id);
	}
	return 0;
}

const IpcShmEntry *kind_sysv_of(const struct kind_restore *c, uint32_t id)
{
	vec_each(&c->sysv, m)
		if ((*m)->cl_object == id)
			return *m;
	return NULL;
}

void kind_sysv_forget(struct kind_restore *c)
{
	vec_each(&c->sysv, m)
		ipc_shm_entry__free_unpacked(*m, NULL);
	vec_free(&c->sysv);
}

/* A descriptor that reads and writes it, which only a mapping leads to. */
static int open_segment(int shmid, uint64_t size, struct err *e)
{
	unsigned long len = (size + PAGE_SIZE - 1) & ~(unsigned long)(PAGE_SIZE - 1);
	void *at = shmat(shmid, NULL, 0);
	char path[80];

	if (at == (void *)-1)
		return err_set(e, errno, "System V segment %d: attach", shmid);
	snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", (unsigned long)at,
		 (unsigned long)at + len);
	int fd = open(path, O_RDWR | O_CLOEXEC);
	int ret = fd < 0 ? err_set(e, errno, "%s", path) : fd;
	shmdt(at);
	return ret;
}

/* A dump that let the guest run and its end later leave just the segment that is wanted. */
static bool was_left_here(const IpcShmEntry *s)
{
	struct shmid_ds ds;

	return shmctl((int)s->desc->id, IPC_STAT, &ds) == 0 && ds.shm_nattch == 0 &&
	       (uint32_t)ds.shm_perm.__key == s->desc->key && ds.shm_segsz == s->size &&
	       s->has_cl_ctime && (uint64_t)ds.shm_ctime == s->cl_ctime;
}

static int take_over(const IpcShmEntry *s, struct err *e)
{
	_cleanup_close_ int fd = open_segment((int)s->desc->id, s->size, e);

	if (fd < 0)
		return fd;
	if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)s->size) < 0)
		return err_set(e, errno, "System V segment %u: clear", s->desc->id);
	return steal_fd(fd);
}

static int is_taken(const IpcShmEntry *s, const char *what, struct err *e)
{
	err_say(e, EEXIST,
		"System V shared memory: %s of the guest's segment %u (key 0x%08x) is taken here",
		what, s->desc->id, s->desc->key);
	return err_remedy(e, "end what uses it, and remove it (ipcrm -m %u, or ipcrm -M 0x%08x)",
			  s->desc->id, s->desc->key);
}

/* The kernel tries the number that stands in NEXT_ID, and takes another if it is not free. */
static int make_segment(const IpcShmEntry *s, struct err *e)
{
	char text[16];
	int n = snprintf(text, sizeof(text), "%u", s->desc->id);
	int ret = io_spill(NEXT_ID, text, (size_t)n, e);

	if (ret < 0)
		return ret;
	int id = shmget((key_t)s->desc->key, s->size,
			IPC_CREAT | IPC_EXCL | (s->desc->mode & 0777));
	if (id < 0) {
		struct err ignored = ERR_INIT;

		ret = errno == EEXIST ? is_taken(s, "the key", e) :
		      err_set(e, errno, "System V segment %u of %lu bytes", s->desc->id, s->size);
		io_spill(NEXT_ID, "-1", 2, &ignored); /* or the next one here gets the number */
		return ret;
	}
	if (id != (int)s->desc->id) {
		shmctl(id, IPC_RMID, NULL);
		return is_taken(s, "the number", e);
	}
	return 0;
}

int kind_sysv_make(const IpcShmEntry *s, bool *made, struct err *e)
{
	struct shmid_ds ds = { .shm_perm = { .uid = s->desc->uid, .gid = s->desc->gid,
					     .mode = (unsigned short)(s->desc->mode & 0777) } };
	int ret;

	*made = true;
	if (was_left_here(s))
		return take_over(s, e);
	if ((ret = make_segment(s, e)) < 0)
		return ret;
	if (shmctl((int)s->desc->id, IPC_SET, &ds) < 0)
		ret = err_set(e, errno, "System V segment %u: owner", s->desc->id);
	if (ret == 0)
		ret = open_segment((int)s->desc->id, s->size, e);
	if (ret < 0)
		shmctl((int)s->desc->id, IPC_RMID, NULL);
	return ret;
}

int kind_sysv_finish(const IpcShmEntry *s, struct err *e)
{
	int id = (int)s->desc->id;

	if ((s->desc->mode & SHM_LOCKED && shmctl(id, SHM_LOCK, NULL) < 0) ||
	    (s->desc->mode & SHM_DEST && shmctl(id, IPC_RMID, NULL) < 0))
		return err_set(e, errno, "System V segment %d", id);
	return 0;
}
