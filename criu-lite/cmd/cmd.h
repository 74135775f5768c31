/* SPDX-License-Identifier: Apache-2.0 */
/* The command line: commands, their options, exit codes. */
#pragma once

#include "flow.h"

/* Exit codes: 0 done, 1 failed (the reason was printed), 2 wrong usage. */
#define EXIT_FAILED 1
#define EXIT_USAGE  2

/* Each row of the table of options says by these which commands take it. */
enum cmd_bit {
	CMD_MIGRATE = 1 << 0, CMD_RECEIVE = 1 << 1, CMD_DUMP = 1 << 2, CMD_PRE_DUMP = 1 << 3,
	CMD_RESTORE = 1 << 4, CMD_CHECK = 1 << 5, CMD_SHOW = 1 << 6, CMD_CTL = 1 << 7,
	CMD_REPORT = 1 << 8,
};

struct cmd_line {
	struct flow_opts flow;       /* but for qos */
	const char *log_file, *policy_dir;
	const char *ghost_limit, *cpu_cap, *tracker, *tree, *output;
	const char *qos[QOS_ROWS];   /* as given, valid; NULL: not given */
	int verbosity;
	bool help;
	int n_args;
	char **args;
};

struct cmd {
	const char *name, *synopsis, *about;
	enum cmd_bit bit;
	int min_args, max_args;
	int (*run)(struct cmd_line *l, struct err *e);  /* 0, -errno, or an exit code > 0 */
};

extern const struct cmd cmd_table[];     /* ends with a NULL name */

/* Parses argv after the command's name. 0, -EINVAL with the reason. */
int cmd_parse(const struct cmd *c, int argc, char **argv, struct cmd_line *l, struct err *e);
void cmd_help(const struct cmd *c);

int cmd_migrate(struct cmd_line *l, struct err *e);
int cmd_ctl(struct cmd_line *l, struct err *e);
