/* SPDX-License-Identifier: Apache-2.0 */
#include "img_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "io.h"

/* No image comes near it, not even the contents of ghost files: a bound for hostile ones. */
#define FILE_SIZE_MAX ((uint64_t)1 << 30)

int img_file_open(int dirfd, const char *name, int *fd, uint64_t *size, struct err *e)
{
	/* A fifo in the place of a file must not block us. */
	_cleanup_close_ int in = openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	struct stat st;

	if (in < 0 && errno == ENOENT)
		return err_say(e, ENOENT, "missing");
	if (in < 0)
		return err_set(e, errno, "open");
	if (fstat(in, &st) < 0)
		return err_set(e, errno, "stat");
	if (!S_ISREG(st.st_mode))
		return err_say(e, EBADMSG, "is not a regular file");
	*size = (uint64_t)st.st_size;
	*fd = steal_fd(in);
	return 0;
}

int img_file_read(int dirfd, const char *path, struct buf *out, struct err *e)
{
	_cleanup_close_ int fd = -1;
	uint64_t size;
	int ret = img_file_open(dirfd, path, &fd, &size, e);

	if (ret < 0)
		return ret;
	if (size > FILE_SIZE_MAX)
		return err_say(e, EBADMSG, "has %" PRIu64 " bytes, more than an image can have",
			       size);
	ret = io_slurp_fd(fd, out);
	return ret < 0 ? err_set(e, -ret, "read") : 0;
}

int img_file_create(int dirfd, const char *name, int *fd, struct err *e)
{
	if (unlinkat(dirfd, name, 0) < 0 && errno != ENOENT)
		return err_set(e, errno, "%s: replace", name);
	*fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	return *fd < 0 ? err_set(e, errno, "%s: create", name) : 0;
}

/* What stands before the type's magic; 0: nothing. */
static uint32_t framing_magic(enum img_type type)
{
	switch (type) {
	case IMG_INVENTORY:
		return 0;
	case IMG_STATS_DUMP:
	case IMG_STATS_RESTORE:
		return IMG_MAGIC_SERVICE;
	default:
		return IMG_MAGIC_COMMON;
	}
}

void img_file_put_header(enum img_type type, struct buf *out)
{
	uint32_t framing = framing_magic(type), magic = img_magic(type);

	if (!magic)
		return;
	if (framing)
		buf_put(out, &framing, sizeof(framing));
	buf_put(out, &magic, sizeof(magic));
}

static int check_magic(const struct buf *file, size_t *at, uint32_t expected, struct err *e)
{
	uint32_t magic;

	if (file->n - *at < sizeof(magic))
		return err_say(e, EBADMSG, "truncated (%zu bytes, no magic)", file->n);
	memcpy(&magic, file->at + *at, sizeof(magic));
	if (magic != expected)
		return err_say(e, EBADMSG, "wrong magic %#x (expected %#x)", magic, expected);
	*at += sizeof(magic);
	return 0;
}

int img_file_check_header(enum img_type type, const struct buf *file, size_t *at, struct err *e)
{
	uint32_t framing = framing_magic(type);
	int ret = 0;

	*at = 0;
	if (!img_magic(type))
		return 0;
	if (framing)
		ret = check_magic(file, at, framing, e);
	return ret < 0 ? ret : check_magic(file, at, img_magic(type), e);
}

int img_file_next(const struct buf *file, size_t *at, const uint8_t **data, uint32_t *len,
		  struct err *e)
{
	size_t left = file->n - *at;

	if (left < sizeof(*len))
		return err_say(e, EBADMSG, "truncated (%zu bytes left, no length)", left);
	memcpy(len, file->at + *at, sizeof(*len));
	left -= sizeof(*len);
	if (*len > left)
		return err_say(e, EBADMSG, "truncated (needs %u bytes, %zu left)", *len, left);
	*data = file->at + *at + sizeof(*len);
	*at += sizeof(*len) + *len;
	return 0;
}

/* Types that CRIU never leaves without a record. */
static bool never_empty(enum img_type type)
{
	static const enum img_type types[] = {
		IMG_INVENTORY, IMG_CORE, IMG_MM,         IMG_IDS,        IMG_FS,     IMG_PSTREE,
		IMG_CREDS,     IMG_UTSNS, IMG_GHOST_FILE, IMG_TCP_STREAM, IMG_TIMENS, IMG_CGROUP,
	};

	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		if (types[i] == type)
			return true;
	return false;
}

int img_file_parse(struct img_group *g, const struct buf *file, struct err *e)
{
	size_t at;
	int ret = img_file_check_header(g->type, file, &at, e);

	if (ret < 0)
		return ret;
	if (!img_magic(g->type)) {
		img_group_add(g, NULL, 0, file->at, file->n);
		return 0;
	}
	while (at < file->n) {
		const uint8_t *data;
		uint64_t extra = 0;
		uint32_t len;

		ret = img_file_next(file, &at, &data, &len, e);
		if (ret == 0)
			ret = img_group_check(g, data, len, file->n - at, &extra, e);
		if (ret < 0)
			return err_in(e, "record %zu", g->records.n);
		img_group_add(g, data, len, file->at + at, extra);
		at += extra;
	}
	if (g->records.n == 0 && never_empty(g->type))
		return err_say(e, EBADMSG, "holds no record");
	return 0;
}
