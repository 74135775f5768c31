/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Slows the guest down: 10 ms it runs, then it stands still as long as the percentage asks for,
 * QEMU's duty cycle. By SIGSTOP and SIGCONT, or by the cgroup freezer, which nobody can see from
 * inside.
 *
 * Should we die, the guard lets the guest go on.
 */
#pragma once

#include "flow_guard.h"
#include "flow_qos.h"

struct throttle;

/* Nothing is touched before the first throttle_set() above 0. */
struct throttle *throttle_new(pid_t root, struct flow_guard *guard);
/* 0 to 99 % of the time. -errno: this way does not work here, the guest runs on unthrottled. */
int throttle_set(struct throttle *t, unsigned percent, enum qos_throttle way, struct err *e);
/* Between the two the guest is not stopped by us: for those who hold it themselves. */
void throttle_pause(struct throttle *t);
void throttle_resume(struct throttle *t);
/* Part of the time since the last call in which the guest could run: 0 to 1. */
double throttle_ran(struct throttle *t);
/* The guest runs; nothing of the throttle stays. NULL is allowed. */
void throttle_free(struct throttle *t);
