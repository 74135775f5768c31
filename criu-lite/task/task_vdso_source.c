/* SPDX-License-Identifier: Apache-2.0 */
/* The vDSO on the source: which one a program calls, and threads that stand inside it. */
#include <errno.h>
#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "io.h"
#include "log.h"
#include "task_mm.h"
#include "task_parts.h"
#include "task_vdso.h"

/* ---- which one ---- */

static bool is_vdso(const struct proc_vma *v) { return !strcmp(v->path, "[vdso]"); }

/* Where one may have been kept: memory with code but without a file. */
static bool may_be_kept(const struct proc_vma *v)
{
	return !v->shared && !v->ino && !*v->path && v->prot == (PROT_READ | PROT_EXEC);
}

static const struct proc_vma *vma_at(const struct task_mm *m, uint64_t at)
{
	vec_each(&m->maps.vma, v)
		if (v->start <= at && at < v->end)
			return v;
	return NULL;
}

static const struct proc_vma *vma_of_kernel(const struct task_mm *m)
{
	vec_each(&m->maps.vma, v)
		if (is_vdso(v))
			return v;
	return NULL;
}

static uint64_t auxv_vdso(const uint64_t *auxv, size_t n)
{
	for (size_t i = 0; i + 1 < n; i += 2)
		if (auxv[i] == AT_SYSINFO_EHDR)
			return auxv[i + 1];
	return 0;
}

static int read_image(const struct task *t, uint64_t at, uint64_t end, struct buf *out,
		      struct err *e)
{
	char path[48];
	size_t n = end - at < VDSO_IMAGE_MAX ? end - at : VDSO_IMAGE_MAX;

	snprintf(path, sizeof(path), "/proc/%d/mem", t->pid);
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return err_set(e, errno, "%s", path);
	out->at = vec_grow(out->at, &out->cap, n, 1);
	out->n = n;
	int ret = io_pread(fd, out->at, n, (off_t)at);
	return ret < 0 ? err_set(e, -ret, "read the vDSO of pid %d", t->pid) : 0;
}

/* An image of zeros from its end on: nothing of ours is in its padding. */
static void put_image(VdsoImageEntry *m, const struct buf *image, const struct vdso *v)
{
	m->has_image = true;
	m->image.len = image->n;
	m->image.data = xcalloc(1, image->n);
	memcpy(m->image.data, image->at, v->end);
}

VdsoImageEntry *task_vdso_look(const struct task *t, const MmEntry *mm)
{
	const struct proc_vma *v = vma_at(t->mm, auxv_vdso(mm->mm_saved_auxv, mm->n_mm_saved_auxv));
	uint64_t at = auxv_vdso(mm->mm_saved_auxv, mm->n_mm_saved_auxv);
	_cleanup_(buf_free) struct buf image = { 0 };
	struct err ignored = ERR_INIT;
	const uint8_t *bytes;
	struct vdso is, here;
	size_t n;

	if (!v || !may_be_kept(v) || read_image(t, at, v->end, &image, &ignored) < 0 ||
	    vdso_parse(image.at, image.n, &is, &ignored) < 0) {
		if (!(v = vma_of_kernel(t->mm)))
			return NULL;
		at = v->start;
		if (read_image(t, at, v->end, &image, &ignored) < 0 ||
		    vdso_parse(image.at, image.n, &is, &ignored) < 0) {
			log_debug("pid %d: %s", t->pid, ignored.text);
			return NULL;
		}
	}
	VdsoImageEntry *m = MSG_NEW(VdsoImageEntry, vdso_image_entry);
	m->at = at;
	m->id = is.id;
	m->has_kept = m->kept = !is_vdso(v);
	if (!m->kept && (vdso_here(&bytes, &n, &here, &ignored) < 0 || here.id != is.id))
		put_image(m, &image, &is);
	return m;
}

/* ---- threads inside ---- */

#define STEPS_MAX 20000
#define STEPS_NS  20000000u

static bool in_kept(const struct task *t, const struct proc_vma *v, uint64_t rip)
{
	_cleanup_(buf_free) struct buf auxv = { 0 };
	struct err ignored = ERR_INIT;

	if (!may_be_kept(v))
		return false;
	if (io_slurp(&auxv, &ignored, "/proc/%d/auxv", t->pid) < 0)
		return false;
	uint64_t at = auxv_vdso((uint64_t *)(void *)auxv.at, auxv.n / 8);
	return at && rip >= at && rip < at + VDSO_IMAGE_MAX && at >= v->start && at < v->end;
}

static bool is_inside(const struct task *t, uint64_t rip)
{
	const struct proc_vma *v = vma_at(t->mm, rip);

	return v && (is_vdso(v) || in_kept(t, v, rip));
}

static bool ignores_sigtrap(pid_t pid)
{
	_cleanup_(buf_free) struct buf text = { 0 };
	_cleanup_(proc_status_free) struct proc_status s = { 0 };
	struct err ignored = ERR_INIT;

	return io_slurp(&text, &ignored, "/proc/%d/status", pid) < 0 ||
	       proc_status_parse((char *)text.at, text.n, &s, &ignored) < 0 ||
	       s.sig_ign & KSIG_BIT(SIGTRAP);
}

static int step(struct rthread *t, struct err *e)
{
	int status;

	if (ptrace(PTRACE_SINGLESTEP, t->tid, 0, 0) < 0)
		return err_set(e, errno, "step thread %d", t->tid);
	while (waitpid(t->tid, &status, __WALL) < 0)
		if (errno != EINTR)
			return err_set(e, errno, "wait for thread %d", t->tid);
	if (WIFSTOPPED(status))
		return 0;
	t->dead = true;
	t->stopped = false;
	return err_say(e, ESRCH, "thread %d exited", t->tid);
}

static int read_regs(struct rthread *t, struct err *e)
{
	struct iovec v = { &t->regs, sizeof(t->regs) };

	if (ptrace(PTRACE_GETREGSET, t->tid, NT_PRSTATUS, &v) < 0)
		return err_set(e, errno, "read registers of thread %d", t->tid);
	return 0;
}

/* No signal may be delivered meanwhile. SIGTRAP may not be blocked, or the kernel would give it its
 * default action when it reports a step. */
static int step_out(const struct task *task, struct rthread *t, struct err *e)
{
	uint64_t mask = ~KSIG_BIT(SIGTRAP), until = io_now_ns() + STEPS_NS;
	struct iovec x = { t->xstate, t->xstate_len };
	int ret = 0, n = 0;

	if (ptrace(PTRACE_SETSIGMASK, t->tid, sizeof(mask), &mask) < 0)
		return err_set(e, errno, "set signal mask of thread %d", t->tid);
	while (ret == 0 && is_inside(task, t->regs.rip) && n < STEPS_MAX && io_now_ns() < until) {
		n++;
		if ((ret = step(t, e)) == 0)
			ret = read_regs(t, e);
	}
	if (t->dead)
		return ret;
	if (ptrace(PTRACE_SETSIGMASK, t->tid, sizeof(t->sigmask), &t->sigmask) < 0)
		return err_set(e, errno, "set signal mask of thread %d", t->tid);
	if (ret == 0 && ptrace(PTRACE_GETREGSET, t->tid, NT_X86_XSTATE, &x) < 0)
		ret = err_set(e, errno, "read FP state of thread %d", t->tid);
	t->syscall_nr = (int64_t)t->regs.orig_rax < 0 ? -1 : (int64_t)t->regs.orig_rax;
	log_debug("thread %d: %d steps out of the vDSO", t->tid, n);
	return ret;
}

int task_vdso_leave(struct task *t, struct err *e)
{
	struct rthread *thread;
	int ret;

	for (size_t i = 0; t->mm && (thread = remote_thread(t->remote, i)); i++) {
		if (!thread->stopped || thread->live || !is_inside(t, thread->regs.rip))
			continue;
		if (ignores_sigtrap(t->pid)) /* a step would reset that */
			return 0;
		if ((ret = step_out(t, thread, e)) < 0)
			return ret;
	}
	return 0;
}
