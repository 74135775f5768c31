/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control socket of a running migration: CTL_DIR/ID.sock, for root only. A thread of its own
 * serves it, bounded in everything, so that whoever talks to it cannot hold the migration up.
 *
 * One JSON object per line, one answer per line:
 *
 *   {"cmd": "status"}                          all of struct flow_sample, the policy in force
 *   {"cmd": "set", "values": {KEY: VALUE...}}  all of them or none; VALUE: text, number or bool
 *   {"cmd": "abort"}, {"cmd": "force-complete"}
 *
 *   {"ok": true, "said": "what happens next", ...}
 *   {"ok": false, "error": "...", "remedy": "..."}
 */
#pragma once

#include <jansson.h>

#include "flow_live.h"

#define CTL_DIR "/run/criu-lite/migrations"
#define CTL_REQUEST_MAX 4096
#define CTL_ID_MAX 32

struct ctl;

/* `dir` NULL: CTL_DIR. `l` must have its id and pid, and live until ctl_end(). Removes the sockets
 * of migrations that are dead. */
int ctl_serve_in(const char *dir, struct ctl **out, struct flow_live *l, struct err *e);
int ctl_serve(struct ctl **out, struct flow_live *l, struct err *e);
void ctl_end(struct ctl *c);             /* NULL: nothing */
const char *ctl_id(const struct ctl *c); /* to be named to the user */

/* What the thread says to a line; the caller frees it. It ends with a newline. */
char *ctl_answer(struct flow_live *l, const char *line, size_t n);

/* ---- the other end ---- */

typedef VEC(char *) ctl_ids;
void ctl_ids_free(ctl_ids *ids);

/* Who runs; the sockets of those that are dead are removed. */
int ctl_list(const char *dir, ctl_ids *ids, struct err *e);
/* `id`: whole, or the pid alone where that is clear; NULL: the only one there is. *answer is given
 * only if that says ok; what it complains of is the error. */
int ctl_ask(const char *dir, const char *id, const json_t *request, json_t **answer, struct err *e);
