/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The seal of an image directory:
 *
 *   "criu-lite-sum 1\n"
 *   file*   file := checksum (img_hash.h) as 16 hex digits, " ", size, " ", name, "\n"
 *   end     := checksum of all bytes before it, " end\n"
 */
#include "img_sum.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "img_dir.h"
#include "img_file.h"
#include "img_hash.h"
#include "img_path.h"
#include "io.h"

#define HEAD "criu-lite-sum 1\n"
#define END_LEN (16 + sizeof(" end\n") - 1)

static int hash_file(int dirfd, const char *name, uint64_t *size, uint64_t *hash, struct err *e)
{
	_cleanup_close_ int fd = -1;
	int ret = img_file_open(dirfd, name, &fd, size, e);

	return ret < 0 ? ret : img_hash_file(fd, *size, hash, e);
}

static bool is_known(const struct img_known *known, const char *name, uint64_t *size,
		     uint64_t *hash)
{
	if (known)
		vec_each(&known->file, f)
			if (!strcmp(f->name, name)) {
				*size = f->size;
				*hash = f->hash;
				return true;
			}
	return false;
}

int img_dir_seal(int dirfd, const struct img_known *known, struct err *e)
{
	_cleanup_img_names_ struct img_names names = { 0 };
	_cleanup_(buf_free) struct buf out = { 0 };
	_cleanup_close_ int fd = -1;
	char line[128];
	int ret = img_names_read(&names, dirfd, e);

	if (ret < 0)
		return ret;
	buf_put(&out, HEAD, strlen(HEAD));
	vec_each(&names.files, f) {
		uint64_t size, hash;
		ret = is_known(known, f->name, &size, &hash)
			      ? 0 : hash_file(dirfd, f->name, &size, &hash, e);
		if (ret < 0)
			return err_in(e, "%s", f->name);
		snprintf(line, sizeof(line), "%016" PRIx64 " %" PRIu64 " %s\n", hash, size,
			 f->name);
		buf_put(&out, line, strlen(line));
	}
	snprintf(line, sizeof(line), "%016" PRIx64 " end\n", img_hash_bytes(out.at, out.n));
	buf_put(&out, line, strlen(line));
	ret = img_file_create(dirfd, IMG_SUM_FILE, &fd, e);
	if (ret < 0)
		return ret;
	ret = io_write(fd, out.at, out.n);
	return ret < 0 ? err_set(e, -ret, IMG_SUM_FILE ": write") : 0;
}

static bool parse_line(char *line, struct img_sum *sum)
{
	enum img_type type;
	uint64_t id;
	int at = 0;

	return sscanf(line, "%16" SCNx64 " %" SCNu64 " %63s%n", &sum->hash, &sum->size, sum->name,
		      &at) == 3 && line[at] == '\0' && img_type_of_name(sum->name, &type, &id);
}

static int parse_sums(struct img_sums *s, struct buf *text, struct err *e)
{
	char end[END_LEN + 1];

	if (text->n < strlen(HEAD) + END_LEN)
		return err_say(e, EBADMSG, "truncated");
	size_t body = text->n - END_LEN;
	snprintf(end, sizeof(end), "%016" PRIx64 " end\n", img_hash_bytes(text->at, body));
	if (memcmp(text->at + body, end, END_LEN) != 0)
		return err_say(e, EBADMSG, "truncated or damaged");
	if (memcmp(text->at, HEAD, strlen(HEAD)) != 0)
		return err_say(e, EBADMSG, "unknown version");
	text->at[body] = '\0';
	char *save = NULL;
	for (char *line = strtok_r((char *)text->at + strlen(HEAD), "\n", &save); line;
	     line = strtok_r(NULL, "\n", &save)) {
		struct img_sum *sum = vec_new(&s->sums);
		if (!parse_line(line, sum))
			return err_say(e, EBADMSG, "malformed line %zu", s->sums.n + 1);
	}
	s->sealed = true;
	return 0;
}

int img_sums_load(struct img_sums *s, int dirfd, struct err *e)
{
	_cleanup_(buf_free) struct buf text = { 0 };
	int ret = img_file_read(dirfd, IMG_SUM_FILE, &text, e);

	if (ret == -ENOENT) {
		err_clear(e);
		return 0;
	}
	if (ret == 0)
		ret = parse_sums(s, &text, e);
	return ret < 0 ? err_in(e, IMG_SUM_FILE) : 0;
}

static int compare(struct img_sums *s, const char *name, uint64_t size, uint64_t hash,
		   struct err *e)
{
	vec_each(&s->sums, sum) {
		if (strcmp(sum->name, name) != 0)
			continue;
		sum->seen = true;
		if (sum->size != size)
			return err_say(e, EBADMSG,
				       "has %" PRIu64 " bytes, was written with %" PRIu64, size,
				       sum->size);
		if (sum->hash != hash)
			return err_say(e, EBADMSG, "damaged: its checksum is not that in "
				       IMG_SUM_FILE);
		return 0;
	}
	return err_say(e, EBADMSG, "not listed in " IMG_SUM_FILE);
}

int img_sums_check(struct img_sums *s, const char *name, const struct buf *bytes, struct err *e)
{
	if (!s->sealed)
		return 0;
	return compare(s, name, bytes->n, img_hash_bytes(bytes->at, bytes->n), e);
}

int img_sums_check_file(struct img_sums *s, int dirfd, const char *name, struct err *e)
{
	uint64_t size, hash;

	if (!s->sealed)
		return 0;
	int ret = hash_file(dirfd, name, &size, &hash, e);
	return ret < 0 ? ret : compare(s, name, size, hash, e);
}

int img_sums_check_rest(struct img_sums *s, int dirfd, struct err *e)
{
	vec_each(&s->sums, sum) {
		if (sum->seen)
			continue;
		int ret = img_sums_check_file(s, dirfd, sum->name, e);
		if (ret < 0)
			return err_in(e, "%s", sum->name);
	}
	return 0;
}

int img_sums_check_parents(int dirfd, struct err *e)
{
	_cleanup_(img_path_cleanup) struct img_path path = IMG_PATH_INIT(dirfd);
	int ret;

	while ((ret = img_path_parent(&path, e)) > 0) {
		_cleanup_(img_sums_free) struct img_sums sums = { 0 };
		ret = img_sums_load(&sums, path.fd, e);
		if (ret == 0)
			ret = img_sums_check_rest(&sums, path.fd, e);
		if (ret < 0)
			return err_in(e, "%s", path.text);
	}
	return ret;
}
