/* SPDX-License-Identifier: Apache-2.0 */
#include "img_pages.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>

#include "img_check.h"
#include "img_file.h"
#include "img_path.h"
#include "io.h"
#include "pagemap.pb-c.h"

typedef VEC(struct img_run) run_vec;

struct img_pages_in {
	run_vec runs;
	VEC(int) fds;   /* pages files that runs lie in */
};

/* What a directory lacks of a space and its parents must have. */
struct gap {
	uint64_t start, end;
};
typedef VEC(struct gap) gap_vec;

/* One pagemap file while it is read. */
struct map {
	struct buf file;
	size_t at;          /* next record */
	size_t record;
	uint64_t end;       /* of the last entry */
	uint64_t offset;    /* in the pages file, of the next entry's contents */
	uint64_t size;      /* of the pages file */
	int fd;             /* -1: not there */
	char pages_name[64];
};

void img_pages_free(struct img_pages_in *in)
{
	if (!in)
		return;
	vec_each(&in->fds, fd)
		close(*fd);
	vec_free(&in->fds);
	vec_free(&in->runs);
	free(in);
}

const struct img_run *img_pages_runs(const struct img_pages_in *in, size_t *n)
{
	*n = in->runs.n;
	return in->runs.at;
}

static uint64_t run_end(const struct img_run *r) { return r->vaddr + r->npages * PAGE_SIZE; }

static int map_record(struct map *m, const ProtobufCMessageDescriptor *d, ProtobufCMessage **out,
		      struct err *e)
{
	const uint8_t *data;
	uint32_t len;
	int ret = img_file_next(&m->file, &m->at, &data, &len, e);

	if (ret == 0)
		ret = img_unpack(d, data, len, out, e);
	if (ret < 0)
		return err_in(e, "record %zu", m->record);
	m->record++;
	return 0;
}

/* Reads the pagemap's head and opens its pages file, if that is there. */
static int map_open(struct map *m, int dirfd, enum img_type type, const char *name,
		    struct err *e)
{
	_cleanup_msg_ PagemapHead *head = NULL;
	int ret;

	if ((ret = img_file_read(dirfd, name, &m->file, e)) < 0 ||
	    (ret = img_file_check_header(type, &m->file, &m->at, e)) < 0)
		return ret;
	ret = map_record(m, &pagemap_head__descriptor, (ProtobufCMessage **)&head, e);
	if (ret < 0)
		return ret;
	img_file_name(IMG_PAGES, head->pages_id, m->pages_name, sizeof(m->pages_name));
	ret = img_file_open(dirfd, m->pages_name, &m->fd, &m->size, e);
	if (ret == -ENOENT) {
		err_clear(e); /* an error only if an entry needs it */
		return 0;
	}
	return ret < 0 ? err_in(e, "%s", m->pages_name) : 0;
}

/* Before `flags` came, an entry was in the parent or here. */
static uint32_t entry_flags(const PagemapEntry *p)
{
	if (p->has_flags)
		return p->flags;
	return p->has_in_parent && p->in_parent ? IMG_PE_PARENT : IMG_PE_PRESENT;
}

static int check_entry(const struct map *m, const PagemapEntry *p, uint64_t npages,
		       struct err *e)
{
	uint32_t flags = entry_flags(p);

	if (p->vaddr % PAGE_SIZE)
		return err_say(e, EBADMSG, "address %#" PRIx64 " is not a page's", p->vaddr);
	if (p->vaddr < m->end)
		return err_say(e, EBADMSG, "address %#" PRIx64 " is not above the last entry",
			       p->vaddr);
	if (npages == 0 || npages > (UINT64_MAX - p->vaddr) / PAGE_SIZE)
		return err_say(e, EBADMSG, "%" PRIu64 " pages at %#" PRIx64, npages, p->vaddr);
	if (flags & ~(IMG_PE_PARENT | IMG_PE_LAZY | IMG_PE_PRESENT))
		return err_say(e, EBADMSG, "unknown flags %#x", flags);
	if (!(flags & (IMG_PE_PARENT | IMG_PE_PRESENT)))
		return err_say(e, EBADMSG, "%s",
			       flags ? "pages were left for a lazy restore, they are not here"
				     : "no flags");
	if ((flags & IMG_PE_PARENT) && (flags & IMG_PE_PRESENT))
		return err_say(e, EBADMSG, "in the parent and here at once");
	if (!(flags & IMG_PE_PRESENT))
		return 0;
	if (m->fd < 0)
		return err_say(e, EBADMSG, "%s: missing", m->pages_name);
	if (npages > (m->size - m->offset) / PAGE_SIZE)
		return err_say(e, EBADMSG, "%s: truncated (%" PRIu64 " bytes, %" PRIu64
			       " more pages needed at %" PRIu64 ")", m->pages_name, m->size,
			       npages, m->offset);
	return 0;
}

static int map_entry(struct map *m, run_vec *runs, gap_vec *gaps, struct err *e)
{
	_cleanup_msg_ PagemapEntry *p = NULL;
	size_t record = m->record;
	int ret = map_record(m, &pagemap_entry__descriptor, (ProtobufCMessage **)&p, e);

	if (ret < 0)
		return ret;
	uint64_t npages = p->has_nr_pages ? p->nr_pages : p->compat_nr_pages;
	ret = check_entry(m, p, npages, e);
	if (ret < 0)
		return err_in(e, "record %zu", record);
	m->end = p->vaddr + npages * PAGE_SIZE;
	if (entry_flags(p) & IMG_PE_PARENT) {
		vec_push(gaps, (struct gap){ p->vaddr, m->end });
		return 0;
	}
	vec_push(runs, (struct img_run){ p->vaddr, npages, m->fd, m->offset });
	m->offset += npages * PAGE_SIZE;
	return 0;
}

/* All entries of one directory's pagemap: runs that are here, gaps that are in the parent. */
static int map_load(struct img_pages_in *in, int dirfd, enum img_type type, const char *name,
		    run_vec *runs, gap_vec *gaps, struct err *e)
{
	struct map m = { .fd = -1 };
	int ret = map_open(&m, dirfd, type, name, e);

	while (ret == 0 && m.at < m.file.n)
		ret = map_entry(&m, runs, gaps, e);
	buf_free(&m.file);
	if (m.fd >= 0)
		vec_push(&in->fds, m.fd);
	return ret < 0 ? err_in(e, "%s", name) : 0;
}

/* Appends the part of `r` within [start, end). */
static void add_part(run_vec *out, const struct img_run *r, uint64_t start, uint64_t end)
{
	uint64_t from = start > r->vaddr ? start : r->vaddr;
	uint64_t to = end < run_end(r) ? end : run_end(r);

	if (from < to)
		vec_push(out, (struct img_run){ from, (to - from) / PAGE_SIZE, r->fd,
						r->offset + (from - r->vaddr) });
}

/* Fills the gaps from a parent's runs; what is still missing goes to `left`, which may only
 * lie in the parent's own gaps. All lists ascend. */
static int fill(const gap_vec *gaps, const run_vec *have, const gap_vec *above, run_vec *out,
		gap_vec *left, struct err *e)
{
	size_t r = 0, a = 0;

	for (size_t i = 0; i < gaps->n; i++) {
		uint64_t at = gaps->at[i].start, end = gaps->at[i].end;

		while (at < end) {
			while (r < have->n && run_end(&have->at[r]) <= at)
				r++;
			while (a < above->n && above->at[a].end <= at)
				a++;
			uint64_t to;
			if (r < have->n && have->at[r].vaddr <= at) {
				to = run_end(&have->at[r]) < end ? run_end(&have->at[r]) : end;
				add_part(out, &have->at[r], at, to);
			} else if (a < above->n && above->at[a].start <= at) {
				to = above->at[a].end < end ? above->at[a].end : end;
				vec_push(left, (struct gap){ at, to });
			} else {
				return err_say(e, EBADMSG,
					       "page %#" PRIx64 " should be here but is not", at);
			}
			at = to;
		}
	}
	return 0;
}

static int by_vaddr(const void *a, const void *b)
{
	uint64_t left = ((const struct img_run *)a)->vaddr;
	uint64_t right = ((const struct img_run *)b)->vaddr;

	return (left > right) - (left < right);
}

/* Sorts, and joins runs that follow each other in memory and in their file. */
static void settle(run_vec *runs)
{
	size_t n = 0;

	if (runs->n == 0)
		return;
	qsort(runs->at, runs->n, sizeof(runs->at[0]), by_vaddr);
	for (size_t i = 1; i < runs->n; i++) {
		struct img_run *last = &runs->at[n], *next = &runs->at[i];

		if (last->fd == next->fd && run_end(last) == next->vaddr &&
		    last->offset + last->npages * PAGE_SIZE == next->offset)
			last->npages += next->npages;
		else
			runs->at[++n] = *next;
	}
	runs->n = n + 1;
}

/* One step up: looks for the gaps in the parent; *gaps becomes what it does not hold itself. */
static int fill_from_parent(struct img_pages_in *in, struct img_path *path, enum img_type type,
			    const char *name, gap_vec *gaps, struct err *e)
{
	run_vec have = { 0 };
	gap_vec above = { 0 }, left = { 0 };
	int ret = img_path_parent(path, e);

	if (ret == 0)
		return err_say(e, EBADMSG, "%s: pages are in a parent directory, there is none",
			       name);
	if (ret < 0)
		return ret;
	ret = map_load(in, path->fd, type, name, &have, &above, e);
	if (ret == 0 && (ret = fill(gaps, &have, &above, &in->runs, &left, e)) < 0)
		err_in(e, "%s", name);
	vec_free(&have);
	vec_free(&above);
	vec_free(gaps);
	*gaps = left;
	return ret < 0 ? err_in(e, "%s", path->text) : 0;
}

int img_pages_open(struct img_pages_in **out, int dirfd, enum img_type type, uint64_t id,
		   struct err *e)
{
	assert(type == IMG_PAGEMAP || type == IMG_SHMEM_PAGEMAP);
	struct img_path path __attribute__((cleanup(img_path_cleanup))) = IMG_PATH_INIT(dirfd);
	struct img_pages_in *in = xcalloc(1, sizeof(*in));
	gap_vec gaps = { 0 };
	char name[64];

	img_file_name(type, id, name, sizeof(name));
	int ret = map_load(in, dirfd, type, name, &in->runs, &gaps, e);
	while (ret == 0 && gaps.n)
		ret = fill_from_parent(in, &path, type, name, &gaps, e);
	vec_free(&gaps);
	if (ret < 0) {
		img_pages_free(in);
		return ret;
	}
	settle(&in->runs);
	*out = in;
	return 0;
}
