/* SPDX-License-Identifier: Apache-2.0 */
#include "img_path.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct img_name *)a)->name, ((const struct img_name *)b)->name);
}

int img_names_read(struct img_names *n, int dirfd, struct err *e)
{
	_cleanup_closedir_ DIR *dir = NULL;
	int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0 || !(dir = fdopendir(fd))) {
		int code = errno;
		if (fd >= 0)
			close(fd);
		return err_set(e, code, "image directory");
	}
	for (;;) {
		struct img_name found;

		errno = 0;
		struct dirent *d = readdir(dir);
		if (!d && errno)
			return err_set(e, errno, "image directory: read");
		if (!d)
			break;
		if (!img_type_of_name(d->d_name, &found.type, &found.id))
			continue;
		if (found.type == IMG_STATS_DUMP || found.type == IMG_STATS_RESTORE)
			continue; /* no state of the guest, and written after the others */
		img_file_name(found.type, found.id, found.name, sizeof(found.name));
		vec_push(&n->files, found);
	}
	if (n->files.n)
		qsort(n->files.at, n->files.n, sizeof(n->files.at[0]), by_name);
	return 0;
}

void img_path_cleanup(struct img_path *p)
{
	if (p->own)
		close(p->fd);
}

int img_path_parent(struct img_path *p, struct err *e)
{
	int up = openat(p->fd, "parent", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct stat link;

	if (up < 0) {
		int code = errno;
		if (code == ENOENT && fstatat(p->fd, "parent", &link, AT_SYMLINK_NOFOLLOW) < 0)
			return 0;
		err_set(e, code, "link `parent`");
		return p->depth ? err_in(e, "%s", p->text) : -code;
	}
	img_path_cleanup(p);
	p->fd = up;
	p->own = true;
	if (++p->depth > IMG_PARENTS_MAX)
		return err_say(e, ELOOP, "more than %d parent directories", IMG_PARENTS_MAX);
	if (p->depth == 1)
		snprintf(p->text, sizeof(p->text), "parent");
	else
		snprintf(p->text, sizeof(p->text), "parent %u up", p->depth);
	return 1;
}
