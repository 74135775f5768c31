/* SPDX-License-Identifier: Apache-2.0 */
/*
 * timerfd: clock, time left, interval, and the expirations not read yet.
 *
 * The time left is known, whatever the way the timer was set. Clocks other than
 * CLOCK_REALTIME differ from host to host, so the time left is what is kept, and time does
 * not pass while the guest is an image. A timer set to a moment of the wall clock keeps
 * that moment (wall_sec, wall_nsec).
 *
 * Timers are armed in `finish`, when everything else is done, not at creation.
 */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/timerfd.h>
#include <time.h>

#include "io.h"
#include "kind.h"
#include "kind_fown.h"
#include "kind_util.h"

#ifndef TFD_IOC_SET_TICKS
#define TFD_IOC_SET_TICKS _IOW('T', 0, uint64_t)
#endif
#define NSEC_PER_SEC 1000000000

static bool timerfd_match(const struct fd_view *v)
{
	return !strcmp(v->link, "anon_inode:[timerfd]");
}

static bool is_wall_clock(uint32_t clock)
{
	return clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_ALARM;
}

static struct timespec add(struct timespec a, uint64_t sec, uint64_t nsec)
{
	a.tv_sec += (time_t)sec;
	a.tv_nsec += (long)nsec;
	if (a.tv_nsec >= NSEC_PER_SEC) {
		a.tv_nsec -= NSEC_PER_SEC;
		a.tv_sec++;
	}
	return a;
}

static int read_info(int fd, struct proc_fdinfo *info, struct err *e)
{
	_cleanup_(buf_free) struct buf text = {0};

	if (io_slurp(&text, e, "/proc/self/fdinfo/%d", fd) < 0)
		return -e->code;
	return proc_fdinfo_parse((const char *)text.at, text.n, info, e);
}

/*
 * A periodic timer that has expired stands still until it is looked at: fdinfo tells one
 * expiration and no time left, however long ago it was. timerfd_gettime() makes it catch up,
 * after that fdinfo is right (unless it expires again right then).
 */
static int fill(const struct fd_view *v, TimerfdEntry *m, struct err *e)
{
	for (int tries = 0; tries < 4; tries++) {
		struct proc_fdinfo info = {0};
		struct itimerspec its;

		if (timerfd_gettime(v->local, &its) < 0)
			return err_set(e, errno, "timerfd_gettime");
		if (read_info(v->local, &info, e) < 0)
			return -e->code;
		m->clockid = (uint32_t)info.timerfd.clockid;
		m->ticks = info.timerfd.ticks;
		m->settime_flags = info.timerfd.settime_flags;
		m->vsec = info.timerfd.value_sec;
		m->vnsec = info.timerfd.value_nsec;
		m->isec = info.timerfd.interval_sec;
		m->insec = info.timerfd.interval_nsec;
		proc_fdinfo_free(&info);
		if (m->vsec || m->vnsec || !(m->isec || m->insec) || !m->ticks)
			return 0;
	}
	/* Its interval is shorter than a look at it. */
	m->vsec = m->isec;
	m->vnsec = m->insec;
	return 0;
}

static int timerfd_dump(struct kind_dump *c, const struct fd_view *v, FileEntry *fe, struct err *e)
{
	TimerfdEntry *m = kind_msg(TimerfdEntry, timerfd_entry__init);
	struct timespec at;

	fe->tfd = m;
	m->id = v->id;
	m->flags = (uint32_t)v->flags;
	m->fown = kind_fown_dump(v->local);
	if (fill(v, m, e) < 0)
		return -e->code;
	if ((m->vsec || m->vnsec) && is_wall_clock(m->clockid) &&
	    (m->settime_flags & TFD_TIMER_ABSTIME)) {
		/* A little late, as the clock went on since fdinfo was read: never early. */
		if (clock_gettime(CLOCK_REALTIME, &at) < 0)
			return err_set(e, errno, "reading the wall clock");
		at = add(at, m->vsec, m->vnsec);
		m->has_wall_sec = m->has_wall_nsec = 1;
		m->wall_sec = (uint64_t)at.tv_sec;
		m->wall_nsec = (uint64_t)at.tv_nsec;
	}
	return 0;
}

static int timerfd_create_(struct kind_restore *c, const FileEntry *fe, int *out, struct err *e)
{
	const TimerfdEntry *m = fe->tfd;
	_cleanup_close_ int fd = timerfd_create((int)m->clockid, TFD_CLOEXEC);

	if (fd < 0)
		return err_set(e, errno, "timerfd_create, clock %u", m->clockid);
	if (kind_set_flags(fd, m->flags, e) < 0)
		return -e->code;
	*out = steal_fd(fd);
	return 0;
}

static int timerfd_finish(struct kind_restore *c, const FileEntry *fe, int fd, struct err *e)
{
	const TimerfdEntry *m = fe->tfd;
	struct itimerspec its = {
		.it_value = { (time_t)m->vsec, (long)m->vnsec },
		.it_interval = { (time_t)m->isec, (long)m->insec },
	};
	struct timespec now;

	if ((m->settime_flags & TFD_TIMER_ABSTIME) && (m->vsec || m->vnsec)) {
		if (m->has_wall_sec && m->has_wall_nsec) {
			its.it_value = (struct timespec){ (time_t)m->wall_sec, (long)m->wall_nsec };
		} else {
			if (clock_gettime((clockid_t)m->clockid, &now) < 0)
				return err_set(e, errno, "reading clock %u", m->clockid);
			its.it_value = add(now, m->vsec, m->vnsec);
		}
	}
	if (timerfd_settime(fd, (int)m->settime_flags, &its, NULL) < 0)
		return err_set(e, errno, "timerfd_settime");
	/* Zero ticks are what the timer has anyway; the kernel refuses to set them. */
	if (m->ticks && ioctl(fd, TFD_IOC_SET_TICKS, &m->ticks) < 0)
		return err_set(e, errno, "setting %llu expirations not read yet",
			       (unsigned long long)m->ticks);
	return 0;
}

const struct kind kind_timerfd = {
	.name = "timerfd",
	.type = FD_TYPES__TIMERFD,
	.match = timerfd_match,
	.dump = timerfd_dump,
	.create = timerfd_create_,
	.finish = timerfd_finish,
};
