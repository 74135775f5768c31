/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs a fuzz target over files and directories without libFuzzer, so that each corpus is an
 * ordinary test. Each input is also cut short and flipped, a bounded number of times.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "cleanup.h"
#include "io.h"

#define STEPS 200

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A copy of exactly the size, so that a sanitizer sees reads past its end. */
static void run(const uint8_t *data, size_t size)
{
	_cleanup_free_ uint8_t *copy = xmemdup(data, size);

	LLVMFuzzerTestOneInput(copy, size);
}

static int run_file(const char *path)
{
	_cleanup_(buf_free) struct buf file = { 0 };
	struct err e = ERR_INIT;

	if (io_slurp_at(AT_FDCWD, path, &file, &e) < 0) {
		fprintf(stderr, "%s\n", e.text);
		return 1;
	}
	run(file.at, file.n);
	size_t step = file.n / STEPS + 1;
	for (size_t i = 0; i < file.n; i += step) {
		uint8_t old = file.at[i];
		run(file.at, i);
		file.at[i] ^= (uint8_t)(1u << (i % 8));
		run(file.at, file.n);
		file.at[i] = 0xff;
		run(file.at, file.n);
		file.at[i] = old;
	}
	return 0;
}

static int run_directory(const char *path, size_t *files)
{
	_cleanup_closedir_ DIR *dir = opendir(path);
	int failed = 0;

	if (!dir) {
		perror(path);
		return 1;
	}
	for (struct dirent *d; (d = readdir(dir));) {
		if (d->d_name[0] == '.')
			continue;
		_cleanup_free_ char *file = xasprintf("%s/%s", path, d->d_name);
		failed |= run_file(file);
		++*files;
	}
	return failed;
}

int main(int argc, char **argv)
{
	size_t files = 0;
	int failed = 0;

	run(NULL, 0);
	for (int i = 1; i < argc; i++) {
		struct stat st;
		if (stat(argv[i], &st) == 0 && S_ISDIR(st.st_mode)) {
			failed |= run_directory(argv[i], &files);
		} else {
			failed |= run_file(argv[i]);
			files++;
		}
	}
	printf("%zu inputs\n", files);
	return failed || files == 0;
}
