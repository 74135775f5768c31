/* SPDX-License-Identifier: Apache-2.0 */
#include "pages_extents.h"

#include <errno.h>
#include <unistd.h>

#include "io.h"

/* So many pages are asked for one by one. SEEK_HOLE walks on to the next hole, which may be a
 * gigabyte away, 20 ns and more a page. */
#define FEW 32

static int data_from(struct extents *x, uint64_t at, uint64_t *data)
{
	*data = at;
	if (at >= x->start && at < x->end)
		return 0;
	off_t got = lseek(x->fd, (off_t)at, SEEK_DATA);
	if (got < 0 && errno == ENXIO)
		*data = UINT64_MAX;
	else if (got < 0)
		return -errno;
	else if ((uint64_t)got > at)
		*data = (uint64_t)got & ~(PAGE_SIZE - 1);
	return 0;
}

static int data_until(struct extents *x, uint64_t data, uint64_t end, uint64_t *hole)
{
	*hole = x->end;
	if (data >= x->start && data < x->end)
		return 0;
	*hole = data + PAGE_SIZE;
	if (end - data <= FEW * PAGE_SIZE)
		return 0;
	off_t got = lseek(x->fd, (off_t)data, SEEK_HOLE);
	if (got < 0)
		return errno == ENXIO ? 0 : -errno; /* cut meanwhile */
	x->start = data;
	x->end = ((uint64_t)got + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1);
	if (x->end > *hole)
		*hole = x->end;
	return 0;
}

int extents_add(struct extents *x, uint64_t start, uint64_t end, uint64_t shift, prange_vec *out)
{
	while (start < end) {
		uint64_t data, hole;
		int ret = data_from(x, start, &data);

		if (ret < 0)
			return ret;
		if (data >= end)
			return 0;
		if ((ret = data_until(x, data, end, &hole)) < 0)
			return ret;
		prange_add(out, data + shift, (hole < end ? hole : end) + shift);
		start = hole;
	}
	return 0;
}
