/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preloaded into postgres: System V shared memory as a memfd. criu-lite does not carry the former;
 * postgres takes a page of it, whatever its settings, only to see whether another server runs in its
 * directory. Its children inherit the mapping.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <unistd.h>

static size_t length;

int shmget(key_t key, size_t size, int flags)
{
	(void)key, (void)flags;
	int fd = memfd_create("sysv", 0);

	if (fd < 0 || ftruncate(fd, (off_t)size) < 0)
		return -1;
	length = size;
	return fd;
}

void *shmat(int fd, const void *where, int flags)
{
	(void)flags;
	return mmap((void *)where, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
}

int shmdt(const void *at) { return munmap((void *)at, length); }

int shmctl(int fd, int what, struct shmid_ds *ds)
{
	if (what == IPC_RMID)
		return close(fd);
	if (what != IPC_STAT) {
		errno = EINVAL;
		return -1;
	}
	memset(ds, 0, sizeof(*ds));
	ds->shm_segsz = length;
	ds->shm_nattch = 1;
	return 0;
}
