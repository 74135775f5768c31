/* SPDX-License-Identifier: Apache-2.0 */
#include "kind_pipedata.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "io.h"
#include "kind_util.h"
#include "log.h"
#include "pipe-data.pb-c.h"

typedef VEC(const struct img_record *) record_vec;

static void put_record(struct kind_dump *c, enum img_type type, uint32_t pipe_id, int size,
		       const void *p, size_t n)
{
	PipeDataEntry d = PIPE_DATA_ENTRY__INIT;

	d.pipe_id = pipe_id;
	d.bytes = (uint32_t)n;
	d.has_size = true;
	d.size = (uint32_t)size;
	img_put_extra(kind_dump_set(c), type, 0, &d.base, p, n);
}

/* tee(2) takes references to the pages; packets stay packets. */
static int peek(int rd, int size, int copy[2], struct err *e)
{
	if (pipe2(copy, O_CLOEXEC | O_NONBLOCK) < 0)
		return err_set(e, errno, "pipe");
	if (fcntl(copy[1], F_GETPIPE_SZ) < size && fcntl(copy[1], F_SETPIPE_SZ, size) < 0) {
		err_set(e, errno, "a pipe of %d bytes to read it with", size);
		return err_remedy(e, "raise /proc/sys/fs/pipe-max-size or pipe-user-pages-soft");
	}
	if (tee(rd, copy[1], INT_MAX, SPLICE_F_NONBLOCK) < 0 && errno != EAGAIN)
		return err_set(e, errno, "tee");
	return 0;
}

static int put_data(struct kind_dump *c, enum img_type type, uint32_t pipe_id, int rd, int size,
		    struct err *e)
{
	int copy[2] = { -1, -1 };
	_cleanup_free_ uint8_t *buf = xmalloc((size_t)size);
	ssize_t n = 0;

	int ret = peek(rd, size, copy, e);
	while (!ret && (n = read(copy[0], buf, (size_t)size)) > 0)
		put_record(c, type, pipe_id, size, buf, (size_t)n);
	if (!ret && n < 0 && errno != EAGAIN)
		ret = err_set(e, errno, "read");
	cleanup_close(&copy[0]);
	cleanup_close(&copy[1]);
	return ret;
}

int kind_pipedata_dump(struct kind_dump *c, enum img_type type, uint32_t pipe_id, int local,
		       struct err *e)
{
	int bytes = 0, size = fcntl(local, F_GETPIPE_SZ);

	if (size <= 0 || ioctl(local, FIONREAD, &bytes) < 0)
		return err_set(e, errno, "size of the pipe");
	if (!bytes) {
		put_record(c, type, pipe_id, size, NULL, 0);
		return 0;
	}
	/* One more reader for a moment, which nobody notices while the guest stands still. */
	_cleanup_close_ int rd = kind_reopen(local, O_RDONLY | O_NONBLOCK);
	if (rd < 0)
		return err_set(e, -rd, "reading end");
	return put_data(c, type, pipe_id, rd, size, e);
}

static int set_size(int wr, uint32_t size, struct err *e)
{
	int now = fcntl(wr, F_GETPIPE_SZ);

	if (now < 0)
		return err_set(e, errno, "size of the pipe");
	if (size > INT_MAX)
		return err_set(e, EBADMSG, "a pipe of %u bytes", size);
	if (size && (int)size != now && fcntl(wr, F_SETPIPE_SZ, (int)size) < 0)
		log_warn("a pipe stays at %d bytes instead of %u: %s", now, size, strerror(errno));
	return 0;
}

static int write_record(int wr, const struct img_record *rec, struct err *e)
{
	int ret = io_write(wr, rec->extra, rec->extra_len);

	if (ret == -EAGAIN)
		return err_set(e, ENOSPC, "%u bytes do not fit into the pipe", rec->extra_len);
	return ret ? err_set(e, -ret, "write") : 0;
}

/* Does the pipe hold just these records? */
static int holds(int wr, int size, const record_vec *want, bool *same, struct err *e)
{
	_cleanup_close_ int rd = kind_reopen(wr, O_RDONLY | O_NONBLOCK);
	_cleanup_free_ uint8_t *buf = xmalloc((size_t)size);
	int copy[2] = { -1, -1 };

	if (rd < 0)
		return err_set(e, -rd, "reading end");
	int ret = peek(rd, size, copy, e);
	*same = true;
	vec_each(want, rec) {
		uint32_t len = (*rec)->extra_len;
		ssize_t n = ret ? -1 : read(copy[0], buf, (size_t)size);

		*same &= n == (ssize_t)len && !memcmp(buf, (*rec)->extra, len);
	}
	*same &= !ret && read(copy[0], buf, 1) < 0;
	cleanup_close(&copy[0]);
	cleanup_close(&copy[1]);
	return ret;
}

/* A FIFO may be the very same as that of the source, which stands still on this kernel: then
 * everything is there. */
static int there_already(int wr, const record_vec *want, struct err *e)
{
	int bytes = 0, size = fcntl(wr, F_GETPIPE_SZ);
	bool same = false;

	if (size <= 0 || ioctl(wr, FIONREAD, &bytes) < 0)
		return err_set(e, errno, "contents of the pipe");
	if (!bytes)
		return 0;
	int ret = holds(wr, size, want, &same, e);
	if (ret || same)
		return ret ? ret : 1;
	err_say(e, EBUSY, "holds %d other bytes already", bytes);
	return err_remedy(e, "stop the program that uses this FIFO here");
}

int kind_pipedata_restore(struct kind_restore *c, enum img_type type, uint32_t pipe_id, int wr,
			  bool packets, struct err *e)
{
	const struct img_set *set = kind_restore_set(c);
	record_vec mine = { 0 };
	const struct kind_indexed *at;
	uint32_t size = 0;
	size_t n = 0;

	int ret = kind_index(c,
			     type == IMG_PIPES_DATA ? KIND_INDEX_PIPE_DATA : KIND_INDEX_FIFO_DATA,
			     pipe_id, &at, &n, e);
	for (size_t k = 0; !ret && k < n; k++) {
		const struct img_record *rec = img_record(set, type, 0, at[k].i);
		_cleanup_msg_ PipeDataEntry *d = NULL;

		ret = img_get(set, type, 0, at[k].i, &d, e);
		if (ret)
			break;
		size = d->has_size ? d->size : size;
		if (rec->extra_len)
			vec_push(&mine, rec);
	}
	if (!ret)
		ret = set_size(wr, size, e);
	if (!ret)
		ret = there_already(wr, &mine, e);
	if (!ret && mine.n)
		ret = kind_set_flags(wr, O_NONBLOCK | (packets || mine.n > 1 ? O_DIRECT : 0), e);
	for (size_t i = 0; !ret && i < mine.n; i++)
		ret = write_record(wr, mine.at[i], e);
	vec_free(&mine);
	return ret < 0 ? ret : 0;
}
