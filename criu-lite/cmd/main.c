/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cmd.h"
#include "log.h"

static void usage(FILE *f)
{
	fprintf(f, "usage: criu-lite COMMAND [OPTIONS]\n\n");
	for (const struct cmd *c = cmd_table; c->name; c++)
		fprintf(f, "  %-10s %s\n", c->name, c->about);
	fprintf(f,
		"\ncriu-lite COMMAND --help tells its options; criu-lite(8) tells everything.\n");
}

static const struct cmd *find(const char *name)
{
	for (const struct cmd *c = cmd_table; c->name; c++)
		if (!strcmp(c->name, name))
			return c;
	return NULL;
}

/* A relative log file is meant relative to the work dir, as with CRIU. */
static int open_log(const struct cmd_line *l, struct err *e)
{
	const char *dir = l->flow.work_dir ? l->flow.work_dir : l->flow.images_dir;

	if (!l->log_file)
		return 0;
	int at = dir && l->log_file[0] != '/' ? open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC)
					      : AT_FDCWD;
	if (at < 0 && at != AT_FDCWD)
		return err_set(e, errno, "directory %s", dir);
	int fd = openat(at, l->log_file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (at >= 0)
		close(at);
	if (fd < 0)
		return err_set(e, errno, "log file %s", l->log_file);
	log_to_fd(fd);
	return 0;
}

static int fail(const struct err *e, int code)
{
	err_print(e);
	return code;
}

int main(int argc, char **argv)
{
	struct cmd_line l;
	struct err e = ERR_INIT;

	signal(SIGPIPE, SIG_IGN);
	if (argc < 2) {
		usage(stderr);
		return EXIT_USAGE;
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
		usage(stdout);
		return 0;
	}
	if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V")) {
		printf("criu-lite %s\n", CRIU_LITE_VERSION);
		return 0;
	}
	const struct cmd *c = find(argv[1]);
	if (!c) {
		err_say(&e, EINVAL, "unknown command %s", argv[1]);
		err_remedy(&e, "see criu-lite --help");
		return fail(&e, EXIT_USAGE);
	}
	if (cmd_parse(c, argc - 1, argv + 1, &l, &e) < 0)
		return fail(&e, EXIT_USAGE);
	if (l.help) {
		cmd_help(c);
		return 0;
	}
	log_set_level(l.verbosity);
	if (open_log(&l, &e) < 0)
		return fail(&e, EXIT_FAILED);
	int ret = c->run(&l, &e);
	return ret < 0 ? fail(&e, EXIT_FAILED) : ret;
}
