/* SPDX-License-Identifier: Apache-2.0 */
/* The commands. */
#include <errno.h>
#include <stdio.h>
#include <sys/wait.h>

#include "cmd.h"
#include "flow_story.h"
#include "img_dir.h"

static int need_tree(const struct cmd_line *l, struct err *e)
{
	if (l->flow.pid)
		return 0;
	err_say(e, EINVAL, "which process?");
	return err_remedy(e, "name it with -t PID");
}

static int run_dump(struct cmd_line *l, struct err *e)
{
	int ret = need_tree(l, e);

	if (ret == 0 && l->flow.leave_running && l->flow.leave_stopped)
		ret = err_say(e, EINVAL, "--leave-running and --leave-stopped exclude each other");
	return ret < 0 ? ret : flow_dump(&l->flow, e);
}

static int run_pre_dump(struct cmd_line *l, struct err *e)
{
	int ret = need_tree(l, e);

	return ret < 0 ? ret : flow_pre_dump(&l->flow, e);
}

static int run_restore(struct cmd_line *l, struct err *e)
{
	int status, ret = flow_restore(&l->flow, &status, e);

	if (ret < 0)
		return ret;
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static int run_receive(struct cmd_line *l, struct err *e)
{
	if (!l->flow.where)
		l->flow.where = ":9400";
	return flow_receive(&l->flow, e);
}

static int run_check(struct cmd_line *l, struct err *e)
{
	return flow_check(e);
}

static int run_show(struct cmd_line *l, struct err *e)
{
	return img_file_show(l->args[0], stdout, e);
}

static int run_report(struct cmd_line *l, struct err *e)
{
	return story_report(l->args[0], l->output, e);
}

const struct cmd cmd_table[] = {
	{ "migrate", "-t PID [OPTIONS] HOST:PORT", "Moves a running process tree to another host.",
	  CMD_MIGRATE, 0, 1, cmd_migrate },
	{ "ctl", "[ID] status|set KEY=VALUE...|abort|force-complete|list",
	  "Watches and steers a migration that leaves this host.", CMD_CTL, 1, 2 + QOS_ROWS,
	  cmd_ctl },
	{ "receive", "[--listen HOST:PORT] [OPTIONS]",
	  "Takes in migrating guests, one after another.",
	  CMD_RECEIVE, 0, 0, run_receive },
	{ "dump", "-t PID -D DIR [OPTIONS]", "Writes a checkpoint of a process tree, and ends it.",
	  CMD_DUMP, 0, 0, run_dump },
	{ "pre-dump", "-t PID -D DIR [OPTIONS]", "Writes the memory of a running process tree.",
	  CMD_PRE_DUMP, 0, 0, run_pre_dump },
	{ "restore", "-D DIR [OPTIONS]", "Brings a checkpoint back to life.", CMD_RESTORE, 0, 0,
	  run_restore },
	{ "check", "[OPTIONS]", "Tries what criu-lite needs of this kernel.", CMD_CHECK, 0, 0,
	  run_check },
	{ "show", "FILE.img", "Prints an image file readably.", CMD_SHOW, 1, 1, run_show },
	{ "report", "FILE.json [-O FILE.html]", "Makes a page of the samples of a migration.",
	  CMD_REPORT, 1,
	  1, run_report },
	{ 0 },
};
