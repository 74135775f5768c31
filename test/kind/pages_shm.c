/* SPDX-License-Identifier: Apache-2.0 */
/* Each way in which a shared memory object can change is seen, and by a store nothing else is
 * looked at than what the trackers reported. */
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/capability.h>
#include <linux/io_uring.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cmocka.h>

#include "cleanup.h"
#include "io.h"
#include "pages_send_read.h"
#include "pages_shm.h"

#define PAGES 64
#define SIZE  (PAGES * PAGE_SIZE)
#define ATTRIBUTE "security.capability"

struct object {
	int fd;                      /* as the guest has it */
	char *map;
	struct shm_object shm;
	struct shm_track *track;
	struct scan scan;
	bool forks, inherited, hidden, lost, lost_new;
};

/* What the sender does with what was reported. */
static void send_it(struct object *o)
{
	struct pages_slice s = { .live = true };
	_cleanup_free_ uint8_t *data = xmalloc(FRAME_BYTES);
	struct frame f;
	struct slice_stats st;
	struct err e = ERR_INIT;

	s.from = (struct pages_space){ .kind = PAGES_SHM, .id = 1, .fd = o->shm.fd,
				       .told = o->shm.size };
	s.from.sums = shm_track_sums(o->track, &s.from.n_sums);
	assert_true(PAGES <= FRAME_PAGES);
	vec_each(&o->scan.dirty, r)
		s.r[s.n++] = *r;
	if (pages_slice_read(&s, &(struct slice_known){ 0 }, &f, data, &st, &e) < 0)
		fail_msg("%s", e.text);
}

static void only_look(struct object *o, uint64_t written, bool last)
{
	prange_vec w = { 0 }, none = { 0 };
	struct err e = ERR_INIT;

	if (written)
		prange_add(&w, written, written + PAGE_SIZE);
	struct shm_look l = { .object = &o->shm, .written = &w, .unsure = &none,
			      .forks = o->forks, .hidden = o->hidden,
			      .lost = o->lost, .lost_new = o->lost_new,
			      .inherited = o->inherited, .last = last };
	scan_free(&o->scan);
	memset(&o->scan, 0, sizeof(o->scan));
	if (shm_track_look(o->track, &l, &o->scan, &e) < 0)
		fail_msg("%s", e.text);
	vec_free(&w);
}

static void look(struct object *o, uint64_t written, bool last)
{
	only_look(o, written, last);
	send_it(o);
}

static bool has(const prange_vec *v, uint64_t at)
{
	vec_each(v, r)
		if (at >= r->start && at < r->end)
			return true;
	return false;
}

static void nothing(const struct object *o)
{
	assert_int_equal(o->scan.dirty.n, 0);
	assert_int_equal(o->scan.reset.n, 0);
}

static void open_ours(struct object *o, const char *path)
{
	o->shm.fd = open(path, O_RDONLY | O_NOATIME | O_CLOEXEC);
	assert_true(o->shm.fd >= 0);
}

/* A memfd (or anonymous memory) full of data, looked at twice. */
static void begin(struct object *o, bool memfd)
{
	char path[64];

	*o = (struct object){ .fd = -1, .shm = { .id = 1, .size = SIZE, .memfd = memfd } };
	if (memfd) {
		o->fd = memfd_create("object", MFD_CLOEXEC);
		assert_int_equal(ftruncate(o->fd, SIZE), 0);
		o->map = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, o->fd, 0);
		snprintf(path, sizeof(path), "/proc/self/fd/%d", o->fd);
	} else {
		o->map = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
			      0);
		snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", (uintptr_t)o->map,
			 (uintptr_t)o->map + SIZE);
	}
	assert_true(o->map != MAP_FAILED);
	memset(o->map, 'a', SIZE);
	open_ours(o, path);
	o->track = shm_track_new(1);
	look(o, 0, false);
	assert_int_equal(prange_bytes(&o->scan.dirty), SIZE);
	look(o, 0, false);
	nothing(o);
}

static void end(struct object *o)
{
	shm_track_free(o->track);
	assert_int_equal(fgetxattr(o->shm.fd, ATTRIBUTE, NULL, 0), -1); /* nothing stays behind */
	scan_free(&o->scan);
	munmap(o->map, SIZE);
	close(o->shm.fd);
	if (o->fd >= 0)
		close(o->fd);
}

/* ---- by a descriptor: each changes the page at 5 ---- */

#define AT (5 * PAGE_SIZE)

static char page[4096];              /* other than what is there */

static bool by_write(struct object *o)
{
	return lseek(o->fd, AT, SEEK_SET) == AT && write(o->fd, page, PAGE_SIZE) == PAGE_SIZE;
}

static bool by_one_byte(struct object *o) { return pwrite(o->fd, "b", 1, AT + 77) == 1; }

static bool by_writev(struct object *o)
{
	struct iovec v[2] = { { page, 10 }, { page, 20 } };

	return pwritev(o->fd, v, 2, AT) == 30;
}

static bool by_another_description(struct object *o)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", o->fd);
	_cleanup_close_ int fd = open(path, O_WRONLY);
	return pwrite(fd, page, PAGE_SIZE, AT) == PAGE_SIZE;
}

static bool by_another_process(struct object *o)
{
	int status = 1;
	pid_t pid = fork();

	if (pid == 0)
		_exit(!by_write(o));
	waitpid(pid, &status, 0);
	return status == 0;
}

static bool by_splice(struct object *o)
{
	loff_t at = AT;
	int p[2];

	if (pipe(p) < 0 || write(p[1], page, PAGE_SIZE) != PAGE_SIZE)
		return false;
	bool ok = splice(p[0], NULL, o->fd, &at, PAGE_SIZE, 0) == PAGE_SIZE;
	close(p[0]);
	close(p[1]);
	return ok;
}

static int another_memfd(void)
{
	int fd = memfd_create("source", MFD_CLOEXEC);

	return pwrite(fd, page, PAGE_SIZE, 0) == PAGE_SIZE ? fd : -1;
}

static bool by_sendfile(struct object *o)
{
	_cleanup_close_ int from = another_memfd();
	off_t at = 0;

	return lseek(o->fd, AT, SEEK_SET) == AT &&
	       sendfile(o->fd, from, &at, PAGE_SIZE) == PAGE_SIZE;
}

static bool by_copy_file_range(struct object *o)
{
	_cleanup_close_ int from = another_memfd();
	loff_t in = 0, at = AT;

	return copy_file_range(from, &in, o->fd, &at, PAGE_SIZE, 0) == PAGE_SIZE;
}

static bool by_aio(struct object *o)
{
	struct iocb cb = { .aio_fildes = (uint32_t)o->fd, .aio_lio_opcode = IOCB_CMD_PWRITE,
			   .aio_buf = (uintptr_t)page, .aio_nbytes = PAGE_SIZE, .aio_offset = AT };
	struct iocb *list = &cb;
	struct io_event ev;
	aio_context_t ctx = 0;

	if (syscall(SYS_io_setup, 1, &ctx) < 0)
		return false;
	bool ok = syscall(SYS_io_submit, ctx, 1, &list) == 1 &&
		  syscall(SYS_io_getevents, ctx, 1, 1, &ev, NULL) == 1 && ev.res == PAGE_SIZE;
	syscall(SYS_io_destroy, ctx);
	return ok;
}

static bool by_io_uring(struct object *o)
{
	struct io_uring_params p = { 0 };
	_cleanup_close_ int ring = (int)syscall(SYS_io_uring_setup, 1, &p);
	size_t n = p.sq_off.array + sizeof(uint32_t);

	if (ring < 0) {
		print_message("no io_uring here\n");
		return by_write(o);
	}
	char *sq = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQ_RING);
	struct io_uring_sqe *s = mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE, MAP_SHARED, ring,
				      IORING_OFF_SQES);
	*s = (struct io_uring_sqe){ .opcode = IORING_OP_WRITE, .fd = o->fd, .off = AT,
				    .addr = (uintptr_t)page, .len = PAGE_SIZE };
	++*(uint32_t *)(sq + p.sq_off.tail);
	bool ok = syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) == 1;
	munmap(sq, n);
	munmap(s, sizeof(*s));
	return ok;
}

static bool punch(struct object *o)
{
	return fallocate(o->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, AT, PAGE_SIZE) == 0;
}

static bool cut(struct object *o)
{
	return ftruncate(o->fd, AT) == 0 && ftruncate(o->fd, SIZE) == 0;
}

static bool remove_by_madvise(struct object *o)
{
	return madvise(o->map + AT, PAGE_SIZE, MADV_REMOVE) == 0;
}

/* What was lost comes back as zeros, by reading: no hole is left that would tell. */
static bool read_again(struct object *o, bool (*lose)(struct object *))
{
	if (!lose(o))
		return false;
	for (size_t i = AT; i < SIZE; i += PAGE_SIZE)
		if (*(volatile char *)(o->map + i) && i == AT)
			return false;
	return true;
}

static bool punch_and_read(struct object *o) { return read_again(o, punch); }
static bool cut_and_read(struct object *o) { return read_again(o, cut); }
static bool remove_and_read(struct object *o) { return read_again(o, remove_by_madvise); }

static bool punch_and_allocate(struct object *o)
{
	return punch(o) && fallocate(o->fd, 0, AT, PAGE_SIZE) == 0;
}

typedef bool (*change)(struct object *o);

static const change changes[] = {
	by_write, by_one_byte, by_writev, by_another_description, by_another_process, by_splice,
	by_sendfile, by_copy_file_range, by_aio, by_io_uring, punch_and_read, cut_and_read,
	remove_and_read, punch_and_allocate,
};

static void every_way(void **state)
{
	for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++)
		for (int last = 0; last < 2; last++) {
			struct object o;

			begin(&o, true);
			if (!changes[i](&o))
				fail_msg("way %zu: %s", i, strerror(errno));
			look(&o, 0, last);
			if (!has(&o.scan.dirty, AT) && !has(&o.scan.reset, AT))
				fail_msg("way %zu was not seen", i);
			assert_false(has(&o.scan.dirty, AT - PAGE_SIZE));
			look(&o, 0, true);
			end(&o);
		}
}

static void holes(void **state)
{
	static const change lose[] = { punch, cut, remove_by_madvise };

	for (size_t i = 0; i < sizeof(lose) / sizeof(lose[0]); i++) {
		struct object o;

		begin(&o, true);
		assert_true(lose[i](&o));
		look(&o, 0, true);
		assert_true(has(&o.scan.reset, AT));
		assert_false(has(&o.scan.dirty, AT));
		assert_false(has(&o.scan.reset, AT - PAGE_SIZE));
		end(&o);
	}
}

/* Anonymous shared memory has no descriptor, but it has MADV_REMOVE. */
static void anonymous(void **state)
{
	struct object o;

	begin(&o, false);
	assert_true(remove_and_read(&o));
	look(&o, 0, true);
	assert_true(has(&o.scan.dirty, AT));
	assert_false(has(&o.scan.dirty, AT - PAGE_SIZE));
	end(&o);
}

/* Sent with contents that it has no more, though it looks as when it was reported. */
static void changed_back(void **state)
{
	struct object o;

	begin(&o, true);
	usleep(50000);
	assert_int_equal(pwrite(o.fd, "b", 1, AT), 1);
	look(&o, 0, false);                  /* reported, as "b", and sent */
	assert_true(has(&o.scan.dirty, AT));
	assert_int_equal(pwrite(o.fd, "c", 1, AT), 1);
	send_it(&o);                         /* or rather so late that it is sent as "c" */
	assert_int_equal(pwrite(o.fd, "b", 1, AT), 1);
	look(&o, 0, true);
	assert_true(has(&o.scan.dirty, AT));
	end(&o);
}

/* Reported, but cut when it is read: the target keeps what it has. Then it is long again, and the
 * page reads as zeros, as if they had been sent. */
static void read_while_cut(void **state)
{
	struct object o;

	begin(&o, true);
	o.map[AT] = 'b';
	only_look(&o, AT, false);
	assert_true(has(&o.scan.dirty, AT));
	assert_int_equal(ftruncate(o.fd, AT), 0);
	send_it(&o);
	assert_int_equal(ftruncate(o.fd, SIZE), 0);
	assert_int_equal(*(volatile char *)(o.map + AT), 0);
	look(&o, 0, true);
	assert_true(has(&o.scan.dirty, AT) || has(&o.scan.reset, AT));
	end(&o);
}

/* Cut, when the size is noted that the target is told, and as before when it is looked at. */
static void told_while_cut(void **state)
{
	char same[PAGE_SIZE];
	struct object o;

	memset(same, 'a', sizeof(same));
	begin(&o, true);
	assert_true(cut(&o));
	assert_int_equal(pwrite(o.fd, same, sizeof(same), AT), sizeof(same));
	o.shm.size = AT;
	only_look(&o, 0, false);
	assert_true(has(&o.scan.dirty, AT));
	send_it(&o);                         /* beyond the end that the target knows of */
	assert_true(cut(&o));
	assert_int_equal(pwrite(o.fd, same, sizeof(same), AT), sizeof(same));
	look(&o, 0, true);
	assert_true(has(&o.scan.dirty, AT));
	end(&o);
}

/* A tracker did not see it (soft-dirty, of a page that was unmapped since): also if it made
 * data. */
static void hidden_stores(void **state)
{
	struct object o;

	begin(&o, true);
	assert_true(punch(&o));
	look(&o, 0, false);
	usleep(50000);
	o.hidden = true;
	look(&o, 0, false);
	nothing(&o);
	o.map[AT] = 'b';
	look(&o, 0, false);
	assert_true(has(&o.scan.dirty, AT));
	usleep(50000);
	assert_int_equal(madvise(o.map + 2 * AT, PAGE_SIZE, MADV_DONTNEED), 0);
	o.map[2 * AT] = 'c';
	look(&o, 0, true);
	assert_true(has(&o.scan.dirty, 2 * AT));
	assert_int_equal(prange_bytes(&o.scan.dirty), PAGE_SIZE);
	end(&o);
}

/* By a task that has ended, and its tracker with it. */
static void of_the_lost(void **state)
{
	struct object o;

	begin(&o, true);
	o.map[AT] = 'a';
	look(&o, 0, false);
	usleep(50000);
	look(&o, 0, false);
	o.map[AT] = 'b';                     /* no fault: no time moves */
	o.lost = true;
	look(&o, 0, false);
	nothing(&o);
	o.lost_new = true;
	look(&o, 0, false);
	assert_true(has(&o.scan.dirty, AT));
	o.lost_new = false;
	assert_int_equal(madvise(o.map + AT, PAGE_SIZE, MADV_DONTNEED), 0);
	o.map[AT] = 'c';
	look(&o, 0, true);
	assert_true(has(&o.scan.dirty, AT));
	end(&o);
}

/* ---- by stores ---- */

static void stores(void **state)
{
	struct object o;

	begin(&o, true);
	for (int i = 0; i < 3; i++) {
		o.map[AT]++;
		o.map[2 * AT]++;             /* not reported: nobody is to look */
		look(&o, AT, i == 2);
		assert_int_equal(prange_bytes(&o.scan.dirty), PAGE_SIZE);
		assert_true(has(&o.scan.dirty, AT));
		assert_int_equal(o.scan.reset.n, 0);
	}
	end(&o);
}

/* A store makes data where there was none, and a report need not be about data. */
static void new_data(void **state)
{
	struct object o;

	begin(&o, true);
	assert_true(punch(&o));
	look(&o, 0, false);
	look(&o, AT, false);
	nothing(&o);
	o.map[AT] = 1;
	look(&o, AT, false);
	assert_true(has(&o.scan.dirty, AT));
	look(&o, 0, true);
	nothing(&o);
	end(&o);
}

static void store_in_child(struct object *o, bool map_again)
{
	int status = 1;
	pid_t pid = fork();

	if (pid == 0) {
		char *p = o->map;

		if (map_again)
			p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, o->fd, 0);
		p[AT]++;
		_exit(0);
	}
	waitpid(pid, &status, 0);
	assert_int_equal(status, 0);
}

static void brief_children(void **state)
{
	struct object o;

	begin(&o, true);
	o.forks = o.inherited = true;
	store_in_child(&o, false);
	look(&o, 0, false);
	assert_true(has(&o.scan.dirty, AT));
	/* They inherit none, so they must make one. */
	o.inherited = false;
	usleep(50000);
	store_in_child(&o, true);
	look(&o, 0, false);
	assert_true(has(&o.scan.dirty, AT));
	/* None did: the store of this one, which is not reported, is not looked for. */
	usleep(50000);
	look(&o, 0, false);
	usleep(50000);
	store_in_child(&o, false);
	look(&o, 0, true);
	nothing(&o);
	end(&o);
}

/* ---- an attribute that is there already ---- */

static void somebody_elses(void **state)
{
	struct vfs_cap_data cap = { .magic_etc = VFS_CAP_REVISION_2 | VFS_CAP_FLAGS_EFFECTIVE,
				    .data = { { .permitted = 1 } } }, now;
	struct object o;

	begin(&o, true);
	shm_track_free(o.track);
	assert_int_equal(fsetxattr(o.fd, ATTRIBUTE, &cap, XATTR_CAPS_SZ_2, 0), 0);
	o.track = shm_track_new(1);
	look(&o, 0, false);
	assert_int_equal(fgetxattr(o.fd, ATTRIBUTE, &now, sizeof(now)), XATTR_CAPS_SZ_2);
	assert_memory_equal(&now, &cap, XATTR_CAPS_SZ_2);
	o.map[AT]++;                         /* compared, in doubt */
	look(&o, 0, false);
	assert_true(has(&o.scan.dirty, AT));
	assert_true(by_one_byte(&o));
	look(&o, 0, true);
	assert_true(has(&o.scan.dirty, AT));
	end(&o);
}

static void of_a_run_that_was_killed(void **state)
{
	struct vfs_cap_data cap = { .magic_etc = VFS_CAP_REVISION_2 };
	struct object o;

	begin(&o, true);
	shm_track_free(o.track);
	assert_int_equal(fsetxattr(o.fd, ATTRIBUTE, &cap, XATTR_CAPS_SZ_2, 0), 0);
	o.track = shm_track_new(1);
	look(&o, 0, false);
	o.map[2 * AT]++;
	look(&o, AT, false);
	assert_int_equal(prange_bytes(&o.scan.dirty), PAGE_SIZE);
	assert_true(by_one_byte(&o));
	look(&o, 0, true);
	assert_true(has(&o.scan.dirty, AT));
	end(&o);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_way),      cmocka_unit_test(holes),
		cmocka_unit_test(anonymous),      cmocka_unit_test(stores),
		cmocka_unit_test(new_data),       cmocka_unit_test(brief_children),
		cmocka_unit_test(changed_back),   cmocka_unit_test(somebody_elses),
		cmocka_unit_test(of_a_run_that_was_killed),
		cmocka_unit_test(read_while_cut), cmocka_unit_test(told_while_cut),
		cmocka_unit_test(hidden_stores), cmocka_unit_test(of_the_lost),
	};

	memset(page, 'z', sizeof(page));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
