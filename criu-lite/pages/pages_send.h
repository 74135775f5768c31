/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pages from one host to the other: frames over N data connections, each handled by a thread
 * on either side. A frame: header, ranges, payload (raw or zstd), XXH3 checksum. The format is
 * described in pages_frame.h. A page space is an address space (pid) or a shared memory object.
 */
#pragma once

#include "pages_tracker.h"
#include "wire_conn.h"

/* AUTO: each connection looks for what is fastest at the moment, none or some level of zstd. */
enum comp_method { COMP_NONE, COMP_ZSTD, COMP_AUTO };

struct pages_opts {
	enum comp_method method;
	int level;                   /* of COMP_ZSTD; below 0: its fast levels */
	uint64_t bandwidth;          /* bytes per second on the wire, over all connections;
	                                0: unlimited. TCP/IP headers are taken as 2 % */
	bool same;                   /* pages that are as the target holds them are not sent, and of
	                                those that are nearly so the difference (if compressed);
	                                costs up to 130 MiB for a guest that writes much. Needs
	                                pages_sender_forget()! For good: not changed by
	                                pages_sender_set() */
};

struct pages_space {
	enum { PAGES_TASK, PAGES_SHM } kind;
	uint32_t id;                 /* pid of the task's leader, or shm id */
	pid_t pid;                   /* to read from (TASK) */
	int fd;                      /* to pread from (SHM) */
	bool fixed;                  /* SHM: an object that nobody can truncate (no memfd): only of
	                                these pages are left out by pages_opts.same, for the target
	                                changes sizes when it is told the state */
	uint64_t told;               /* SHM: its size as the target is told */
	uint64_t *sums;              /* SHM: XXH3 of each page read (by number), to be filled in, or
	                                PAGES_NO_SUM where the target may hold something else; */
	size_t n_sums;               /* so many. NULL, 0: nobody wants them */
	bool live;                   /* pages_dump: the guest runs; what has gone is written as
	                                zeros, the next scan will say so */
};

#define PAGES_CONNS_MAX 64
#define PAGES_NO_SUM    0

struct pages_comp {
	int8_t method, level;        /* COMP_NONE, COMP_ZSTD: of the last frame */
};

struct pages_stats {
	uint64_t pages, zero_pages;  /* pages: with those that are zero, and with */
	uint64_t same_pages;         /* those not sent, because the target holds them as they are */
	uint64_t delta_pages;        /* those sent as the difference to what the target holds */
	uint64_t bytes_raw;          /* of pages that are sent and not zero, before compression */
	uint64_t bytes_wire, frames;
	uint64_t bytes_placed;       /* guest memory, with zero pages, placed as the target says;
	                                after a flush: (pages - same_pages) * PAGE_SIZE */
	uint64_t skipped;            /* pages that had gone (live) */
	uint64_t ns;                 /* from first send to last ack */
	uint64_t queue_bytes;        /* guest memory that no connection has begun with yet */
	size_t conns;                /* connections in use, the first of */
	struct pages_comp conn[PAGES_CONNS_MAX];
};

struct pages_sender;

/* Takes the connections (owned from here on). */
int pages_sender_new(struct pages_sender **s, int *data_fds, size_t n,
		     const struct pages_opts *o, struct err *e);
void pages_sender_free(struct pages_sender *s);

/* While nothing is under way (before the first send, or after a flush): takes one more connection,
 * which the target has given to pages_receiver_add(). It is number n, and in use unless
 * pages_sender_use() said otherwise. At most PAGES_CONNS_MAX. The fd is the
 * sender's from here on, also on failure. */
int pages_sender_add(struct pages_sender *s, int data_fd, struct err *e);
/* Only the first n connections (at least one; more than there are: all) take work from now on. From
 * any thread, at any time; the others finish their frame, and stay open. */
void pages_sender_use(struct pages_sender *s, size_t n);
size_t pages_sender_conns(struct pages_sender *s);   /* how many there are */

/* Other method, level, bandwidth. From any thread, at any time. Bandwidth counts at once, also for
 * who waits for the old one; method and level from the next frame on. */
void pages_sender_set(struct pages_sender *s, const struct pages_opts *o);

/* Running totals since the beginning (pages_flush() gives those of a round). From any thread, at
 * any time; cheap. */
void pages_sender_sample(struct pages_sender *s, struct pages_stats *out);

/* With pages_opts.same: what the target holds in these ranges is void (scan.reset: it was told to
 * drop them; a mapping that it makes anew); r NULL: in the whole space (it is new, also under an
 * old id; exec). To be called in each round before pages_send(). `fresh` in pages_send() forgets
 * the whole space by itself, but nobody calls that for a space without pages. Forgetting too much
 * costs only a page on the wire. */
void pages_sender_forget(struct pages_sender *s, const struct pages_space *of,
			 const struct prange *r, size_t n);

/* Queues ranges. `fresh`: the receiver most likely holds nothing there: it looks whether zero pages
 * are zero already instead of writing them (a hint: a wrong one costs only time). `live`: pages
 * that disappear while the guest runs (munmap, exit) are skipped; an error otherwise. No page may
 * be queued twice without a flush between: connections do not keep order among themselves.
 * Reading happens in the connection threads, so process and fd must stay until the flush. */
int pages_send(struct pages_sender *s, const struct pages_space *from, const struct prange *r,
	       size_t n, bool fresh, bool live, struct err *e);
/* Waits until the receiver has placed all that was queued. stats: since the last flush. */
int pages_flush(struct pages_sender *s, struct pages_stats *stats, struct err *e);

/* Gives up at once, from any thread: the next call, or the one under way, fails with `why`. */
void pages_sender_cancel(struct pages_sender *s, const struct err *why);

/* What is queued and not yet being sent comes back, ranges of one space together in `left`
 * (appended; each with a malloc'ed list); then pages_flush() has little left to wait for. From any
 * thread. */
struct pages_left {
	struct pages_space space;
	prange_vec range;
};
typedef VEC(struct pages_left) pages_left_vec;
void pages_take_back(struct pages_sender *s, pages_left_vec *left);

/* From the next frame on without compression: for the last round, if it is short. Until
 * pages_sender_set(). */
void pages_sender_plain(struct pages_sender *s);

struct pages_receiver;

/* Finds where a space's pages go: for TASK the process (pid + writable ranges are the receiver's
 * business: process_vm_writev first, /proc/PID/mem where that is refused), for SHM an fd. */
struct pages_place {
	pid_t pid;                   /* TASK; we are its tracer or root */
	int mem_fd;                  /* TASK: /proc/PID/mem opened O_RDWR, by the caller */
	int fd;                      /* SHM */
};
int pages_receiver_new(struct pages_receiver **r, struct err *e);
void pages_receiver_free(struct pages_receiver *r);      /* closes connections, joins threads */
/* Takes a connection (owned from here on, also on failure); also between rounds. */
int pages_receiver_add(struct pages_receiver *r, int data_fd, struct err *e);
/* Between rounds only: says where a space lives now (replaces). */
void pages_receiver_space(struct pages_receiver *r, int kind, uint32_t id, struct pages_place p);
/* Between rounds only: ranges that the source takes back, or sends again. */
void pages_receiver_void(struct pages_receiver *r, int kind, uint32_t id, const struct prange *v,
			 size_t n);
/* After the last round: -EFAULT if pages came for which there was no memory, and were neither taken
 * back nor came again (see pages_place()). */
int pages_receiver_complete(struct pages_receiver *r, int kind, uint32_t id, struct err *e);
/* The first failure of any connection thread, if there was one. 0 or -errno. */
int pages_receiver_error(struct pages_receiver *r, struct err *e);
