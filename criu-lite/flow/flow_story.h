/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The story of a migration as one HTML page, made of its samples (flow_samples.h): charts as inline
 * SVG, tables, no script, nothing from the network. What comes from the samples is never trusted.
 */
#pragma once

#include <stddef.h>
#include <stdio.h>

#include "err.h"

/* -EINVAL with the number of the line for what is no story; then nothing is written. A last line
 * that was cut off in the middle (migrate was killed) is left out, and the page says so. */
int story_html(const char *jsonl, size_t n, FILE *out, struct err *e);

/* The same into a file, which is replaced only by a complete page; "-": stdout. */
int story_save(const char *jsonl, size_t n, const char *path, struct err *e);

/* `criu-lite report`: samples in a file to a page. `to` NULL: `from` with .html instead of .json
 * (or after whatever it ends with); said on stdout. */
int story_report(const char *from, const char *to, struct err *e);
