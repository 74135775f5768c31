/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The stub that runs batches inside a guest. Position independent; its only state is the
 * slot that rsp points to (struct stub_slot in remote_priv.h), so that a clone child with
 * another stack has another slot.
 *
 *   run every entry from slot.cur to slot.end;
 *   say so (8 bytes on slot.fd), sleep in read();
 *   8 bytes came: go on with the new slot.cur; anything else (our end is closed): the
 *   dead-man tail: close the socket and return through the prepared signal frame.
 */
#include "stub_layout.h"

	.section .rodata
	.balign 16
	.globl remote_stub_code
	.globl remote_stub_code_end
remote_stub_code:
1:	mov	SLOT_CUR(%rsp), %rbx
	cmp	SLOT_END(%rsp), %rbx
	je	2f
	mov	0(%rbx), %rax
	mov	8(%rbx), %rdi
	mov	16(%rbx), %rsi
	mov	24(%rbx), %rdx
	mov	32(%rbx), %r10
	mov	40(%rbx), %r8
	mov	48(%rbx), %r9
	syscall
	mov	SLOT_CUR(%rsp), %rbx	/* again: a clone child has another slot */
	mov	%rax, 56(%rbx)
	add	$64, %rbx
	mov	%rbx, SLOT_CUR(%rsp)
	jmp	1b
2:	mov	$44, %eax		/* sendto: MSG_NOSIGNAL, our death is no SIGPIPE */
	mov	SLOT_FD(%rsp), %edi
	lea	SLOT_MSG(%rsp), %rsi
	mov	$8, %edx
	mov	$0x4000, %r10d
	xor	%r8d, %r8d
	xor	%r9d, %r9d
	syscall
	xor	%eax, %eax		/* read */
	mov	SLOT_FD(%rsp), %edi
	lea	SLOT_MSG(%rsp), %rsi
	mov	$8, %edx
	syscall
	cmp	$8, %rax
	je	1b
	mov	$3, %eax		/* close */
	mov	SLOT_FD(%rsp), %edi
	syscall
	lea	SLOT_FRAME+8(%rsp), %rsp
	mov	$15, %eax		/* rt_sigreturn */
	syscall
	ud2
remote_stub_code_end:

/*
 * The trampoline: one system call by hand before there is a stub, and after. It stands in the zero
 * padding of the vDSO. While we live, ptrace takes over at the exit of the first system call; if we
 * have died, it goes on and puts everything back: signal mask, flags, registers.
 */
	.balign 16
	.globl remote_tramp_code
	.globl remote_tramp_data
	.globl remote_tramp_end
remote_tramp_code:
	syscall
	mov	$14, %eax		/* rt_sigprocmask(SIG_SETMASK) */
	mov	$2, %edi
	lea	9f(%rip), %rsi
	xor	%edx, %edx
	mov	$8, %r10d
	syscall
	lea	9f+8(%rip), %rsp
	popfq
	mov	9f+16(%rip), %r15
	mov	9f+24(%rip), %r14
	mov	9f+32(%rip), %r13
	mov	9f+40(%rip), %r12
	mov	9f+48(%rip), %rbp
	mov	9f+56(%rip), %rbx
	mov	9f+64(%rip), %r11
	mov	9f+72(%rip), %r10
	mov	9f+80(%rip), %r9
	mov	9f+88(%rip), %r8
	mov	9f+96(%rip), %rax
	mov	9f+104(%rip), %rcx
	mov	9f+112(%rip), %rdx
	mov	9f+120(%rip), %rsi
	mov	9f+128(%rip), %rdi
	mov	9f+136(%rip), %rsp
	jmp	*9f+144(%rip)
	.balign 8
remote_tramp_data:
9:	.zero	152			/* mask, flags, the registers in that order, rip */
remote_tramp_end:
	.section .note.GNU-stack, "", @progbits
