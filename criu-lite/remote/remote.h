/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Processes held from outside. A `struct remote` is one process whose threads we
 * hold by ptrace. Batches are straight-line arrays of system calls that run inside it.
 *
 * The guest runs a batch through a stub: about 150 bytes of code in a mapping of our own.
 * Between batches the running thread sleeps in read() on a socket whose other end is ours;
 * when we die, it wakes, closes the socket and returns through rt_sigreturn to where it
 * was found, registers, FP state and signal mask as before (the dead-man tail). No batch
 * needs a ptrace stop, so none needs SIGTRAP.
 *
 * Addresses in the guest are gaddr, never pointers.
 */
#pragma once

#include <signal.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

#include "cleanup.h"
#include "err.h"
#include "vec.h"

typedef uint64_t gaddr;

#define REMOTE_NR_UNKNOWN (-2)
#define REMOTE_XSTATE_MAX 12288  /* AMX included */

struct remote;

/* One held thread. Registers are read when the thread is stopped and are what
 * remote_resume() puts back. */
struct rthread {
	pid_t tid;
	struct remote *of;
	bool stopped;                 /* in a ptrace stop now (else: in the stub) */
	bool live;                    /* runs or sleeps in the stub */
	bool touched;                 /* registers or mask are not the guest's own now */
	bool dead;                    /* exited under our hands */
	struct user_regs_struct regs; /* as found, system call restart not yet applied */
	int64_t syscall_nr;           /* interrupted system call, -1: none, REMOTE_NR_UNKNOWN. Not
	                                 always orig_rax: a call resumed after an earlier stop shows
	                                 restart_syscall (219) there */
	uint64_t sigmask;             /* as found */
	uint8_t *xstate;              /* xsave area as found, standard format */
	uint32_t xstate_len;
};

/* ---- hold and release ---- */

/* Seizes and stops every thread of a process, also those that appear meanwhile. The caller
 * becomes their tracer (and must stay the same thread). On error everything
 * is released again. -ESRCH: gone; -EPERM with remedy: traced by somebody else... */
int remote_hold(struct remote **out, pid_t pid, struct err *e);

pid_t remote_pid(const struct remote *r);
struct rthread *remote_leader(struct remote *r);
/* Threads in the order of /proc/PID/task, leader first. */
struct rthread *remote_thread(struct remote *r, size_t i);  /* NULL past the end */

/* Undoes the injection (stub unmapped, socket closed), gives every thread back its
 * registers and mask, detaches. Frees r. Errors are logged, never stop the release. */
void remote_release(struct remote *r);

/* remote_release() is to leave the process stopped, as by SIGSTOP. */
void remote_leave_stopped(struct remote *r);

/* Sees to it that the held process does not run on should we die: a SIGSTOP waits for it from now
 * on; and takes that back. */
int remote_pin(struct remote *r, struct err *e);
void remote_unpin(struct remote *r);

/* Takes out of a process what a criu-lite that was killed has left in it: its stub mapping. Nothing
 * there: 0. A process that somebody else traces is left alone. */
int remote_sweep(pid_t pid, struct err *e);

/* Kills the process and reaps all its threads. Frees r. */
void remote_kill(struct remote *r);

/* ---- batches ---- */

/* A batch runs in one thread, from first call to last, whatever each returns: no
 * branches, no loops. Use:
 *
 *   _cleanup_batch_ struct batch b = BATCH(thread);
 *   gaddr path = batch_in(&b, "/tmp", 5);
 *   gaddr st = batch_out(&b, sizeof(struct stat));
 *   size_t i = batch_call(&b, "stat", __NR_stat, path, st);
 *   if (batch_run(&b, e) < 0) return ...;
 *   batch_get(&b, st, &local, sizeof(local));
 */
#define BATCH_CALLS_MAX 512
#define BATCH_DATA_MAX  65536

struct batch_entry {
	uint64_t nr, arg[6];
	int64_t ret;             /* as the kernel returns it: -errno on failure */
};

struct batch {
	struct rthread *in;
	VEC(struct batch_entry) call;
	VEC(const char *) name;  /* "?mmap": the call may fail */
	struct buf data;
	bool has_out;
	struct err failed;       /* the stub could not be injected: told by batch_run */
};

#define BATCH(thread) { .in = (thread) }
void batch_free(struct batch *b);
#define _cleanup_batch_ _cleanup_(batch_free)

/* Appends a call; returns its index (ret: b.call.at[i].ret after the run). `name` is for errors
 * and must outlive the batch; one that begins with '?' may fail. Full batch: aborts;
 * ask batch_room() where the number of calls depends on the guest. */
size_t batch_call_(struct batch *b, const char *name, uint64_t nr, uint64_t a0, uint64_t a1,
		   uint64_t a2, uint64_t a3, uint64_t a4, uint64_t a5);
#define BATCH_7TH_(b, name, nr, a0, a1, a2, a3, a4, a5, ...) \
	batch_call_(b, name, nr, (uint64_t)(a0), (uint64_t)(a1), (uint64_t)(a2), \
		    (uint64_t)(a3), (uint64_t)(a4), (uint64_t)(a5))
#define batch_call(b, name, ...) BATCH_7TH_(b, name, __VA_ARGS__, 0, 0, 0, 0, 0, 0, 0)

/* Data that goes along (in), or room that is filled by the guest (out), 8-byte aligned; both
 * can be read back with batch_get() after the run. */
gaddr batch_in(struct batch *b, const void *p, size_t n);
gaddr batch_out(struct batch *b, size_t n);
void batch_get(const struct batch *b, gaddr at, void *p, size_t n);

/* Room for `calls` more calls and `data` more bytes? */
bool batch_room(const struct batch *b, size_t calls, size_t data);

/* Runs the batch and empties it of nothing: results stay until batch_reset(). The first call
 * that failed and was not allowed to is the error: "task 12 (redis): in guest: mmap: ...".
 * The stub is injected at first use. */
int batch_run(struct batch *b, struct err *e);
/* The two halves of batch_run, for something that must happen while the guest waits in a call
 * (descriptors sent to its recvmsg). */
int batch_begin(struct batch *b, struct err *e);
int batch_end(struct batch *b, struct err *e);
/* Whether batch_end() would find its answer at once: the thread has ended the batch, or died. */
bool batch_over(const struct rthread *t);
void batch_reset(struct batch *b);

/* ---- memory ---- */

/* Whole reads and writes of guest memory; process_vm_readv/writev, and /proc/PID/mem where
 * protections are in the way (read-only and PROT_NONE mappings can be written). */
int remote_read(struct remote *r, gaddr at, void *p, size_t n, struct err *e);
int remote_write(struct remote *r, gaddr at, const void *p, size_t n, struct err *e);

/* Where the stub is, so that it can be left out of the guest's mappings; {0,0} if not injected. */
struct grange { gaddr start, end; };
struct grange remote_stub(const struct remote *r);

/* ---- descriptors ---- */

/* The number of our control socket in the guest, not the guest's own; -1 if not injected. */
int remote_own_fd(const struct remote *r);

/* Our duplicate of the guest's descriptor (same open file description). fd or -errno. */
int remote_fd_get(struct remote *r, int fd, struct err *e);

struct remote_fd {
	int local;               /* ours: stays ours */
	int guest;               /* number in the guest */
	int cloexec;             /* FD_CLOEXEC or 0 */
};
/* Puts descriptors into the guest's (empty) table, ascending by guest number. */
int remote_fd_put(struct remote *r, const struct remote_fd *fds, size_t n, struct err *e);

/* ---- shells: processes to be ---- */

/* Creates an empty process with the given pid (0: any) as our child (or sibling with
 * CLONE_PARENT in flags); nothing mapped but the stub, vdso and vvar, no fds. Held from birth,
 * dies with us until remote_release(). `avoid`: ranges where the stub must not be.
 * -EEXIST: pid taken. */
int remote_shell(struct remote **out, pid_t pid, uint64_t flags, const struct grange *avoid,
		 size_t n_avoid, struct err *e);
/* The same in a new time namespace; `offsets`: for its file timens_offsets. */
int remote_shell_timens(struct remote **out, pid_t pid, uint64_t flags, const char *offsets,
			const struct grange *avoid, size_t n_avoid, struct err *e);
/* The same as a child of another shell: fork inside it, so that parenthood is real.
 * flags: CLONE_PARENT, CLONE_FILES, CLONE_FS, CLONE_VM, CLONE_SIGHAND as the guest shares them. */
int remote_shell_child(struct remote **out, struct remote *parent, pid_t pid, uint64_t flags,
		       struct err *e);
/* Creates the other threads of a shell: born stopped; remote_thread() finds them. */
int remote_shell_threads(struct remote *r, const pid_t *tids, size_t n, struct err *e);

/* The caller's batches moved the vDSO of a shell, or of one that shares its memory: system calls by
 * hand go through it. */
void remote_vdso_moved(struct remote *r);

/* /proc/PID/mem, opened O_RDWR; stays ours. */
int remote_mem_fd(struct remote *r, struct err *e);

/* What remote_release() gives a thread: sets t->regs, t->sigmask, t->xstate; the caller changes
 * those fields before release. xstate NULL: left as it is. */
