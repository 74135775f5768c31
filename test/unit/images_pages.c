/* SPDX-License-Identifier: Apache-2.0 */
/* Pagemaps: runs, merges, chains of parents, and everything that can be wrong with them. */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "img_dir.h"
#include "img_hash.h"
#include "img_pages.h"
#include "inventory.pb-c.h"
#include "io.h"
#include "pagemap.pb-c.h"

#define ID 12

struct dirs {
	char path[64];
	int fd[4];     /* 0 is the oldest; each has the one before as its parent */
};

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *f)
{
	return remove(path);
}

static struct dirs dirs_make(void)
{
	struct dirs d = { .path = "/tmp/unit-pages-XXXXXX" };
	char path[96], parent[16];

	assert_non_null(mkdtemp(d.path));
	for (int i = 0; i < 4; i++) {
		snprintf(path, sizeof(path), "%s/%d", d.path, i);
		assert_int_equal(mkdir(path, 0700), 0);
		d.fd[i] = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		assert_true(d.fd[i] >= 0);
		snprintf(parent, sizeof(parent), "../%d", i - 1);
		if (i > 0)
			assert_int_equal(symlinkat(parent, d.fd[i], "parent"), 0);
	}
	return d;
}

static void dirs_remove(struct dirs *d)
{
	for (int i = 0; i < 4; i++)
		close(d->fd[i]);
	nftw(d->path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}
#define _cleanup_dirs_ _cleanup_(dirs_remove)

struct entry {
	uint64_t page, npages;
	uint32_t flags;
	uint8_t fill;          /* what its pages hold */
};

static void write_pages(int dirfd, const struct entry *list, size_t n)
{
	struct img_pages_out *out;
	struct err e = ERR_INIT;
	uint8_t page[PAGE_SIZE];

	assert_int_equal(img_pages_create(&out, dirfd, IMG_PAGEMAP, ID, 1, &e), 0);
	for (size_t i = 0; i < n; i++) {
		assert_int_equal(img_pages_add(out, list[i].page * PAGE_SIZE, list[i].npages,
					       list[i].flags, &e), 0);
		memset(page, list[i].fill, sizeof(page));
		for (uint64_t j = 0; list[i].flags & IMG_PE_PRESENT && j < list[i].npages; j++)
			assert_int_equal(io_write(img_pages_fd(out), page, sizeof(page)), 0);
	}
	if (img_pages_close(out, &e) < 0)
		fail_msg("%s", e.text);
}
#define WRITE(dirfd, ...) \
	write_pages(dirfd, (struct entry[]){ __VA_ARGS__ }, \
		    sizeof((struct entry[]){ __VA_ARGS__ }) / sizeof(struct entry))

static void open_fails(int dirfd, const char *text)
{
	struct img_pages_in *in = NULL;
	struct err e = ERR_INIT;

	assert_true(img_pages_open(&in, dirfd, IMG_PAGEMAP, ID, &e) < 0);
	assert_null(in);
	if (text && strcmp(e.text, text) != 0)
		fail_msg("error is \"%s\", not \"%s\"", e.text, text);
}

/* Page by page: what fill it holds; 0: not there. Returns the number of runs. */
static size_t contents(int dirfd, uint8_t *fill, size_t pages)
{
	struct img_pages_in *in = NULL;
	struct err e = ERR_INIT;
	uint64_t end = 0;
	size_t n;

	memset(fill, 0, pages);
	if (img_pages_open(&in, dirfd, IMG_PAGEMAP, ID, &e) < 0)
		fail_msg("%s", e.text);
	const struct img_run *runs = img_pages_runs(in, &n);
	for (size_t i = 0; i < n; i++) {
		assert_true(runs[i].vaddr >= end);
		end = runs[i].vaddr + runs[i].npages * PAGE_SIZE;
		for (uint64_t j = 0; j < runs[i].npages; j++) {
			uint64_t page = runs[i].vaddr / PAGE_SIZE + j;
			assert_true(page < pages);
			assert_int_equal(io_pread(runs[i].fd, &fill[page], 1,
						  (off_t)(runs[i].offset + j * PAGE_SIZE)), 0);
		}
	}
	img_pages_free(in);
	return n;
}

static void runs_and_merges(void **state)
{
	_cleanup_dirs_ struct dirs d = dirs_make();
	uint8_t fill[16];

	WRITE(d.fd[0], { 1, 2, IMG_PE_PRESENT, 1 }, { 3, 1, IMG_PE_PRESENT, 2 },
	      { 5, 1, IMG_PE_PRESENT | IMG_PE_LAZY, 3 }, { 6, 2, IMG_PE_PRESENT, 4 });
	/* 5..7 lie together in memory and in the file, flags do not matter when reading. */
	assert_int_equal(contents(d.fd[0], fill, sizeof(fill)), 2);
	assert_memory_equal(fill, "\0\1\1\2\0\3\4\4\0\0\0\0\0\0\0\0", 16);
}

static void none_at_all(void **state)
{
	_cleanup_dirs_ struct dirs d = dirs_make();
	uint8_t fill[1];

	open_fails(d.fd[0], "pagemap-12.img: missing");
	WRITE(d.fd[0], { 1, 0, IMG_PE_PRESENT, 1 });
	assert_int_equal(contents(d.fd[0], fill, 1), 0);
	/* Empty pages file, and none: both are fine. */
	assert_int_equal(unlinkat(d.fd[0], "pages-1.img", 0), 0);
	assert_int_equal(contents(d.fd[0], fill, 1), 0);
}

static void chain_of_parents(void **state)
{
	_cleanup_dirs_ struct dirs d = dirs_make();
	uint8_t fill[16];

	WRITE(d.fd[0], { 0, 10, IMG_PE_PRESENT, 1 });
	WRITE(d.fd[1], { 0, 2, IMG_PE_PARENT }, { 2, 1, IMG_PE_PRESENT, 2 },
	      { 3, 7, IMG_PE_PARENT }, { 12, 2, IMG_PE_PRESENT, 2 });
	WRITE(d.fd[2], { 0, 4, IMG_PE_PARENT }, { 4, 1, IMG_PE_PRESENT, 3 },
	      { 6, 3, IMG_PE_PARENT }, { 12, 1, IMG_PE_PARENT });
	WRITE(d.fd[3], { 1, 2, IMG_PE_PARENT }, { 3, 1, IMG_PE_PRESENT, 4 },
	      { 4, 1, IMG_PE_PARENT }, { 7, 2, IMG_PE_PARENT }, { 12, 1, IMG_PE_PARENT });
	contents(d.fd[3], fill, sizeof(fill));
	assert_memory_equal(fill, "\0\1\2\4\3\0\0\1\1\0\0\0\2\0\0\0", 16);
}

static void parents_that_lack_pages(void **state)
{
	_cleanup_dirs_ struct dirs d = dirs_make();

	WRITE(d.fd[1], { 0, 2, IMG_PE_PARENT });
	open_fails(d.fd[1], "parent: pagemap-12.img: missing");
	WRITE(d.fd[0], { 0, 1, IMG_PE_PRESENT, 1 });
	open_fails(d.fd[1], "parent: pagemap-12.img: page 0x1000 should be here but is not");
	WRITE(d.fd[0], { 0, 1, IMG_PE_PARENT });
	open_fails(d.fd[0], "pagemap-12.img: pages are in a parent directory, there is none");
	/* A loop, and a link that leads nowhere. */
	assert_int_equal(symlinkat(".", d.fd[0], "parent"), 0);
	open_fails(d.fd[0], "more than 256 parent directories");
	assert_int_equal(unlinkat(d.fd[0], "parent", 0), 0);
	assert_int_equal(symlinkat("nowhere", d.fd[0], "parent"), 0);
	open_fails(d.fd[0], "link `parent`: No such file or directory");
}

static void writer_checks(void **state)
{
	_cleanup_dirs_ struct dirs d = dirs_make();
	struct img_pages_out *out;
	struct err e = ERR_INIT;

	assert_int_equal(img_pages_create(&out, d.fd[0], IMG_SHMEM_PAGEMAP, 3, 2, &e), 0);
	assert_int_equal(img_pages_add(out, 0x3000, 1, IMG_PE_PRESENT, &e), 0);
	assert_int_equal(img_pages_add(out, 0x3000, 1, IMG_PE_PRESENT, &e), -EINVAL);
	assert_int_equal(img_pages_add(out, 0x4001, 1, IMG_PE_PRESENT, &e), -EINVAL);
	assert_int_equal(img_pages_add(out, 0x4000, UINT64_MAX / 4096, IMG_PE_PRESENT, &e),
			 -EINVAL);
	assert_int_equal(img_pages_close(out, &e), -EIO);
	assert_string_equal(e.text, "pages-2.img: has 0 bytes, its pagemap 1 pages");
}

static void put_record(struct buf *out, const ProtobufCMessage *m)
{
	uint32_t len = (uint32_t)protobuf_c_message_get_packed_size(m);
	_cleanup_free_ uint8_t *packed = xmalloc(len);

	protobuf_c_message_pack(m, packed);
	buf_put(out, &len, sizeof(len));
	buf_put(out, packed, len);
}

static void spill(int dirfd, const char *name, const void *p, size_t n)
{
	_cleanup_close_ int fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC,
					0600);

	assert_true(fd >= 0);
	assert_int_equal(io_write(fd, p, n), 0);
}

/* A pagemap of raw entries, as this program would not write it. */
static void write_raw(int dirfd, const PagemapEntry *list, size_t n)
{
	static const uint32_t magic[] = { IMG_MAGIC_COMMON, 0x56084025 };
	_cleanup_(buf_free) struct buf out = { 0 };
	PagemapHead head = PAGEMAP_HEAD__INIT;

	buf_put(&out, magic, sizeof(magic));
	head.pages_id = 1;
	put_record(&out, &head.base);
	for (size_t i = 0; i < n; i++)
		put_record(&out, &list[i].base);
	spill(dirfd, "pagemap-12.img", out.at, out.n);
}

static PagemapEntry raw(uint64_t vaddr, uint64_t npages, uint32_t flags)
{
	PagemapEntry p = PAGEMAP_ENTRY__INIT;

	p.vaddr = vaddr;
	p.has_nr_pages = p.has_flags = true;
	p.nr_pages = npages;
	p.flags = flags;
	return p;
}

static void hostile_entries(void **state)
{
	_cleanup_dirs_ struct dirs d = dirs_make();
	static const uint8_t pages[3 * PAGE_SIZE];
	const uint32_t here = IMG_PE_PRESENT;
	const struct {
		PagemapEntry p[2];
		const char *text;
	} cases[] = {
		{ { raw(0x1001, 1, here), raw(0x5000, 1, here) },
		  "pagemap-12.img: record 1: address 0x1001 is not a page's" },
		{ { raw(0x2000, 2, here), raw(0x3000, 1, here) },
		  "pagemap-12.img: record 2: address 0x3000 is not above the last entry" },
		{ { raw(0x1000, 0, here), raw(0x5000, 1, here) },
		  "pagemap-12.img: record 1: 0 pages at 0x1000" },
		{ { raw(0x1000, UINT64_MAX, here), raw(0x5000, 1, here) },
		  "pagemap-12.img: record 1: 18446744073709551615 pages at 0x1000" },
		{ { raw(0x1000, 2, here), raw(0x5000, 2, here) },
		  "pagemap-12.img: record 2: pages-1.img: truncated (12288 bytes, 2 more pages "
		  "needed at 8192)" },
		{ { raw(0x1000, 1, 0x40), raw(0x5000, 2, here) },
		  "pagemap-12.img: record 1: unknown flags 0x40" },
		{ { raw(0x1000, 1, 0), raw(0x5000, 2, here) },
		  "pagemap-12.img: record 1: no flags" },
		{ { raw(0x1000, 1, IMG_PE_LAZY), raw(0x5000, 2, here) },
		  "pagemap-12.img: record 1: pages were left for a lazy restore, they are not "
		  "here" },
		{ { raw(0x1000, 1, IMG_PE_PARENT | here), raw(0x5000, 2, here) },
		  "pagemap-12.img: record 1: in the parent and here at once" },
	};

	spill(d.fd[0], "pages-1.img", pages, sizeof(pages));
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		write_raw(d.fd[0], cases[i].p, 2);
		open_fails(d.fd[0], cases[i].text);
	}
	write_raw(d.fd[0], (PagemapEntry[]){ raw(0x1000, 1, here) }, 1);
	assert_int_equal(unlinkat(d.fd[0], "pages-1.img", 0), 0);
	open_fails(d.fd[0], "pagemap-12.img: record 1: pages-1.img: missing");
}

/* Entries as CRIU wrote them before `flags` and 64-bit counts. */
static void old_entries(void **state)
{
	_cleanup_dirs_ struct dirs d = dirs_make();
	PagemapEntry list[2] = { PAGEMAP_ENTRY__INIT, PAGEMAP_ENTRY__INIT };
	uint8_t fill[8], pages[2 * PAGE_SIZE];

	WRITE(d.fd[0], { 1, 4, IMG_PE_PRESENT, 1 });
	list[0].vaddr = 0x1000;
	list[0].compat_nr_pages = 2;
	list[0].has_in_parent = list[0].in_parent = true;
	list[1].vaddr = 0x4000;
	list[1].compat_nr_pages = 2;
	memset(pages, 7, sizeof(pages));
	write_raw(d.fd[1], list, 2);
	spill(d.fd[1], "pages-1.img", pages, sizeof(pages));
	contents(d.fd[1], fill, sizeof(fill));
	assert_memory_equal(fill, "\0\1\1\0\7\7\0\0", 8);
}

static void damaged_pagemap(void **state)
{
	_cleanup_dirs_ struct dirs d = dirs_make();
	_cleanup_(buf_free) struct buf file = { 0 };
	struct err e = ERR_INIT;

	WRITE(d.fd[0], { 0, 10, IMG_PE_PRESENT, 1 });
	WRITE(d.fd[1], { 0, 2, IMG_PE_PARENT }, { 2, 1, IMG_PE_PRESENT, 2 },
	      { 3, 7, IMG_PE_PARENT });
	assert_int_equal(io_slurp_at(d.fd[1], "pagemap-12.img", &file, &e), 0);
	for (size_t at = 0; at < file.n; at++) {
		for (unsigned bit = 0; bit < 8; bit++) {
			struct img_pages_in *in = NULL;
			file.at[at] ^= (uint8_t)(1u << bit);
			spill(d.fd[1], "pagemap-12.img", file.at, file.n);
			if (img_pages_open(&in, d.fd[1], IMG_PAGEMAP, ID, &e) == 0)
				img_pages_free(in);
			file.at[at] ^= (uint8_t)(1u << bit);
		}
		struct img_pages_in *in = NULL;
		spill(d.fd[1], "pagemap-12.img", file.at, at);
		if (img_pages_open(&in, d.fd[1], IMG_PAGEMAP, ID, &e) == 0)
			img_pages_free(in);
	}
}

/* The child's load compares the parent's files with the parent's seal. */
static void sealed_parent(void **state)
{
	_cleanup_dirs_ struct dirs d = dirs_make();
	InventoryEntry inventory = INVENTORY_ENTRY__INIT;
	_cleanup_img_set_ struct img_set *s = img_set_new(), *back = NULL;
	struct err e = ERR_INIT;

	inventory.img_version = 2;
	img_put(s, IMG_INVENTORY, 0, &inventory.base);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(img_dir_save(s, d.fd[i], &e), 0);
		WRITE(d.fd[i], { 0, 3, IMG_PE_PRESENT, 5 });
		assert_int_equal(img_dir_seal(d.fd[i], NULL, &e), 0);
	}
	assert_int_equal(img_dir_load(&back, d.fd[1], &e), 0);
	_cleanup_close_ int fd = openat(d.fd[0], "pages-1.img", O_WRONLY | O_CLOEXEC);
	assert_int_equal(io_pwrite(fd, "x", 1, 5000), 0);
	assert_int_equal(img_dir_load(&back, d.fd[1], &e), -EBADMSG);
	assert_string_equal(e.text, "parent: pages-1.img: damaged: its checksum is not that in "
			    "criu-lite.sum");
}

/* More than one block, so that several threads sum it. */
static void sum_of_a_big_file(void **state)
{
	_cleanup_dirs_ struct dirs d = dirs_make();
	size_t n = ((size_t)17 << 20) + 5;
	_cleanup_free_ uint8_t *bytes = xmalloc(n);
	struct err e = ERR_INIT;
	uint64_t hash;

	for (size_t i = 0; i < n; i++)
		bytes[i] = (uint8_t)(i ^ i >> 12);
	spill(d.fd[0], "pages-1.img", bytes, n);
	_cleanup_close_ int fd = openat(d.fd[0], "pages-1.img", O_RDONLY | O_CLOEXEC);
	assert_int_equal(img_hash_file(fd, n, &hash, &e), 0);
	assert_true(hash == img_hash_bytes(bytes, n));
	bytes[n - 1] ^= 1;
	assert_true(hash != img_hash_bytes(bytes, n));
	assert_int_equal(img_hash_file(fd, n + 1, &hash, &e), -ENODATA);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(runs_and_merges),  cmocka_unit_test(none_at_all),
		cmocka_unit_test(chain_of_parents), cmocka_unit_test(parents_that_lack_pages),
		cmocka_unit_test(writer_checks),    cmocka_unit_test(hostile_entries),
		cmocka_unit_test(old_entries),      cmocka_unit_test(damaged_pagemap),
		cmocka_unit_test(sealed_parent),    cmocka_unit_test(sum_of_a_big_file),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
