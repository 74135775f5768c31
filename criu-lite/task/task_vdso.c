/* SPDX-License-Identifier: Apache-2.0 */
#include "task_vdso.h"

#include <elf.h>
#include <errno.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <xxhash.h>

#include "cleanup.h"
#include "io.h"
#include "proc_maps.h"
#include "vec.h"

#define PREFIX "__vdso_"

/* ---- the ELF image ---- */

struct image {
	const uint8_t *at;
	size_t n;
};

static bool get(const struct image *i, uint64_t at, void *out, size_t n)
{
	if (at > i->n || n > i->n - at)
		return false;
	memcpy(out, i->at + at, n);
	return true;
}

static int bad(struct err *e, const char *what)
{
	return err_say(e, EBADMSG, "vDSO image: %s", what);
}

static uint64_t max64(uint64_t a, uint64_t b) { return a > b ? a : b; }

struct dynamic {
	uint64_t symtab, strtab, strsz, hash;
};

/* Addresses are offsets: it is linked at 0, in one piece. */
static int read_dynamic(const struct image *i, const Elf64_Phdr *ph, struct dynamic *d,
			struct err *e)
{
	*d = (struct dynamic){ 0 };
	for (uint64_t k = 0; k < ph->p_filesz / sizeof(Elf64_Dyn); k++) {
		Elf64_Dyn dyn;

		if (ph->p_offset > i->n ||
		    !get(i, ph->p_offset + k * sizeof(dyn), &dyn, sizeof(dyn)))
			return bad(e, "dynamic section");
		if (dyn.d_tag == DT_NULL)
			break;
		if (dyn.d_tag == DT_SYMTAB)
			d->symtab = dyn.d_un.d_ptr;
		else if (dyn.d_tag == DT_STRTAB)
			d->strtab = dyn.d_un.d_ptr;
		else if (dyn.d_tag == DT_STRSZ)
			d->strsz = dyn.d_un.d_val;
		else if (dyn.d_tag == DT_HASH)
			d->hash = dyn.d_un.d_ptr;
	}
	if (!d->symtab || d->symtab >= i->n || !d->strtab || d->strtab >= i->n ||
	    d->strsz > i->n - d->strtab)
		return bad(e, "tables of symbols");
	return 0;
}

/* What the headers know of, and the dynamic section. */
static int read_headers(const struct image *i, struct vdso *out, struct dynamic *d, struct err *e)
{
	Elf64_Ehdr eh;
	Elf64_Phdr ph, dynamic = { 0 };
	uint64_t end = 0;

	if (!get(i, 0, &eh, sizeof(eh)) || memcmp(eh.e_ident, ELFMAG, SELFMAG) ||
	    eh.e_ident[EI_CLASS] != ELFCLASS64 || eh.e_machine != EM_X86_64 ||
	    eh.e_phentsize != sizeof(ph) || eh.e_phoff > i->n)
		return bad(e, "no ELF of x86-64");
	for (unsigned k = 0; k < eh.e_phnum; k++) {
		if (!get(i, eh.e_phoff + k * sizeof(ph), &ph, sizeof(ph)))
			return bad(e, "program headers");
		if (ph.p_type == PT_LOAD) {
			if (ph.p_vaddr != ph.p_offset || ph.p_offset > i->n ||
			    ph.p_filesz > i->n - ph.p_offset)
				return bad(e, "not linked at 0");
			end = max64(end, ph.p_offset + ph.p_filesz);
		}
		if (ph.p_type == PT_DYNAMIC)
			dynamic = ph;
	}
	if (eh.e_shoff && eh.e_shoff <= i->n && eh.e_shentsize == sizeof(Elf64_Shdr) &&
	    eh.e_shnum * sizeof(Elf64_Shdr) <= i->n - eh.e_shoff)
		end = max64(end, eh.e_shoff + eh.e_shnum * sizeof(Elf64_Shdr));
	if (!end)
		return bad(e, "nothing to load");
	out->end = (uint32_t)end;
	return read_dynamic(i, &dynamic, d, e);
}

/* DT_HASH tells their number; DT_GNU_HASH (alone since Linux 6.12 on some) does not: the string
 * table follows the symbols in all that linkers make. */
static uint64_t count_symbols(const struct image *i, const struct dynamic *d)
{
	uint32_t head[2];

	if (d->hash && get(i, d->hash, head, sizeof(head)))
		return head[1];
	return d->strtab > d->symtab ? (d->strtab - d->symtab) / sizeof(Elf64_Sym) : 0;
}

static bool read_name(const struct image *i, const struct dynamic *d, uint32_t at, char *out,
		      size_t n)
{
	if (at >= d->strsz)
		return false;
	const char *s = (const char *)i->at + d->strtab + at;
	size_t len = strnlen(s, d->strsz - at);

	if (len == d->strsz - at || len >= n)
		return false;
	memcpy(out, s, len + 1);
	return true;
}

static int read_entries(const struct image *i, const struct dynamic *d, struct vdso *out,
			struct err *e)
{
	uint64_t count = count_symbols(i, d);
	Elf64_Sym s;

	for (uint64_t k = 1; k < count; k++) {
		struct vdso_entry v = { 0 };

		if (!get(i, d->symtab + k * sizeof(s), &s, sizeof(s)))
			return bad(e, "symbols");
		if (ELF64_ST_TYPE(s.st_info) != STT_FUNC || s.st_shndx == SHN_UNDEF ||
		    !read_name(i, d, s.st_name, v.name, sizeof(v.name)) ||
		    strncmp(v.name, PREFIX, strlen(PREFIX)))
			continue;
		if (s.st_value < sizeof(Elf64_Ehdr) || s.st_value >= out->end || s.st_size > i->n)
			return bad(e, "an entry point lies outside");
		if (out->n_entries == VDSO_ENTRIES_MAX)
			return bad(e, "too many entry points");
		v.at = (uint32_t)s.st_value;
		/* functions begin at multiples of 16 */
		v.room = v.at % 16 ? (uint32_t)s.st_size : ((uint32_t)s.st_size + 15) & ~15u;
		if (v.room > out->end - v.at)
			v.room = out->end - v.at;
		out->entry[out->n_entries++] = v;
	}
	return out->n_entries ? 0 : bad(e, "no entry points");
}

static void part_entries(struct vdso *v)
{
	for (size_t i = 0; i < v->n_entries; i++)
		for (size_t k = 0; k < v->n_entries; k++) {
			struct vdso_entry *a = &v->entry[i], *b = &v->entry[k];

			if (b->at > a->at && a->room > b->at - a->at)
				a->room = b->at - a->at;
		}
}

static uint32_t window(const struct vdso_entry *v)
{
	return v->room < VDSO_PATCH_MAX ? v->room : VDSO_PATCH_MAX;
}

/* Trampolines stand behind the end; as they look for zeros, they may begin in the last word of the
 * last section header, which is zero as a rule. */
static uint64_t identify(const struct image *i, const struct vdso *v)
{
	_cleanup_free_ uint8_t *copy = xmemdup(i->at, v->end);

	for (size_t k = 0; k < v->n_entries; k++)
		memset(copy + v->entry[k].at, 0, window(&v->entry[k]));
	return XXH3_64bits(copy, v->end - 8);
}

int vdso_parse(const uint8_t *image, size_t n, struct vdso *out, struct err *e)
{
	struct image i = { image, n };
	struct dynamic d = { 0 };
	int ret;

	*out = (struct vdso){ 0 };
	if (n > VDSO_IMAGE_MAX)
		return bad(e, "too big");
	if ((ret = read_headers(&i, out, &d, e)) < 0 || (ret = read_entries(&i, &d, out, e)) < 0)
		return ret;
	part_entries(out);
	out->id = identify(&i, out);
	return 0;
}

/* ---- patches ---- */

struct code {
	uint8_t at[VDSO_PATCH_MAX];
	size_t n;
};

static void emit(struct code *c, const void *p, size_t n)
{
	memcpy(c->at + c->n, p, n);
	c->n += n;
}

/* movabs $to, %rax; jmp *%rax. No function of the vDSO takes anything in rax. */
static void emit_jump(struct code *c, uint64_t to)
{
	emit(c, "\x48\xb8", 2);
	emit(c, &to, 8);
	emit(c, "\xff\xe0", 2);
}

/* mov $value, %rax; ret */
static void emit_return(struct code *c, int32_t value)
{
	emit(c, "\x48\xc7\xc0", 3);
	emit(c, &value, 4);
	emit(c, "\xc3", 1);
}

/* mov $nr, %eax; syscall; ret. The arguments of the function are those of the system call. */
static void emit_syscall(struct code *c, uint32_t nr)
{
	emit(c, "\xb8", 1);
	emit(c, &nr, 4);
	emit(c, "\x0f\x05\xc3", 3);
}

/* The state that the caller keeps for __vdso_getrandom is a matter between one kernel and its own
 * vDSO: always the system call. With a fifth argument of -1 libc asks how big that state is. */
static void emit_getrandom(struct code *c)
{
	emit(c, "\x49\x83\xf8\xff\x74\x08", 6); /* cmp $-1, %r8; je 1f */
	emit_syscall(c, SYS_getrandom);
	emit_return(c, -ENOSYS);                /* 1: */
}

static const struct {
	const char *name;
	uint32_t nr;
} calls[] = {
	{ PREFIX "clock_gettime", SYS_clock_gettime }, { PREFIX "gettimeofday", SYS_gettimeofday },
	{ PREFIX "time", SYS_time },                   { PREFIX "clock_getres", SYS_clock_getres },
	{ PREFIX "getcpu", SYS_getcpu },
};

static const struct vdso_entry *find(const struct vdso *v, const char *name)
{
	for (size_t i = 0; i < v->n_entries; i++)
		if (!strcmp(v->entry[i].name, name))
			return &v->entry[i];
	return NULL;
}

static void make_code(struct code *c, const struct vdso_entry *old, const struct vdso *now,
		      uint64_t base)
{
	const struct vdso_entry *to = find(now, old->name);

	if (!strcmp(old->name, PREFIX "getrandom")) {
		emit_getrandom(c);
		return;
	}
	if (to) {
		emit_jump(c, base + to->at);
		return;
	}
	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
		if (!strcmp(calls[i].name, old->name)) {
			emit_syscall(c, calls[i].nr);
			return;
		}
	emit_return(c, -ENOSYS);
}

int vdso_patch(uint8_t *image, size_t n, const struct vdso *old, const struct vdso *now,
	       uint64_t base, struct err *e)
{
	for (size_t i = 0; i < old->n_entries; i++) {
		const struct vdso_entry *v = &old->entry[i];
		struct code c = { .n = 0 };

		make_code(&c, v, now, base);
		if (c.n > v->room || v->at > n || c.n > n - v->at) {
			err_say(e, ENOTSUP,
				"the vDSO of the guest's kernel: %s has %u bytes, a jump "
				"takes %zu",
				v->name, v->room, c.n);
			return err_remedy(e, "use the kernel that the guest was started on");
		}
		memcpy(image + v->at, c.at, c.n);
	}
	return 0;
}

/* ---- that of this kernel ---- */

static size_t mapping_size(uint64_t start, struct err *e)
{
	_cleanup_(buf_free) struct buf text = { 0 };
	struct proc_maps maps = { 0 };
	size_t n = 0;

	if (io_slurp(&text, e, "/proc/self/maps") == 0 &&
	    proc_maps_parse((char *)text.at, text.n, &maps, e) == 0)
		vec_each(&maps.vma, v)
			if (v->start == start)
				n = v->end - v->start;
	proc_maps_free(&maps);
	return n;
}

int vdso_here(const uint8_t **image, size_t *n, struct vdso *out, struct err *e)
{
	uint64_t at = getauxval(AT_SYSINFO_EHDR);

	*image = (const uint8_t *)at;
	*n = at ? mapping_size(at, e) : 0;
	if (!*n)
		return err_say(e, ENOENT, "this kernel has no vDSO");
	return vdso_parse(*image, *n, out, e);
}
