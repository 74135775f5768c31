/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Image sets, directories, pagemaps. Called as `unit_images write DIR` it writes a directory
 * with records of every type instead, for the test with crit.
 */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "core.pb-c.h"
#include "img_check.h"
#include "img_dir.h"
#include "img_pages.h"
#include "inventory.pb-c.h"
#include "io.h"
#include "ipc-msg.pb-c.h"
#include "pipe-data.pb-c.h"
#include "pstree.pb-c.h"
#include "regfile.pb-c.h"
#include "vma.pb-c.h"

/* ---- a message of any type, filled by its description ---- */

static ProtobufCMessage *sample_message(const ProtobufCMessageDescriptor *d, int depth);

static void sample_value(const ProtobufCFieldDescriptor *f, uint8_t *p, int depth)
{
	ProtobufCBinaryData bytes = { 3, (uint8_t *)xstrdup("b\xffz") };
	uint64_t number = f->id % 5 + 1;

	switch (f->type) {
	case PROTOBUF_C_TYPE_STRING:
		*(char **)p = xasprintf("a \"%s\"\n\xc3\xa4", f->name);
		break;
	case PROTOBUF_C_TYPE_BYTES:
		*(ProtobufCBinaryData *)p = bytes;
		return;
	case PROTOBUF_C_TYPE_MESSAGE:
		*(ProtobufCMessage **)p = sample_message(f->descriptor, depth + 1);
		break;
	case PROTOBUF_C_TYPE_ENUM:
		*(int *)p = ((const ProtobufCEnumDescriptor *)f->descriptor)->values[0].value;
		break;
	case PROTOBUF_C_TYPE_BOOL:
		*(protobuf_c_boolean *)p = 0;
		break;
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_FIXED64:
		memcpy(p, &number, 8);
		break;
	default:
		memcpy(p, &number, 4);
	}
	free(bytes.data);
}

static ProtobufCMessage *sample_message(const ProtobufCMessageDescriptor *d, int depth)
{
	ProtobufCMessage *m = xcalloc(1, d->sizeof_message);

	d->message_init(m);
	for (unsigned i = 0; i < d->n_fields; i++) {
		const ProtobufCFieldDescriptor *f = &d->fields[i];
		uint8_t *p = (uint8_t *)m + f->offset, *q = (uint8_t *)m + f->quantifier_offset;
		bool pointer = f->type == PROTOBUF_C_TYPE_STRING ||
			       f->type == PROTOBUF_C_TYPE_MESSAGE;

		if (f->label != PROTOBUF_C_LABEL_REQUIRED && depth > 3)
			continue;
		if (f->label == PROTOBUF_C_LABEL_REPEATED) {
			*(uint8_t **)p = xcalloc(2, 16);
			*(size_t *)q = 1;
			p = *(uint8_t **)p;
		} else if (f->label == PROTOBUF_C_LABEL_OPTIONAL && !pointer) {
			*(protobuf_c_boolean *)q = 1;
		}
		sample_value(f, p, depth);
	}
	return m;
}

/* The payload that the message announces. */
static void sample_payload(enum img_type type, const ProtobufCMessage *m, struct buf *out)
{
	static const uint8_t zeros[4096];
	struct err e = ERR_INIT;
	uint64_t size;

	if (img_type_info(type)->extra == IMG_EXTRA_IPC_MSG) {
		for (uint32_t i = 0; i < ((const IpcMsgEntry *)m)->qnum; i++) {
			IpcMsg msg = IPC_MSG__INIT;
			uint8_t packed[64];
			msg.msize = 5;
			uint32_t len = (uint32_t)ipc_msg__pack(&msg, packed);
			buf_put(out, &len, 4);
			buf_put(out, packed, len);
			buf_put(out, zeros, 8);
		}
		return;
	}
	assert_int_equal(img_extra_size(img_type_info(type)->extra, 0, m, zeros, 100, &size, &e),
			 0);
	buf_put(out, zeros, size);
}

static void put_tree(struct img_set *s)
{
	InventoryEntry inventory = INVENTORY_ENTRY__INIT;
	PstreeEntry task = PSTREE_ENTRY__INIT;
	uint32_t threads[] = { 12, 13 };

	inventory.img_version = 2;
	img_put(s, IMG_INVENTORY, 0, &inventory.base);
	task.pid = 12;
	task.n_threads = 2;
	task.threads = threads;
	img_put(s, IMG_PSTREE, 0, &task.base);
}

/* Every type there is: core, mm ... of id 12 and 13. */
static struct img_set *sample_set(void)
{
	struct img_set *s = img_set_new();

	put_tree(s);
	for (int type = 0; type < IMG_TYPE_COUNT; type++) {
		if (!img_type_in_set(type) || type == IMG_INVENTORY || type == IMG_PSTREE)
			continue;
		if (!img_magic(type)) {
			img_put_extra(s, type, 12, NULL, "raw", 3);
			continue;
		}
		for (uint64_t id = 12; id < 14; id++) {
			_cleanup_msg_ ProtobufCMessage *m = sample_message(img_descriptor(type), 0);
			_cleanup_(buf_free) struct buf extra = { 0 };
			bool numbered = strchr(img_type_info(type)->pattern, '%');
			sample_payload(type, m, &extra);
			img_put_extra(s, type, numbered ? id : 0, m, extra.at, extra.n);
			if (type == IMG_GHOST_FILE)
				break;
		}
	}
	return s;
}

/* ---- scratch directories ---- */

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *f)
{
	return remove(path);
}

struct dir {
	char path[64];
	int fd;
};

static struct dir dir_make(void)
{
	struct dir d = { "/tmp/unit-images-XXXXXX", -1 };

	assert_non_null(mkdtemp(d.path));
	d.fd = open(d.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(d.fd >= 0);
	return d;
}

static void dir_remove(struct dir *d)
{
	close(d->fd);
	nftw(d->path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}
#define _cleanup_dir_ _cleanup_(dir_remove)

static void spill(const struct dir *d, const char *name, const void *p, size_t n)
{
	_cleanup_close_ int fd = openat(d->fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC,
					0600);

	assert_true(fd >= 0);
	assert_int_equal(io_write(fd, p, n), 0);
}

static void slurp(const struct dir *d, const char *name, struct buf *out)
{
	struct err e = ERR_INIT;

	assert_int_equal(io_slurp_at(d->fd, name, out, &e), 0);
}

static void assert_equal_sets(const struct img_set *a, const struct img_set *b)
{
	_cleanup_(buf_free) struct buf x = { 0 }, y = { 0 };

	img_set_encode(a, &x);
	img_set_encode(b, &y);
	assert_int_equal(x.n, y.n);
	assert_memory_equal(x.at, y.at, x.n);
}

static void load_fails(const struct dir *d, const char *text)
{
	_cleanup_img_set_ struct img_set *s = NULL;
	struct err e = ERR_INIT;

	assert_true(img_dir_load(&s, d->fd, &e) < 0);
	if (text && strcmp(e.text, text) != 0)
		fail_msg("error is \"%s\", not \"%s\"", e.text, text);
	assert_null(s);
}

static void load_works(const struct dir *d)
{
	_cleanup_img_set_ struct img_set *s = NULL;
	struct err e = ERR_INIT;

	if (img_dir_load(&s, d->fd, &e) < 0)
		fail_msg("%s", e.text);
}

/* ---- tests ---- */

static void names_of_files(void **state)
{
	enum img_type type;
	char name[64];
	uint64_t id;

	img_file_name(IMG_CORE, 12, name, sizeof(name));
	assert_string_equal(name, "core-12.img");
	img_file_name(IMG_GHOST_FILE, 0x1a, name, sizeof(name));
	assert_string_equal(name, "ghost-file-1a.img");
	for (int i = 0; i < IMG_TYPE_COUNT; i++) {
		if (i == IMG_PAGES_OLD || i == IMG_SHM_PAGES_OLD)
			continue;
		img_file_name(i, 4096, name, sizeof(name));
		assert_true(img_type_of_name(name, &type, &id));
		assert_int_equal(type, i);
		assert_int_equal(id, strchr(img_type_info(i)->pattern, '%') ? 4096 : 0);
	}
	assert_false(img_type_of_name("core-012.img", &type, &id));
	assert_false(img_type_of_name("core-.img", &type, &id));
	assert_false(img_type_of_name("core--1.img", &type, &id));
	assert_false(img_type_of_name("core-12.img~", &type, &id));
	assert_false(img_type_of_name("core-18446744073709551616.img", &type, &id));
}

static void put_and_get(void **state)
{
	_cleanup_img_set_ struct img_set *s = img_set_new();
	_cleanup_msg_ PstreeEntry *task = NULL;
	struct err e = ERR_INIT;
	enum img_type type;
	size_t it = 0;
	uint64_t id;

	put_tree(s);
	assert_int_equal(img_count(s, IMG_PSTREE, 0), 1);
	assert_int_equal(img_get(s, IMG_PSTREE, 0, 0, &task, &e), 0);
	assert_int_equal(task->pid, 12);
	assert_int_equal(task->threads[1], 13);
	assert_int_equal(img_get(s, IMG_CORE, 12, 0, &task, &e), -ENOENT);
	assert_string_equal(e.text, "core-12.img: missing");
	assert_true(img_next(s, &it, &type, &id) && type == IMG_INVENTORY);
	assert_true(img_next(s, &it, &type, &id) && type == IMG_PSTREE);
	assert_false(img_next(s, &it, &type, &id));
	img_drop(s, IMG_PSTREE, 0);
	assert_int_equal(img_count(s, IMG_PSTREE, 0), 0);
	assert_null(img_record(s, IMG_PSTREE, 0, 0));
}

static void through_a_directory(void **state)
{
	_cleanup_img_set_ struct img_set *s = sample_set(), *back = NULL, *sealed = NULL;
	_cleanup_dir_ struct dir d = dir_make();
	struct err e = ERR_INIT;
	struct stat st;

	assert_int_equal(img_dir_save(s, d.fd, &e), 0);
	assert_int_equal(fstatat(d.fd, "core-12.img", &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	img_drop(s, IMG_STATS_DUMP, 0);
	img_drop(s, IMG_STATS_RESTORE, 0);
	if (img_dir_load(&back, d.fd, &e) < 0)
		fail_msg("%s", e.text);
	assert_equal_sets(s, back);
	assert_int_equal(img_dir_seal(d.fd, NULL, &e), 0);
	assert_int_equal(img_dir_load(&sealed, d.fd, &e), 0);
	assert_equal_sets(s, sealed);
	/* Writing again breaks the seal instead of leaving a wrong one. */
	assert_int_equal(img_dir_save(s, d.fd, &e), 0);
	assert_int_equal(faccessat(d.fd, "criu-lite.sum", F_OK, 0), -1);
}

static void through_bytes(void **state)
{
	_cleanup_img_set_ struct img_set *s = sample_set(), *back = NULL;
	_cleanup_(buf_free) struct buf bytes = { 0 };
	struct err e = ERR_INIT;

	img_set_encode(s, &bytes);
	if (img_set_decode(&back, bytes.at, bytes.n, &e) < 0)
		fail_msg("%s", e.text);
	assert_equal_sets(s, back);
}

/* Truncated anywhere but between groups it fails; flipped anywhere it must not crash. */
static void damaged_bytes(void **state)
{
	_cleanup_img_set_ struct img_set *s = sample_set();
	_cleanup_(buf_free) struct buf bytes = { 0 };
	size_t accepted = 0;

	img_set_encode(s, &bytes);
	for (size_t n = 0; n < bytes.n; n++) {
		_cleanup_img_set_ struct img_set *back = NULL;
		_cleanup_free_ uint8_t *copy = xmemdup(bytes.at, n);
		struct err e = ERR_INIT;
		accepted += img_set_decode(&back, copy, n, &e) == 0;
		bytes.at[n] ^= (uint8_t)(1u << (n % 8));
		_cleanup_img_set_ struct img_set *flipped = NULL;
		(void)img_set_decode(&flipped, bytes.at, bytes.n, &e);
		bytes.at[n] ^= (uint8_t)(1u << (n % 8));
	}
	size_t groups = 0, it = 0;
	enum img_type type;
	uint64_t id;
	while (img_next(s, &it, &type, &id))
		groups++;
	assert_int_equal(accepted, groups); /* cut before each group, the first one included */
}

static void save_tree(const struct dir *d)
{
	_cleanup_img_set_ struct img_set *s = img_set_new();
	struct err e = ERR_INIT;

	put_tree(s);
	for (uint64_t id = 12; id < 14; id++) {
		_cleanup_msg_ ProtobufCMessage *core = sample_message(&core_entry__descriptor, 0);
		img_put(s, IMG_CORE, id, core);
	}
	PipeDataEntry pipe = PIPE_DATA_ENTRY__INIT;
	pipe.bytes = 5;
	img_put_extra(s, IMG_PIPES_DATA, 0, &pipe.base, "hello", 5);
	img_put_extra(s, IMG_ROUTE, 9, NULL, "r", 1);
	assert_int_equal(img_dir_save(s, d->fd, &e), 0);
}

static void errors_name_the_file(void **state)
{
	_cleanup_dir_ struct dir d = dir_make();
	_cleanup_(buf_free) struct buf core = { 0 }, inventory = { 0 }, pipe = { 0 };

	load_fails(&d, "inventory.img: missing");
	save_tree(&d);
	load_works(&d);
	slurp(&d, "core-12.img", &core);
	slurp(&d, "inventory.img", &inventory);
	slurp(&d, "pipes-data.img", &pipe);

	spill(&d, "core-12.img", core.at, 20);
	char text[128];
	snprintf(text, sizeof(text), "core-12.img: record 0: truncated (needs %zu bytes, 8 left)",
		 core.n - 12);
	load_fails(&d, text);
	spill(&d, "core-12.img", core.at, 8);
	load_fails(&d, "core-12.img: holds no record");
	spill(&d, "core-12.img", core.at, 6);
	load_fails(&d, "core-12.img: truncated (6 bytes, no magic)");
	spill(&d, "core-12.img", "\x19\x43\x56\x54\x20\x28\x49\x57", 8);
	load_fails(&d, "core-12.img: wrong magic 0x57492820 (expected 0x55053847)");
	uint32_t huge = 0xfffffff0;
	memcpy(core.at + 8, &huge, 4);
	spill(&d, "core-12.img", core.at, core.n);
	load_fails(&d, NULL);
	assert_int_equal(unlinkat(d.fd, "core-12.img", 0), 0);
	load_fails(&d, "core-12.img: missing");
	assert_int_equal(mkfifoat(d.fd, "core-12.img", 0600), 0);
	load_fails(&d, "core-12.img: is not a regular file");
	assert_int_equal(unlinkat(d.fd, "core-12.img", 0), 0);

	save_tree(&d);
	spill(&d, "pipes-data.img", pipe.at, pipe.n - 1);
	load_fails(&d, "pipes-data.img: record 0: payload truncated (needs 5 bytes, 4 left)");
	save_tree(&d);
	spill(&d, "mm-12.img", "", 0);
	_cleanup_close_ int fd = openat(d.fd, "mm-12.img", O_WRONLY | O_CLOEXEC);
	assert_int_equal(ftruncate(fd, (off_t)5 << 30), 0);
	load_fails(&d, "mm-12.img: has 5368709120 bytes, more than an image can have");
	assert_int_equal(unlinkat(d.fd, "mm-12.img", 0), 0);
	assert_int_equal(unlinkat(d.fd, "pstree.img", 0), 0);
	load_fails(&d, "pstree.img: missing");
	inventory.at[inventory.n - 1] = 1;
	spill(&d, "inventory.img", inventory.at, inventory.n);
	load_fails(&d, "inventory.img: image version 1 is not supported, only 2");
}

static int unpack(const ProtobufCMessageDescriptor *d, const void *p, size_t n, struct err *e)
{
	_cleanup_msg_ ProtobufCMessage *m = NULL;

	return img_unpack(d, p, n, &m, e);
}

static void hostile_messages(void **state)
{
	_cleanup_(buf_free) struct buf deep = { 0 };
	struct err e = ERR_INIT;
	uint8_t level[5];

	assert_int_equal(unpack(&core_entry__descriptor, "\x08\x2a", 2, &e), -EBADMSG);
	assert_string_equal(e.text, "core_entry.mtype: unknown value 42");
	assert_int_equal(unpack(&core_entry__descriptor, "\x08\x01", 2, &e), 0);
	static const char long_field[] = "\x08\x01\x1a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
	assert_int_equal(unpack(&core_entry__descriptor, long_field, 13, &e), -EBADMSG);
	assert_int_equal(unpack(&core_entry__descriptor, NULL, 0, &e), -EBADMSG);
	/* plugins_entry.plugins = "a\0b" */
	assert_int_equal(unpack(&plugins_entry__descriptor, "\x62\x03" "a\0b", 5, &e), -EBADMSG);
	assert_string_equal(e.text, "plugins_entry.plugins: zero byte in a string");
	/* aa_namespace in itself, and so on: five bytes a level */
	const ProtobufCMessageDescriptor *d = img_descriptor(IMG_APPARMOR);
	for (int i = 0; i < 100000; i++) {
		size_t len = (size_t)(99999 - i) * sizeof(level);
		level[0] = i == 0 ? 0x0a : 0x1a;
		for (int n = 1; n < 5; n++, len >>= 7)
			level[n] = (uint8_t)((len & 0x7f) | (n < 4 ? 0x80 : 0));
		buf_put(&deep, level, sizeof(level));
	}
	assert_int_equal(unpack(d, deep.at, deep.n, &e), -EBADMSG);
	assert_string_equal(e.text, "aa_namespace: nested more than 64 deep");
}

/* Every file of a sealed directory, cut at every length and flipped at every byte. */
static void damaged_directory(void **state)
{
	static const char *const names[] = { "inventory.img", "pstree.img",     "core-12.img",
					     "core-13.img",   "pipes-data.img", "route-9.img",
					     "pagemap-12.img", "pages-1.img",   "criu-lite.sum" };
	_cleanup_dir_ struct dir d = dir_make();
	struct img_pages_out *out;
	struct err e = ERR_INIT;

	save_tree(&d);
	assert_int_equal(img_pages_create(&out, d.fd, IMG_PAGEMAP, 12, 1, &e), 0);
	assert_int_equal(img_pages_close(out, &e), 0);
	assert_int_equal(img_dir_seal(d.fd, NULL, &e), 0);
	load_works(&d);
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		_cleanup_(buf_free) struct buf file = { 0 };
		slurp(&d, names[i], &file);
		for (size_t at = 0; at < file.n; at++) {
			spill(&d, names[i], file.at, at);
			load_fails(&d, NULL);
			file.at[at] ^= (uint8_t)(1u << (at % 8));
			spill(&d, names[i], file.at, file.n);
			load_fails(&d, NULL);
			file.at[at] ^= (uint8_t)(1u << (at % 8));
		}
		buf_put(&file, "x", 1);
		spill(&d, names[i], file.at, file.n);
		load_fails(&d, NULL);
		spill(&d, names[i], file.at, file.n - 1);
		load_works(&d);
	}
	assert_int_equal(unlinkat(d.fd, "pages-1.img", 0), 0);
	load_fails(&d, "pages-1.img: missing");
	spill(&d, "pages-1.img", "", 0);
	spill(&d, "pages-2.img", "", 0);
	load_fails(&d, "pages-2.img: not listed in criu-lite.sum");
}

/* Without a seal nothing may crash, and what cannot be parsed is refused. */
static void damaged_directory_of_criu(void **state)
{
	static const char *const names[] = { "inventory.img", "pstree.img", "core-12.img",
					     "pipes-data.img" };
	_cleanup_dir_ struct dir d = dir_make();

	save_tree(&d);
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		_cleanup_(buf_free) struct buf file = { 0 };
		slurp(&d, names[i], &file);
		for (size_t at = 0; at < file.n; at++) {
			_cleanup_img_set_ struct img_set *s = NULL;
			struct err e = ERR_INIT;
			spill(&d, names[i], file.at, at);
			if (at == 8 && strcmp(names[i], "pipes-data.img") == 0)
				load_works(&d); /* no records is what CRIU writes for no pipes */
			else
				load_fails(&d, NULL);
			file.at[at] ^= (uint8_t)(1u << (at % 8));
			spill(&d, names[i], file.at, file.n);
			(void)img_dir_load(&s, d.fd, &e);
			file.at[at] ^= (uint8_t)(1u << (at % 8));
		}
		spill(&d, names[i], file.at, file.n);
	}
	load_works(&d);
}

static void readable_output(void **state)
{
	_cleanup_img_set_ struct img_set *s = sample_set();
	_cleanup_dir_ struct dir d = dir_make();
	_cleanup_free_ char *text = NULL;
	struct err e = ERR_INIT;
	enum img_type type;
	size_t size, it = 0;
	uint64_t id;

	assert_int_equal(img_dir_save(s, d.fd, &e), 0);
	FILE *f = open_memstream(&text, &size);
	while (img_next(s, &it, &type, &id)) {
		char name[64], path[160];
		img_file_name(type, id, name, sizeof(name));
		snprintf(path, sizeof(path), "%s/%s", d.path, name);
		if (img_file_show(path, f, &e) < 0)
			fail_msg("%s", e.text);
	}
	fclose(f);
	assert_non_null(strstr(text, "\"mtype\": \"UNKNOWN\""));
	assert_non_null(strstr(text, "\"ip\": \"0x"));
	assert_non_null(strstr(text, "\"siginfo\": \"62ff7a\""));
	assert_non_null(strstr(text, "a \\\"comm\\\"\\u000a\xc3\xa4"));
	assert_non_null(strstr(text, "\"payload\": \""));
}

static int write_sample(const char *path)
{
	_cleanup_img_set_ struct img_set *s = sample_set();
	_cleanup_close_ int dirfd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	static const uint8_t page[PAGE_SIZE];
	struct err e = ERR_INIT;
	struct img_pages_out *out;

	if (img_dir_save(s, dirfd, &e) < 0 ||
	    img_pages_create(&out, dirfd, IMG_PAGEMAP, 12, 1, &e) < 0 ||
	    img_pages_add(out, 0x10000, 1, IMG_PE_PRESENT, &e) < 0 ||
	    io_write(img_pages_fd(out), page, sizeof(page)) < 0 ||
	    img_pages_close(out, &e) < 0 || img_dir_seal(dirfd, NULL, &e) < 0) {
		err_print(&e);
		return 1;
	}
	return 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_of_files),    cmocka_unit_test(put_and_get),
		cmocka_unit_test(through_a_directory), cmocka_unit_test(through_bytes),
		cmocka_unit_test(damaged_bytes),     cmocka_unit_test(errors_name_the_file),
		cmocka_unit_test(hostile_messages),  cmocka_unit_test(damaged_directory),
		cmocka_unit_test(damaged_directory_of_criu), cmocka_unit_test(readable_output),
	};

	if (argc == 3 && strcmp(argv[1], "write") == 0)
		return write_sample(argv[2]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
