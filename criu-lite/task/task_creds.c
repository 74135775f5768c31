/* SPDX-License-Identifier: Apache-2.0 */
/* User and group ids, capabilities, securebits, no_new_privs: those of each thread. */
#include <errno.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "log.h"
#include "task_parts.h"

#define CAP_WORDS 2
#define NGROUPS_MAX_BATCH 8192 /* half of the room in a batch */

/* ---- capture ---- */

void task_creds_ask(struct part *p)
{
	p->cred.securebits = batch_call(&p->batch, "prctl(PR_GET_SECUREBITS)", SYS_prctl,
					PR_GET_SECUREBITS, 0, 0, 0, 0);
}

static void put_caps(uint64_t caps, size_t *n, uint32_t **at)
{
	const uint32_t words[CAP_WORDS] = {(uint32_t)caps, (uint32_t)(caps >> 32)};

	*n = CAP_WORDS;
	*at = xmemdup(words, sizeof(words));
}

void task_creds_take(struct part *p)
{
	const struct proc_status *s = &p->status;
	CredsEntry *m = MSG_NEW(CredsEntry, creds_entry);

	m->uid = s->uid[0], m->euid = s->uid[1], m->suid = s->uid[2], m->fsuid = s->uid[3];
	m->gid = s->gid[0], m->egid = s->gid[1], m->sgid = s->gid[2], m->fsgid = s->gid[3];
	put_caps(s->cap_inh, &m->n_cap_inh, &m->cap_inh);
	put_caps(s->cap_prm, &m->n_cap_prm, &m->cap_prm);
	put_caps(s->cap_eff, &m->n_cap_eff, &m->cap_eff);
	put_caps(s->cap_bnd, &m->n_cap_bnd, &m->cap_bnd);
	put_caps(s->cap_amb, &m->n_cap_amb, &m->cap_amb);
	m->secbits = (uint32_t)p->batch.call.at[p->cred.securebits].ret;
	if (s->groups.n) {
		m->n_groups = s->groups.n;
		m->groups = xmemdup(s->groups.at, s->groups.n * sizeof(*s->groups.at));
	}
	m->has_no_new_privs = 1;
	m->no_new_privs = s->no_new_privs;
	p->core->thread_core->creds = m;
}

/* ---- apply ---- */

struct wanted {
	uint64_t inh, prm, eff, bnd, amb;
};

static uint64_t get_caps(size_t n, const uint32_t *words)
{
	return (n > 0 ? words[0] : 0) | (n > 1 ? (uint64_t)words[1] << 32 : 0);
}

static bool same_groups(const CredsEntry *m, const struct proc_status *now)
{
	return m->n_groups == now->groups.n &&
	       (!m->n_groups || !memcmp(m->groups, now->groups.at, m->n_groups * sizeof(uint32_t)));
}

static bool same_ids(const CredsEntry *m, const struct proc_status *now)
{
	const uint32_t uid[4] = {m->uid, m->euid, m->suid, m->fsuid};
	const uint32_t gid[4] = {m->gid, m->egid, m->sgid, m->fsgid};

	return !memcmp(uid, now->uid, sizeof(uid)) && !memcmp(gid, now->gid, sizeof(gid)) &&
	       same_groups(m, now);
}

static bool same_caps(const struct wanted *w, const struct proc_status *now)
{
	return w->inh == now->cap_inh && w->prm == now->cap_prm && w->eff == now->cap_eff &&
	       w->bnd == now->cap_bnd && w->amb == now->cap_amb;
}

static int may(const struct wanted *w, const struct proc_status *now, struct err *e)
{
	uint64_t missing = w->prm & ~now->cap_prm;

	if (missing) {
		err_say(e, EPERM, "the program holds capabilities that criu-lite does not "
			"(mask 0x%llx, first is number %d)", (unsigned long long)missing,
			__builtin_ctzll(missing));
		return err_remedy(e, "run criu-lite with them (as root outside of a container)");
	}
	if (w->bnd & ~now->cap_bnd)
		log_warn("capability bounding set is smaller on this host by 0x%llx",
			 (unsigned long long)(w->bnd & ~now->cap_bnd));
	return 0;
}

static void put_capset(struct batch *b, uint64_t eff, uint64_t prm, uint64_t inh)
{
	struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct data[CAP_WORDS] = {
		{(uint32_t)eff, (uint32_t)prm, (uint32_t)inh},
		{(uint32_t)(eff >> 32), (uint32_t)(prm >> 32), (uint32_t)(inh >> 32)},
	};

	batch_call(b, "capset", SYS_capset, batch_in(b, &head, sizeof(head)),
		   batch_in(b, data, sizeof(data)));
}

static void put_ids(struct batch *b, const CredsEntry *m, const struct proc_status *now)
{
	gaddr groups = m->n_groups ? batch_in(b, m->groups, m->n_groups * sizeof(uint32_t)) : 0;

	if (!same_groups(m, now))
		batch_call(b, "setgroups", SYS_setgroups, m->n_groups, groups);
	/* The fs ids follow the effective ones, so they come last. */
	batch_call(b, "setresgid", SYS_setresgid, m->gid, m->egid, m->sgid);
	batch_call(b, "setfsgid", SYS_setfsgid, m->fsgid);
	batch_call(b, "setresuid", SYS_setresuid, m->uid, m->euid, m->suid);
	batch_call(b, "setfsuid", SYS_setfsuid, m->fsuid);
}

static void put_caps_of(struct batch *b, const struct wanted *w, const struct proc_status *now)
{
	/* Inheritable first: it may hold what the bounding set no longer will, and ambient
	 * capabilities must be inheritable and permitted. */
	put_capset(b, now->cap_prm, now->cap_prm, w->inh);
	if (now->cap_amb & ~w->amb)
		batch_call(b, "prctl(PR_CAP_AMBIENT_CLEAR_ALL)", SYS_prctl, PR_CAP_AMBIENT,
			   PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	for (int cap = 0; cap < 64; cap++)
		if (w->amb >> cap & 1)
			batch_call(b, "prctl(PR_CAP_AMBIENT_RAISE)", SYS_prctl, PR_CAP_AMBIENT,
				   PR_CAP_AMBIENT_RAISE, cap, 0, 0);
	for (int cap = 0; cap < 64; cap++)
		if ((now->cap_bnd & ~w->bnd) >> cap & 1)
			batch_call(b, "prctl(PR_CAPBSET_DROP)", SYS_prctl, PR_CAPBSET_DROP, cap, 0,
				   0, 0);
}

int task_creds_put(struct batch *b, const CoreEntry *core, const struct proc_status *now,
		   struct err *e)
{
	const CredsEntry *m = core->thread_core->creds;
	uint32_t bits = (uint32_t)prctl(PR_GET_SECUREBITS, 0, 0, 0, 0); /* the shell's too */
	struct wanted w;
	int ret;

	if (!m)
		return err_say(e, EBADMSG, "no credentials");
	if (m->n_groups > NGROUPS_MAX_BATCH)
		return err_say(e, ENOTSUP, "%zu supplementary groups", m->n_groups);
	w = (struct wanted){
		get_caps(m->n_cap_inh, m->cap_inh), get_caps(m->n_cap_prm, m->cap_prm),
		get_caps(m->n_cap_eff, m->cap_eff), get_caps(m->n_cap_bnd, m->cap_bnd),
		get_caps(m->n_cap_amb, m->cap_amb),
	};
	if ((ret = may(&w, now, e)) < 0)
		return ret;
	if (!same_ids(m, now) || !same_caps(&w, now) || m->secbits != bits) {
		/* With this bit a change of ids leaves the capabilities alone. */
		batch_call(b, "prctl(PR_SET_SECUREBITS)", SYS_prctl, PR_SET_SECUREBITS,
			   bits | SECBIT_NO_SETUID_FIXUP, 0, 0, 0);
		if (!same_ids(m, now))
			put_ids(b, m, now);
		put_caps_of(b, &w, now);
		batch_call(b, "prctl(PR_SET_SECUREBITS)", SYS_prctl, PR_SET_SECUREBITS, m->secbits,
			   0, 0, 0);
		put_capset(b, w.eff, w.prm, w.inh);
	}
	if (m->no_new_privs)
		batch_call(b, "prctl(PR_SET_NO_NEW_PRIVS)", SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0,
			   0);
	return 0;
}
