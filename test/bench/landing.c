/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How fast does memory land? Sends incompressible memory of one process into fresh memory of
 * another, uncompressed, by the sender and receiver of criu-lite; and, over the same link, by
 * the least that could do it: a loop of send() and a loop of recv() into fresh memory. Prints both
 * and their ratio, which is what counts: absolute figures are the machine's.
 *
 *   landing [-m MIB] [-c CONNECTIONS] [-r ROUNDS] [-l] [-z METHOD] [-t MIBS] [-b MIBS] [-p]
 *           [-x RATIO]
 *
 * The link is a veth pair between two network namespaces (root), with -l the loopback; -t limits
 * it (tbf). -z: memory is like a heap, and sent with this method: none, auto, or a level of zstd.
 * -b: the sender's own bandwidth limit; what passes the veth is then shown by its counters, also
 * for the slowest and the fastest second. -p: only pages, no plain loop. -x: exit 1 if the ratio
 * is higher.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
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
	bool loopback, heap, pages_only;
	struct pages_opts opts;
	size_t tbf;                  /* MiB/s, 0: none */
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

static uint64_t noise(uint64_t *x)
{
	*x ^= *x << 13;
	*x ^= *x >> 7;
	*x ^= *x << 17;
	return *x;
}

#define WORDS 4096

/* Words of which few are frequent. */
static void fill_text(char *p, uint64_t *x, const char (*words)[12])
{
	for (size_t n = 0; n < PAGE_SIZE;) {
		uint64_t r = noise(x);
		const char *word = words[(r & 0xfff) >> (r >> 12 & 7) % 8];
		size_t len = strlen(word) + 1;

		len = len < PAGE_SIZE - n ? len : PAGE_SIZE - n;
		memcpy(p + n, word, len);
		n += len;
		p[n - 1] = ' ';
	}
}

/* Objects with pointers, lengths and flags. */
static void fill_objects(uint64_t *at, uint64_t *x)
{
	for (size_t i = 0; i < PAGE_SIZE / 8; i += 4) {
		uint64_t r = noise(x);

		at[i] = 0x7f12a0000000 + (r & 0x3fffff0);
		at[i + 1] = r >> 32 & 0x3f;
		at[i + 2] = 0x55d0c0a04000 + (r >> 40 & 7) * 64;
		at[i + 3] = r >> 44 & 0xffff;
	}
}

static void fill_heap(uint8_t *p, size_t n)
{
	static char words[WORDS][12];
	uint64_t x = 88172645463325252ull;

	for (size_t i = 0; i < WORDS; i++)
		for (uint64_t k = 0, len = 2 + noise(&x) % 9; k < len; k++)
			words[i][k] = (char)('a' + noise(&x) % 26);
	for (; n > 0; n -= PAGE_SIZE, p += PAGE_SIZE) {
		uint64_t *at = (uint64_t *)p, kind = noise(&x) % 8;

		if (kind < 3)
			fill_text((char *)p, &x, words);
		else if (kind < 6)
			fill_objects(at, &x);
		else
			for (size_t i = 0; i < PAGE_SIZE / 8; i++)
				at[i] = kind == 6 && i % 64 >= 32 ? 0 : noise(&x);
	}
}

static void fill_noise(uint8_t *p, size_t n)
{
	uint64_t x = 88172645463325252ull, *at = (uint64_t *)p;

	for (size_t i = 0; i < n / 8; i++)
		at[i] = noise(&x);
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

/* ---- what passes the link ---- */

#define TICKS 3000                           /* of 20 ms */
#define SECOND 50

struct meter {
	atomic_bool stop;
	pthread_t thread;
	size_t n;
	uint64_t bytes[TICKS], ns[TICKS];
};

static uint64_t link_bytes(void)
{
	static const char path[] = "/proc/thread-self/net/dev";
	FILE *f = fopen(path, "r");
	char line[512];
	unsigned long n = 0;

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, " bench0: %*u %*u %*u %*u %*u %*u %*u %*u %lu", &n) == 1)
			break;
	if (!f || !n)
		die(path);
	fclose(f);
	return n;
}

static void *meter_run(void *arg)
{
	struct meter *m = arg;

	while (!m->stop && m->n < TICKS) {
		m->bytes[m->n] = link_bytes();
		m->ns[m->n++] = io_now_ns();
		usleep(20000);
	}
	return NULL;
}

static double meter_rate(const struct meter *m, size_t from, size_t to)
{
	double seconds = (double)(m->ns[to] - m->ns[from]) / 1e9;

	return (double)(m->bytes[to] - m->bytes[from]) / seconds / MIB;
}

/* The first and the last moments are not whole. */
static void meter_print(const struct meter *m)
{
	double least = 1e9, most = 0;

	if (m->n < SECOND + 10) {
		printf("link: too short to be measured, use more memory\n");
		return;
	}
	for (size_t from = 3, to = 4; from < m->n; from++) {
		while (to < m->n && m->ns[to] - m->ns[from] < 1000000000u)
			to++;
		if (to + 3 > m->n)
			break;
		double rate = meter_rate(m, from, to);

		least = rate < least ? rate : least;
		most = rate > most ? rate : most;
	}
	printf("link: %.1f MiB/s, slowest second %.1f, fastest %.1f\n",
	       meter_rate(m, 3, m->n - 4), least, most);
}

static void print_methods(const struct pages_stats *st)
{
	printf("wire %.3f of memory; levels:", (double)st->bytes_wire / (double)st->bytes_raw);
	for (size_t i = 0; i < st->conns; i++)
		printf(" %d", st->conn[i].method == COMP_NONE ? 0 : st->conn[i].level);
	printf("\n");
}

static double send_pages(struct bench *b, pid_t source)
{
	static struct meter meter;
	struct pages_space from = { .kind = PAGES_TASK, .id = 1, .pid = source, .fd = -1 };
	struct err e = ERR_INIT;
	struct pages_sender *s;
	struct pages_stats stats;
	int fds[16];

	signal_other(b->control[0], 2);
	for (size_t i = 0; i < b->conns; i++)
		check(wire_connect(b->where, WIRE_DATA, &b->id, &fds[i], &e), &e);
	check(pages_sender_new(&s, fds, b->conns, &b->opts, &e), &e);
	struct prange r = { (uint64_t)b->memory, (uint64_t)b->memory + b->bytes };
	meter = (struct meter){ .stop = false };
	if (b->opts.bandwidth && pthread_create(&meter.thread, NULL, meter_run, &meter) != 0)
		die("thread");
	uint64_t t = io_now_ns();
	check(pages_send(s, &from, &r, 1, true, false, &e), &e);
	check(pages_flush(s, &stats, &e), &e);
	t = io_now_ns() - t;
	pages_sender_free(s);
	if (b->opts.bandwidth) {
		meter.stop = true;
		pthread_join(meter.thread, NULL);
		meter_print(&meter);
	}
	if (b->heap)
		print_methods(&stats);
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
	/* The bucket holds 4 ms, or two of the largest packets that a veth passes. */
	size_t burst = b->tbf * MIB / 250 > 131072 ? b->tbf * MIB / 250 : 131072;
	snprintf(command, sizeof(command),
		 "tc qdisc add dev bench0 root tbf rate %zubit burst %zu latency 100ms",
		 b->tbf * MIB * 8, burst);
	if (b->tbf && system(command) != 0)
		die("tc");
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
	fputs("landing [-m MIB] [-c CONNECTIONS] [-r ROUNDS] [-l] [-z none|auto|LEVEL] [-t MIBS] "
	      "[-b MIBS] [-p] [-x RATIO]\n", stderr);
	exit(2);
}

static void parse_method(struct bench *b, const char *text)
{
	b->heap = true;
	b->opts.level = atoi(text);
	b->opts.method = !strcmp(text, "none") ? COMP_NONE : !strcmp(text, "auto") ? COMP_AUTO
									      : COMP_ZSTD;
}

static struct bench parse(int argc, char **argv)
{
	struct bench b = { .bytes = 1024 * MIB, .conns = 2, .rounds = 5 };
	int c;

	while ((c = getopt(argc, argv, "m:c:r:lz:t:b:px:")) != -1) {
		switch (c) {
		case 'm': b.bytes = strtoul(optarg, NULL, 10) * MIB; break;
		case 'c': b.conns = strtoul(optarg, NULL, 10); break;
		case 'r': b.rounds = strtoul(optarg, NULL, 10); break;
		case 'l': b.loopback = true; break;
		case 'z': parse_method(&b, optarg); break;
		case 't': b.tbf = strtoul(optarg, NULL, 10); break;
		case 'b': b.opts.bandwidth = strtoul(optarg, NULL, 10) * MIB; break;
		case 'p': b.pages_only = true; break;
		case 'x': b.limit = strtod(optarg, NULL); break;
		default: usage();
		}
	}
	if (b.loopback && (b.tbf || b.opts.bandwidth))
		usage();
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
	(b.heap ? fill_heap : fill_noise)(b.memory, b.bytes);
	pid_t source = fork_holder();
	/* The first round of each warms up memory and is not counted. */
	for (size_t i = 0; i <= b.rounds; i++) {
		plain[i ? i - 1 : 0] = b.pages_only ? 1 : send_plain(&b);
		pages[i ? i - 1 : 0] = send_pages(&b, source);
		if (i)
			printf("round %zu: ", i);
		if (i && !b.pages_only)
			printf("plain %.3f s, ", plain[i - 1]);
		if (i)
			printf("pages %.3f s\n", pages[i - 1]);
		fflush(stdout);
	}
	signal_other(b.control[0], 0);
	kill(source, SIGKILL);
	waitpid(source, NULL, 0);
	waitpid(side, NULL, 0);

	double base = median(plain, b.rounds), ours = median(pages, b.rounds);
	printf("%zu MiB, %zu connections: pages %.3f s (median)", b.bytes / MIB, b.conns, ours);
	if (!b.pages_only)
		printf(", plain %.3f s, ratio %.2f", base, ours / base);
	printf("\n");
	return b.limit > 0 && ours / base > b.limit ? 1 : 0;
}
