/* SPDX-License-Identifier: Apache-2.0 */
#include "img_dir.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>

#include "img_check.h"
#include "img_file.h"

/* A renamed file still tells its type by its magic. */
static bool type_of_magic(const struct buf *file, enum img_type *type)
{
	struct err ignored = ERR_INIT;
	size_t at;

	for (int i = 0; i < IMG_TYPE_COUNT; i++) {
		*type = i;
		if (img_magic(i) && img_file_check_header(i, file, &at, &ignored) == 0)
			return true;
	}
	return false;
}

static int type_of(const char *name, const struct buf *file, enum img_type *type, uint64_t *id,
		   struct err *e)
{
	if (img_type_of_name(name, type, id))
		return 0;
	*id = 0;
	if (type_of_magic(file, type))
		return 0;
	return err_say(e, EINVAL, "is not an image file (unknown name and magic)");
}

static int show_record(FILE *f, struct img_group *g, const struct buf *file, size_t *at,
		       struct err *e)
{
	const ProtobufCMessageDescriptor *d = img_record_descriptor(g->type, g->records.n);
	_cleanup_msg_ ProtobufCMessage *m = NULL;
	const uint8_t *data;
	uint64_t extra = 0;
	uint32_t len;
	int ret = img_file_next(file, at, &data, &len, e);

	if (ret == 0)
		ret = img_group_check(g, data, len, file->n - *at, &extra, e);
	if (ret == 0)
		ret = img_unpack(d, data, len, &m, e);
	if (ret < 0)
		return err_in(e, "record %zu", g->records.n);
	fputs(g->records.n ? ",\n        " : "\n        ", f);
	img_print(f, m, 8);
	if (extra)
		fprintf(f, ",\n        {\"payload\": \"%" PRIu64 " bytes\"}", extra);
	img_group_add(g, data, len, file->at + *at, extra);
	*at += extra;
	return 0;
}

static int show(FILE *f, struct img_group *g, const char *name, const struct buf *file,
		struct err *e)
{
	size_t at;
	int ret = img_file_check_header(g->type, file, &at, e);

	if (ret < 0)
		return ret;
	fprintf(f, "{\n    \"file\": \"%s\",\n    ", name);
	if (!img_magic(g->type)) {
		fprintf(f, "\"raw\": \"%zu bytes\"\n}\n", file->n);
		return 0;
	}
	fputs("\"entries\": [", f);
	while (ret == 0 && at < file->n)
		ret = show_record(f, g, file, &at, e);
	fputs(g->records.n ? "\n    ]\n}\n" : "]\n}\n", f);
	return ret;
}

int img_file_show(const char *path, FILE *f, struct err *e)
{
	_cleanup_img_set_ struct img_set *s = img_set_new();
	_cleanup_(buf_free) struct buf file = { 0 };
	const char *slash = strrchr(path, '/');
	char name[64];
	enum img_type type;
	uint64_t id;

	if (img_type_of_name(slash ? slash + 1 : path, &type, &id) && type == IMG_PAGES)
		return err_say(e, EINVAL,
			       "%s: holds contents of pages; its pagemap can be shown", path);
	int ret = img_file_read(AT_FDCWD, path, &file, e);
	if (ret == 0)
		ret = type_of(slash ? slash + 1 : path, &file, &type, &id, e);
	if (ret < 0)
		return err_in(e, "%s", path);
	img_file_name(type, id, name, sizeof(name));
	ret = show(f, img_group_make(s, type, id), name, &file, e);
	if (ret == 0 && (fflush(f) != 0 || ferror(f)))
		ret = err_set(e, errno, "write");
	return ret < 0 ? err_in(e, "%s", path) : 0;
}
