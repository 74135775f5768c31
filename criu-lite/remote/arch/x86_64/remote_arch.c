/* SPDX-License-Identifier: Apache-2.0 */
#include "remote_arch.h"

#include <elf.h>
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

/* The kernel's rt_sigframe: return address, ucontext, siginfo; FP state behind it. */
struct frame {
	uint64_t pretcode;
	struct {
		uint64_t flags, link;
		stack_t stack;
		uint64_t r8, r9, r10, r11, r12, r13, r14, r15, di, si, bp, bx, dx, ax, cx, sp, ip,
			eflags;
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
			.r8 = r.r8, .r9 = r.r9, .r10 = r.r10, .r11 = r.r11, .r12 = r.r12,
			.r13 = r.r13, .r14 = r.r14, .r15 = r.r15, .di = r.rdi, .si = r.rsi,
			.bp = r.rbp, .bx = r.rbx, .dx = r.rdx, .ax = r.rax, .cx = r.rcx,
			.sp = r.rsp, .ip = r.rip, .eflags = r.eflags,
			.cs = (uint16_t)r.cs, .ss = (uint16_t)r.ss,
			.fpstate = at + fp,
			.sigmask = t->sigmask,
		},
	};
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
	r->r8 = f.uc.r8;
	r->r9 = f.uc.r9;
	r->r10 = f.uc.r10;
	r->r11 = f.uc.r11;
	r->r12 = f.uc.r12;
	r->r13 = f.uc.r13;
	r->r14 = f.uc.r14;
	r->r15 = f.uc.r15;
	r->rdi = f.uc.di;
	r->rsi = f.uc.si;
	r->rbp = f.uc.bp;
	r->rbx = f.uc.bx;
	r->rdx = f.uc.dx;
	r->rax = f.uc.ax;
	r->rcx = f.uc.cx;
	r->rsp = f.uc.sp;
	r->rip = f.uc.ip;
	r->eflags = f.uc.eflags;
	r->orig_rax = (unsigned long long)-1;
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

size_t arch_trampoline(const struct rthread *t, uint8_t out[ARCH_TRAMP_MAX])
{
	size_t len = (size_t)(remote_tramp_end - remote_tramp_code);
	struct user_regs_struct r = t->regs;

	arch_rewind_syscall(&r, t->syscall_nr);
	const uint64_t data[] = {
		t->sigmask, r.eflags, r.r15, r.r14, r.r13, r.r12, r.rbp, r.rbx, r.r11, r.r10,
		r.r9, r.r8, r.rax, r.rcx, r.rdx, r.rsi, r.rdi, r.rsp, r.rip,
	};
	_Static_assert(sizeof(data) == 152, "as in stub.S");
	memcpy(out, remote_tramp_code, len);
	memcpy(out + (remote_tramp_data - remote_tramp_code), data, sizeof(data));
	return len;
}

void arch_from_trampoline(const uint8_t *code, struct user_regs_struct *r, uint64_t *sigmask)
{
	uint64_t d[19];

	memcpy(d, code + (remote_tramp_data - remote_tramp_code), sizeof(d));
	*sigmask = d[0];
	r->eflags = d[1];
	r->r15 = d[2];
	r->r14 = d[3];
	r->r13 = d[4];
	r->r12 = d[5];
	r->rbp = d[6];
	r->rbx = d[7];
	r->r11 = d[8];
	r->r10 = d[9];
	r->r9 = d[10];
	r->r8 = d[11];
	r->rax = d[12];
	r->rcx = d[13];
	r->rdx = d[14];
	r->rsi = d[15];
	r->rdi = d[16];
	r->rsp = d[17];
	r->rip = d[18];
	r->orig_rax = (unsigned long long)-1;
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
	/* Section headers and what else follows up to the end of the page are not loaded, but are there. In
	 * Linux 6.1 they reach into another page than what is loaded. */
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
