/* SPDX-License-Identifier: Apache-2.0 */
/* What comes from the other side or from disk; the first byte says what. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "net_addr.h"
#include "net_packet.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct err e = ERR_INIT;
	struct net_addr a;
	struct net_packet p;

	if (!size)
		return 0;
	char *copy = xcalloc(size, 1); /* ends with a zero byte */
	memcpy(copy, data + 1, size - 1);
	switch (data[0]) {
	case 'a':
		net_addr_parse(&a, copy, &e);
		break;
	case 'u':
		if (net_addr_unpack(&a, copy, &e) < 0)
			break;
		net_addr_land(&a);
		free(net_addr_pack(&a));
		break;
	case 'p':
		if (net_packet_tcp(&p, (uint8_t *)copy, size - 1))
			net_packet_complete(&p);
		break;
	}
	free(copy);
	return 0;
}
