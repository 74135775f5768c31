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
	.section .note.GNU-stack, "", @progbits
