/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pipes and FIFOs and what is in them: little, full, enlarged, without a reader or a writer,
 * in packet mode, opened for both, and one whose ends are in two processes.
 */
#include "victim.h"

#include <sys/ioctl.h>

static int some[2], full[2], large[2], no_reader[2], no_writer[2], packets[2], empty[2];
static int fifo_rw, fifo_r, fifo_w;

static int queued(int fd)
{
	int n;

	SYS(ioctl(fd, FIONREAD, &n));
	return n;
}

static void note_pipes(void)
{
	const int *all[] = {some, full, large, no_reader, no_writer, packets, empty};
	size_t i, j;

	for (i = 0; i < V_COUNT(all); i++)
		for (j = 0; j < 2; j++)
			if (fcntl(all[i][j], F_GETFD) >= 0)
				v_note("pipe %zu end %zu: %d bytes, size %d", i, j,
				       queued(all[i][j]), SYS(fcntl(all[i][j], F_GETPIPE_SZ)));
	v_note("fifo %d %d", queued(fifo_rw), queued(fifo_r));
}

static void pump(int fd, uint64_t seed, size_t len)
{
	unsigned char buf[4096];
	size_t i, n, done;

	for (done = 0; done < len; done += n) {
		n = len - done < sizeof(buf) ? len - done : sizeof(buf);
		for (i = 0; i < n; i++)
			buf[i] = v_mix(seed + done + i);
		CHECK(write(fd, buf, n) == (ssize_t)n, "write: %s", strerror(errno));
	}
}

static void drain(int fd, uint64_t seed, size_t len, const char *name)
{
	unsigned char c[4096];
	size_t done = 0, i;
	ssize_t n;

	while (done < len) {
		n = read(fd, c, len - done < sizeof(c) ? len - done : sizeof(c));
		CHECK(n > 0, "%s: %zd after %zu bytes, errno %d", name, n, done, errno);
		for (i = 0; i < (size_t)n; i++)
			CHECK(c[i] == (unsigned char)v_mix(seed + done + i), "%s: byte %zu", name,
			      done + i);
		done += n;
	}
	CHECK(queued(fd) == 0, "%s: %d bytes too many", name, queued(fd));
}

static void make_all(void)
{
	SYS(pipe2(some, O_CLOEXEC));
	pump(some[1], 1000, 1234);
	SYS(pipe(full));
	SYS(fcntl(full[1], F_SETFL, O_NONBLOCK));
	pump(full[1], 2000, 65536);
	CHECK(write(full[1], "x", 1) < 0 && errno == EAGAIN, "the full pipe is not full");
	SYS(pipe(large));
	SYS(fcntl(large[1], F_SETPIPE_SZ, 1 << 20));
	pump(large[1], 3000, 700000);
	SYS(pipe(no_reader));
	SYS(pipe(no_writer));
	pump(no_writer[1], 4000, 333);
	close(no_reader[0]);
	close(no_writer[1]);
	SYS(pipe2(packets, O_DIRECT));
	pump(packets[1], 5000, 10);
	pump(packets[1], 6000, 20);
	SYS(pipe(empty));
	if (mkfifo(v_path("own/fifo"), 0600) < 0)
		CHECK(errno == EEXIST, "mkfifo: %s", strerror(errno));
	fifo_rw = SYS(open(v_path("own/fifo"), O_RDWR));
	fifo_r = SYS(open(v_path("own/fifo"), O_RDONLY | O_NONBLOCK));
	fifo_w = SYS(open(v_path("own/fifo"), O_WRONLY | O_APPEND));
	pump(fifo_w, 7000, 4321);
}

static void check_all(void)
{
	char buf[64];

	drain(some[0], 1000, 1234, "some");
	CHECK(write(full[1], "x", 1) < 0 && errno == EAGAIN, "the full pipe is not full any more");
	drain(full[0], 2000, 65536, "full");
	drain(large[0], 3000, 700000, "large");
	drain(no_writer[0], 4000, 333, "without writer");
	CHECK(read(no_writer[0], buf, 1) == 0, "without writer: no end");
	CHECK(write(no_reader[1], "x", 1) < 0 && errno == EPIPE, "without reader: no EPIPE");
	CHECK(read(packets[0], buf, sizeof(buf)) == 10, "first packet");
	CHECK(read(packets[0], buf, sizeof(buf)) == 20, "second packet");
	drain(fifo_r, 7000, 4321, "fifo");
	CHECK(write(fifo_rw, "abc", 3) == 3 && read(fifo_r, buf, 8) == 3, "fifo: both ends");
	CHECK(write(empty[1], "abc", 3) == 3 && read(empty[0], buf, 8) == 3, "empty pipe");
}

int main(int argc, char **argv)
{
	int up[2], down[2];
	uint64_t n, back;
	pid_t pid;

	v_init(argc, argv);
	signal(SIGPIPE, SIG_IGN);
	make_all();
	SYS(pipe(up));
	SYS(pipe(down));
	pid = SYS(fork());
	if (!pid) {
		close(up[1]);
		close(down[0]);
		/* Ends when no one can write any more: an end too many would keep it. */
		while (SYS(read(up[0], &n, sizeof(n))) == sizeof(n))
			CHECK(write(down[1], &n, sizeof(n)) == sizeof(n), "child: write");
		_exit(9);
	}
	close(up[0]);
	close(down[1]);
	v_observe(note_pipes, 0);
	v_ready();
	for (n = 0; !v_stopping(); n++) {
		CHECK(write(up[1], &n, sizeof(n)) == sizeof(n), "write");
		CHECK(read(down[0], &back, sizeof(back)) == sizeof(back) && back == n,
		      "the child sent %lu back for %lu", back, n);
		if (n % 64 == 0)
			v_sleep_ms(1);
	}
	v_recheck();
	close(up[1]);
	CHECK(read(down[0], &back, sizeof(back)) == 0, "no end from the child");
	v_reap(pid, 9 << 8);
	check_all();
	v_ok();
}
