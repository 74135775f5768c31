/* SPDX-License-Identifier: Apache-2.0 */
/* /proc/PID/stat, status, limits-free: pure parsers of one task's own files. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "err.h"
#include "vec.h"

struct proc_stat {             /* fields as numbered in proc(5) */
	pid_t pid, ppid, pgrp, session, tpgid;
	char comm[64];         /* as between the outermost parentheses */
	char state;            /* R S D T t Z X I */
	uint32_t flags;        /* PF_*: PF_KTHREAD 0x00200000 */
	uint64_t start_time, vsize;
	uint64_t start_code, end_code, start_stack;
	uint64_t start_data, end_data, start_brk;
	uint64_t arg_start, arg_end, env_start, env_end;
	int32_t exit_code;
	int32_t num_threads, nice, exit_signal;
	uint32_t tty_nr;
};
int proc_stat_parse(const char *text, size_t n, struct proc_stat *out, struct err *e);

struct proc_status {
	char state;
	uint32_t umask;
	pid_t tgid, pid, ppid, tracer;
	uint32_t uid[4], gid[4];              /* real, effective, saved, fs */
	VEC(uint32_t) groups;
	uint64_t cap_inh, cap_prm, cap_eff, cap_bnd, cap_amb;
	uint32_t no_new_privs, seccomp;       /* seccomp: mode 0 1 2 */
	uint64_t sig_pnd, shd_pnd, sig_blk, sig_ign, sig_cgt;
	uint64_t vm_rss, vm_locked, vm_size;  /* bytes */
	bool thp_disabled;                    /* "THP_enabled: 0" */
	uint32_t ns_pids;                     /* numbers in NSpid (>1: nested pid namespace) */
	pid_t nspid;                          /* the innermost */
};
int proc_status_parse(const char *text, size_t n, struct proc_status *out, struct err *e);
void proc_status_free(struct proc_status *s);

/* Space separated pids: /proc/PID/task/TID/children. */
typedef VEC(pid_t) pid_vec;
int proc_children_parse(const char *text, size_t n, pid_vec *out, struct err *e);

/* /proc/PID/timers (CONFIG_CHECKPOINT_RESTORE): POSIX timers of a process. */
struct proc_timer {
	int32_t id;
	int32_t signo;
	uint64_t sival_ptr;
	int32_t notify;               /* SIGEV_SIGNAL, SIGEV_NONE, SIGEV_THREAD_ID (4) */
	int32_t notify_pid;
	int32_t clock;
};
typedef VEC(struct proc_timer) proc_timer_vec;
int proc_timers_parse(const char *text, size_t n, proc_timer_vec *out, struct err *e);

/* mountinfo. */
struct proc_mount {
	int32_t id, parent;
	uint32_t major, minor;
	char *root, *point, *fstype, *source, *options, *super_options;
};
typedef VEC(struct proc_mount) proc_mount_vec;
int proc_mountinfo_parse(const char *text, size_t n, proc_mount_vec *out, struct err *e);
void proc_mountinfo_free(proc_mount_vec *v);

/* auxv: pairs of u64 up to AT_NULL. Value of `type` or 0. */
uint64_t proc_auxv_get(const uint8_t *p, size_t n, uint64_t type);
