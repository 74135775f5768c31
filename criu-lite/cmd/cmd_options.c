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
#include "task_cpu.h"

enum takes { FLAG, TEXT, LIST, MAYBE };

struct option_row {
	char key;                    /* short option; 0: none */
	const char *name, *arg, *about;
	enum takes takes;
	size_t at;                   /* in struct cmd_line: bool, const char *, an array of them */
	unsigned who;                /* enum cmd_bit */
	size_t count_at;             /* LIST: the unsigned that says how many there are */
};

#define AT(field) offsetof(struct cmd_line, field)
#define DUMPS (CMD_DUMP | CMD_PRE_DUMP)
#define DIRS  (DUMPS | CMD_RESTORE)
#define SENDS (DUMPS | CMD_MIGRATE)
#define MOVES (CMD_MIGRATE | CMD_RECEIVE)
#define ALL   (~0u)

static const struct option_row rows[] = {
	{ 't', "tree", "PID", "the guest: this process with its children", TEXT, AT(tree), SENDS },
	{ 'D', "images-dir", "DIR", "directory of the images (default: .)", TEXT,
	  AT(flow.images_dir), DIRS },
	{ 'W', "work-dir", "DIR", "log and statistics go here (default: images-dir)", TEXT,
	  AT(flow.work_dir), DIRS },
	{ 'o', "log-file", "FILE", "log to FILE in the work dir (default: stderr)", TEXT,
	  AT(log_file), ALL },
	{ 'j', "shell-job", NULL, "the guest shares its session and terminal with a shell", FLAG,
	  AT(flow.kinds.shell_job), DIRS | MOVES },
	{ 'R', "leave-running", NULL, "the guest goes on after the dump", FLAG,
	  AT(flow.leave_running), CMD_DUMP },
	{ 's', "leave-stopped", NULL, "the guest stays stopped (SIGSTOP) after the dump", FLAG,
	  AT(flow.leave_stopped), CMD_DUMP },
	{ 'd', "restore-detached", NULL, "do not wait for the restored guest", FLAG,
	  AT(flow.restore_detached), CMD_RESTORE },
	{ 'S', "restore-sibling", NULL, "the guest becomes a child of criu-lite's parent", FLAG,
	  AT(flow.restore_sibling), CMD_RESTORE },
	{ 0, "pidfile", "FILE", "write the guest's pid to FILE", TEXT, AT(flow.pidfile),
	  CMD_RESTORE },
	{ 0, "track-mem", NULL, "keep tracking for the next (pre-)dump", FLAG, AT(flow.track_mem),
	  DUMPS },
	{ 0, "prev-images-dir", "DIR", "previous (pre-)dump, relative to images-dir", TEXT,
	  AT(flow.prev_images_dir), DUMPS },
	{ 'l', "file-locks", NULL, "carry file locks over", FLAG, AT(flow.kinds.file_locks),
	  DIRS | MOVES },
	{ 0, "tcp-close", NULL, "established TCP connections arrive closed", FLAG,
	  AT(flow.kinds.tcp_close), DIRS | MOVES },
	{ 0, "tcp-established", NULL, "carry established TCP connections over", FLAG,
	  AT(flow.kinds.tcp_established), DIRS | MOVES },
	{ 0, "skip-in-flight", NULL, "leave out TCP connections that are not accepted yet", FLAG,
	  AT(flow.kinds.skip_in_flight), DIRS | MOVES },
	{ 'x', "ext-unix-sk", NULL, "allow datagram sockets connected to the outside", FLAG,
	  AT(flow.kinds.ext_unix_sk), DIRS | MOVES },
	{ 0, "link-remap", NULL, "give deleted files that have other links a name again", FLAG,
	  AT(flow.kinds.link_remap), SENDS },
	{ 0, "ghost-limit", "SIZE", "largest deleted file to carry (default 1M; K, M, G)", TEXT,
	  AT(ghost_limit), SENDS },
	{ 0, "tracker", "KIND", "auto (default), soft-dirty or uffd-wp", TEXT, AT(tracker), SENDS },
	{ 0, "action-script", "PATH", "run it at each step, as CRIU does", TEXT,
	  AT(flow.action_script), CMD_DUMP | CMD_RESTORE | MOVES },
	{ 0, "listen", "HOST:PORT", "address to receive on (default: :9400)", TEXT, AT(flow.where),
	  CMD_RECEIVE },
	{ 0, "once", NULL, "end after one migration", FLAG, AT(flow.once), CMD_RECEIVE },
	{ 0, "cpu-cap", "CAP", "compare CPUs by all, fpu, cpu, ins, none (default: fpu,ins)", MAYBE,
	  AT(cpu_cap), CMD_DUMP | CMD_RESTORE | MOVES },
	{ 0, "timens", NULL, "the guest's monotonic clock goes on in a time namespace", FLAG,
	  AT(flow.timens), CMD_RESTORE | MOVES },
	{ 0, "move-address", "ADDR@DEV", "take ADDR off DEV here, put it on DEV there", LIST,
	  AT(flow.move_address), CMD_MIGRATE, AT(flow.n_move_address) },
	{ 0, "map-address", "OLD=NEW", "sockets with address OLD get NEW there", LIST,
	  AT(flow.map_address), MOVES, AT(flow.n_map_address) },
	{ 0, "guest", "NAME", "use the policy of this guest, whatever it matches", TEXT,
	  AT(flow.guest_name), CMD_MIGRATE },
	{ 0, "policy-dir", "DIR", "where the policies are (default /etc/criu-lite)", TEXT,
	  AT(policy_dir), CMD_MIGRATE },
	{ 0, "print-policy", NULL, "print what is in force and why; migrate nothing", FLAG,
	  AT(flow.print_policy), CMD_MIGRATE },
	{ 0, "progress", "HOW", "json or plain (default: what suits stderr)", TEXT,
	  AT(flow.progress),
	  CMD_MIGRATE },
	{ 0, "report", "FILE.html", "write the story of the migration there", TEXT,
	  AT(flow.report_file), CMD_MIGRATE },
	{ 0, "quiet", NULL, "no progress, no summary", FLAG, AT(flow.quiet), CMD_MIGRATE },
	{ 0, "json", NULL, "print what is printed at the end as JSON", FLAG, AT(flow.json),
	  CMD_MIGRATE | CMD_CTL },
	{ 'O', "output", "FILE.html",
	  "where the page goes; - is stdout (default: FILE.html beside FILE)", TEXT, AT(output),
	  CMD_REPORT },
	{ 'h', "help", NULL, "print this", FLAG, AT(help), ALL },
};
#define ROWS (sizeof(rows) / sizeof(rows[0]))

/* Values of getopt_long: rows, then the table of flow_qos.h, then the same with no-. */
#define KEY_ROW 256
#define KEY_QOS (KEY_ROW + (int)ROWS)
#define KEY_NO  (KEY_QOS + QOS_ROWS)

static bool takes_qos(const struct cmd *c)
{
	return c->bit == CMD_MIGRATE;
}

static void help_line(char key, const char *name, const char *arg, const char *about)
{
	char left[64];

	snprintf(left, sizeof(left), "%c%c%s --%s%s", key ? '-' : ' ', key ? key : ' ',
		 key ? "," : " ", name, arg);
	printf("  %-38s %s\n", left, about);
}

static void help_qos(void)
{
	char arg[48];

	printf("\nLimits, also settable in a policy file and by criu-lite ctl:\n\n");
	for (const struct qos_row *r = qos_table; r->name; r++) {
		snprintf(arg, sizeof(arg), r->kind == QOS_BOOL ? "[=%s]" : " %s", r->unit);
		help_line(0, r->name, arg, r->about);
		if (r->kind != QOS_BOOL)
			continue;
		snprintf(arg, sizeof(arg), "no-%s", r->name);
		help_line(0, arg, "", "the same as =no");
	}
}

void cmd_help(const struct cmd *c)
{
	printf("usage: criu-lite %s %s\n%s\n\n", c->name, c->synopsis, c->about);
	for (size_t i = 0; i < ROWS; i++) {
		const struct option_row *r = &rows[i];
		char arg[32] = "";

		if (!(r->who & c->bit))
			continue;
		if (r->arg)
			snprintf(arg, sizeof(arg), r->takes == MAYBE ? "[=%s]" : " %s", r->arg);
		help_line(r->key, r->name, arg, r->about);
	}
	printf("  %-38s %s\n", "-v[N], --verbosity[=N]",
	       "1 errors, 2 warnings (default), 3 information, 4 debugging");
	if (takes_qos(c))
		help_qos();
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
		return err_remedy(e,
				  "a size is a number of bytes, or one with K, M or G behind it");
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
	static const char *const displays[] = { "json", "plain", NULL };
	struct flow_opts *f = &l->flow;
	uint64_t pid = 0;
	int tracker = TRACKER_AUTO, display = 0, ret;

	f->kinds.ghost_limit = 1 << 20;
	if ((ret = number("tree", l->tree, 1, INT_MAX, &pid, e)) < 0 ||
	    (ret = size_of("ghost-limit", l->ghost_limit, &f->kinds.ghost_limit, e)) < 0 ||
	    (ret = choice("tracker", l->tracker, trackers, &tracker, e)) < 0 ||
	    (ret = choice("progress", f->progress, displays, &display, e)) < 0 ||
	    (l->cpu_cap && (ret = cpu_cap_parse(l->cpu_cap, &f->cpu_cap, e)) < 0))
		return ret;
	f->has_cpu_cap = l->cpu_cap;
	f->pid = (pid_t)pid;
	f->tracker = tracker;
	if (!f->images_dir)
		f->images_dir = ".";
	return 0;
}

/* getopt's tables for this command, made of the rows. `no`: room for the names with no-. */
#define LONGS_MAX (ROWS + 2 * QOS_ROWS + 2)

static void tables(const struct cmd *c, struct option *longs, char *shorts, char no[][48])
{
	size_t n = 0;

	*shorts++ = ':';
	for (size_t i = 0; i < ROWS; i++) {
		const struct option_row *r = &rows[i];

		if (!(r->who & c->bit))
			continue;
		longs[n++] = (struct option){ r->name,
					      r->takes == MAYBE ? optional_argument
								: r->takes != FLAG,
					      NULL, KEY_ROW + (int)i };
		if (r->key) {
			*shorts++ = r->key;
			if (r->takes != FLAG)
				*shorts++ = ':';
		}
	}
	for (int i = 0; takes_qos(c) && i < QOS_ROWS; i++) {
		const struct qos_row *r = &qos_table[i];
		bool is_bool = r->kind == QOS_BOOL;

		longs[n++] = (struct option){ r->name,
					      is_bool ? optional_argument : required_argument, NULL,
					      KEY_QOS + i };
		if (!is_bool)
			continue;
		snprintf(no[i], sizeof(no[i]), "no-%s", r->name);
		longs[n++] = (struct option){ no[i], no_argument, NULL, KEY_NO + i };
	}
	longs[n++] = (struct option){ "verbosity", optional_argument, NULL, 'v' };
	longs[n] = (struct option){ 0 };
	strcpy(shorts, "v::");
}

static int set_qos(struct cmd_line *l, int key, const char *text, struct err *e)
{
	int i = key >= KEY_NO ? key - KEY_NO : key - KEY_QOS;
	struct flow_qos scratch;

	l->qos[i] = key >= KEY_NO ? "no" : text ? text : "yes";
	return qos_set(&scratch, &qos_table[i], l->qos[i], e) < 0 ?
	       err_in(e, "--%s", qos_table[i].name) : 0;
}

static int set_row(struct cmd_line *l, int key, const char *text, struct err *e)
{
	const struct option_row *r = &rows[0];
	void *at;

	if (key >= KEY_ROW)
		r = &rows[key - KEY_ROW];
	else
		while (r->key != key)
			r++;
	at = (char *)l + r->at;
	if (r->takes == FLAG) {
		*(bool *)at = true;
	} else if (r->takes == TEXT || r->takes == MAYBE) {
		*(const char **)at = text ? text : "";
	} else {
		unsigned *n = (unsigned *)((char *)l + r->count_at);

		if (*n == FLOW_ADDRESSES_MAX)
			return err_say(e, EINVAL, "more than %d times --%s", FLOW_ADDRESSES_MAX,
				       r->name);
		((const char **)at)[(*n)++] = text;
	}
	return 0;
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

static int parse_one(const struct cmd *c, struct cmd_line *l, int key, const char *word,
		     struct err *e)
{
	if (key == 'v')
		return verbosity(l, optarg, e);
	if (key == '?' || key == ':') {
		err_say(e, EINVAL, key == '?' ? "%s: unknown option %s" : "%s: %s needs a value",
			c->name, word);
		return wrong_usage(c, e);
	}
	return key >= KEY_QOS ? set_qos(l, key, optarg, e) : set_row(l, key, optarg, e);
}

int cmd_parse(const struct cmd *c, int argc, char **argv, struct cmd_line *l, struct err *e)
{
	struct option longs[LONGS_MAX];
	char shorts[2 * ROWS + 8], no[QOS_ROWS][48];
	int key, ret;

	*l = (struct cmd_line){ .verbosity = LOG_L_WARN };
	tables(c, longs, shorts, no);
	optind = 1;
	while ((key = getopt_long(argc, argv, shorts, longs, NULL)) != -1)
		if ((ret = parse_one(c, l, key, argv[optind - 1], e)) < 0)
			return ret;
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
