/* SPDX-License-Identifier: Apache-2.0 */
#include "img_pages.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "img_file.h"
#include "img_hash.h"
#include "img_sum.h"
#include "io.h"
#include "pagemap.pb-c.h"

/* The pagemap is written in pieces of this size: it has one entry per run. */
#define PIECE ((size_t)256 << 10)

struct img_pages_out {
	int map_fd, pages_fd;
	char map_name[64], pages_name[64];
	struct buf map;              /* not written yet */
	uint64_t vaddr, npages;      /* the run under way; npages 0: none */
	uint32_t flags;
	uint64_t end;                /* where the last run ended */
	uint64_t present;            /* pages the caller writes, all runs */
	struct img_hash *hash;       /* of what was seen; NULL: nothing */
	struct img_known *known;
	uint64_t seen;               /* bytes */
};

static void put_record(struct buf *out, const ProtobufCMessage *m)
{
	uint32_t len = (uint32_t)protobuf_c_message_get_packed_size(m);

	buf_put(out, &len, sizeof(len));
	vec_reserve(out, out->n + len);
	protobuf_c_message_pack(m, out->at + out->n);
	out->n += len;
}

/* Only a sum of everything is one of the file. */
static void tell_sum(struct img_pages_out *p, bool good)
{
	if (!p->hash)
		return;
	uint64_t sum = img_hash_end(p->hash);

	p->hash = NULL;
	if (!good || p->seen != p->present * PAGE_SIZE)
		return;
	struct img_known_file *f = vec_new(&p->known->file);
	memcpy(f->name, p->pages_name, sizeof(f->name));
	f->size = p->seen;
	f->hash = sum;
}

static void pages_out_free(struct img_pages_out *p)
{
	cleanup_close(&p->map_fd);
	cleanup_close(&p->pages_fd);
	buf_free(&p->map);
	free(p);
}

int img_pages_create(struct img_pages_out **out, int dirfd, enum img_type type, uint64_t id,
		     uint32_t pages_id, struct err *e)
{
	assert(type == IMG_PAGEMAP || type == IMG_SHMEM_PAGEMAP);
	struct img_pages_out *p = xcalloc(1, sizeof(*p));
	PagemapHead head = PAGEMAP_HEAD__INIT;
	int ret = 0;

	p->map_fd = p->pages_fd = -1;
	img_file_name(type, id, p->map_name, sizeof(p->map_name));
	img_file_name(IMG_PAGES, pages_id, p->pages_name, sizeof(p->pages_name));
	if (unlinkat(dirfd, IMG_SUM_FILE, 0) < 0 && errno != ENOENT)
		ret = err_set(e, errno, IMG_SUM_FILE ": remove");
	if (ret == 0)
		ret = img_file_create(dirfd, p->map_name, &p->map_fd, e);
	if (ret == 0)
		ret = img_file_create(dirfd, p->pages_name, &p->pages_fd, e);
	if (ret < 0) {
		pages_out_free(p);
		return ret;
	}
	img_file_put_header(type, &p->map);
	head.pages_id = pages_id;
	put_record(&p->map, &head.base);
	*out = p;
	return 0;
}

static int write_map(struct img_pages_out *p, struct err *e)
{
	int ret = io_write(p->map_fd, p->map.at, p->map.n);

	p->map.n = 0;
	return ret < 0 ? err_set(e, -ret, "%s: write", p->map_name) : 0;
}

/* Enters the run under way. CRIU before 4.2 knows only the 32-bit count and in_parent. */
static int end_run(struct img_pages_out *p, struct err *e)
{
	PagemapEntry entry = PAGEMAP_ENTRY__INIT;

	if (p->npages == 0)
		return 0;
	entry.vaddr = p->vaddr;
	entry.compat_nr_pages = (uint32_t)p->npages;
	entry.has_nr_pages = true;
	entry.nr_pages = p->npages;
	entry.has_flags = true;
	entry.flags = p->flags;
	if (p->flags & IMG_PE_PARENT) {
		entry.has_in_parent = true;
		entry.in_parent = true;
	}
	put_record(&p->map, &entry.base);
	p->npages = 0;
	return p->map.n >= PIECE ? write_map(p, e) : 0;
}

int img_pages_add(struct img_pages_out *p, uint64_t vaddr, uint64_t npages, uint32_t flags,
		  struct err *e)
{
	if (npages == 0)
		return 0;
	if (vaddr % PAGE_SIZE || vaddr < p->end || npages > UINT32_MAX ||
	    npages > (UINT64_MAX - vaddr) / PAGE_SIZE)
		return err_say(e, EINVAL,
			       "%s: run of %" PRIu64 " pages at %#" PRIx64 " after %#" PRIx64,
			       p->map_name, npages, vaddr, p->end);
	bool grows = p->npages && p->flags == flags && p->end == vaddr &&
		     p->npages + npages <= UINT32_MAX;
	int ret = grows ? 0 : end_run(p, e);
	if (ret < 0)
		return ret;
	if (!grows)
		p->vaddr = vaddr;
	p->flags = flags;
	p->npages += npages;
	p->end = vaddr + npages * PAGE_SIZE;
	if (flags & IMG_PE_PRESENT)
		p->present += npages;
	return 0;
}

int img_pages_fd(struct img_pages_out *p) { return p->pages_fd; }

void img_pages_seen(struct img_pages_out *p, struct img_known *known, const void *bytes, size_t n)
{
	if (!p->hash)
		p->hash = img_hash_new();
	p->known = known;
	img_hash_add(p->hash, bytes, n);
	p->seen += n;
}

int img_pages_close(struct img_pages_out *p, struct err *e)
{
	struct stat st;
	int ret = end_run(p, e);

	if (ret == 0)
		ret = write_map(p, e);
	if (ret == 0 && fstat(p->pages_fd, &st) < 0)
		ret = err_set(e, errno, "%s: stat", p->pages_name);
	if (ret == 0 && (uint64_t)st.st_size != p->present * PAGE_SIZE)
		ret = err_say(e, EIO, "%s: has %lld bytes, its pagemap %" PRIu64 " pages",
			      p->pages_name, (long long)st.st_size, p->present);
	tell_sum(p, ret == 0);
	pages_out_free(p);
	return ret;
}
