/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest of the virtual machines' tests: vm_guest MIB RATE PORT
 *
 * Changes RATE MiB of its MIB of memory each second, checks each page before it writes it, watches
 * its clocks, and serves on PORT:
 *
 *   UDP  any datagram is answered by one line of JSON; "verify" has all pages checked before
 *   TCP  byte number i of a client must be stream(i); it comes back inverted
 *
 * It keeps no file open and logs to standard error what is wrong.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define WORDS (PAGE / sizeof(uint64_t))
#define CLIENTS 8
#define BUFFER 65536

struct client {
	int fd; /* -1: no client */
	uint64_t taken;
	size_t have, sent;
	uint8_t echo[BUFFER];
};

struct guest {
	uint64_t *memory;
	size_t pages, next;
	uint64_t rate; /* pages a second */
	uint64_t steps, bad, back, wrong_clock;
	int64_t last, gap, owed;
	int udp, listener;
	struct client client[CLIENTS];
};

static int64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

/* Noise that follows from the page's number and version, so that no compression makes it small. */
static uint64_t next_word(uint64_t x)
{
	return x * 6364136223846793005ULL + 1442695040888963407ULL;
}

static uint64_t first_word(size_t i, uint64_t version)
{
	return (i + 1) * 0x9e3779b97f4a7c15ULL + version * 0xc2b2ae3d27d4eb4fULL;
}

static void put_page(struct guest *g, size_t i, uint64_t version)
{
	uint64_t *p = g->memory + i * WORDS, x = first_word(i, version);

	p[0] = version;
	for (size_t w = 1; w < WORDS; w++)
		p[w] = x = next_word(x);
}

static bool page_is_good(const struct guest *g, size_t i)
{
	const uint64_t *p = g->memory + i * WORDS;
	uint64_t x = first_word(i, p[0]);

	for (size_t w = 1; w < WORDS; w++)
		if (p[w] != (x = next_word(x)))
			return false;
	return true;
}

static void check_page(struct guest *g, size_t i)
{
	if (page_is_good(g, i))
		return;
	g->bad++;
	fprintf(stderr, "page %zu of %zu is wrong, version %lu\n", i, g->pages,
		(unsigned long)g->memory[i * WORDS]);
}

/* All ways to the time must agree; the vDSO is of another kernel after a move. */
static void watch_clocks(struct guest *g)
{
	struct timespec coarse, fine;
	struct timeval tv;
	unsigned int cpu;
	time_t t;

	clock_gettime(CLOCK_REALTIME, &fine);
	t = time(NULL);
	gettimeofday(&tv, NULL);
	clock_gettime(CLOCK_REALTIME_COARSE, &coarse);
	if (llabs(t - fine.tv_sec) > 1 || llabs(tv.tv_sec - fine.tv_sec) > 1 ||
	    llabs(coarse.tv_sec - fine.tv_sec) > 1 || getcpu(&cpu, NULL) || cpu >= CPU_SETSIZE)
		g->wrong_clock++;
}

static void work(struct guest *g)
{
	int64_t now = now_us(), passed = now - g->last;

	if (passed < 0)
		g->back++;
	if (passed > g->gap)
		g->gap = passed;
	g->last = now;
	watch_clocks(g);
	/* What was missed while it stood still is not made up for, nor while it was throttled. */
	g->owed += (passed < 0 ? 0 : passed > 20000 ? 20000 : passed) * (int64_t)g->rate;
	for (; g->owed >= 1000000; g->owed -= 1000000) {
		check_page(g, g->next);
		put_page(g, g->next, g->memory[g->next * WORDS] + 1);
		g->next = (g->next + 1) % g->pages;
		g->steps++;
	}
}

static void answer(struct guest *g)
{
	struct sockaddr_in from;
	socklen_t len = sizeof(from);
	char ask[64], text[512];
	ssize_t n = recvfrom(g->udp, ask, sizeof(ask) - 1, 0, (struct sockaddr *)&from, &len);
	uint64_t got = 0;
	int clients = 0;

	if (n < 0)
		return;
	ask[n] = 0;
	if (strstr(ask, "verify"))
		for (size_t i = 0; i < g->pages; i++)
			check_page(g, i);
	for (int i = 0; i < CLIENTS; i++) {
		clients += g->client[i].fd >= 0;
		got += g->client[i].taken;
	}
	n = snprintf(text, sizeof(text),
		     "{\"ask\":\"%s\",\"steps\":%lu,\"bad\":%lu,\"back\":%lu,\"wrong_clock\":%lu,"
		     "\"gap_us\":%ld,\"now_us\":%ld,\"clients\":%d,\"bytes\":%lu}\n",
		     ask, (unsigned long)g->steps, (unsigned long)g->bad, (unsigned long)g->back,
		     (unsigned long)g->wrong_clock, (long)g->gap, (long)now_us(), clients,
		     (unsigned long)got);
	g->gap = 0;
	sendto(g->udp, text, n, 0, (struct sockaddr *)&from, len);
}

static uint8_t stream(uint64_t i)
{
	return (i * 0x9e3779b97f4a7c15ULL) >> 56;
}

static void hang_up(struct client *c, const char *why)
{
	fprintf(stderr, "client closed after %lu bytes: %s\n", (unsigned long)c->taken, why);
	close(c->fd);
	c->fd = -1;
}

static void take(struct guest *g, struct client *c)
{
	ssize_t n = read(c->fd, c->echo + c->have, sizeof(c->echo) - c->have);

	if (n <= 0) {
		if (!n || errno != EAGAIN)
			hang_up(c, n ? strerror(errno) : "end");
		return;
	}
	for (ssize_t i = 0; i < n; i++, c->taken++) {
		if (c->echo[c->have + i] != stream(c->taken))
			g->bad++;
		c->echo[c->have + i] ^= 0xff;
	}
	c->have += n;
}

static void give(struct client *c)
{
	ssize_t n = write(c->fd, c->echo + c->sent, c->have - c->sent);

	if (n < 0 && errno != EAGAIN)
		return hang_up(c, strerror(errno));
	if (n > 0)
		c->sent += n;
	if (c->sent == c->have)
		c->sent = c->have = 0;
}

static void take_client(struct guest *g)
{
	int fd = accept4(g->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	for (int i = 0; i < CLIENTS && fd >= 0; i++) {
		if (g->client[i].fd >= 0)
			continue;
		g->client[i].fd = fd;
		g->client[i].have = g->client[i].sent = g->client[i].taken = 0;
		return;
	}
	if (fd >= 0)
		close(fd);
}

static void serve(struct guest *g)
{
	struct pollfd p[CLIENTS + 2] = {{g->udp, POLLIN, 0}, {g->listener, POLLIN, 0}};

	for (int i = 0; i < CLIENTS; i++) {
		const struct client *c = &g->client[i];

		p[i + 2].fd = c->fd;
		p[i + 2].events = (c->have < sizeof(c->echo) ? POLLIN : 0) |
				  (c->sent < c->have ? POLLOUT : 0);
	}
	if (poll(p, CLIENTS + 2, 2) <= 0)
		return;
	if (p[0].revents)
		answer(g);
	if (p[1].revents)
		take_client(g);
	for (int i = 0; i < CLIENTS; i++) {
		if (p[i + 2].revents & (POLLIN | POLLERR | POLLHUP))
			take(g, &g->client[i]);
		if (g->client[i].fd >= 0 && g->client[i].sent < g->client[i].have)
			give(&g->client[i]);
	}
}

static int bound(int type, int port)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(port)};
	int one = 1, fd = socket(AF_INET, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (fd < 0 || bind(fd, (struct sockaddr *)&in, sizeof(in)) < 0) {
		perror("socket");
		exit(1);
	}
	return fd;
}

int main(int argc, char **argv)
{
	static struct guest g;

	if (argc < 4 || (g.pages = strtoul(argv[1], NULL, 0) << 8) == 0) {
		fprintf(stderr, "usage: vm_guest MIB RATE PORT\n");
		return 2;
	}
	g.rate = strtoul(argv[2], NULL, 0) << 8;
	g.memory = mmap(NULL, g.pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			-1, 0);
	if (g.memory == MAP_FAILED)
		return 1;
	for (size_t i = 0; i < g.pages; i++)
		put_page(&g, i, 0);
	for (int i = 0; i < CLIENTS; i++)
		g.client[i].fd = -1;
	g.udp = bound(SOCK_DGRAM, atoi(argv[3]));
	g.listener = bound(SOCK_STREAM, atoi(argv[3]));
	listen(g.listener, 8);
	for (g.last = now_us();;) {
		serve(&g);
		work(&g);
	}
}
