/* SPDX-License-Identifier: Apache-2.0 */
#include "proc_task.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "proc_text.h"

/* ---- stat ---- */

/* The kernel writes a newline in a name as \n and a backslash as \\. */
static bool take_comm(const struct ptext *name, char comm[64])
{
	size_t n = 0;

	for (const char *p = name->p; p < name->end; n++) {
		char c = *p++;

		if (c == '\\' && p < name->end && (*p == 'n' || *p == '\\'))
			c = *p++ == 'n' ? '\n' : '\\';
		if (n == 63 || !c)
			return false;
		comm[n] = c;
	}
	comm[n] = '\0';
	return true;
}

/* Numbers of proc(5): fields 4 to 52, after the state. */
enum {
	ST_PPID = 4, ST_PGRP, ST_SESSION, ST_TTY, ST_TPGID, ST_FLAGS,
	ST_NICE = 19, ST_THREADS, ST_START_TIME = 22, ST_VSIZE,
	ST_START_CODE = 26, ST_END_CODE, ST_START_STACK, ST_EXIT_SIGNAL = 38,
	ST_START_DATA = 45, ST_END_DATA, ST_START_BRK, ST_ARG_START, ST_ARG_END,
	ST_ENV_START, ST_ENV_END, ST_EXIT_CODE, ST_END
};

static bool take_numbers(struct ptext *t, uint64_t f[ST_END])
{
	for (int i = ST_PPID; i < ST_END; i++) {
		int64_t negative;

		ptext_blanks(t);
		if (!ptext_empty(t) && *t->p == '-') {
			if (!ptext_i64(t, &negative))
				return false;
			f[i] = (uint64_t)negative;
		} else if (!ptext_u64(t, 10, &f[i])) {
			return false;
		}
	}
	return true;
}

static bool fits_i32(uint64_t v)
{
	return (int64_t)v >= INT32_MIN && (int64_t)v <= INT32_MAX;
}

static bool take_stat(struct ptext t, struct proc_stat *s)
{
	static const int small[] = {ST_PPID, ST_PGRP,    ST_SESSION,     ST_TTY,      ST_TPGID,
				    ST_NICE, ST_THREADS, ST_EXIT_SIGNAL, ST_EXIT_CODE};
	uint64_t f[ST_END] = {0};
	struct ptext name;

	if (!ptext_i32(&t, &s->pid) || !ptext_word(&t, " ("))
		return false;
	name = (struct ptext){t.p, memrchr(t.p, ')', (size_t)(t.end - t.p))};
	if (!name.end || !take_comm(&name, s->comm))
		return false;
	t.p = name.end + 1;
	if (!ptext_char(&t, ' ') || ptext_empty(&t))
		return false;
	s->state = *t.p++;
	if (!take_numbers(&t, f))
		return false;
	for (size_t i = 0; i < sizeof(small) / sizeof(*small); i++)
		if (!fits_i32(f[small[i]]))
			return false;
	if (f[ST_FLAGS] > UINT32_MAX)
		return false;

	s->ppid = (pid_t)f[ST_PPID];
	s->pgrp = (pid_t)f[ST_PGRP];
	s->session = (pid_t)f[ST_SESSION];
	s->tty_nr = (uint32_t)f[ST_TTY];
	s->tpgid = (pid_t)f[ST_TPGID];
	s->flags = (uint32_t)f[ST_FLAGS];
	s->nice = (int32_t)f[ST_NICE];
	s->num_threads = (int32_t)f[ST_THREADS];
	s->start_time = f[ST_START_TIME];
	s->vsize = f[ST_VSIZE];
	s->start_code = f[ST_START_CODE];
	s->end_code = f[ST_END_CODE];
	s->start_stack = f[ST_START_STACK];
	s->exit_signal = (int32_t)f[ST_EXIT_SIGNAL];
	s->start_data = f[ST_START_DATA];
	s->end_data = f[ST_END_DATA];
	s->start_brk = f[ST_START_BRK];
	s->arg_start = f[ST_ARG_START];
	s->arg_end = f[ST_ARG_END];
	s->env_start = f[ST_ENV_START];
	s->env_end = f[ST_ENV_END];
	s->exit_code = (int32_t)f[ST_EXIT_CODE];
	return true;
}

int proc_stat_parse(const char *text, size_t n, struct proc_stat *out, struct err *e)
{
	struct ptext all = {text, text + n};

	*out = (struct proc_stat){0};
	return take_stat(all, out) ? 0 : ptext_bad(&all, "stat", e);
}

/* ---- status ---- */

static bool take_4(struct ptext *t, uint32_t v[4])
{
	return ptext_u32(t, 10, &v[0]) && ptext_u32(t, 10, &v[1]) && ptext_u32(t, 10, &v[2]) &&
	       ptext_u32(t, 10, &v[3]);
}

static bool take_groups(struct ptext *t, struct proc_status *s)
{
	uint32_t gid;

	while (ptext_u32(t, 10, &gid))
		vec_push(&s->groups, gid);
	ptext_blanks(t);
	return ptext_empty(t);
}

static bool take_nspids(struct ptext *t, struct proc_status *s)
{
	pid_t pid;

	while (ptext_i32(t, &pid)) {
		s->nspid = pid;
		s->ns_pids++;
	}
	ptext_blanks(t);
	return ptext_empty(t) && s->ns_pids;
}

static bool take_state(struct ptext *t, struct proc_status *s)
{
	if (ptext_empty(t))
		return false;
	s->state = *t->p++;
	return true;
}

static bool take_thp(struct ptext *t, struct proc_status *s)
{
	uint32_t on;

	if (!ptext_u32(t, 10, &on))
		return false;
	s->thp_disabled = !on;
	return true;
}

enum status_kind { S_DEC, S_OCT, S_HEX, S_PID, S_KB, S_IDS, S_OTHER };

/* A process has all of the needed ones in every state, zombies too; a default would be dangerous
 * (uid 0, no capabilities dropped). */
static const struct status_row {
	const char *key;
	enum status_kind kind;
	bool needed;
	size_t at;
	bool (*take)(struct ptext *t, struct proc_status *s);
} status_rows[] = {
#define AT(field) offsetof(struct proc_status, field)
	{"State", S_OTHER, true, 0, take_state},
	{"Umask", S_OCT, false, AT(umask)},
	{"Tgid", S_PID, true, AT(tgid)},
	{"Pid", S_PID, true, AT(pid)},
	{"PPid", S_PID, true, AT(ppid)},
	{"TracerPid", S_PID, true, AT(tracer)},
	{"Uid", S_IDS, true, AT(uid)},
	{"Gid", S_IDS, true, AT(gid)},
	{"Groups", S_OTHER, true, 0, take_groups},
	{"NSpid", S_OTHER, false, 0, take_nspids},
	{"VmSize", S_KB, false, AT(vm_size)},
	{"VmLck", S_KB, false, AT(vm_locked)},
	{"VmRSS", S_KB, false, AT(vm_rss)},
	{"THP_enabled", S_OTHER, false, 0, take_thp},
	{"SigPnd", S_HEX, true, AT(sig_pnd)},
	{"ShdPnd", S_HEX, true, AT(shd_pnd)},
	{"SigBlk", S_HEX, true, AT(sig_blk)},
	{"SigIgn", S_HEX, true, AT(sig_ign)},
	{"SigCgt", S_HEX, true, AT(sig_cgt)},
	{"CapInh", S_HEX, true, AT(cap_inh)},
	{"CapPrm", S_HEX, true, AT(cap_prm)},
	{"CapEff", S_HEX, true, AT(cap_eff)},
	{"CapBnd", S_HEX, true, AT(cap_bnd)},
	{"CapAmb", S_HEX, true, AT(cap_amb)},
	{"NoNewPrivs", S_DEC, true, AT(no_new_privs)},
	{"Seccomp", S_DEC, false, AT(seccomp)},
#undef AT
};
#define STATUS_ROWS (sizeof(status_rows) / sizeof(*status_rows))

static bool take_value(struct ptext *t, const struct status_row *row, struct proc_status *s)
{
	void *at = (char *)s + row->at;
	uint64_t kb;

	switch (row->kind) {
	case S_DEC:
		return ptext_u32(t, 10, at);
	case S_OCT:
		return ptext_u32(t, 8, at);
	case S_HEX:
		return ptext_u64(t, 16, at);
	case S_PID:
		return ptext_i32(t, at);
	case S_KB:
		if (!ptext_u64(t, 10, &kb) || kb > UINT64_MAX / 1024)
			return false;
		*(uint64_t *)at = kb * 1024;
		return ptext_word(t, " kB");
	case S_IDS:
		return take_4(t, at);
	default:
		return row->take(t, s);
	}
}

int proc_status_parse(const char *text, size_t n, struct proc_status *out, struct err *e)
{
	struct ptext all = {text, text + n}, line;
	uint64_t seen = 0;

	*out = (struct proc_status){0};
	while (ptext_line(&all, &line)) {
		struct ptext t = line;

		for (size_t i = 0; i < STATUS_ROWS; i++) {
			if (seen & 1ull << i || !ptext_key(&t, status_rows[i].key))
				continue;
			seen |= 1ull << i;
			if (!take_value(&t, &status_rows[i], out)) {
				proc_status_free(out);
				return ptext_bad(&line, "status", e);
			}
			break;
		}
	}
	for (size_t i = 0; i < STATUS_ROWS; i++) {
		if (!status_rows[i].needed || seen & 1ull << i)
			continue;
		proc_status_free(out);
		return err_say(e, EBADMSG, "status: no line '%s:'", status_rows[i].key);
	}
	return 0;
}

void proc_status_free(struct proc_status *s)
{
	vec_free(&s->groups);
}

/* ---- children, timers ---- */

int proc_children_parse(const char *text, size_t n, pid_vec *out, struct err *e)
{
	struct ptext all = {text, text + n}, t = all;
	bool ok = true;
	pid_t pid;

	memset(out, 0, sizeof(*out));
	while (ok && ptext_i32(&t, &pid)) {
		ok = pid > 0;
		vec_push(out, pid);
	}
	ptext_blanks(&t);
	ptext_char(&t, '\n');
	if (ok && ptext_empty(&t))
		return 0;
	vec_free(out);
	return ptext_bad(&all, "children", e);
}

/* "notify: signal/tid.6596" */
static bool take_notify(struct ptext *t, struct proc_timer *timer)
{
	static const char *const how[] = {"signal", "none", "thread"}; /* SIGEV_* */

	for (int i = 0; i < 3; i++) {
		if (!ptext_word(t, how[i]))
			continue;
		timer->notify = i;
		if (ptext_word(t, "/tid."))
			timer->notify |= 4; /* SIGEV_THREAD_ID */
		else if (!ptext_word(t, "/pid."))
			return false;
		return ptext_i32(t, &timer->notify_pid);
	}
	return false;
}

static bool take_timer_line(struct ptext t, proc_timer_vec *out)
{
	struct proc_timer *timer;

	if (ptext_key(&t, "ID")) {
		timer = vec_new(out);
		return ptext_i32(&t, &timer->id) && timer->id >= 0 && ptext_empty(&t);
	}
	if (!out->n)
		return false;
	timer = &out->at[out->n - 1];
	if (ptext_key(&t, "signal"))
		return ptext_i32(&t, &timer->signo) && ptext_char(&t, '/') &&
		       ptext_u64(&t, 16, &timer->sival_ptr);
	if (ptext_key(&t, "notify"))
		return take_notify(&t, timer);
	if (ptext_key(&t, "ClockID"))
		return ptext_i32(&t, &timer->clock);
	return true;
}

int proc_timers_parse(const char *text, size_t n, proc_timer_vec *out, struct err *e)
{
	struct ptext all = {text, text + n}, line;

	memset(out, 0, sizeof(*out));
	while (ptext_line(&all, &line)) {
		if (take_timer_line(line, out))
			continue;
		vec_free(out);
		return ptext_bad(&line, "timers", e);
	}
	return 0;
}

/* ---- auxv ---- */

uint64_t proc_auxv_get(const uint8_t *p, size_t n, uint64_t type)
{
	for (; n >= 16; p += 16, n -= 16) {
		uint64_t pair[2];

		memcpy(pair, p, sizeof(pair));
		if (pair[0] == type)
			return pair[1];
		if (!pair[0]) /* AT_NULL */
			break;
	}
	return 0;
}
