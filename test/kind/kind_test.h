/* SPDX-License-Identifier: Apache-2.0 */
/* One way through the public API: view, check, dump, as bytes and back, create, finish. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cleanup.h"
#include "kind.h"
#include "kind_shm.h"

struct trip {
	struct kind_opts opts;
	struct kind_dump *d;
	struct img_set *set;         /* as it arrived */
	struct kind_restore *r;
	struct err e;
};

/* Two descriptors of one description have the same id in the images; here they are told apart by
 * their number, as kcmp is not the matter. */
static inline uint32_t trip_id(struct trip *t, int fd)
{
	return kind_number(t->d, KIND_SPACE_FILE, 1, (uint64_t)fd, 0);
}

static inline int trip_check_of(struct trip *t, pid_t pid, int fd, int local)
{
	struct fd_view v;

	if (!t->d)
		t->d = kind_dump_new(&t->opts);
	if (kind_view(pid, fd, local, &v, &t->e) < 0)
		return -t->e.code;
	v.id = trip_id(t, fd);
	int ret = kind_check(t->d, &v, &t->e);
	kind_view_free(&v);
	return ret;
}

static inline int trip_check(struct trip *t, int fd)
{
	return trip_check_of(t, getpid(), fd, fd);
}

static inline void trip_begin(struct trip *t)
{
	if (!t->d)
		t->d = kind_dump_new(&t->opts);
	kind_dump_begin(t->d, img_set_new());
}

static inline int trip_dump_of(struct trip *t, pid_t pid, int fd, int local)
{
	struct fd_view v;

	if (kind_view(pid, fd, local, &v, &t->e) < 0)
		return -t->e.code;
	v.id = trip_id(t, fd);
	int ret = kind_dump_fd(t->d, &v, &t->e);
	kind_view_free(&v);
	return ret;
}

static inline int trip_dump(struct trip *t, int fd)
{
	return trip_dump_of(t, getpid(), fd, fd);
}

/* Carries the set over and begins to restore from it. */
static inline int trip_carry(struct trip *t)
{
	struct img_set *sent = kind_dump_set(t->d), *old = t->set;
	struct buf bytes = { 0 };

	img_set_encode(sent, &bytes);
	img_set_free(sent);
	t->set = NULL;
	int ret = img_set_decode(&t->set, bytes.at, bytes.n, &t->e);
	buf_free(&bytes);
	if (!t->r)
		t->r = kind_restore_new(&t->opts);
	if (!ret)
		ret = kind_restore_begin(t->r, t->set, &t->e);
	img_set_free(old);
	return ret;
}

static inline void trip_count(void *arg, const struct err *e)
{
	struct trip *t = arg;

	t->e = *e;
}

static inline int trip_verify(struct trip *t)
{
	return kind_restore_check(t->r, trip_count, t);
}

static inline int trip_fd(struct trip *t, int fd)
{
	return kind_fd(t->r, trip_id(t, fd), &t->e);
}

static inline void trip_end(struct trip *t)
{
	kind_restore_free(t->r);
	kind_dump_free(t->d);
	img_set_free(t->set);
}

#define assert_ok(t, expr) \
	do { \
		int _ret = (expr); \
		if (_ret < 0) \
			fail_msg("%s: %s; %s", #expr, (t)->e.text, (t)->e.remedy); \
	} while (0)

#define assert_says(t, what) \
	do { \
		if (!strstr((t)->e.text, what) && !strstr((t)->e.remedy, what)) \
			fail_msg("\"%s; %s\" does not say \"%s\"", (t)->e.text, (t)->e.remedy, \
				 what); \
	} while (0)

static inline void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
}

static inline void assert_link(int fd, const char *want)
{
	char path[64], link[4096];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	ssize_t n = readlink(path, link, sizeof(link) - 1);
	assert_true(n > 0);
	link[n] = '\0';
	assert_string_equal(link, want);
}

/* A directory of its own, current while the tests run. */
static inline int enter_dir(void **state)
{
	char *dir = strdup("/tmp/criu-lite-kind.XXXXXX");

	*state = dir;
	return mkdtemp(dir) && chdir(dir) == 0 ? 0 : -1;
}

static inline int leave_dir(void **state)
{
	_cleanup_free_ char *cmd = xasprintf("rm -rf %s", (char *)*state);

	free(*state);
	return chdir("/") || system(cmd) ? -1 : 0;
}
