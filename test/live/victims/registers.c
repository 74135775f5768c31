/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every general register, some flags, and the FS and GS bases, held in a busy loop of two threads.
 *
 * The loop keeps nothing in memory but what GS points to: a table of what each register must be.
 */
#include "victim.h"

#include <asm/prctl.h>

enum { SLOT_COUNT = 16, SLOT_RSP, SLOT_FLAGS, SLOTS };

static _Thread_local uint64_t tls_word;
static _Atomic int done;

/* Spins until the count at %gs:16*8 runs out; returns 0, or 1 + the number of a wrong register. */
uint64_t hold_registers(void);
asm(".text\n"
    ".globl hold_registers\n"
    ".type hold_registers, @function\n"
    "hold_registers:\n"
    "	push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
    "	mov %rsp, %gs:17*8\n"
    "	mov %gs:0*8, %rax;  mov %gs:1*8, %rbx;  mov %gs:2*8, %rcx;  mov %gs:3*8, %rdx\n"
    "	mov %gs:4*8, %rsi;  mov %gs:5*8, %rdi;  mov %gs:6*8, %rbp\n"
    "	mov %gs:8*8, %r8;   mov %gs:9*8, %r9;   mov %gs:10*8, %r10; mov %gs:11*8, %r11\n"
    "	mov %gs:12*8, %r12; mov %gs:13*8, %r13; mov %gs:14*8, %r14; mov %gs:15*8, %r15\n"
    "1:\n"
    ".macro same slot reg\n"
    "	cmp %gs:\\slot*8, %\\reg\n"
    "	jne 90\\slot\\()f\n"
    ".endm\n"
    "	same 0 rax; same 1 rbx; same 2 rcx; same 3 rdx; same 4 rsi; same 5 rdi; same 6 rbp\n"
    "	same 8 r8; same 9 r9; same 10 r10; same 11 r11; same 12 r12; same 13 r13\n"
    "	same 14 r14; same 15 r15; same 17 rsp\n"
    "	std; stc\n"
    "	mov $30, %ecx\n"
    "2:	dec %ecx\n"
    "	jnz 2b\n"
    "	jnc 9020f\n"
    "	mov %gs:2*8, %rcx\n"
    "	decq %gs:16*8\n"
    "	jnz 1b\n"
    "	cld\n"
    "	xor %eax, %eax\n"
    "	jmp 99f\n"
    ".macro wrong slot\n"
    "90\\slot:\n"
    "	mov $1+\\slot, %eax\n"
    "	cld\n"
    "	jmp 99f\n"
    ".endm\n"
    "	wrong 0; wrong 1; wrong 2; wrong 3; wrong 4; wrong 5; wrong 6; wrong 8; wrong 9; wrong 10\n"
    "	wrong 11; wrong 12; wrong 13; wrong 14; wrong 15; wrong 17; wrong 20\n"
    "99:	mov %gs:17*8, %rsp\n"
    "	pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
    "	ret\n"
    ".size hold_registers, .-hold_registers\n");

static void one_round(uint64_t *table, uint64_t seed, uint64_t fs)
{
	uint64_t now_fs, now_gs, bad;
	unsigned int i;

	for (i = 0; i < 16; i++)
		table[i] = v_mix(seed * 16 + i);
	/* The loop counts in ecx, which clears the upper half: it is loaded again each time. */
	table[SLOT_COUNT] = 500000;
	tls_word = table[0];
	bad = hold_registers();
	CHECK(!bad, "register %d of the table is wrong", (int)bad - 1);
	CHECK(tls_word == v_mix(seed * 16), "thread-local word is wrong");
	SYS(syscall(SYS_arch_prctl, ARCH_GET_FS, &now_fs));
	SYS(syscall(SYS_arch_prctl, ARCH_GET_GS, &now_gs));
	CHECK(now_fs == fs, "FS base %#lx, was %#lx", now_fs, fs);
	CHECK(now_gs == (uint64_t)table, "GS base %#lx, was %p", now_gs, (void *)table);
}

static void *hold(void *arg)
{
	static _Thread_local uint64_t table[SLOTS];
	uint64_t seed = (uintptr_t)arg, fs;

	SYS(syscall(SYS_arch_prctl, ARCH_GET_FS, &fs));
	SYS(syscall(SYS_arch_prctl, ARCH_SET_GS, table));
	while (!v_stopping())
		one_round(table, seed += 2, fs);
	done++;
	/* The thread is part of the last comparison. */
	while (done < 2 || gettid() != getpid())
		v_sleep_ms(10);
	return NULL;
}

int main(int argc, char **argv)
{
	v_init(argc, argv);
	v_thread(hold, (void *)1);
	v_ready();
	hold((void *)2);
	v_ok();
}
