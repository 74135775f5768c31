/* SPDX-License-Identifier: Apache-2.0 */
/* Sets as they come in the stream. What is accepted is printed and survives another round. */
#include <assert.h>
#include <string.h>

#include "img.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void print_all(const struct img_set *s, FILE *f)
{
	enum img_type type;
	size_t it = 0;
	uint64_t id;

	while (img_next(s, &it, &type, &id)) {
		for (size_t i = 0; img_descriptor(type) && i < img_count(s, type, id); i++) {
			_cleanup_msg_ ProtobufCMessage *m = NULL;
			struct err e = ERR_INIT;
			int ret = img_get(s, type, id, i, &m, &e);
			assert(ret == 0);
			img_print(f, m, 0);
		}
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_img_set_ struct img_set *s = NULL, *again = NULL;
	_cleanup_(buf_free) struct buf first = { 0 }, second = { 0 };
	struct err e = ERR_INIT;

	if (img_set_decode(&s, data, size, &e) < 0)
		return 0;
	_cleanup_fclose_ FILE *f = fopen("/dev/null", "w");
	print_all(s, f);
	img_set_encode(s, &first);
	int ret = img_set_decode(&again, first.at, first.n, &e);
	assert(ret == 0);
	img_set_encode(again, &second);
	assert(first.n == second.n && memcmp(first.at, second.at, first.n) == 0);
	return 0;
}
