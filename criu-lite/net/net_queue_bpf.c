/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The program that net_queue.h speaks of. In C it would be
 *
 *   if (skb->priority != NET_QUEUE_OPENS)
 *           return TCX_NEXT;
 *   slot->used = 1;
 *   slot->result = bpf_sk_assign_tcp_reqsk(skb, sock[0], &slot->attrs, sizeof(slot->attrs));
 *   return slot->result ? TCX_DROP : TCX_PASS;
 *
 * The kernel gives this function to programs under the GPL only: hence the licence of this file.
 */
#include "net_queue_bpf.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/bpf.h>
#include <net/if.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "cleanup.h"
#include "net_queue.h"

/* Not in the headers of Linux 6.1. */
#define TCX_INGRESS 46
#define TCX_NEXT (-1)
#define TCX_PASS 0
#define TCX_DROP 2

#define SLOT(field) ((int16_t)offsetof(struct queue_slot, field))

#define INSN(c, d, s, o, i) { .code = (c), .dst_reg = (d), .src_reg = (s), .off = (o), .imm = (i) }
#define MOV(d, s)       INSN(BPF_ALU64 | BPF_MOV | BPF_X, d, s, 0, 0)
#define MOV_IMM(d, i)   INSN(BPF_ALU64 | BPF_MOV | BPF_K, d, 0, 0, i)
#define ADD_IMM(d, i)   INSN(BPF_ALU64 | BPF_ADD | BPF_K, d, 0, 0, i)
#define LOAD(d, s, o)   INSN(BPF_LDX | BPF_MEM | BPF_W, d, s, o, 0)
#define STORE(d, o, s)  INSN(BPF_STX | BPF_MEM | BPF_W, d, s, o, 0)
#define STORE_IMM(d, o, i) INSN(BPF_ST | BPF_MEM | BPF_W, d, 0, o, i)
#define LOAD_MAP(d, fd) INSN(BPF_LD | BPF_DW | BPF_IMM, d, BPF_PSEUDO_MAP_FD, 0, fd), \
			INSN(0, 0, 0, 0, 0)
#define JUMP_EQ(d, i, o) INSN(BPF_JMP32 | BPF_JEQ | BPF_K, d, 0, o, (int32_t)(i))
#define JUMP_NULL(d, o) INSN(BPF_JMP | BPF_JEQ | BPF_K, d, 0, o, 0)
#define CALL(f)         INSN(BPF_JMP | BPF_CALL, 0, 0, 0, f)
#define CALL_KERNEL(id) INSN(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_KFUNC_CALL, 0, id)
#define EXIT            INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)

static int load(struct queue_bpf *b, int32_t assign, struct err *e)
{
	const struct bpf_insn prog[] = {
		/*  0 */ MOV(BPF_REG_6, BPF_REG_1),
		/*  1 */ LOAD(BPF_REG_2, BPF_REG_6, offsetof(struct __sk_buff, priority)),
		/*  2 */ JUMP_EQ(BPF_REG_2, NET_QUEUE_OPENS, 2),
		/*  3 */ MOV_IMM(BPF_REG_0, TCX_NEXT),
		/*  4 */ EXIT,
		/*  5 */ STORE_IMM(BPF_REG_10, -4, 0),
		/*  6 */ LOAD_MAP(BPF_REG_1, b->slot),
		/*  8 */ MOV(BPF_REG_2, BPF_REG_10),
		/*  9 */ ADD_IMM(BPF_REG_2, -4),
		/* 10 */ CALL(BPF_FUNC_map_lookup_elem),
		/* 11 */ JUMP_NULL(BPF_REG_0, 19),
		/* 12 */ MOV(BPF_REG_7, BPF_REG_0),
		/* 13 */ STORE_IMM(BPF_REG_7, SLOT(used), 1),
		/* 14 */ LOAD_MAP(BPF_REG_1, b->sock),
		/* 16 */ MOV(BPF_REG_2, BPF_REG_10),
		/* 17 */ ADD_IMM(BPF_REG_2, -4),
		/* 18 */ CALL(BPF_FUNC_map_lookup_elem),
		/* 19 */ JUMP_NULL(BPF_REG_0, 11),
		/* 20 */ MOV(BPF_REG_8, BPF_REG_0),
		/* 21 */ MOV(BPF_REG_1, BPF_REG_6),
		/* 22 */ MOV(BPF_REG_2, BPF_REG_8),
		/* 23 */ MOV(BPF_REG_3, BPF_REG_7),
		/* 24 */ MOV_IMM(BPF_REG_4, sizeof(struct queue_attrs)),
		/* 25 */ CALL_KERNEL(assign),
		/* 26 */ STORE(BPF_REG_7, SLOT(result), BPF_REG_0),
		/* 27 */ MOV(BPF_REG_1, BPF_REG_8),
		/* 28 */ CALL(BPF_FUNC_sk_release),
		/* 29 */ LOAD(BPF_REG_1, BPF_REG_7, SLOT(result)),
		/* 30 */ JUMP_EQ(BPF_REG_1, 0, 2),
		/* 31 */ MOV_IMM(BPF_REG_0, TCX_DROP),
		/* 32 */ EXIT,
		/* 33 */ MOV_IMM(BPF_REG_0, TCX_PASS),
		/* 34 */ EXIT,
	};

	b->prog = bpf_prog_load(BPF_PROG_TYPE_SCHED_CLS, "criu_lite_queue", "GPL", prog,
				sizeof(prog) / sizeof(*prog), NULL);
	if (b->prog < 0)
		return err_set(e, errno, "loading a BPF program");
	return 0;
}

/* The kernel's number of the function; 0: there is none. */
static int32_t find_assign(void)
{
	/* a kernel without BTF is nothing that it should speak of by itself */
	libbpf_set_print(NULL);
	struct btf *btf = btf__load_vmlinux_btf();
	int32_t id = btf ? btf__find_by_name_kind(btf, "bpf_sk_assign_tcp_reqsk", BTF_KIND_FUNC) :
			   0;

	btf__free(btf);
	return id > 0 ? id : 0;
}

static int make_maps(struct queue_bpf *b, struct err *e)
{
	b->slot = bpf_map_create(BPF_MAP_TYPE_ARRAY, "criu_lite_slot", sizeof(uint32_t),
				 sizeof(struct queue_slot), 1, NULL);
	if (b->slot < 0)
		return err_set(e, errno, "making a BPF map");
	b->sock = bpf_map_create(BPF_MAP_TYPE_SOCKMAP, "criu_lite_sock", sizeof(uint32_t),
				 sizeof(uint32_t), 1, NULL);
	if (b->sock < 0)
		return err_set(e, errno, "making a BPF map of sockets (CONFIG_BPF_STREAM_PARSER)");
	return 0;
}

int queue_bpf_open(struct queue_bpf *b, struct err *e)
{
	int32_t assign = find_assign();

	*b = (struct queue_bpf)QUEUE_BPF_INIT;
	if (!assign) {
		err_say(e, ENOTSUP, "this kernel cannot put connections into the queue of a "
				    "listening socket (Linux 6.9 can)");
		return err_remedy(e, "run Linux 6.9 or later, with CONFIG_DEBUG_INFO_BTF and "
				     "CONFIG_SYN_COOKIES");
	}
	if (make_maps(b, e) == 0 && load(b, assign, e) == 0) {
		b->link = bpf_link_create(b->prog, (int)if_nametoindex("lo"), TCX_INGRESS, NULL);
		if (b->link >= 0)
			return 0;
		err_set(e, errno, "attaching a BPF program to lo");
	}
	queue_bpf_close(b);
	return err_remedy(e, "CAP_BPF and CAP_NET_ADMIN are needed");
}

void queue_bpf_close(struct queue_bpf *b)
{
	cleanup_close(&b->link);
	cleanup_close(&b->prog);
	cleanup_close(&b->sock);
	cleanup_close(&b->slot);
}
