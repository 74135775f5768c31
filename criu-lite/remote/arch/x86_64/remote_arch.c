/* SPDX-License-Identifier: Apache-2.0 */
#include "remote_arch.h"

#include <elf.h>
#include <stddef.h>
#include <string.h>
#include <sys/ucontext.h>

void arch_regs_for_stub(struct user_regs_struct *r, gaddr code, gaddr slot)
{
	r->rip = code;
	r->rsp = slot;
	r->rax = 0;
	r->orig_rax = (unsigned long long)-1; /* no system call to restart */
}

void arch_regs_for_syscall(struct user_regs_struct *r, gaddr insn, const uint64_t v[7])
{
	r->rip = insn;
	r->rax = v[0];
	r->rdi = v[1];
	r->rsi = v[2];
	r->rdx = v[3];
	r->r10 = v[4];
	r->r8 = v[5];
	r->r9 = v[6];
	r->orig_rax = (unsigned long long)-1;
}

enum { ERESTARTSYS_ = 512, ERESTARTNOINTR_, ERESTARTNOHAND_, ERESTART_RESTARTBLOCK_ = 516 };

int64_t arch_restarted_nr(const uint8_t *code, size_t n)
{
	/* those that return -ERESTART_RESTARTBLOCK: poll, nanosleep, futex, clock_nanosleep */
	static const uint32_t restarts[] = { 7, 35, 202, 230 };

	for (size_t i = n < 7 ? 0 : n - 7 + 1; i-- > 0;) {
		uint32_t imm;

		if (code[i] != 0xb8 && !(code[i] == 0xc7 && i + 6 <= n && code[i + 1] == 0xc0))
			continue;
		memcpy(&imm, code + i + (code[i] == 0xb8 ? 1 : 2), 4);
		for (size_t k = 0; k < sizeof(restarts) / sizeof(restarts[0]); k++)
			if (imm == restarts[k])
				return imm;
	}
	return REMOTE_NR_UNKNOWN;
}

bool arch_rewind_syscall(struct user_regs_struct *r, int64_t nr)
{
	if (nr < 0)
		return false;
	switch (-(long long)r->rax) {
	case ERESTARTSYS_:
	case ERESTARTNOINTR_:
	case ERESTARTNOHAND_:
	case ERESTART_RESTARTBLOCK_:
		r->rip -= 2;
		r->rax = (unsigned long long)nr;
		r->orig_rax = (unsigned long long)-1;
		return true;
	}
	return false;
}

/* ---- registers as others keep them ---- */

#define REG(name) offsetof(struct user_regs_struct, name)
#define N_OF(a)   (sizeof(a) / sizeof((a)[0]))

/* As in struct sigcontext. */
static const size_t in_frame[] = {
	REG(r8), REG(r9), REG(r10), REG(r11), REG(r12), REG(r13), REG(r14), REG(r15), REG(rdi),
	REG(rsi), REG(rbp), REG(rbx), REG(rdx), REG(rax), REG(rcx), REG(rsp), REG(rip),
	REG(eflags),
};
/* As in stub.S. */
static const size_t in_trampoline[] = {
	REG(eflags), REG(r15), REG(r14), REG(r13), REG(r12), REG(rbp), REG(rbx), REG(r11),
	REG(r10), REG(r9), REG(r8), REG(rax), REG(rcx), REG(rdx), REG(rsi), REG(rdi), REG(rsp),
	REG(rip),
};

static void read_regs(const struct user_regs_struct *r, const size_t *which, size_t n,
		      uint64_t *out)
{
	for (size_t i = 0; i < n; i++)
		memcpy(&out[i], (const uint8_t *)r + which[i], 8);
}

/* In no system call. */
static void write_regs(struct user_regs_struct *r, const size_t *which, size_t n,
		       const uint64_t *in)
{
	for (size_t i = 0; i < n; i++)
		memcpy((uint8_t *)r + which[i], &in[i], 8);
	r->orig_rax = (unsigned long long)-1;
}

/* The kernel's rt_sigframe: return address, ucontext, siginfo; FP state behind it. */
struct frame {
	uint64_t pretcode;
	struct {
		uint64_t flags, link;
		stack_t stack;
		uint64_t regs[N_OF(in_frame)];
		uint16_t cs, gs, fs, ss;
		uint64_t err, trapno, oldmask, cr2, fpstate, reserved[8];
		uint64_t sigmask;
	} uc;
	siginfo_t info;
};

#define UC_FP_XSTATE_         1u
#define UC_SIGCONTEXT_SS_     2u
#define UC_STRICT_RESTORE_SS_ 4u
#define FP_XSTATE_MAGIC1_     0x46505853u
#define FP_XSTATE_MAGIC2_     0x46505845u
#define FXSAVE_SW_RESERVED    464
#define XSAVE_HEADER          512

struct fpx_sw_bytes {
	uint32_t magic1, extended_size;
	uint64_t xfeatures;
	uint32_t xstate_size, padding[7];
};

static void put_fpstate(const struct rthread *t, uint8_t *out)
{
	struct fpx_sw_bytes sw = { .magic1 = FP_XSTATE_MAGIC1_ };
	uint32_t magic2 = FP_XSTATE_MAGIC2_;

	memcpy(out, t->xstate, t->xstate_len);
	/* ptrace shows the enabled feature mask in the software-reserved bytes */
	memcpy(&sw.xfeatures, t->xstate + FXSAVE_SW_RESERVED, 8);
	sw.xstate_size = t->xstate_len;
	sw.extended_size = t->xstate_len + 4;
	memcpy(out + FXSAVE_SW_RESERVED, &sw, sizeof(sw));
	memcpy(out + t->xstate_len, &magic2, 4);
}

size_t arch_signal_frame(const struct rthread *t, gaddr at, uint8_t *out, size_t size)
{
	struct user_regs_struct r = t->regs;
	size_t fp = ((at + sizeof(struct frame) + 63) & ~63ull) - at;
	size_t len = fp + t->xstate_len + 4;

	if (len > size || t->xstate_len < XSAVE_HEADER + 64)
		return 0;
	arch_rewind_syscall(&r, t->syscall_nr);
	struct frame f = {
		.uc = {
			.flags = UC_FP_XSTATE_ | UC_SIGCONTEXT_SS_ | UC_STRICT_RESTORE_SS_,
			.stack = { .ss_flags = SS_DISABLE },
			.cs = (uint16_t)r.cs, .ss = (uint16_t)r.ss,
			.fpstate = at + fp,
			.sigmask = t->sigmask,
		},
	};
	read_regs(&r, in_frame, N_OF(in_frame), f.uc.regs);
	memset(out, 0, len);
	memcpy(out, &f, sizeof(f));
	put_fpstate(t, out + fp);
	return len;
}

void arch_from_frame(const uint8_t frame[ARCH_FRAME_MIN], struct user_regs_struct *r,
		     uint64_t *sigmask)
{
	struct frame f;

	_Static_assert(sizeof(f) <= ARCH_FRAME_MIN, "the frame fits");
	memcpy(&f, frame, sizeof(f));
	write_regs(r, in_frame, N_OF(in_frame), f.uc.regs);
	*sigmask = f.uc.sigmask;
}

gaddr arch_frame_altstack(gaddr frame)
{
	return frame + __builtin_offsetof(struct frame, uc.stack);
}

long arch_find_syscall(const uint8_t *p, size_t n)
{
	for (size_t i = 0; i + 1 < n; i++)
		if (p[i] == 0x0f && p[i + 1] == 0x05)
			return (long)i;
	return -1;
}

struct tramp_data {
	uint64_t sigmask, regs[N_OF(in_trampoline)];
};
_Static_assert(sizeof(struct tramp_data) == 152, "as in stub.S");

size_t arch_trampoline(const struct rthread *t, uint8_t out[ARCH_TRAMP_MAX])
{
	size_t len = (size_t)(remote_tramp_end - remote_tramp_code);
	struct user_regs_struct r = t->regs;
	struct tramp_data data = { .sigmask = t->sigmask };

	arch_rewind_syscall(&r, t->syscall_nr);
	read_regs(&r, in_trampoline, N_OF(in_trampoline), data.regs);
	memcpy(out, remote_tramp_code, len);
	memcpy(out + (remote_tramp_data - remote_tramp_code), &data, sizeof(data));
	return len;
}

void arch_from_trampoline(const uint8_t *code, struct user_regs_struct *r, uint64_t *sigmask)
{
	struct tramp_data data;

	memcpy(&data, code + (remote_tramp_data - remote_tramp_code), sizeof(data));
	write_regs(r, in_trampoline, N_OF(in_trampoline), data.regs);
	*sigmask = data.sigmask;
}

size_t arch_image_size(const uint8_t *p, size_t n)
{
	Elf64_Ehdr eh;
	size_t end = 0;

	if (n < sizeof(eh))
		return 0;
	memcpy(&eh, p, sizeof(eh));
	for (size_t i = 0; i < eh.e_phnum; i++) {
		Elf64_Phdr ph;

		if (eh.e_phoff > n || (i + 1) * sizeof(ph) > n - eh.e_phoff)
			break;
		memcpy(&ph, p + eh.e_phoff + i * sizeof(ph), sizeof(ph));
		if (ph.p_type == PT_LOAD && ph.p_offset + ph.p_filesz > end)
			end = ph.p_offset + ph.p_filesz;
	}
	/* Section headers and what else follows up to the end of the page are not loaded, but are
	 * there. In Linux 6.1 they reach into another page than what is loaded. */
	if (eh.e_shoff < n && eh.e_shoff + eh.e_shnum * sizeof(Elf64_Shdr) > end)
		end = eh.e_shoff + eh.e_shnum * sizeof(Elf64_Shdr);
	end = (end + 4095) & ~4095ul;
	return end < n ? end : n;
}

long arch_find_padding(const uint8_t *p, size_t n, size_t len)
{
	size_t code = (size_t)(remote_tramp_data - remote_tramp_code), zeros = 0;

	for (size_t at = 0; at + len <= n; at += 16)
		if (!memcmp(p + at, remote_tramp_code, code))
			return (long)at; /* of one that was killed */
	while (zeros < n && p[n - 1 - zeros] == 0)
		zeros++;
	size_t at = (n - zeros + 15) & ~15ul;
	return at + len <= n ? (long)at : -1;
}

void arch_jump_to_stub(void *code, void *slot)
{
	__asm__ volatile("mov %0, %%rsp\n\tjmp *%1" : : "r"(slot), "r"(code) : "memory");
	__builtin_unreachable();
}
