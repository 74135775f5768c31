/* SPDX-License-Identifier: Apache-2.0 */
/* What the remote layer must know about x86-64. */
#pragma once

#include "remote.h"
#include "stub_layout.h"

extern const uint8_t remote_stub_code[], remote_stub_code_end[];
extern const uint8_t remote_tramp_code[], remote_tramp_data[], remote_tramp_end[];

/* The trampoline for a thread: it returns to where the thread was found. `size`: room in out;
 * returns its length. Room that long is looked for in the vDSO. */
#define ARCH_TRAMP_MAX 512
size_t arch_trampoline(const struct rthread *t, uint8_t out[ARCH_TRAMP_MAX]);
/* And back: what a trampoline that was left behind (ARCH_TRAMP_MAX bytes of it) would put back. */
void arch_from_trampoline(const uint8_t *code, struct user_regs_struct *r, uint64_t *sigmask);
/* Whole pages of an ELF image in memory (n: bytes at hand). */
size_t arch_image_size(const uint8_t *p, size_t n);
/* Offset of `len` bytes for a trampoline (16-byte aligned): zeros at the end of an image, or where
 * one stands that was left behind; or -1. */
long arch_find_padding(const uint8_t *p, size_t n, size_t len);

/* Registers that make a stopped thread enter the stub with this slot. */
void arch_regs_for_stub(struct user_regs_struct *r, gaddr code, gaddr slot);

/* Registers that make it run one system call through the instruction at `insn`. */
void arch_regs_for_syscall(struct user_regs_struct *r, gaddr insn, const uint64_t nr_args[7]);

/* The signal frame for the dead-man tail: rt_sigreturn puts the thread back to where it was
 * found. `at`: where the frame will be in the guest. Returns its length. */
size_t arch_signal_frame(const struct rthread *t, gaddr at, uint8_t *out, size_t size);
/* And back: what that frame would put back (FP state apart, which the stub does not touch). */
#define ARCH_FRAME_MIN 512
void arch_from_frame(const uint8_t frame[ARCH_FRAME_MIN], struct user_regs_struct *r,
		     uint64_t *sigmask);
/* Where sigaltstack(NULL, ...) must write so that the tail keeps the alternate stack. */
gaddr arch_frame_altstack(gaddr frame);

/* An interrupted system call that the kernel would have restarted: undoes the interruption in the
 * registers (rip on the syscall instruction again). `nr`: rthread.syscall_nr. False: there was
 * none. */
bool arch_rewind_syscall(struct user_regs_struct *r, int64_t nr);

/* Which call did restart_syscall (219) stand for? The kernel does not say; the code does: the
 * number loaded into eax in front of the `syscall` instruction at the end. REMOTE_NR_UNKNOWN. */
int64_t arch_restarted_nr(const uint8_t *code, size_t n);

/* Offset of a `syscall` instruction in a vDSO image, or -1. */
long arch_find_syscall(const uint8_t *p, size_t n);

/* Starts a forked child of ours in the stub; does not return. */
__attribute__((noreturn)) void arch_jump_to_stub(void *code, void *slot);
