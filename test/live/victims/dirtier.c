/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Dirties so and so many MiB a second of its memory, page after page, and checks each page before
 * it writes it again. The file DIR/count holds the number of pages written so far (8 bytes), mapped
 * shared: who watches it sees the longest time without a step. Arguments: MiB of memory (64), MiB
 * dirtied a second (50), MiB of them that are written at all (all).
 */
#include "victim.h"

int main(int argc, char **argv)
{
	uint64_t *counter, written = 0, due, start, seed;
	size_t pages, hot, i = 0;
	uint64_t per_second;
	char *memory;
	int fd;

	v_init(argc, argv);
	pages = (v_arg(0, 64) << 20) / V_PAGE;
	per_second = (v_arg(1, 50) << 20) / V_PAGE;
	hot = (v_arg(2, v_arg(0, 64)) << 20) / V_PAGE;
	memory = v_map(pages * V_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	fd = SYS(open(v_path("count"), O_CREAT | O_RDWR | O_TRUNC | O_CLOEXEC, 0666));
	SYS(ftruncate(fd, V_PAGE));
	counter = v_map(V_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	for (i = 0; i < pages; i++)
		v_page_fill(memory + i * V_PAGE, i);
	v_ready();
	for (i = 0, start = v_now(); written % 64 || !v_stopping();) {
		due = (v_now() - start) * per_second / V_SEC;
		/* What was missed while it stood still is not made up for. */
		if (due > written + per_second / 10) {
			start = v_now() - written * V_SEC / (per_second ?: 1);
			due = written;
		}
		if (written >= due) {
			v_sleep_ms(1);
			if (!per_second && v_stopping())
				break;
			continue;
		}
		seed = written / hot * pages + i;
		CHECK(v_page_is(memory + i * V_PAGE, seed), "page %zu, write %lu", i, written);
		v_page_fill(memory + i * V_PAGE, seed + pages);
		i = (i + 1) % hot;
		__atomic_store_n(counter, ++written, __ATOMIC_RELEASE);
	}
	for (i = 0; i < pages; i++)
		CHECK(v_page_is(memory + i * V_PAGE,
				i >= hot ? i : (written / hot + (i < written % hot)) * pages + i),
		      "at the end: page %zu", i);
	v_ok();
}
