/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Policy files: what an operator wants of every migration, and of those of some guests.
 *
 *   DIR/default.conf            for all
 *   DIR/guests.d/NAME.conf      for the guest that it matches, or that is called NAME by --guest
 *
 * A file has lines `key = value`; # and ; begin a comment. Keys are the names of flow_qos.h, and in
 * guests.d also what a guest must match, all of it where both are given (patterns of fnmatch):
 *
 *   executable = /usr/bin/redis-*      / is matched by / only
 *   cgroup     = /system.slice/redis*  of /proc/PID/cgroup; * matches / too
 *
 * The command line wins over the guest's file, that over default.conf, that over what is built in.
 */
#pragma once

#include <sys/types.h>

#include "flow_qos.h"

#define POLICY_DIR "/etc/criu-lite"

/* A file as read. Lines count from 1; 0: not given. */
struct policy_file {
	char *path;                      /* for messages */
	char *executable, *cgroup;
	struct flow_qos qos;             /* only values that have a line are set */
	unsigned line[QOS_ROWS];
};
/* Release with policy_file_free(), also after an error ("PATH:LINE: ..."). */
int policy_parse(struct policy_file *f, const char *path, const char *text, size_t n,
		 struct err *e);
void policy_file_free(struct policy_file *f);

struct policy_ask {
	const char *dir;                 /* NULL: POLICY_DIR, which need not exist */
	const char *guest_name;          /* --guest; NULL: what matches `pid` */
	pid_t pid;
	const char *const *given;        /* [QOS_ROWS], of the command line; NULL: not given */
};

struct policy {
	struct flow_qos qos;
	char *guest;                     /* name of its file; NULL: none matched */
	char *from[QOS_ROWS];            /* "built-in", "FILE:LINE", "command line" */
};
/* Gathers what is in force. qos_check() is left to the caller. Release with policy_free(), also
 * after an error. */
int policy_load(struct policy *p, const struct policy_ask *ask, struct err *e);
void policy_free(struct policy *p);

/* All values and where each came from; the text is a policy file itself. */
void policy_print(const struct policy *p, bool as_json, FILE *out);
