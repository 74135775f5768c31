/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How fast does memory land? Sends incompressible memory of one process into fresh memory of
 * another, uncompressed, by the sender and receiver of criu-lite; and, over the same link, by
 * the least that could do it: a loop of send() and a loop of recv() into fresh memory. Prints both
 * and their ratio, which is what counts: absolute figures are the machine's.
 *
 *   landing [-m MIB] [-c CONNECTIONS] [-r ROUNDS] [-l] [-z] [-x RATIO]
 *
 * The link is a veth pair between two network namespaces (root), with -l the loopback. -z: with
 * zstd (memory is then half compressible). -x: exit 1 if the ratio is higher.
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <fcntl.h>
#include <unistd.h>

#include "io.h"
#include "pages_send.h"
#include "wire_conn.h"

#define MIB (1024ul * 1024)
#define PORT "9417"
#define ROUNDS_MAX 64

struct bench {
	size_t bytes, conns, rounds;
	bool loopback, zstd;
	double limit;
	const char *where;           /* of the receiving side */
	int control[2];              /* ours, the receiving side's */
	struct wire_id id;
	uint8_t *memory;             /* what is sent */
};

static void die(const char *what)
{
	fprintf(stderr, "landing: %s: %s\n", what, strerror(errno));
	exit(2);
}

static void check(int ret, struct err *e)
{
	if (ret < 0) {
		err_print(e);
		exit(2);
	}
}

static void signal_other(int fd, uint64_t value)
{
	if (write(fd, &value, sizeof(value)) != (ssize_t)sizeof(value))
		die("control");
}

static uint64_t await_other(int fd)
{
	uint64_t value;

	if (read(fd, &value, sizeof(value)) != (ssize_t)sizeof(value))
		exit(2);
	return value;
}

/* At one address in every process: pages arrive where they came from. */
static uint8_t *map_fresh(size_t n)
{
	void *p = mmap((void *)0x200000000000, n, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

	if (p == MAP_FAILED)
		die("mmap");
	return p;
}

static void fill(uint8_t *p, size_t n, bool compressible)
{
	uint64_t x = 88172645463325252ull, *at = (uint64_t *)p;

	for (size_t i = 0; i < n / 8; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		at[i] = compressible && i % 2 ? 7 : x;
	}
}

static uint64_t sum(const uint8_t *p, size_t n)
{
	const uint64_t *at = (const uint64_t *)p;
	uint64_t s = 0;

	for (size_t i = 0; i < n / 8; i++)
		s = s * 31 + at[i];
	return s;
}

/* A process that only has memory: dies with us. */
static pid_t fork_holder(void)
{
	pid_t parent = getpid(), pid = fork();

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(1);
		for (;;)
			pause();
	}
	return pid;
}

/* ---- the receiving side ---- */

static void receive_plain(struct bench *b, struct wire_listener *l)
{
	struct err e = ERR_INIT;
	struct wire_peer peer;
	uint8_t *p = map_fresh(b->bytes);

	check(wire_listener_accept(l, &peer, 5000, &e), &e);
	for (size_t done = 0; done < b->bytes;) {
		size_t want = b->bytes - done < MIB ? b->bytes - done : MIB;
		ssize_t n = recv(peer.fd, p + done, want, MSG_WAITALL);

		if (n <= 0)
			die("recv");
		done += (size_t)n;
	}
	signal_other(b->control[1], 1);
	close(peer.fd);
	signal_other(b->control[1], sum(p, b->bytes));
	munmap(p, b->bytes);
}

static void receive_pages(struct bench *b, struct wire_listener *l)
{
	struct err e = ERR_INIT;
	struct pages_receiver *r;
	uint8_t *p = map_fresh(b->bytes);
	pid_t pid = fork_holder();
	char path[32];

	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	struct pages_place to = { .pid = pid, .mem_fd = open(path, O_RDWR | O_CLOEXEC), .fd = -1 };
	check(pages_receiver_new(&r, &e), &e);
	pages_receiver_space(r, PAGES_TASK, 1, to);
	for (size_t i = 0; i < b->conns; i++) {
		struct wire_peer peer;

		check(wire_listener_accept(l, &peer, 5000, &e), &e);
		check(pages_receiver_add(r, peer.fd, &e), &e);
	}
	await_other(b->control[1]);
	check(pages_receiver_error(r, &e), &e);
	pages_receiver_free(r);
	/* The holder is a copy of us; its memory comes here to be summed. */
	for (size_t done = 0; done < b->bytes; done += MIB)
		if (io_pread(to.mem_fd, p + done, MIB, (off_t)(p + done)) < 0)
			die("read back");
	signal_other(b->control[1], sum(p, b->bytes));
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	close(to.mem_fd);
	munmap(p, b->bytes);
}

static void receiving_side(struct bench *b)
{
	struct err e = ERR_INIT;
	struct wire_listener *l;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (!b->loopback && unshare(CLONE_NEWNET) < 0)
		die("new network namespace (root? else -l)");
	signal_other(b->control[1], 1);
	await_other(b->control[1]);
	check(wire_listener_new(&l, ":" PORT, &e), &e);
	wire_listener_expect(l, &b->id);
	signal_other(b->control[1], 1);
	for (;;) {
		uint64_t what = await_other(b->control[1]);

		if (what == 0)
			break;
		if (what == 1)
			receive_plain(b, l);
		else
			receive_pages(b, l);
	}
	wire_listener_free(l);
	exit(0);
}

/* ---- the sending side ---- */

static double send_plain(struct bench *b)
{
	struct err e = ERR_INIT;
	int fd;

	signal_other(b->control[0], 1);
	check(wire_connect(b->where, WIRE_DATA, &b->id, &fd, &e), &e);
	uint64_t t = io_now_ns();
	for (size_t done = 0; done < b->bytes;) {
		size_t want = b->bytes - done < MIB ? b->bytes - done : MIB;
		ssize_t n = send(fd, b->memory + done, want, MSG_NOSIGNAL);

		if (n <= 0)
			die("send");
		done += (size_t)n;
	}
	await_other(b->control[0]);
	t = io_now_ns() - t;
	close(fd);
	if (await_other(b->control[0]) != sum(b->memory, b->bytes))
		die("plain: other bytes arrived");
	return (double)t / 1e9;
}

static double send_pages(struct bench *b, pid_t source)
{
	struct pages_opts o = { .method = b->zstd ? COMP_ZSTD : COMP_NONE, .level = 1 };
	struct pages_space from = { .kind = PAGES_TASK, .id = 1, .pid = source, .fd = -1 };
	struct err e = ERR_INIT;
	struct pages_sender *s;
	struct pages_stats stats;
	int fds[16];

	signal_other(b->control[0], 2);
	for (size_t i = 0; i < b->conns; i++)
		check(wire_connect(b->where, WIRE_DATA, &b->id, &fds[i], &e), &e);
	check(pages_sender_new(&s, fds, b->conns, &o, &e), &e);
	struct prange r = { (uint64_t)b->memory, (uint64_t)b->memory + b->bytes };
	uint64_t t = io_now_ns();
	check(pages_send(s, &from, &r, 1, true, false, &e), &e);
	check(pages_flush(s, &stats, &e), &e);
	t = io_now_ns() - t;
	pages_sender_free(s);
	signal_other(b->control[0], 1);
	if (await_other(b->control[0]) != sum(b->memory, b->bytes))
		die("pages: other bytes arrived");
	return (double)t / 1e9;
}

static void make_link(struct bench *b, pid_t peer)
{
	char command[512];

	if (b->loopback) {
		b->where = "127.0.0.1:" PORT;
		return;
	}
	if (unshare(CLONE_NEWNET) < 0)
		die("new network namespace (root? else -l)");
	snprintf(command, sizeof(command),
		 "ip link add bench0 type veth peer name bench1 netns %d &&"
		 "ip addr add 10.213.0.1/24 dev bench0 && ip link set bench0 up &&"
		 "nsenter -t %d -n sh -c 'ip addr add 10.213.0.2/24 dev bench1 &&"
		 " ip link set bench1 up'",
		 peer, peer);
	if (system(command) != 0)
		die("veth");
	b->where = "10.213.0.2:" PORT;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double median(double *v, size_t n)
{
	qsort(v, n, sizeof(*v), by_value);
	return v[n / 2];
}

static void usage(void)
{
	fputs("landing [-m MIB] [-c CONNECTIONS] [-r ROUNDS] [-l] [-z] [-x RATIO]\n", stderr);
	exit(2);
}

static struct bench parse(int argc, char **argv)
{
	struct bench b = { .bytes = 1024 * MIB, .conns = 2, .rounds = 5 };
	int c;

	while ((c = getopt(argc, argv, "m:c:r:lzx:")) != -1) {
		switch (c) {
		case 'm': b.bytes = strtoul(optarg, NULL, 10) * MIB; break;
		case 'c': b.conns = strtoul(optarg, NULL, 10); break;
		case 'r': b.rounds = strtoul(optarg, NULL, 10); break;
		case 'l': b.loopback = true; break;
		case 'z': b.zstd = true; break;
		case 'x': b.limit = strtod(optarg, NULL); break;
		default: usage();
		}
	}
	if (!b.bytes || b.conns < 1 || b.conns > 16 || b.rounds < 1 || b.rounds > ROUNDS_MAX)
		usage();
	return b;
}

int main(int argc, char **argv)
{
	struct bench b = parse(argc, argv);
	double plain[ROUNDS_MAX], pages[ROUNDS_MAX];

	memset(b.id.at, 7, sizeof(b.id.at));
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, b.control) < 0)
		die("socketpair");
	pid_t side = fork();
	if (side == 0) {
		close(b.control[0]);
		receiving_side(&b);
	}
	close(b.control[1]);
	await_other(b.control[0]);
	make_link(&b, side);
	signal_other(b.control[0], 1);
	await_other(b.control[0]);

	b.memory = map_fresh(b.bytes);
	fill(b.memory, b.bytes, b.zstd);
	pid_t source = fork_holder();
	/* The first round of each warms up memory and is not counted. */
	for (size_t i = 0; i <= b.rounds; i++) {
		plain[i ? i - 1 : 0] = send_plain(&b);
		pages[i ? i - 1 : 0] = send_pages(&b, source);
		if (i)
			printf("round %zu: plain %.3f s, pages %.3f s\n", i, plain[i - 1],
			       pages[i - 1]);
	}
	signal_other(b.control[0], 0);
	kill(source, SIGKILL);
	waitpid(source, NULL, 0);
	waitpid(side, NULL, 0);

	double base = median(plain, b.rounds), ours = median(pages, b.rounds);
	printf("%zu MiB, %zu connections: plain %.3f s, pages %.3f s (medians), ratio %.2f\n",
	       b.bytes / MIB, b.conns, base, ours, ours / base);
	return b.limit > 0 && ours / base > b.limit ? 1 : 0;
}
