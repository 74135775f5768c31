/* SPDX-License-Identifier: Apache-2.0 */
/* Inside the remote layer. */
#pragma once

#include "remote.h"
#include "remote_arch.h"

/* Where the stub lives in a guest: a place of its own, where no program has anything, so that a
 * mapping of that size there is known to be ours even before the code is in it. */
#define STUB_HOME 0x2f00c0de0000ull

/* How often we look what became of the guest while it runs a batch. It may have stopped for a
 * signal (SIGCONT that is queued for it does that), which is part of the downtime. */
#define LOOK_US 2000

struct remote {
	pid_t pid;
	int pidfd;
	int mem_fd;                  /* /proc/PID/mem, or -1 until needed */
	bool is_shell;
	struct stop_clock *clock;    /* while stopping */
	bool leave_stopped;
	VEC(struct rthread *) thread; /* leader first */

	gaddr syscall_insn;          /* a `syscall` instruction in the vDSO; 0: not looked for */
	gaddr tramp;                 /* padding of the vDSO for the trampoline; 0: there is none */
	bool tramp_used;
	gaddr stub;                  /* our mapping in the guest; 0: none */
	int sock;                    /* our end, or -1 */
	int guest_sock;              /* its number in the guest */
	struct rthread *live;        /* the thread that sleeps in the stub now */
};

/* ptrace plumbing (remote_hold.c) */
struct rthread *remote_thread_new(struct remote *r, pid_t tid);
struct remote *remote_new(pid_t pid, struct err *e);
void remote_free(struct remote *r);
/* Its state, and how many threads its process has. False: it is gone. */
bool thread_look(pid_t tid, char *state, int *threads);
int thread_wait_stop(struct rthread *t, struct err *e);
int thread_read_state(struct rthread *t, struct err *e);
int thread_interrupt(struct rthread *t, struct err *e);
int thread_set_regs(struct rthread *t, const struct user_regs_struct *regs, struct err *e);
int thread_set_mask(struct rthread *t, uint64_t mask, struct err *e);
uint64_t remote_options(void);

/* descriptors (remote_fd.c) */
int remote_move_socket(struct remote *r, int above, struct err *e);

/* stub (remote_stub.c) */
int stub_inject(struct remote *r, struct err *e);
int stub_boot(struct remote *r, struct err *e);     /* mapping and code are there */
int stub_park(struct remote *r, struct err *e);     /* live thread back into a ptrace stop */
int stub_remove(struct remote *r, struct err *e);
int stub_poke_syscall(struct rthread *t, const char *name, int64_t *ret, uint64_t nr, uint64_t a0,
		      uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4, uint64_t a5,
		      struct err *e);
/* Finds the system call instruction and the trampoline's place. */
int stub_look_in_vdso(struct remote *r, struct err *e);
void stub_clear_tramp(struct remote *r);
gaddr stub_slot(const struct rthread *t);
int stub_enter(struct rthread *t, gaddr cur, gaddr end, struct err *e);
int stub_wait_done(struct rthread *t, struct err *e);
