/* SPDX-License-Identifier: Apache-2.0 */
/* memfds: contents belong to the object, descriptors come and go. */
#include "kind_test.h"

#include <sys/mman.h>

static struct shm_object *only_object(struct trip *t)
{
	size_t n;
	struct shm_object *const *all = shm_seen_all(t->d, &n);

	assert_int_equal(n, 1);
	return all[0];
}

/* What the pages layer does. */
static void place(struct trip *t, const struct shm_object *from)
{
	struct shm_object *to;
	_cleanup_free_ char *buf = xmalloc(from->size);

	assert_ok(t, shm_get(t->r, from->id, &to, &t->e));
	assert_int_equal(to->size, from->size);
	assert_int_equal(pread(from->fd, buf, from->size, 0), from->size);
	assert_int_equal(pwrite(to->fd, buf, from->size, 0), from->size);
}

static void seals_and_positions(void **state)
{
	struct trip t = { 0 };
	int a = memfd_create("a name", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	_cleanup_free_ char *link = xasprintf("/proc/self/fd/%d", a);
	int b = open(link, O_RDONLY);
	int seals = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_SEAL;
	char buf[8];

	assert_int_equal(write(a, "contents", 8), 8);
	assert_int_equal(lseek(b, 3, SEEK_SET), 3);
	assert_return_code(fchmod(a, 0640), errno);
	assert_return_code(fcntl(a, F_ADD_SEALS, seals), errno);
	assert_ok(&t, trip_check(&t, a));
	trip_begin(&t);
	assert_ok(&t, trip_dump(&t, a));
	assert_ok(&t, trip_dump(&t, b));
	assert_int_equal(img_count(kind_dump_set(t.d), IMG_MEMFD_INODE, 0), 1);
	assert_ok(&t, trip_carry(&t));
	int ra = trip_fd(&t, a), rb = trip_fd(&t, b);
	assert_ok(&t, ra);
	assert_ok(&t, rb);
	place(&t, only_object(&t));
	assert_int_equal(fcntl(ra, F_GET_SEALS), 0);
	assert_ok(&t, kind_finish(t.r, &t.e));
	assert_int_equal(fcntl(ra, F_GET_SEALS), seals);
	assert_int_equal(fcntl(ra, F_GETFL), fcntl(a, F_GETFL));
	assert_int_equal(fcntl(rb, F_GETFL), fcntl(b, F_GETFL));
	assert_int_equal(lseek(ra, 0, SEEK_CUR), 8);
	assert_int_equal(read(rb, buf, 8), 5);
	assert_memory_equal(buf, "tents", 5);
	assert_int_equal(write(ra, "x", 1), -1);
	struct stat st;
	fstat(ra, &st);
	assert_int_equal(st.st_mode & 07777, 0640);
	assert_link(ra, "/memfd:a name (deleted)");
	assert_ok(&t, kind_finish(t.r, &t.e));
	trip_end(&t);
	close(a);
	close(b);
}

static void rounds(void **state)
{
	struct trip t = { 0 };
	struct shm_object *o;
	size_t n;
	int a = memfd_create("rounds", 0);

	assert_return_code(ftruncate(a, 8192), errno);
	trip_begin(&t);
	assert_ok(&t, trip_dump(&t, a));
	uint32_t id = only_object(&t)->id;
	assert_ok(&t, trip_carry(&t));
	place(&t, only_object(&t));

	assert_int_equal(pwrite(a, "end", 3, 20000), 3);
	trip_begin(&t);
	assert_ok(&t, trip_dump(&t, a));
	assert_int_equal(only_object(&t)->id, id);
	assert_int_equal(only_object(&t)->size, 20003);
	assert_ok(&t, trip_carry(&t));
	place(&t, only_object(&t));
	assert_ok(&t, shm_get(t.r, id, &o, &t.e));
	assert_int_equal(o->size, 20003);
	shm_got_all(t.r, &n);
	assert_int_equal(n, 1);
	int ra = trip_fd(&t, a);
	char buf[3];
	assert_int_equal(pread(ra, buf, 3, 20000), 3);
	assert_memory_equal(buf, "end", 3);
	assert_ok(&t, kind_finish(t.r, &t.e));
	assert_int_equal(fcntl(ra, F_GET_SEALS), F_SEAL_SEAL);

	/* Let go of: after a whole pass without it, it is not kept alive here. */
	trip_begin(&t);
	assert_ok(&t, trip_carry(&t));
	trip_begin(&t);
	shm_seen_all(t.d, &n);
	assert_int_equal(n, 0);
	assert_ok(&t, trip_carry(&t));
	trip_end(&t);
	close(a);
}

/* Mapped, but no descriptor left. */
static void only_mapped(void **state)
{
	struct trip t = { 0 };
	struct shm_object *o;
	int a = memfd_create("mapped", MFD_ALLOW_SEALING);

	assert_return_code(ftruncate(a, 4096), errno);
	assert_return_code(fcntl(a, F_ADD_SEALS, F_SEAL_GROW), errno);
	trip_begin(&t);
	struct shm_object *seen = shm_seen(t.d, a, true, &t.e);
	assert_non_null(seen);
	uint32_t id = seen->id;
	assert_ok(&t, trip_carry(&t));
	assert_ok(&t, shm_get(t.r, id, &o, &t.e));
	assert_ok(&t, kind_finish(t.r, &t.e));
	assert_int_equal(fcntl(o->fd, F_GET_SEALS), F_SEAL_GROW);
	assert_true(shm_get(t.r, id + 1, &o, &t.e) == -ENOENT);
	trip_end(&t);
	close(a);
}

static void anonymous(void **state)
{
	struct trip t = { 0 };
	struct shm_object *o;
	int a = memfd_create("stands for an anonymous one", 0);

	trip_begin(&t);
	assert_ok(&t, trip_carry(&t));
	assert_int_equal(shm_get(t.r, 5, &o, &t.e), -ENOENT);
	assert_ok(&t, shm_offer(t.r, 5, a, &t.e));
	assert_ok(&t, shm_get(t.r, 5, &o, &t.e));
	assert_false(o->memfd);
	assert_true(o->fd != a);
	assert_int_equal(shm_offer(t.r, 5, a, &t.e), -EEXIST);
	assert_ok(&t, kind_finish(t.r, &t.e));
	trip_end(&t);
	close(a);
}

static void hugetlb(void **state)
{
	struct trip t = { 0 };
	int a = memfd_create("huge", MFD_HUGETLB);

	if (a < 0)
		skip();
	assert_true(trip_check(&t, a) < 0);
	assert_says(&t, "hugetlbfs");
	trip_end(&t);
	close(a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(seals_and_positions),
		cmocka_unit_test(rounds),
		cmocka_unit_test(only_mapped),
		cmocka_unit_test(anonymous),
		cmocka_unit_test(hugetlb),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
