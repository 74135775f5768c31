/* SPDX-License-Identifier: Apache-2.0 */
/* Batches: straight-line arrays of system calls. */
#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "remote_priv.h"

_Static_assert(sizeof(struct batch_entry) == 64, "the stub steps by 64");
_Static_assert(SLOT_CALLS + BATCH_CALLS_MAX * 64 == SLOT_DATA, "calls end where data begins");
_Static_assert(SLOT_DATA + BATCH_DATA_MAX == SLOT_SIZE, "data ends with the slot");

void batch_free(struct batch *b)
{
	vec_free(&b->call);
	vec_free(&b->name);
	buf_free(&b->data);
}

void batch_reset(struct batch *b)
{
	b->call.n = b->name.n = b->data.n = 0;
	b->has_out = false;
}

bool batch_room(const struct batch *b, size_t calls, size_t data)
{
	return b->call.n + calls <= BATCH_CALLS_MAX && b->data.n + data + 8 <= BATCH_DATA_MAX;
}

size_t batch_call_(struct batch *b, const char *name, uint64_t nr, uint64_t a0, uint64_t a1,
		   uint64_t a2, uint64_t a3, uint64_t a4, uint64_t a5)
{
	assert(b->call.n < BATCH_CALLS_MAX);
	vec_push(&b->call, (struct batch_entry){ .nr = nr, .arg = { a0, a1, a2, a3, a4, a5 } });
	vec_push(&b->name, name);
	return b->call.n - 1;
}

/* Addresses are handed out before the stub is in the guest (it is injected by the first run),
 * so they are relative to the slot until then: the stub goes in here. */
static gaddr data_base(struct batch *b)
{
	struct err e = ERR_INIT;

	if (!b->in->of->stub && stub_inject(b->in->of, &e) < 0) {
		b->failed = e;
		return 0;
	}
	return stub_slot(b->in) + SLOT_DATA;
}

gaddr batch_in(struct batch *b, const void *p, size_t n)
{
	static const uint8_t zero[8];
	size_t at = b->data.n;

	assert(at + n + 8 <= BATCH_DATA_MAX);
	buf_put(&b->data, p, n);
	buf_put(&b->data, zero, (8 - n % 8) % 8);
	return data_base(b) + at;
}

gaddr batch_out(struct batch *b, size_t n)
{
	size_t at = b->data.n, padded = (n + 7) & ~7ul;

	assert(at + n + 8 <= BATCH_DATA_MAX);
	b->data.at = vec_grow(b->data.at, &b->data.cap, at + padded, 1);
	memset(b->data.at + at, 0, padded);
	b->data.n += padded;
	b->has_out = true;
	return data_base(b) + at;
}

void batch_get(const struct batch *b, gaddr at, void *p, size_t n)
{
	size_t off = at - (stub_slot(b->in) + SLOT_DATA);

	assert(off <= b->data.n && n <= b->data.n - off);
	memcpy(p, b->data.at + off, n);
}

/* The batch into the slot: bounds of the calls (unless the thread is about to enter), the calls,
 * their data; one system call. */
static int put(struct batch *b, gaddr slot, bool bounds, struct err *e)
{
	uint64_t head[2] = { slot + SLOT_CALLS, slot + SLOT_CALLS + b->call.n * 64 };
	struct iovec here[3] = {
		{ b->call.at, b->call.n * 64 }, { b->data.at, b->data.n }, { head, sizeof(head) },
	};
	struct iovec there[3] = {
		{ (void *)(slot + SLOT_CALLS), b->call.n * 64 },
		{ (void *)(slot + SLOT_DATA), b->data.n },
		{ (void *)(slot + SLOT_CUR), sizeof(head) },
	};
	size_t want = b->call.n * 64 + b->data.n + (bounds ? sizeof(head) : 0);
	ssize_t n = process_vm_writev(b->in->of->pid, here, bounds ? 3 : 2, there, bounds ? 3 : 2,
				      0);

	if (n < 0 || (size_t)n != want)
		return err_set(e, n < 0 ? errno : EFAULT, "write a batch");
	return 0;
}

static int fetch(struct batch *b, gaddr slot, struct err *e)
{
	struct iovec here[2] = { { b->call.at, b->call.n * 64 }, { b->data.at, b->data.n } };
	struct iovec there[2] = {
		{ (void *)(slot + SLOT_CALLS), b->call.n * 64 },
		{ (void *)(slot + SLOT_DATA), b->data.n },
	};
	size_t want = b->call.n * 64 + (b->has_out ? b->data.n : 0);
	ssize_t n = process_vm_readv(b->in->of->pid, here, b->has_out ? 2 : 1, there,
				     b->has_out ? 2 : 1, 0);

	if (n < 0 || (size_t)n != want)
		return err_set(e, n < 0 ? errno : EFAULT, "read the results of a batch");
	return 0;
}

static int go(struct rthread *t, gaddr slot, size_t calls, bool was_live, struct err *e)
{
	static const uint64_t msg = 1;
	int ret;

	if (was_live) {
		if (send(t->of->sock, &msg, sizeof(msg), MSG_NOSIGNAL) != sizeof(msg))
			return err_set(e, errno, "control socket");
		return 0;
	}
	ret = stub_enter(t, slot + SLOT_HIDDEN, slot + SLOT_CALLS + calls * 64, e);
	if (ret < 0)
		return ret;
	if (ptrace(PTRACE_CONT, t->tid, 0, 0) < 0)
		return err_set(e, errno, "continue thread %d", t->tid);
	t->stopped = false;
	t->live = true;
	t->of->live = t;
	return 0;
}

int batch_begin(struct batch *b, struct err *e)
{
	struct rthread *t = b->in;
	struct remote *r = t->of;
	int ret;

	if (b->failed.code) {
		*e = b->failed;
		return -e->code;
	}
	if (!r->stub && (ret = stub_inject(r, e)) < 0)
		return ret;
	if (r->live != t && (ret = stub_park(r, e)) < 0)
		return ret;
	bool was_live = r->live == t;
	gaddr slot = stub_slot(t);

	if ((ret = put(b, slot, was_live, e)) < 0)
		return ret;
	return go(t, slot, b->call.n, was_live, e);
}

bool batch_over(const struct rthread *t)
{
	char any;

	return recv(t->of->sock, &any, 1, MSG_PEEK | MSG_DONTWAIT) >= 0;
}

int batch_end(struct batch *b, struct err *e)
{
	int ret;

	if ((ret = stub_wait_done(b->in, e)) < 0 || (ret = fetch(b, stub_slot(b->in), e)) < 0)
		return ret;
	for (size_t i = 0; i < b->call.n; i++) {
		int64_t r = b->call.at[i].ret;

		if (r < 0 && r > -4096 && b->name.at[i][0] != '?')
			return err_set(e, (int)-r, "in the guest: %s", b->name.at[i]);
	}
	return 0;
}

int batch_run(struct batch *b, struct err *e)
{
	int ret = batch_begin(b, e);

	if (ret == 0)
		ret = batch_end(b, e);
	return ret < 0 ? err_in(e, "task %d", b->in->of->pid) : 0;
}
