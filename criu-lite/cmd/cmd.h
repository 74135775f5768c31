/* SPDX-License-Identifier: Apache-2.0 */
/* The command line: commands, their options, exit codes. */
#pragma once

#include "flow.h"

/* Exit codes: 0 done, 1 failed (the reason was printed), 2 wrong usage. */
#define EXIT_FAILED 1
#define EXIT_USAGE  2

struct cmd_line {
	struct flow_opts flow;
	const char *log_file;
	const char *connections, *comp_method, *comp_level, *bandwidth, *max_downtime, *max_rounds;
	const char *ghost_limit, *tracker, *tree;
	int verbosity;
	bool help;
	int n_args;
	char **args;
};

struct cmd {
	const char *name, *synopsis, *about;
	const char *options;         /* letters of the option table that it takes */
	int min_args, max_args;
	int (*run)(struct cmd_line *l, struct err *e);  /* 0, -errno, or an exit code > 0 */
};

extern const struct cmd cmd_table[];     /* ends with a NULL name */

/* Parses argv after the command's name. 0, -EINVAL with the reason. */
int cmd_parse(const struct cmd *c, int argc, char **argv, struct cmd_line *l, struct err *e);
void cmd_help(const struct cmd *c);
