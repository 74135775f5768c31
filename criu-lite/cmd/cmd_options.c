/* SPDX-License-Identifier: Apache-2.0 */
/* One table of options for all commands. Names are CRIU's where CRIU has them, virsh's for
 * migration. */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd.h"
#include "log.h"

enum kind_of { FLAG, TEXT };

struct option_row {
	char key;                    /* in cmd.options; the short option if `is_short` */
	bool is_short;
	const char *name, *arg, *about;
	enum kind_of kind;
	size_t at;                   /* in struct cmd_line */
};

#define AT(field) offsetof(struct cmd_line, field)

static const struct option_row rows[] = {
	{ 't', true, "tree", "PID", "the guest: this process with its children", TEXT, AT(tree) },
	{ 'D', true, "images-dir", "DIR", "directory of the images (default: .)", TEXT,
	  AT(flow.images_dir) },
	{ 'W', true, "work-dir", "DIR", "log and statistics go here (default: images-dir)", TEXT,
	  AT(flow.work_dir) },
	{ 'o', true, "log-file", "FILE", "log to FILE in the work dir (default: stderr)", TEXT,
	  AT(log_file) },
	{ 'j', true, "shell-job", NULL, "the guest shares its session and terminal with a shell", FLAG,
	  AT(flow.kinds.shell_job) },
	{ 'R', true, "leave-running", NULL, "the guest goes on after the dump", FLAG,
	  AT(flow.leave_running) },
	{ 's', true, "leave-stopped", NULL, "the guest stays stopped (SIGSTOP) after the dump", FLAG,
	  AT(flow.leave_stopped) },
	{ 'd', true, "restore-detached", NULL, "do not wait for the restored guest", FLAG,
	  AT(flow.restore_detached) },
	{ 'S', true, "restore-sibling", NULL, "the guest becomes a child of criu-lite's parent", FLAG,
	  AT(flow.restore_sibling) },
	{ 'p', false, "pidfile", "FILE", "write the guest's pid to FILE", TEXT, AT(flow.pidfile) },
	{ 'm', false, "track-mem", NULL, "keep tracking for the next (pre-)dump", FLAG,
	  AT(flow.track_mem) },
	{ 'P', false, "prev-images-dir", "DIR", "previous (pre-)dump, relative to images-dir", TEXT,
	  AT(flow.prev_images_dir) },
	{ 'l', true, "file-locks", NULL, "carry file locks over", FLAG, AT(flow.kinds.file_locks) },
	{ 'c', false, "tcp-close", NULL, "established TCP connections arrive closed", FLAG,
	  AT(flow.kinds.tcp_close) },
	{ 'x', true, "ext-unix-sk", NULL, "allow datagram sockets connected to the outside", FLAG,
	  AT(flow.kinds.ext_unix_sk) },
	{ 'k', false, "link-remap", NULL, "give deleted files that have other links a name again", FLAG,
	  AT(flow.kinds.link_remap) },
	{ 'g', false, "ghost-limit", "SIZE", "largest deleted file to carry (default 1M; K, M, G)", TEXT,
	  AT(ghost_limit) },
	{ 'T', false, "tracker", "KIND", "auto (default), soft-dirty or uffd-wp", TEXT, AT(tracker) },
	{ 'L', false, "listen", "HOST:PORT", "address to receive on (default: :9400)", TEXT,
	  AT(flow.where) },
	{ '1', false, "once", NULL, "end after one migration", FLAG, AT(flow.once) },
	{ 'n', false, "parallel-connections", "N", "data connections (default 2, at most 64)", TEXT,
	  AT(connections) },
	{ 'C', false, "comp-method", "METHOD", "none or zstd (default)", TEXT, AT(comp_method) },
	{ 'Z', false, "comp-level", "N", "level of zstd, 1 (default) to 19", TEXT, AT(comp_level) },
	{ 'b', false, "bandwidth", "MIBS", "limit in MiB/s, all connections together (0: none)", TEXT,
	  AT(bandwidth) },
	{ 'M', false, "max-downtime", "MS", "stop the guest when the rest fits (default 300)", TEXT,
	  AT(max_downtime) },
	{ 'r', false, "max-rounds", "N", "stop it after N rounds in any case (default 30)", TEXT,
	  AT(max_rounds) },
	{ 'J', false, "json", NULL, "print the summary as JSON", FLAG, AT(flow.json) },
	{ 'h', true, "help", NULL, "print this", FLAG, AT(help) },
};
#define ROWS (sizeof(rows) / sizeof(rows[0]))

static bool takes(const struct cmd *c, const struct option_row *r)
{
	return r->key == 'h' || r->key == 'o' || strchr(c->options, r->key);
}

void cmd_help(const struct cmd *c)
{
	printf("usage: criu-lite %s %s\n%s\n\n", c->name, c->synopsis, c->about);
	for (size_t i = 0; i < ROWS; i++) {
		const struct option_row *r = &rows[i];
		char left[48];

		if (!takes(c, r))
			continue;
		snprintf(left, sizeof(left), "%c%c%s --%s%s%s", r->is_short ? '-' : ' ',
			 r->is_short ? r->key : ' ', r->is_short ? "," : " ", r->name,
			 r->arg ? " " : "", r->arg ? r->arg : "");
		printf("  %-34s %s\n", left, r->about);
	}
	printf("  %-34s %s\n", "-v[N], --verbosity[=N]",
	       "1 errors, 2 warnings (default), 3 information, 4 debugging");
}

static int number(const char *what, const char *text, uint64_t min, uint64_t max, uint64_t *out,
		  struct err *e)
{
	char *end;

	if (!text)
		return 0;
	errno = 0;
	unsigned long long n = strtoull(text, &end, 10);
	if (errno || end == text || *end || strchr(text, '-') || n < min || n > max) {
		err_say(e, EINVAL, "--%s %s: wrong value", what, text);
		return err_remedy(e, "a number from %lu to %lu is allowed", min, max);
	}
	*out = n;
	return 0;
}

static int size_of(const char *what, const char *text, uint64_t *out, struct err *e)
{
	static const char units[] = "KMG";
	char *end;

	if (!text)
		return 0;
	errno = 0;
	unsigned long long n = strtoull(text, &end, 10);
	const char *unit = *end ? strchr(units, *end) : NULL;
	unsigned shift = unit ? 10 * (unsigned)(unit - units + 1) : 0;
	if (errno || end == text || strchr(text, '-') || (*end && (!unit || end[1])) ||
	    n > UINT64_MAX >> 30) {
		err_say(e, EINVAL, "--%s %s: wrong value", what, text);
		return err_remedy(e, "a size is a number of bytes, or one with K, M or G behind it");
	}
	*out = (uint64_t)n << shift;
	return 0;
}

static int choice(const char *what, const char *text, const char *const *names, int *out,
		  struct err *e)
{
	char all[128] = "";

	if (!text)
		return 0;
	for (int i = 0; names[i]; i++) {
		if (!strcmp(names[i], text)) {
			*out = i;
			return 0;
		}
		strcat(strcat(all, i ? ", " : ""), names[i]);
	}
	err_say(e, EINVAL, "--%s %s: wrong value", what, text);
	return err_remedy(e, "allowed are: %s", all);
}

static int values(struct cmd_line *l, struct err *e)
{
	static const char *const trackers[] = { "auto", "soft-dirty", "uffd-wp", NULL };
	static const char *const methods[] = { "none", "zstd", NULL };
	struct flow_opts *f = &l->flow;
	uint64_t pid = 0, n = 2, level = 1, mibs = 0, rounds = 30;
	int tracker = TRACKER_AUTO, method = COMP_ZSTD, ret;

	f->max_downtime_ms = 300;
	f->kinds.ghost_limit = 1 << 20;
	if ((ret = number("tree", l->tree, 1, INT_MAX, &pid, e)) < 0 ||
	    (ret = number("parallel-connections", l->connections, 1, 64, &n, e)) < 0 ||
	    (ret = number("comp-level", l->comp_level, 1, 19, &level, e)) < 0 ||
	    (ret = number("bandwidth", l->bandwidth, 0, 1 << 20, &mibs, e)) < 0 ||
	    (ret = number("max-downtime", l->max_downtime, 1, 2000000, &f->max_downtime_ms, e)) < 0 ||
	    (ret = number("max-rounds", l->max_rounds, 1, 100000, &rounds, e)) < 0 ||
	    (ret = size_of("ghost-limit", l->ghost_limit, &f->kinds.ghost_limit, e)) < 0 ||
	    (ret = choice("tracker", l->tracker, trackers, &tracker, e)) < 0 ||
	    (ret = choice("comp-method", l->comp_method, methods, &method, e)) < 0)
		return ret;
	f->pid = (pid_t)pid;
	f->connections = (unsigned)n;
	f->pages.level = (int)level;
	f->pages.bandwidth = mibs << 20;
	f->pages.method = method;
	f->max_rounds = (unsigned)rounds;
	f->tracker = tracker;
	if (!f->images_dir)
		f->images_dir = ".";
	return 0;
}

/* getopt's tables for this command, made of the rows. */
static void tables(const struct cmd *c, struct option *longs, char *shorts)
{
	size_t n = 0;

	*shorts++ = ':';
	for (size_t i = 0; i < ROWS; i++) {
		const struct option_row *r = &rows[i];

		if (!takes(c, r))
			continue;
		longs[n++] = (struct option){ r->name, r->kind == TEXT, NULL, 256 + (int)i };
		if (r->is_short) {
			*shorts++ = r->key;
			if (r->kind == TEXT)
				*shorts++ = ':';
		}
	}
	longs[n++] = (struct option){ "verbosity", optional_argument, NULL, 'v' };
	longs[n] = (struct option){ 0 };
	strcpy(shorts, "v::");
}

static const struct option_row *row_of(int key)
{
	if (key >= 256)
		return &rows[key - 256];
	for (size_t i = 0; i < ROWS; i++)
		if (rows[i].is_short && rows[i].key == key)
			return &rows[i];
	return NULL;
}

static int wrong_usage(const struct cmd *c, struct err *e)
{
	return err_remedy(e, "see criu-lite %s --help", c->name);
}

static int verbosity(struct cmd_line *l, const char *text, struct err *e)
{
	uint64_t n = LOG_L_DEBUG;

	if (!text) {
		l->verbosity += l->verbosity < LOG_L_DEBUG;
		return 0;
	}
	if (!strspn(text, "v") || strspn(text, "v") != strlen(text)) {
		int ret = number("verbosity", text, 0, LOG_L_DEBUG, &n, e);
		if (ret < 0)
			return ret;
	}
	l->verbosity = (int)n;
	return 0;
}

int cmd_parse(const struct cmd *c, int argc, char **argv, struct cmd_line *l, struct err *e)
{
	struct option longs[ROWS + 2];
	char shorts[2 * ROWS + 8];
	int key, ret;

	*l = (struct cmd_line){ .verbosity = LOG_L_WARN };
	tables(c, longs, shorts);
	optind = 1;
	while ((key = getopt_long(argc, argv, shorts, longs, NULL)) != -1) {
		if (key == 'v') {
			if ((ret = verbosity(l, optarg, e)) < 0)
				return ret;
			continue;
		}
		if (key == '?' || key == ':') {
			err_say(e, EINVAL, key == '?' ? "%s: unknown option %s" : "%s: %s needs a value",
				c->name, argv[optind - 1]);
			return wrong_usage(c, e);
		}
		const struct option_row *r = row_of(key);
		if (r->kind == FLAG)
			*(bool *)((char *)l + r->at) = true;
		else
			*(const char **)((char *)l + r->at) = optarg;
	}
	l->n_args = argc - optind;
	l->args = argv + optind;
	if (l->help)
		return 0;
	if (l->n_args < c->min_args || l->n_args > c->max_args) {
		err_say(e, EINVAL, l->n_args > c->max_args ? "%s: superfluous argument %s"
							  : "%s: an argument is missing%.0s",
			c->name, l->n_args > c->max_args ? l->args[c->max_args] : "");
		return wrong_usage(c, e);
	}
	return values(l, e);
}
