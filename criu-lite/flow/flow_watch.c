/* SPDX-License-Identifier: Apache-2.0 */
#include "flow_watch.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "flow_converge.h"
#include "flow_story.h"
#include "io.h"
#include "log.h"
#include "thread.h"

#define TICK_MS 100
#define PLAIN_EVERY_NS 5000000000u   /* lines where stderr is no terminal */
#define KEEP_ALL_S 600               /* samples of a longer migration are kept once a second */
#define KEEP_NS 1000000000u
#define MIB 1048576.0

static bool is_json(const struct flow_watch *w)
{
	return w->o->progress && !strcmp(w->o->progress, "json");
}

static double elapsed_s(const struct flow_watch *w)
{
	return (double)(io_now_ns() - w->begun_ns) / 1e9;
}

/* ---- showing ---- */

/* A line of JSON to where it is wanted. `out` is locked. */
static void tell(struct flow_watch *w, const struct buf *line, bool keep)
{
	if (is_json(w))
		outlet_put(&w->to_stdout, line->at, line->n);
	if (keep && w->o->report_file)
		buf_put(&w->story, line->at, line->n);
}

static void say(struct flow_watch *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void say(struct flow_watch *w, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	int n = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (n > 0)
		outlet_put(&w->to_stderr, text,
			   (size_t)n < sizeof(text) ? (size_t)n : sizeof(text) - 1);
}

static void draw_bar(char *out, size_t width, double part)
{
	size_t full = (size_t)((double)width * (part < 0 ? 0 : part > 1 ? 1 : part));

	memset(out, '.', width);
	memset(out, '#', full);
	out[width] = '\0';
}

static const char *size_text(char *out, size_t n, double bytes)
{
	if (bytes >= 1024 * MIB)
		snprintf(out, n, "%.1f GiB", bytes / (1024 * MIB));
	else
		snprintf(out, n, "%.1f MiB", bytes / MIB);
	return out;
}

static void describe(char *out, size_t size, const struct flow_sample *s)
{
	char left[32], all[32];

	snprintf(out, size,
		 "%.1f s  round %u  %s of %s left  dirty %.0f wire %.0f placed %.0f MiB/s  %.1f:1  "
		 "throttle %.0f%%  downtime ~%.0f ms", s->elapsed, s->round,
		 size_text(left, sizeof(left), (double)s->remaining_bytes),
		 size_text(all, sizeof(all), (double)s->total_bytes), s->dirty_rate / MIB,
		 s->wire_rate / MIB, s->placed_rate / MIB, s->compression, s->throttle,
		 s->predicted_ms);
}

static void draw(struct flow_watch *w, const struct flow_sample *s)
{
	char text[256], bar[24];
	struct winsize size = { .ws_col = 80 };
	double total = s->total_bytes ? (double)s->total_bytes : 1;

	if (w->to_stderr.held.n)
		return; /* the terminal is held up: the next line will do */
	describe(text, sizeof(text), s);
	draw_bar(bar, 20, 1 - (double)s->remaining_bytes / total);
	ioctl(STDERR_FILENO, TIOCGWINSZ, &size);
	int room = size.ws_col > 24 ? size.ws_col - 24 : 1;
	say(w, "\r[%s] %.*s\033[K", bar, room, text);
	w->drawn = true;
}

static void undraw(struct flow_watch *w)
{
	if (w->drawn)
		say(w, "\r\033[K");
	w->drawn = false;
}

static void show(struct flow_watch *w, const struct flow_sample *s)
{
	_cleanup_(buf_free) struct buf line = { 0 };
	uint64_t now = io_now_ns();
	char text[256];
	bool due = s->elapsed < KEEP_ALL_S || now - w->last_kept_ns > KEEP_NS;

	if (due)
		w->last_kept_ns = now;
	pthread_mutex_lock(&w->out);
	samples_sample(&line, s);
	tell(w, &line, due);
	if (w->terminal) {
		draw(w, s);
	} else if (!w->o->quiet && !is_json(w) && now - w->last_line_ns > PLAIN_EVERY_NS) {
		describe(text, sizeof(text), s);
		say(w, "%s\n", text);
		w->last_line_ns = now;
	}
	pthread_mutex_unlock(&w->out);
}

void watch_round(struct flow_watch *w, uint32_t number, uint64_t dirty, uint64_t wire, double s)
{
	_cleanup_(buf_free) struct buf line = { 0 };

	pthread_mutex_lock(&w->out);
	samples_round(&line, elapsed_s(w), number, dirty, wire, s);
	tell(w, &line, true);
	undraw(w);
	if (!w->o->quiet && !is_json(w))
		say(w, "round %u: %.1f MiB dirty, %.1f MiB sent, %.0f ms\n", number,
		    (double)dirty / MIB, (double)wire / MIB, s * 1e3);
	pthread_mutex_unlock(&w->out);
}

/* ---- the thread ---- */

static void hear_signals(struct flow_watch *w)
{
	struct signalfd_siginfo info;

	while (read(w->signals, &info, sizeof(info)) == sizeof(info)) {
		w->interrupted = true;
		w->live.abort = true;
	}
}

static void look_at_clock(struct flow_watch *w, uint64_t deadline)
{
	if (!deadline || w->live.abort || io_now_ns() < deadline)
		return;
	pthread_mutex_lock(&w->live.lock);
	bool suspend = w->live.qos.timeout_action == TIMEOUT_SUSPEND;
	pthread_mutex_unlock(&w->live.lock);
	if (suspend) {
		w->live.force = true;
		return;
	}
	w->timed_out = true;
	w->live.abort = true;
}

static void *run(void *arg)
{
	struct flow_watch *w = arg;
	struct pollfd p[] = { { w->signals, POLLIN, 0 }, { w->end, POLLIN, 0 } };
	struct flow_sample s;

	while (poll(p, 2, TICK_MS) >= 0 || errno == EINTR) {
		if (p[1].revents)
			break;
		hear_signals(w);
		pthread_mutex_lock(&w->live.lock);
		s = w->live.now;
		pthread_mutex_unlock(&w->live.lock);
		s.elapsed = elapsed_s(w);
		look_at_clock(w, w->look(w->arg, &s));
		pthread_mutex_lock(&w->live.lock);
		w->live.now = s;
		pthread_mutex_unlock(&w->live.lock);
		show(w, &s);
		if (w->live.abort || w->live.force)
			w->obey(w->arg);
	}
	return NULL;
}

static int catch_signals(struct flow_watch *w, struct err *e)
{
	static const int ends[] = { SIGINT, SIGTERM, SIGHUP };
	struct sigaction a;
	sigset_t set;

	sigemptyset(&set);
	for (size_t i = 0; i < sizeof(ends) / sizeof(*ends); i++)
		if (sigaction(ends[i], NULL, &a) == 0 && a.sa_handler != SIG_IGN) /* nohup */
			sigaddset(&set, ends[i]);
	w->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	w->end = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (w->signals < 0 || w->end < 0)
		return err_set(e, errno, "signalfd");
	sigprocmask(SIG_BLOCK, &set, NULL);
	/* ^Z would leave the guest as it is at this moment: throttled, that is mostly stopped */
	signal(SIGTSTP, SIG_IGN);
	return 0;
}

int watch_begin(struct flow_watch *w, const struct flow_opts *o, struct err *e)
{
	_cleanup_(buf_free) struct buf line = { 0 };
	struct err wrong = ERR_INIT;
	int ret = catch_signals(w, e);

	w->o = o;
	w->to_stdout.fd = STDOUT_FILENO;
	w->to_stderr.fd = STDERR_FILENO;
	w->begun_ns = w->last_line_ns = io_now_ns();
	w->terminal = isatty(STDERR_FILENO) && !o->quiet && !o->progress;
	pthread_mutex_init(&w->out, NULL);
	if (ret < 0)
		return ret;
	if (ctl_serve(&w->ctl, &w->live, &wrong) < 0)
		log_warn("criu-lite ctl will not find this migration: %s", wrong.text);
	samples_begin(&line, &w->live);
	tell(w, &line, true);
	ret = thread_start(&w->thread, run, w, e);
	w->started = ret == 0;
	return ret;
}

void watch_end(struct flow_watch *w)
{
	uint64_t one = 1;

	if (w->started && write(w->end, &one, sizeof(one)) == sizeof(one))
		pthread_join(w->thread, NULL);
	w->started = false;
	ctl_end(w->ctl);
	w->ctl = NULL;
	undraw(w);
}

void watch_flush(struct flow_watch *w)
{
	outlet_end(&w->to_stdout);
	outlet_end(&w->to_stderr);
}

int watch_result(struct flow_watch *w, const struct flow_report *r, const char *status,
		 const struct samples_more *more, const struct err *why, struct err *e)
{
	_cleanup_(buf_free) struct buf line = { 0 };
	int ret = 0;

	watch_end(w);
	samples_result(&line, r, status, more, why);
	tell(w, &line, true);
	if (w->o->report_file)
		ret = story_save((char *)w->story.at, w->story.n, w->o->report_file, e);
	buf_free(&w->story);
	return ret;
}
