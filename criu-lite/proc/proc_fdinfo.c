/* SPDX-License-Identifier: Apache-2.0 */
#include "proc_fdinfo.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/sysmacros.h>

#include "proc_text.h"

/* "5 events: 19 data: ffff  pos:0 ino:61af sdev:7"; the kernel prints pos as a signed decimal,
 * data, events, ino and sdev as hex. */
static bool take_epoll(struct ptext *t, struct proc_fdinfo *out)
{
	struct proc_epoll_member m = {0};
	int64_t pos = 0;

	if (!ptext_u32(t, 10, &m.tfd))
		return false;
	ptext_blanks(t);
	if (!ptext_word(t, "events:") || !ptext_u32(t, 16, &m.events))
		return false;
	ptext_blanks(t);
	if (!ptext_word(t, "data:") || !ptext_u64(t, 16, &m.data))
		return false;
	ptext_blanks(t);
	/* pos, ino and sdev came with Linux 4.13. */
	if (ptext_word(t, "pos:")) {
		if (!ptext_i64(t, &pos) || !ptext_word(t, " ino:") ||
		    !ptext_u64(t, 16, &m.ino) || !ptext_word(t, " sdev:") ||
		    !ptext_u64(t, 16, &m.sdev))
			return false;
	}
	m.pos = (uint64_t)pos;
	vec_push(&out->epoll, m);
	return true;
}

static bool take_lock_kind(struct ptext *t, struct proc_lock *l)
{
	static const struct {
		const char *name;
		int kind;
	} names[] = {
		{"POSIX", PROC_LOCK_POSIX}, {"ACCESS", PROC_LOCK_POSIX},
		{"FLOCK", PROC_LOCK_FLOCK}, {"OFDLCK", PROC_LOCK_OFD},
		{"LEASE", PROC_LOCK_LEASE}, {"DELEG", PROC_LOCK_LEASE},
	};

	ptext_blanks(t);
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		if (ptext_word(t, names[i].name)) {
			l->kind = names[i].kind;
			return true;
		}
	}
	return false;
}

static bool take_blank_word(struct ptext *t, struct ptext *word)
{
	ptext_blanks(t);
	return ptext_field(t, ' ', word) && !ptext_empty(word);
}

static bool take_lock_range(struct ptext *t, struct proc_lock *l)
{
	int64_t last;

	if (!ptext_i64(t, &l->start) || l->start < 0)
		return false;
	ptext_blanks(t);
	if (ptext_word(t, "EOF"))
		return true;
	if (!ptext_i64(t, &last) || last < l->start || last == INT64_MAX)
		return false;
	l->len = last - l->start + 1;
	return true;
}

/* "1: POSIX  ADVISORY  WRITE 359 00:13:11691 0 EOF": device in hex, inode decimal */
static bool take_lock(struct ptext *t, struct proc_fdinfo *out)
{
	struct proc_lock l = {0};
	struct ptext word;
	uint64_t ordinal;
	uint32_t major, minor;

	if (!ptext_u64(t, 10, &ordinal) || !ptext_char(t, ':') || !take_lock_kind(t, &l) ||
	    !take_blank_word(t, &word)) /* ADVISORY, ACTIVE, BREAKING, ... */
		return false;
	if (!take_blank_word(t, &word))
		return false;
	l.write = ptext_is(&word, "WRITE") || ptext_is(&word, "RW");
	if (!ptext_i32(t, &l.pid) || !ptext_u32(t, 16, &major) || !ptext_char(t, ':') ||
	    !ptext_u32(t, 16, &minor) || !ptext_char(t, ':') || !ptext_u64(t, 10, &l.ino) ||
	    !take_lock_range(t, &l))
		return false;
	l.dev = makedev(major, minor);
	vec_push(&out->locks, l);
	return true;
}

/* "it_value: (0, 49406829)" */
static bool take_time(struct ptext *t, uint64_t *sec, uint64_t *nsec)
{
	return ptext_char(t, '(') && ptext_u64(t, 10, sec) && ptext_char(t, ',') &&
	       ptext_u64(t, 10, nsec) && *nsec < 1000000000 && ptext_char(t, ')');
}

static bool take_nspid(struct ptext *t, struct proc_fdinfo *out)
{
	bool any = false;

	while (ptext_i32(t, &out->pidfd_nspid))
		any = true;
	return any;
}

static bool take_line(struct ptext t, struct proc_fdinfo *out)
{
	if (ptext_key(&t, "pos"))
		return ptext_i64(&t, &out->pos);
	if (ptext_key(&t, "flags"))
		return ptext_u32(&t, 8, &out->flags);
	if (ptext_key(&t, "mnt_id"))
		return ptext_i32(&t, &out->mnt_id);
	if (ptext_key(&t, "ino"))
		return ptext_u64(&t, 10, &out->ino);
	if (ptext_key(&t, "eventfd-count"))
		return ptext_u64(&t, 16, &out->eventfd_count);
	if (ptext_key(&t, "eventfd-semaphore"))
		return out->has_eventfd_semaphore = ptext_u32(&t, 10, &out->eventfd_semaphore);
	if (ptext_key(&t, "sigmask"))
		return ptext_u64(&t, 16, &out->sigmask);
	if (ptext_key(&t, "clockid"))
		return ptext_i32(&t, &out->timerfd.clockid);
	if (ptext_key(&t, "ticks"))
		return ptext_u64(&t, 10, &out->timerfd.ticks);
	if (ptext_key(&t, "settime flags"))
		return ptext_u32(&t, 8, &out->timerfd.settime_flags);
	if (ptext_key(&t, "it_value"))
		return take_time(&t, &out->timerfd.value_sec, &out->timerfd.value_nsec);
	if (ptext_key(&t, "it_interval"))
		return take_time(&t, &out->timerfd.interval_sec, &out->timerfd.interval_nsec);
	if (ptext_key(&t, "Pid"))
		return ptext_i32(&t, &out->pidfd_pid);
	if (ptext_key(&t, "NSpid"))
		return take_nspid(&t, out);
	if (ptext_key(&t, "tfd"))
		return take_epoll(&t, out);
	if (ptext_key(&t, "lock"))
		return take_lock(&t, out);
	if (ptext_word(&t, "inotify "))
		out->has_inotify = true;
	else if (ptext_word(&t, "fanotify "))
		out->has_fanotify = true;
	return true;
}

int proc_fdinfo_parse(const char *text, size_t n, struct proc_fdinfo *out, struct err *e)
{
	struct ptext all = {text, text + n}, line;

	*out = (struct proc_fdinfo){0};
	while (ptext_line(&all, &line)) {
		if (take_line(line, out))
			continue;
		proc_fdinfo_free(out);
		return ptext_bad(&line, "fdinfo", e);
	}
	return 0;
}

void proc_fdinfo_free(struct proc_fdinfo *i)
{
	vec_free(&i->epoll);
	vec_free(&i->locks);
}
