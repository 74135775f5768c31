/* SPDX-License-Identifier: Apache-2.0 */
/* General and FP registers, interrupted system calls, restartable sequences, robust lists. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include "task_parts.h"

#ifndef PTRACE_GET_RSEQ_CONFIGURATION
#define PTRACE_GET_RSEQ_CONFIGURATION 0x420f
#endif

/* Results that a system call leaves in rax for the kernel's own eyes when it was interrupted. */
enum {
	ERESTARTSYS_ = 512, ERESTARTNOINTR_ = 513, ERESTARTNOHAND_ = 514,
	ERESTART_RESTARTBLOCK_ = 516
};
#define USER_CS 0x33
#define USER_SS 0x2b
#define USER_END 0x7ffffffff000ull

/* ---- restartable sequences ---- */

struct rseq_configuration {
	uint64_t pointer;
	uint32_t size, signature, flags, pad;
};

struct rseq_critical {
	uint32_t version, flags;
	uint64_t start, length, abort;
};

static bool rseq_of(const struct rthread *t, struct rseq_configuration *c)
{
	return ptrace(PTRACE_GET_RSEQ_CONFIGURATION, t->tid, sizeof(*c), c) == sizeof(*c) &&
	       c->pointer;
}

/* A thread inside a restartable sequence would go on there as if it had not been away; the
 * kernel forgets the sequence as soon as the thread runs anything else, a batch too. So it is
 * aborted now, as the kernel does for a preempted thread. */
int task_regs_leave_rseq(struct rthread *t, struct err *e)
{
	struct rseq_configuration c;
	struct rseq_critical cs;
	uint64_t at = 0;
	int ret;

	if (!rseq_of(t, &c))
		return 0;
	if ((ret = remote_read(t->of, c.pointer + 8, &at, sizeof(at), e)) < 0)
		return err_in(e, "thread %d: rseq", t->tid);
	if (!at)
		return 0;
	if (remote_read(t->of, at, &cs, sizeof(cs), e) < 0) {
		err_clear(e); /* garbage: the kernel will tell the program, by SIGSEGV */
		return 0;
	}
	if (t->regs.rip - cs.start < cs.length) {
		t->regs.rip = cs.abort;
		t->touched = true;
	}
	return 0;
}

/* ---- interrupted system calls ---- */

/* System calls that a stop makes return EINTR although no signal handler runs. */
static bool eintr_by_stop(uint64_t nr)
{
	static const uint16_t list[] = {
		SYS_epoll_wait, SYS_epoll_pwait, 441 /* epoll_pwait2 */, SYS_semop, SYS_semtimedop,
		/* if the remaining time cannot be written back */
		SYS_select, SYS_pselect6, SYS_ppoll,
		SYS_rt_sigtimedwait, SYS_io_getevents, SYS_io_uring_enter,
		/* on sockets with SO_RCVTIMEO or SO_SNDTIMEO */
		SYS_read, SYS_readv, SYS_write, SYS_writev, SYS_recvfrom, SYS_recvmsg,
		SYS_recvmmsg, SYS_sendto, SYS_sendmsg, SYS_sendmmsg, SYS_accept, SYS_accept4,
		SYS_connect,
	};

	for (size_t i = 0; i < sizeof(list) / sizeof(*list); i++)
		if (list[i] == nr)
			return true;
	return false;
}

static void wind_back(struct user_regs_struct *r, uint64_t nr)
{
	r->rax = nr;
	r->rip -= 2;
	r->orig_rax = ~0ull;
}

void task_regs_restartable(struct rthread *t, uint64_t pending_unblocked)
{
	struct user_regs_struct *r = &t->regs;

	if ((int64_t)r->orig_rax < 0 || (int64_t)r->rax != -EINTR || pending_unblocked ||
	    !eintr_by_stop(r->orig_rax))
		return;
	wind_back(r, r->orig_rax);
	t->touched = true;
}

/* What the kernel would do on the way back to user mode, `handler` being the action of the signal
 * that is to be delivered then (NULL: none). True: a sleep was wound back. */
static bool finish_call(const SaEntry *handler, struct user_regs_struct *r)
{
	if ((int64_t)r->orig_rax < 0)
		return false;
	switch (-(int64_t)r->rax) {
	case ERESTARTSYS_:
		if (handler && !(handler->flags & SA_RESTART))
			break;
		wind_back(r, r->orig_rax);
		return false;
	case ERESTARTNOINTR_:
		wind_back(r, r->orig_rax);
		return false;
	case ERESTARTNOHAND_:
		if (handler)
			break;
		wind_back(r, r->orig_rax);
		return false;
	case ERESTART_RESTARTBLOCK_:
		if (handler || r->orig_rax == 0 /* not known */)
			break;
		wind_back(r, r->orig_rax);
		return true;
	default:
		return false;
	}
	r->rax = (uint64_t)-EINTR;
	r->orig_rax = ~0ull;
	return false;
}

/* The first signal that would run a handler when the thread goes on. */
static const SaEntry *next_handler(const struct part *p, const TaskCoreEntry *leader)
{
	uint64_t set = part_unblocked(p->thread, &p->status) & p->status.sig_cgt;
	size_t i = 0;

	for (int sig = 1; sig <= KSIGS; sig++) {
		if (sig == SIGKILL || sig == SIGSTOP)
			continue;
		if (set & KSIG_BIT(sig) && i < leader->n_sigactions)
			return leader->sigactions[i];
		i++;
	}
	return NULL;
}

/* ---- capture ---- */

static void look_rseq(struct part *p)
{
	struct rseq_configuration c;
	RseqEntry *m;

	if (!rseq_of(p->thread, &c))
		return;
	m = MSG_NEW(RseqEntry, rseq_entry);
	m->rseq_abi_pointer = c.pointer;
	m->rseq_abi_size = c.size;
	m->signature = c.signature;
	p->core->thread_core->rseq_entry = m;
}

int task_regs_look(struct part *p, struct err *e)
{
	const struct user_regs_struct *r = &p->thread->regs;
	uint64_t head = 0;
	size_t len = 0;

	if (r->cs != USER_CS || r->ss != USER_SS || r->fs || r->gs) {
		err_say(e, ENOTSUP, "thread %d runs in 32-bit mode or with segments of its own",
			p->thread->tid);
		return err_remedy(e, "only 64-bit programs can be carried over");
	}
	if (syscall(SYS_get_robust_list, p->thread->tid, &head, &len) < 0)
		return err_set(e, errno, "thread %d: robust list", p->thread->tid);
	p->core->thread_core->futex_rla = head;
	p->core->thread_core->futex_rla_len = (uint32_t)len;
	look_rseq(p);
	return 0;
}

static UserX86RegsEntry *regs_to_image(const struct user_regs_struct *r)
{
	UserX86RegsEntry *m = MSG_NEW(UserX86RegsEntry, user_x86_regs_entry);

	m->r15 = r->r15, m->r14 = r->r14, m->r13 = r->r13, m->r12 = r->r12;
	m->bp = r->rbp, m->bx = r->rbx, m->r11 = r->r11, m->r10 = r->r10;
	m->r9 = r->r9, m->r8 = r->r8, m->ax = r->rax, m->cx = r->rcx;
	m->dx = r->rdx, m->si = r->rsi, m->di = r->rdi, m->orig_ax = r->orig_rax;
	m->ip = r->rip, m->cs = r->cs, m->flags = r->eflags, m->sp = r->rsp, m->ss = r->ss;
	m->fs_base = r->fs_base, m->gs_base = r->gs_base;
	m->ds = r->ds, m->es = r->es, m->fs = r->fs, m->gs = r->gs;
	m->has_mode = 1;
	m->mode = USER_X86_REGS_MODE__NATIVE;
	return m;
}

/* The registers are back at the call that begins anew. */
static void take_rest(const struct part *p, uint64_t nr)
{
	ThreadCoreEntry *tc = p->core->thread_core;

	tc->has_cl_sleep_left = task_watch_left(p->task, p->thread->tid, nr, &tc->cl_sleep_left);
}

int task_regs_take(struct part *p, const TaskCoreEntry *leader, struct err *e)
{
	ThreadInfoX86 *info = p->core->thread_info;
	struct user_regs_struct r = p->thread->regs;
	int ret;

	if (r.orig_rax == SYS_restart_syscall)
		r.orig_rax = task_watch_nr(p->task, p->thread);
	if (finish_call(next_handler(p, leader), &r)) {
		p->core->thread_core->has_cl_rewound_sleep = 1;
		p->core->thread_core->cl_rewound_sleep = 1;
		take_rest(p, r.rax);
	} else if (r.rax == SYS_epoll_wait || r.rax == SYS_epoll_pwait) {
		take_rest(p, r.rax);
	}
	if (r.rip != p->thread->regs.rip)
		task_wait_take(p);
	info->gpregs = regs_to_image(&r);
	ret = xsave_to_image(p->layout, p->thread->xstate, p->thread->xstate_len, &info->fpregs, e);
	return ret < 0 ? err_in(e, "thread %d", p->thread->tid) : 0;
}

/* ---- apply ---- */

static bool good_selector(uint64_t s)
{
	return s == 0 || (s <= UINT16_MAX && (s & 3) == 3);
}

/* What the kernel would refuse at the release, when it is too late for a message. */
static int check_regs(const UserX86RegsEntry *m, struct err *e)
{
	if (m->cs != USER_CS || m->ss != USER_SS || m->fs_base >= USER_END ||
	    m->gs_base >= USER_END || !good_selector(m->ds) || !good_selector(m->es) || m->fs ||
	    m->gs || (m->has_mode && m->mode != USER_X86_REGS_MODE__NATIVE))
		return err_say(e, EBADMSG, "registers make no sense for a 64-bit program");
	return 0;
}

#define STACK_MAX (256u << 10)

/* A thread in a signal handler returns through a frame that the source made for its CPU. */
static int fix_frames(struct rthread *t, const UserX86FpregsEntry *f, uint64_t sp,
		      const struct xsave_layout *l, struct err *e)
{
	uint64_t at = sp & ~(PAGE_SIZE - 1);
	_cleanup_(buf_free) struct buf stack = {0};
	struct err ignored = ERR_INIT;

	if (!f->xsave || !(f->xsave->xstate_bv & ~l->enabled))
		return 0;
	stack.at = vec_grow(stack.at, &stack.cap, STACK_MAX, 1);
	while (stack.n < STACK_MAX &&
	       remote_read(t->of, at + stack.n, stack.at + stack.n, PAGE_SIZE, &ignored) == 0)
		stack.n += PAGE_SIZE;
	return xsave_fix_frames(l, stack.at, stack.n)
		       ? remote_write(t->of, at, stack.at, stack.n, e)
		       : 0;
}

int task_regs_apply(struct rthread *t, const CoreEntry *core, const struct xsave_layout *l,
		    struct err *e)
{
	const UserX86RegsEntry *m = core->thread_info->gpregs;
	uint8_t *area;
	int ret;

	if ((ret = check_regs(m, e)) < 0)
		return ret;
	if ((ret = xsave_from_image(l, core->thread_info->fpregs, &area, e)) < 0)
		return ret;
	if ((ret = fix_frames(t, core->thread_info->fpregs, m->sp, l, e)) < 0) {
		free(area);
		return ret;
	}
	free(t->xstate);
	t->xstate = area;
	t->xstate_len = l->size;
	t->regs = (struct user_regs_struct){
		.r15 = m->r15, .r14 = m->r14, .r13 = m->r13, .r12 = m->r12, .rbp = m->bp,
		.rbx = m->bx, .r11 = m->r11, .r10 = m->r10, .r9 = m->r9, .r8 = m->r8,
		.rax = m->ax, .rcx = m->cx, .rdx = m->dx, .rsi = m->si, .rdi = m->di,
		.orig_rax = ~0ull, /* nothing left to restart: it was wound back */
		.rip = m->ip, .cs = m->cs, .eflags = m->flags, .rsp = m->sp, .ss = m->ss,
		.fs_base = m->fs_base, .gs_base = m->gs_base,
		.ds = m->ds, .es = m->es, .fs = m->fs, .gs = m->gs,
	};
	t->sigmask = core->thread_core->blk_sigset;
	return 0;
}
