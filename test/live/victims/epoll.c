/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Epoll sets: level and edge triggered, one-shot before and after its shot, exclusive, nested,
 * and one file that is a member under two numbers.
 */
#include "victim.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>

enum { LEVEL, EDGE, ONESHOT, SPENT, EXCLUSIVE, TWICE, MEMBERS };

static int ep, outer, member[MEMBERS], twin;

static void put(int fd)
{
	uint64_t one = 1;

	CHECK(write(fd, &one, sizeof(one)) == sizeof(one), "write");
}

static void drain(int fd)
{
	uint64_t v;

	CHECK(read(fd, &v, sizeof(v)) == sizeof(v), "read");
}

static void add(int set, int fd, uint32_t events, uint64_t data)
{
	struct epoll_event ev = {.events = events, .data.u64 = data};

	SYS(epoll_ctl(set, EPOLL_CTL_ADD, fd, &ev));
}

/* A bit for each member that reports, and how it does. */
static unsigned int ready_set(int set, const char *when)
{
	struct epoll_event ev[32];
	unsigned int bits = 0;
	int n = SYS(epoll_wait(set, ev, V_COUNT(ev), 0)), i;

	for (i = 0; i < n; i++) {
		unsigned int who = ev[i].data.u64 & 0xff;

		CHECK(ev[i].data.u64 >> 8 == 0xabcdef012345ULL, "%s: data %#lx", when,
		      (unsigned long)ev[i].data.u64);
		CHECK(ev[i].events == EPOLLIN, "%s: member %u: events %#x", when, who,
		      ev[i].events);
		bits |= 1U << who;
	}
	return bits;
}

static uint64_t data(int i)
{
	return 0xabcdef012345ULL << 8 | (unsigned int)i;
}

/*
 * The members as /proc shows them, sorted by fd. A spent one-shot has lost ERR and HUP, which no
 * call can take from a member: left out.
 */
static void note_members(void)
{
	int sets[] = {ep, outer};
	char path[64], buf[4096], *line, *save;
	unsigned int events;
	unsigned long tag;
	int fd, tfd, n;
	size_t i;

	for (i = 0; i < V_COUNT(sets); i++) {
		snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", sets[i]);
		fd = SYS(open(path, O_RDONLY));
		n = SYS(read(fd, buf, sizeof(buf) - 1));
		buf[n] = 0;
		close(fd);
		for (tfd = 0; tfd < 100; tfd++) {
			char copy[4096];

			strcpy(copy, buf);
			for (line = strtok_r(copy, "\n", &save); line;
			     line = strtok_r(NULL, "\n", &save))
				if (sscanf(line, "tfd: %d events: %x data: %lx", &n, &events,
					   &tag) == 3 &&
				    n == tfd)
					v_note("set %zu member %d events %#x data %#lx", i, tfd,
					       events & ~(EPOLLERR | EPOLLHUP), tag);
		}
	}
}

int main(int argc, char **argv)
{
	static const uint32_t how[MEMBERS] = {EPOLLIN,
					      EPOLLIN | EPOLLET,
					      EPOLLIN | EPOLLONESHOT,
					      EPOLLIN | EPOLLONESHOT,
					      EPOLLIN | EPOLLEXCLUSIVE,
					      EPOLLIN};
	unsigned int got;
	int i;

	v_init(argc, argv);
	ep = SYS(epoll_create1(EPOLL_CLOEXEC));
	outer = SYS(epoll_create1(0));
	for (i = 0; i < MEMBERS; i++) {
		member[i] = SYS(eventfd(0, EFD_NONBLOCK));
		add(ep, member[i], how[i], data(i));
	}
	/* The same file under a second number is a second member. */
	twin = SYS(dup(member[TWICE]));
	add(ep, twin, EPOLLIN, data(20));
	add(outer, ep, EPOLLIN, data(30));
	put(member[SPENT]);
	CHECK(ready_set(ep, "set up") == 1U << SPENT, "the shot was not reported");
	put(member[EDGE]);
	CHECK(ready_set(ep, "set up") == 1U << EDGE, "the edge was not reported");
	v_observe(note_members, 0);
	v_ready();
	for (i = 0; !v_stopping(); i++) {
		put(member[LEVEL]);
		got = ready_set(ep, "while working");
		CHECK((got & 1U << LEVEL) && !(got & 1U << SPENT), "while working: ready are %#x",
		      got);
		CHECK(ready_set(outer, "while working") == 1U << 30, "outer set is not ready");
		drain(member[LEVEL]);
		v_sleep_ms(3);
	}
	v_recheck();
	/* An old edge may be told once more; one is told for each new event. */
	ready_set(ep, "after");
	CHECK(ready_set(ep, "after") == 0, "something is ready that should not be");
	CHECK(ready_set(outer, "after") == 0, "outer set is ready");
	for (i = 0; i < MEMBERS; i++)
		put(member[i]);
	CHECK(ready_set(outer, "after") == 1U << 30, "outer set is not ready");
	got = ready_set(ep, "after");
	CHECK(got == (((1U << MEMBERS) - 1) & ~(1U << SPENT)) + (1U << 20), "after: ready are %#x",
	      got);
	got = ready_set(ep, "again");
	CHECK(got == (1U << LEVEL | 1U << EXCLUSIVE | 1U << TWICE | 1U << 20),
	      "again: ready are %#x", got);
	v_ok();
}
