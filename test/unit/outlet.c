/* SPDX-License-Identifier: Apache-2.0 */
/* What is written for a reader who is slow, or gone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "outlet.h"

#define LINE 1000

static int pipe_ends[2];

static int setup(void **state)
{
	signal(SIGPIPE, SIG_IGN);
	return pipe(pipe_ends);
}

static int teardown(void **state)
{
	close(pipe_ends[0]);
	close(pipe_ends[1]);
	return 0;
}

/* Lines that tell their number, until the pipe takes no more. */
static unsigned int put_lines(struct outlet *o, unsigned int first, size_t held)
{
	char line[LINE + 1];
	unsigned int n = first;

	while (o->held.n < held && !o->lost) {
		snprintf(line, sizeof(line), "%*u\n", LINE - 1, n++);
		outlet_put(o, line, LINE);
	}
	return n;
}

static void *read_lines(void *arg)
{
	char line[LINE];
	unsigned int *n = arg;

	for (;;) {
		for (size_t at = 0; at < LINE;) {
			ssize_t got = read(pipe_ends[0], line + at, LINE - at);
			if (got <= 0)
				return NULL;
			at += (size_t)got;
		}
		assert_int_equal(strtoul(line, NULL, 10), *n);
		++*n;
	}
}

static void nothing_waits_and_nothing_is_lost(void **state)
{
	struct outlet o = { .fd = pipe_ends[1] };
	unsigned int n = put_lines(&o, 0, 10 * LINE), seen = 0;
	pthread_t reader;

	assert_int_equal(pthread_create(&reader, NULL, read_lines, &seen), 0);
	n = put_lines(&o, n, o.held.n + 1);
	outlet_end(&o);
	close(pipe_ends[1]);
	pthread_join(reader, NULL);
	assert_int_equal(seen, n);
	pipe_ends[1] = dup(pipe_ends[0]);
}

static void too_much_is_dropped(void **state)
{
	struct outlet o = { .fd = pipe_ends[1] };

	put_lines(&o, 0, SIZE_MAX);
	assert_int_equal(o.lost, LINE);
	assert_true(o.held.n <= OUTLET_MAX);
	close(pipe_ends[0]);
	outlet_end(&o); /* nobody will ever read it */
	assert_int_equal(o.held.n, 0);
	pipe_ends[0] = dup(pipe_ends[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(nothing_waits_and_nothing_is_lost, setup, teardown),
		cmocka_unit_test_setup_teardown(too_much_is_dropped, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
