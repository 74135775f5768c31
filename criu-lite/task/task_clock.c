/* SPDX-License-Identifier: Apache-2.0 */
#include "task_clock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "io.h"

#define NSEC 1000000000ll

static int64_t to_ns(const struct timespec *ts) { return ts->tv_sec * NSEC + ts->tv_nsec; }

static struct clocks clocks_here(void)
{
	struct timespec m, b, c;

	clock_gettime(CLOCK_MONOTONIC, &m);
	clock_gettime(CLOCK_BOOTTIME, &b);
	clock_gettime(CLOCK_MONOTONIC_COARSE, &c);
	return (struct clocks){ to_ns(&m), to_ns(&b), to_ns(&c) };
}

/* "monotonic           3600         0\nboottime ..." */
int task_clock_offsets(pid_t pid, struct clocks *out, struct err *e)
{
	_cleanup_(buf_free) struct buf text = { 0 };
	long long ms, bs;
	char path[48];
	long mn, bn;

	*out = (struct clocks){ 0 };
	snprintf(path, sizeof(path), "/proc/%d/timens_offsets", pid);
	int ret = io_slurp_at(AT_FDCWD, path, &text, e);
	if (ret == -ENOENT) {
		err_clear(e);
		return 0;
	}
	if (ret < 0)
		return ret;
	if (sscanf((char *)text.at, "monotonic %lld %ld boottime %lld %ld", &ms, &mn, &bs,
		   &bn) != 4)
		return err_say(e, EBADMSG, "%s makes no sense", path);
	*out = (struct clocks){ ms * NSEC + mn, bs * NSEC + bn, ms * NSEC + mn };
	return 0;
}

/* "" on kernels without time namespaces. */
static void link_of(pid_t pid, const char *which, char out[64])
{
	char path[48];

	snprintf(path, sizeof(path), "/proc/%d/ns/%s", pid, which);
	ssize_t n = readlink(path, out, 63);
	out[n < 0 ? 0 : n] = '\0';
}

int task_clock_now(pid_t pid, struct clocks *out, bool *own, struct err *e)
{
	struct clocks ours, theirs;
	char a[64], b[64];
	int ret;

	if ((ret = task_clock_offsets(getpid(), &ours, e)) < 0 ||
	    (ret = task_clock_offsets(pid, &theirs, e)) < 0)
		return ret;
	link_of(getpid(), "time", a);
	link_of(pid, "time", b);
	*own = strcmp(a, b);
	*out = clocks_here();
	out->monotonic += theirs.monotonic - ours.monotonic;
	out->boottime += theirs.boottime - ours.boottime;
	out->coarse += theirs.monotonic - ours.monotonic;
	return 0;
}

int task_clock_ask(struct task *t, struct clocks *out, struct err *e)
{
	_cleanup_batch_ struct batch b = BATCH(remote_leader(t->remote));
	static const clockid_t ids[] = { CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_MONOTONIC_COARSE };
	struct timespec now[3];
	gaddr at[3];
	int ret;

	for (int i = 0; i < 3; i++) {
		at[i] = batch_out(&b, sizeof(now[i]));
		batch_call(&b, "clock_gettime", SYS_clock_gettime, ids[i], at[i]);
	}
	if ((ret = batch_run(&b, e)) < 0)
		return ret;
	for (int i = 0; i < 3; i++)
		batch_get(&b, at[i], &now[i], sizeof(now[i]));
	*out = (struct clocks){ to_ns(&now[0]), to_ns(&now[1]), to_ns(&now[2]) };
	return 0;
}

int task_clock_check(const struct task *t, pid_t root, struct err *e)
{
	char a[64], b[64];

	link_of(t->pid, "time", a);
	link_of(t->pid, "time_for_children", b);
	if (*a && *b && strcmp(a, b)) {
		err_say(e, ENOTSUP, "pid %d (%s) has another time namespace for its children",
			t->pid, t->comm);
		return err_remedy(e, "start the program inside that namespace (unshare --time "
				     "--fork)");
	}
	link_of(root, "time", b);
	if (*a && *b && strcmp(a, b)) {
		err_say(e, ENOTSUP, "pid %d (%s) lives in another time namespace than pid %d",
			t->pid, t->comm, root);
		return err_remedy(e, "only guests with one time namespace can be carried over");
	}
	return 0;
}

static int format(char *out, size_t n, const char *name, int64_t ns)
{
	/* rounded down: the part of a second may not be negative */
	int64_t sec = ns / NSEC - (ns % NSEC < 0);

	return snprintf(out, n, "%s %lld %lld\n", name, (long long)sec,
			(long long)(ns - sec * NSEC));
}

int task_clock_text(const struct clocks *now, char *out, size_t size, struct err *e)
{
	struct clocks here = clocks_here(), ours;
	int ret;

	if (access("/proc/self/timens_offsets", F_OK) < 0) {
		err_say(e, ENOTSUP, "this kernel has no time namespaces (CONFIG_TIME_NS)");
		return err_remedy(e, "leave out --timens: then the guest sees the clocks of this "
				     "host");
	}
	if ((ret = task_clock_offsets(getpid(), &ours, e)) < 0)
		return ret;
	ret = format(out, size, "monotonic", now->monotonic - here.monotonic + ours.monotonic);
	format(out + ret, size - (size_t)ret, "boottime",
	       now->boottime - here.boottime + ours.boottime);
	return 0;
}
