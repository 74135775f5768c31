/* SPDX-License-Identifier: Apache-2.0 */
/* vDSO images: that of this kernel, and invented ones. What patches make of them is run, too. */
#include <elf.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "task_vdso.h"

/* ---- an invented image ---- */

struct sym {
	const char *name;
	uint32_t at, size;
};

#define IMAGE_SIZE 8192
#define DYN_AT     0x100
#define SYM_AT     0x200
#define STR_AT     0x400
#define SH_AT      0x1400

/* As ld lays it out: symbols, then their names; 3 section headers at the end. */
static void make_image(uint8_t image[IMAGE_SIZE], const struct sym *s, size_t n)
{
	Elf64_Ehdr eh = {.e_machine = EM_X86_64, .e_phoff = sizeof(eh),
			 .e_phentsize = sizeof(Elf64_Phdr), .e_phnum = 2, .e_shoff = SH_AT,
			 .e_shentsize = sizeof(Elf64_Shdr), .e_shnum = 3};
	Elf64_Phdr ph[2] = {{.p_type = PT_LOAD, .p_filesz = 0x1200},
			    {.p_type = PT_DYNAMIC, .p_offset = DYN_AT,
			     .p_filesz = 4 * sizeof(Elf64_Dyn)}};
	Elf64_Dyn dyn[4] = {{.d_tag = DT_SYMTAB, .d_un.d_ptr = SYM_AT},
			    {.d_tag = DT_STRTAB, .d_un.d_ptr = STR_AT}, {.d_tag = DT_STRSZ}};
	size_t str = 1;

	memset(image, 0, IMAGE_SIZE);
	memcpy(eh.e_ident, ELFMAG, SELFMAG);
	eh.e_ident[EI_CLASS] = ELFCLASS64;
	for (size_t i = 0; i < n; i++) {
		Elf64_Sym sym = {.st_name = (uint32_t)str,
				 .st_info = ELF64_ST_INFO(STB_GLOBAL, STT_FUNC),
				 .st_shndx = 12, .st_value = s[i].at, .st_size = s[i].size};

		memcpy(image + SYM_AT + (i + 1) * sizeof(sym), &sym, sizeof(sym));
		memcpy(image + STR_AT + str, s[i].name, strlen(s[i].name) + 1);
		str += strlen(s[i].name) + 1;
		memset(image + s[i].at, 0x90, s[i].size);
	}
	/* the number of symbols follows from the place of their names */
	memmove(image + SYM_AT + (n + 1) * sizeof(Elf64_Sym), image + STR_AT, str);
	dyn[1].d_un.d_ptr = SYM_AT + (n + 1) * sizeof(Elf64_Sym);
	dyn[2].d_un.d_val = str;
	memcpy(image, &eh, sizeof(eh));
	memcpy(image + sizeof(eh), ph, sizeof(ph));
	memcpy(image + DYN_AT, dyn, sizeof(dyn));
	memset(image + SH_AT, 1, 3 * sizeof(Elf64_Shdr) - 15);
}

static const struct sym usual[] = {
	{"__vdso_clock_gettime", 0x800, 300}, {"clock_gettime", 0x800, 300},
	{"__vdso_gettimeofday", 0x940, 100},  {"__vdso_time", 0xa00, 29},
	{"__vdso_getcpu", 0xa20, 40},         {"__vdso_getrandom", 0xb00, 900},
	{"__vdso_something_new", 0xf00, 50},
};

static const struct vdso_entry *entry(const struct vdso *v, const char *name)
{
	for (size_t i = 0; i < v->n_entries; i++)
		if (!strcmp(v->entry[i].name, name))
			return &v->entry[i];
	fail_msg("%s is missing", name);
	return NULL;
}

static void entries(void **state)
{
	static uint8_t image[IMAGE_SIZE];
	struct err e = ERR_INIT;
	struct vdso v;

	make_image(image, usual, sizeof(usual) / sizeof(usual[0]));
	assert_int_equal(vdso_parse(image, sizeof(image), &v, &e), 0);
	assert_int_equal(v.n_entries, 6);
	assert_int_equal(v.end, SH_AT + 3 * 64);
	assert_int_equal(entry(&v, "__vdso_clock_gettime")->at, 0x800);
	assert_int_equal(entry(&v, "__vdso_clock_gettime")->room, 304);
	/* up to the next one */
	assert_int_equal(entry(&v, "__vdso_time")->room, 32);
	assert_int_equal(entry(&v, "__vdso_getcpu")->room, 48);
}

/* Patches, and trampolines behind the end, do not change what it is; anything else does. */
static void identity(void **state)
{
	static uint8_t image[IMAGE_SIZE], patched[IMAGE_SIZE];
	struct err e = ERR_INIT;
	struct vdso v, w;

	make_image(image, usual, sizeof(usual) / sizeof(usual[0]));
	assert_int_equal(vdso_parse(image, sizeof(image), &v, &e), 0);
	memcpy(patched, image, sizeof(image));
	assert_int_equal(vdso_patch(patched, sizeof(patched), &v, &v, 0x123456789000, &e), 0);
	assert_memory_not_equal(patched, image, sizeof(image));
	memset(patched + v.end, 0xcc, 300);
	assert_int_equal(vdso_parse(patched, sizeof(patched), &w, &e), 0);
	assert_true(w.id == v.id);
	/* seen in a longer piece of memory */
	static uint8_t longer[2 * IMAGE_SIZE];
	memcpy(longer, image, sizeof(image));
	assert_int_equal(vdso_parse(longer, sizeof(longer), &w, &e), 0);
	assert_true(w.id == v.id);
	/* again, elsewhere */
	memcpy(image, patched, sizeof(image));
	assert_int_equal(vdso_patch(patched, sizeof(patched), &w, &v, 0x223456789000, &e), 0);
	assert_memory_not_equal(patched, image, sizeof(image));
	assert_int_equal(vdso_parse(patched, sizeof(patched), &w, &e), 0);
	assert_true(w.id == v.id);
	patched[0x800 + 100] ^= 1;
	assert_int_equal(vdso_parse(patched, sizeof(patched), &w, &e), 0);
	assert_true(w.id != v.id);
}

static void jumps(void **state)
{
	static uint8_t image[IMAGE_SIZE], other[IMAGE_SIZE];
	static const struct sym fewer[] = {{"__vdso_time", 0x700, 29}, {"__vdso_getcpu", 0x760, 40},
					   {"__vdso_getrandom", 0x7a0, 90}};
	const uint64_t base = 0x2e00c0de4000;
	struct err e = ERR_INIT;
	struct vdso old, now;
	uint64_t to;

	make_image(image, usual, sizeof(usual) / sizeof(usual[0]));
	make_image(other, fewer, 3);
	assert_int_equal(vdso_parse(image, sizeof(image), &old, &e), 0);
	assert_int_equal(vdso_parse(other, sizeof(other), &now, &e), 0);
	assert_int_equal(vdso_patch(image, sizeof(image), &old, &now, base, &e), 0);
	assert_memory_equal(image + 0xa00, "\x48\xb8", 2);
	memcpy(&to, image + 0xa02, 8);
	assert_true(to == base + 0x700);
	assert_memory_equal(image + 0xa0a, "\xff\xe0", 2);
	/* the rest of a function stays: a thread may be in it */
	assert_int_equal(image[0xa0c], 0x90);
	/* lacking there: the system call */
	assert_memory_equal(image + 0x800, "\xb8\xe4\0\0\0\x0f\x05\xc3", 8);
	assert_memory_equal(image + 0x940, "\xb8\x60\0\0\0\x0f\x05\xc3", 8);
	/* unknown: -ENOSYS; random numbers: never the other's code */
	assert_memory_equal(image + 0xf00, "\x48\xc7\xc0\xda\xff\xff\xff\xc3", 8);
	assert_memory_equal(image + 0xb00, "\x49\x83\xf8\xff\x74\x08\xb8\x3e\x01", 9);
}

static void too_small(void **state)
{
	static const struct sym tight[] = {{"__vdso_time", 0x808, 8}, {"__vdso_getcpu", 0x810, 40}};
	static uint8_t image[IMAGE_SIZE];
	struct err e = ERR_INIT;
	struct vdso v;

	make_image(image, tight, 2);
	assert_int_equal(vdso_parse(image, sizeof(image), &v, &e), 0);
	assert_int_equal(vdso_patch(image, sizeof(image), &v, &v, 0x1000, &e), -ENOTSUP);
	assert_non_null(strstr(e.text, "__vdso_time"));
	assert_true(e.remedy[0]);
}

static void damaged(void **state)
{
	static uint8_t image[IMAGE_SIZE], broken[IMAGE_SIZE];
	uint64_t seed = 1;
	struct vdso v;

	make_image(image, usual, sizeof(usual) / sizeof(usual[0]));
	for (size_t n = 0; n < SH_AT; n++) {
		struct err e = ERR_INIT;
		/* of its own, so that a checker sees reads behind it */
		uint8_t *cut = malloc(n ? n : 1);

		memcpy(cut, image, n);
		if (vdso_parse(cut, n, &v, &e) == 0)
			assert_true(v.end <= n);
		free(cut);
	}
	for (int i = 0; i < 20000; i++) {
		struct err e = ERR_INIT;

		memcpy(broken, image, sizeof(image));
		for (int k = 0; k < 4; k++) {
			seed = seed * 6364136223846793005u + 1442695040888963407u;
			broken[(seed >> 33) % 0x600] = (uint8_t)(seed >> 24);
		}
		if (vdso_parse(broken, sizeof(broken), &v, &e) == 0)
			vdso_patch(broken, sizeof(broken), &v, &v, 0x1000, &e);
	}
}

/* ---- this kernel's ---- */

typedef int (*gettime_fn)(clockid_t, struct timespec *);
typedef int (*gettimeofday_fn)(struct timeval *, void *);
typedef int (*getcpu_fn)(unsigned int *, unsigned int *, void *);
typedef time_t (*time_fn)(time_t *);
typedef long (*getrandom_fn)(void *, size_t, unsigned int, void *, size_t);

static void *fn(uint8_t *copy, const struct vdso *v, const char *name)
{
	return copy + entry(v, name)->at;
}

static int64_t ns(const struct timespec *t) { return t->tv_sec * 1000000000L + t->tv_nsec; }

static void check_calls(uint8_t *copy, const struct vdso *v)
{
	static const clockid_t clocks[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_MONOTONIC_COARSE,
					   CLOCK_BOOTTIME};
	struct timespec a, b, c;
	unsigned int cpu = ~0u, node = ~0u;
	struct timeval tv;
	time_t t;

	for (int i = 0; i < 400; i++) {
		clockid_t k = clocks[i % 4];

		syscall(SYS_clock_gettime, k, &a);
		assert_int_equal(((gettime_fn)fn(copy, v, "__vdso_clock_gettime"))(k, &b), 0);
		syscall(SYS_clock_gettime, k, &c);
		assert_true(ns(&a) <= ns(&b) && ns(&b) <= ns(&c));
	}
	assert_int_equal(((gettime_fn)fn(copy, v, "__vdso_clock_getres"))(CLOCK_MONOTONIC, &a), 0);
	assert_true(ns(&a) >= 1);
	assert_int_equal(((gettimeofday_fn)fn(copy, v, "__vdso_gettimeofday"))(&tv, NULL), 0);
	assert_int_equal(((getcpu_fn)fn(copy, v, "__vdso_getcpu"))(&cpu, &node, NULL), 0);
	assert_true(cpu < 4096 && node < 1024);
	time_t now = ((time_fn)fn(copy, v, "__vdso_time"))(&t);
	assert_true(now == t && llabs(now - tv.tv_sec) <= 1);
}

static void check_random(uint8_t *copy, const struct vdso *v)
{
	uint64_t r[2] = {0, 0};
	getrandom_fn f;

	for (size_t i = 0; i < v->n_entries; i++)
		if (!strcmp(v->entry[i].name, "__vdso_getrandom")) {
			f = (getrandom_fn)fn(copy, v, "__vdso_getrandom");
			assert_int_equal(f(r, sizeof(r), 0, NULL, 0), sizeof(r));
			assert_true(r[0] || r[1]);
			assert_int_equal(f(NULL, 0, 0, r, ~0ul), -ENOSYS);
		}
}

static void here(void **state)
{
	static const struct vdso none = {0};
	struct err e = ERR_INIT;
	const uint8_t *image;
	struct vdso v, w;
	size_t n;

	if (vdso_here(&image, &n, &v, &e) == -ENOENT)
		skip();
	assert_int_equal(e.code, 0);
	uint8_t *copy = mmap(NULL, n, PROT_READ | PROT_WRITE | PROT_EXEC,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(copy != MAP_FAILED);
	memcpy(copy, image, n);
	assert_int_equal(vdso_patch(copy, n, &v, &v, (uint64_t)image, &e), 0);
	assert_int_equal(vdso_parse(copy, n, &w, &e), 0);
	assert_true(v.id == w.id);
	check_calls(copy, &v);
	check_random(copy, &v);
	/* a kernel without any of them */
	assert_int_equal(vdso_patch(copy, n, &w, &none, 0, &e), 0);
	check_calls(copy, &v);
	check_random(copy, &v);
	munmap(copy, n);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(entries), cmocka_unit_test(identity), cmocka_unit_test(jumps),
		cmocka_unit_test(too_small), cmocka_unit_test(damaged), cmocka_unit_test(here),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
