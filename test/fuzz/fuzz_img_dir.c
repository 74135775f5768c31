/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Image directories. An input is a list of files:
 *
 *   file := u8 type (0xff: criu-lite.sum), u8 id, u16 length, bytes
 *
 * The bytes are without the magics, which the harness writes: they are no challenge.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "img_dir.h"
#include "img_file.h"
#include "img_path.h"
#include "img_pages.h"
#include "img_sum.h"
#include "io.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void write_file(int dirfd, uint8_t type, uint8_t id, const uint8_t *p, size_t n)
{
	char name[64] = IMG_SUM_FILE;
	_cleanup_(buf_free) struct buf file = { 0 };
	_cleanup_close_ int fd = -1;
	struct err e = ERR_INIT;

	if (type != 0xff) {
		type %= IMG_TYPE_COUNT;
		img_file_name(type, id, name, sizeof(name));
		img_file_put_header(type, &file);
	}
	buf_put(&file, p, n);
	if (img_file_create(dirfd, name, &fd, &e) < 0 || io_write(fd, file.at, file.n) < 0)
		abort();
}

static void read_all(const char *path, int dirfd)
{
	_cleanup_img_names_ struct img_names names = { 0 };
	_cleanup_img_set_ struct img_set *s = NULL;
	_cleanup_fclose_ FILE *null = fopen("/dev/null", "w");
	struct err e = ERR_INIT;

	(void)img_dir_load(&s, dirfd, &e);
	if (img_names_read(&names, dirfd, &e) < 0)
		abort();
	vec_each(&names.files, f) {
		_cleanup_free_ char *file = xasprintf("%s/%s", path, f->name);
		struct img_pages_in *in = NULL;

		(void)img_file_show(file, null, &e);
		if (f->type != IMG_PAGEMAP && f->type != IMG_SHMEM_PAGEMAP)
			continue;
		if (img_pages_open(&in, dirfd, f->type, f->id, &e) == 0)
			img_pages_free(in);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char path[] = "/dev/shm/fuzz-img-XXXXXX";
	const uint8_t *end = data + size;

	if (!mkdtemp(path))
		abort();
	_cleanup_close_ int dirfd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	while (end - data >= 4) {
		uint8_t type = data[0], id = data[1];
		size_t n = data[2] | (size_t)data[3] << 8;

		data += 4;
		if (n > (size_t)(end - data))
			n = (size_t)(end - data);
		write_file(dirfd, type, id, data, n);
		data += n;
	}
	read_all(path, dirfd);

	_cleanup_closedir_ DIR *dir = opendir(path);
	for (struct dirent *d; (d = readdir(dir));)
		unlinkat(dirfd, d->d_name, 0);
	if (rmdir(path) < 0)
		abort();
	return 0;
}
