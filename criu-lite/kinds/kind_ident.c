/* SPDX-License-Identifier: Apache-2.0 */
#include "kind_ident.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <time.h>

#include "io.h"
#include "kind_priv.h"
#include "kind_util.h"

#define NSEC 1000000000ULL
#define NOTES_MAX    4096

const char *kind_stateless_node(dev_t rdev)
{
	static const struct {
		unsigned int major, minor;
		const char *name;
	} nodes[] = {
		{ 1, 3, "null" }, { 1, 5, "zero" }, { 1, 7, "full" }, { 1, 8, "random" },
		{ 1, 9, "urandom" }, { 5, 0, "tty" },
	};

	for (size_t i = 0; i < sizeof(nodes) / sizeof(*nodes); i++)
		if (major(rdev) == nodes[i].major && minor(rdev) == nodes[i].minor)
			return nodes[i].name;
	return NULL;
}

/* Looks for NT_GNU_BUILD_ID: u32 namesz, descsz, type, then name and desc, each padded to 4. */
static size_t find_note(const uint8_t *p, size_t n, uint8_t *id)
{
	while (n >= sizeof(Elf64_Nhdr)) {
		Elf64_Nhdr h;

		memcpy(&h, p, sizeof(h));
		if (h.n_namesz > NOTES_MAX || h.n_descsz > NOTES_MAX)
			return 0;
		size_t desc = sizeof(h) + ((h.n_namesz + 3) & ~3UL);
		size_t next = desc + ((h.n_descsz + 3) & ~3UL);
		if (desc + h.n_descsz > n)
			return 0;
		if (h.n_type == NT_GNU_BUILD_ID && h.n_namesz == 4 &&
		    h.n_descsz <= KIND_BUILD_ID_MAX && !memcmp(p + sizeof(h), "GNU", 4)) {
			memcpy(id, p + desc, h.n_descsz);
			return h.n_descsz;
		}
		if (next >= n)
			return 0;
		p += next;
		n -= next;
	}
	return 0;
}

static size_t read_note(int fd, uint64_t offset, uint64_t size, uint8_t *id)
{
	uint8_t notes[NOTES_MAX];

	if (size > sizeof(notes))
		size = sizeof(notes);
	if (offset > INT64_MAX || io_pread(fd, notes, size, (off_t)offset) < 0)
		return 0;
	return find_note(notes, size, id);
}

/* The build-id of a 64-bit ELF file; 0: it has none. */
static size_t read_build_id(int local, uint8_t *id)
{
	Elf64_Ehdr eh;
	Elf64_Phdr ph;
	size_t n = 0;

	_cleanup_close_ int fd = kind_reopen(local, O_RDONLY);
	if (fd < 0 || io_pread(fd, &eh, sizeof(eh), 0) < 0)
		return 0;
	if (memcmp(eh.e_ident, ELFMAG, SELFMAG) != 0 || eh.e_ident[EI_CLASS] != ELFCLASS64 ||
	    eh.e_phentsize != sizeof(ph) || eh.e_phoff > INT64_MAX - UINT16_MAX * sizeof(ph))
		return 0;
	for (size_t i = 0; i < eh.e_phnum && !n; i++) {
		if (io_pread(fd, &ph, sizeof(ph), (off_t)(eh.e_phoff + i * sizeof(ph))) < 0)
			return 0;
		if (ph.p_type == PT_NOTE)
			n = read_note(fd, ph.p_offset, ph.p_filesz, id);
	}
	return n;
}

/* Read once for a file and its time of change, not in every pass. */
static const struct kind_build_id *cached_build_id(struct kind_dump *c, int local,
						   const struct stat *st)
{
	uint64_t mtime = (uint64_t)st->st_mtim.tv_sec * NSEC + (uint64_t)st->st_mtim.tv_nsec;
	uint32_t number = kind_number(c, KIND_SPACE_BUILD_ID, st->st_dev, st->st_ino,
				      mtime ^ (uint64_t)st->st_size << 32);

	if (c->build_id.n > number && c->build_id.at[number].known)
		return &c->build_id.at[number];
	while (c->build_id.n <= number)
		vec_new(&c->build_id);
	struct kind_build_id *b = &c->build_id.at[number];
	b->known = true;
	b->words = (read_build_id(local, b->id) + 3) / 4;
	return b;
}

void kind_ident_fill(struct kind_dump *c, RegFileEntry *r, int local, const struct stat *st)
{

	r->has_mode = true;
	r->mode = st->st_mode;
	if (!S_ISREG(st->st_mode) || kind_on_pseudo_fs(local))
		return;
	r->has_size = true;
	r->size = (uint64_t)st->st_size;
	if ((r->flags & O_ACCMODE) == O_RDONLY) {
		const struct kind_build_id *b = cached_build_id(c, local, st);

		r->n_build_id = b->words;
		if (b->words)
			r->build_id = xmemdup(b->id, b->words * sizeof(uint32_t));
	}
	if (!r->n_build_id) {
		r->has_mtime = true;
		r->mtime = (uint64_t)st->st_mtim.tv_sec * NSEC + (uint64_t)st->st_mtim.tv_nsec;
	}
}

/* Copies (tar, some file systems) keep whole seconds only. */
static int compare_mtime(uint64_t here, uint64_t there)
{
	if (here % NSEC == 0 || there % NSEC == 0) {
		here /= NSEC;
		there /= NSEC;
	}
	return here < there ? -1 : here > there;
}

static int differs(struct err *e, const RegFileEntry *r)
{
	return err_remedy(e,
			  "copy %s to the target (with its time of change) or use shared storage",
			  r->name);
}

static int verify_type(const RegFileEntry *r, const struct stat *st, struct err *e)
{
	if (!r->has_mode)
		return 0;
	if ((st->st_mode ^ r->mode) & S_IFMT) {
		err_say(e, EEXIST, "%s: is another type of file here (mode 0%o, expected 0%o)",
			r->name, st->st_mode, r->mode);
		return differs(e, r);
	}
	if (!S_ISCHR(st->st_mode) || (r->flags & O_PATH))
		return 0;

	const char *node = kind_stateless_node(st->st_rdev), *base = strrchr(r->name, '/');
	bool known = false;

	for (unsigned int minor = 0; base && minor < 10; minor++) {
		const char *name = kind_stateless_node(makedev(1, minor));

		known |= name && !strcmp(name, base + 1);
	}
	if (node && (!known || !strcmp(node, base + 1)))
		return 0;
	err_say(e, EEXIST, "%s: is another device here (%u:%u)", r->name, major(st->st_rdev),
		minor(st->st_rdev));
	return err_remedy(e, "make the device node as it is on the source");
}

static int verify_build_id(const RegFileEntry *r, int fd, struct err *e)
{
	uint8_t id[KIND_BUILD_ID_MAX] = { 0 };
	size_t n = (read_build_id(fd, id) + 3) / 4;

	if (n && n == r->n_build_id && !memcmp(id, r->build_id, n * 4))
		return 0;
	err_say(e, ESTALE, "%s: is another build here (build-id differs)", r->name);
	return err_remedy(e, "install the same version on the target, or copy %s to it", r->name);
}

int kind_ident_verify(const RegFileEntry *r, int fd, bool now, struct err *e)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return err_set(e, errno, "%s", r->name);
	int ret = verify_type(r, &st, e);
	if (ret || !S_ISREG(st.st_mode) || kind_on_pseudo_fs(fd))
		return ret;
	if (r->n_build_id) {
		ret = verify_build_id(r, fd, e);
		if (ret)
			return ret;
	}

	uint64_t mtime = (uint64_t)st.st_mtim.tv_sec * NSEC + (uint64_t)st.st_mtim.tv_nsec;
	int age = r->has_mtime ? compare_mtime(mtime, r->mtime) : 0;
	uint64_t today = (uint64_t)time(NULL) * NSEC;
	bool writes = (r->flags & O_ACCMODE) != O_RDONLY, written = mtime + 60 * NSEC > today;
	bool grown = !r->has_size || (uint64_t)st.st_size >= r->size;

	/* The guest still runs: a file that it writes to on shared storage is newer by now, and has
	 * another size; one that others write to is longer. It is looked at again when the guest
	 * stands still. */
	if (!now && age > 0 && (writes || (written && grown)))
		return 0;
	if (r->has_size && (uint64_t)st.st_size != r->size) {
		err_say(e, ESTALE, "%s: has %" PRId64 " bytes here, expected %" PRIu64, r->name,
			(int64_t)st.st_size, r->size);
		return differs(e, r);
	}
	if (age) {
		err_say(e, ESTALE, "%s: has another time of change here, %s than expected", r->name,
			age < 0 ? "older" : "newer");
		return differs(e, r);
	}
	return 0;
}
