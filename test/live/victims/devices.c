/* SPDX-License-Identifier: Apache-2.0 */
/* Device files that have no state, opened and one of them mapped. */
#include "victim.h"

static const char *const paths[] = {"/dev/null", "/dev/zero", "/dev/full", "/dev/random",
				    "/dev/urandom"};
static int fds[V_COUNT(paths)];

static void note_devices(void)
{
	struct stat st;
	size_t i;

	for (i = 0; i < V_COUNT(paths); i++) {
		SYS(fstat(fds[i], &st));
		v_note("%s mode %o rdev %#lx flags %#x", paths[i], st.st_mode, st.st_rdev,
		       SYS(fcntl(fds[i], F_GETFL)));
	}
}

int main(int argc, char **argv)
{
	char buf[64] = "x", other[64], *zero, *shared_zero;
	size_t i;

	v_init(argc, argv);
	for (i = 0; i < V_COUNT(paths); i++)
		fds[i] = SYS(open(paths[i], O_RDWR | (i % 2 ? O_CLOEXEC | O_NONBLOCK : 0)));
	zero = v_map(4 * V_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fds[1], 0);
	shared_zero = v_map(4 * V_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fds[1], 0);
	v_page_fill(zero + V_PAGE, 1);
	v_page_fill(shared_zero + 2 * V_PAGE, 2);
	v_observe(note_devices, 0);
	v_ready();
	v_wait();
	v_recheck();
	CHECK(write(fds[0], buf, 10) == 10 && read(fds[0], buf, 10) == 0, "null");
	CHECK(read(fds[1], buf, 10) == 10 && !buf[0], "zero");
	CHECK(write(fds[2], buf, 10) < 0 && errno == ENOSPC, "full");
	CHECK(read(fds[3], buf, sizeof(buf)) == sizeof(buf), "random");
	CHECK(read(fds[4], other, sizeof(other)) == sizeof(other) &&
		  memcmp(buf, other, sizeof(buf)),
	      "urandom");
	CHECK(v_page_zero(zero) && v_page_is(zero + V_PAGE, 1), "private mapping of zero");
	CHECK(v_page_zero(shared_zero) && v_page_is(shared_zero + 2 * V_PAGE, 2),
	      "shared mapping of zero");
	v_ok();
}
