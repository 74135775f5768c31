/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is in a pipe or FIFO, and how big it is: pipes-data.img, fifo-data.img. One record
 * per read(): one for all of a stream, one for each packet of a pipe in packet mode
 * (O_DIRECT). An empty pipe has a record without bytes.
 */
#pragma once

#include "kind.h"

/* Puts the records. Peeks: the pipe keeps its contents. `local`: any end of it. */
int kind_pipedata_dump(struct kind_dump *c, enum img_type type, uint32_t pipe_id, int local,
		       struct err *e);
/* Puts size and contents into a fresh pipe through its writing end (which does not block).
 * `packets`: the writing end was in packet mode. */
int kind_pipedata_restore(struct kind_restore *c, enum img_type type, uint32_t pipe_id, int wr,
			  bool packets, struct err *e);
