/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The mapping of our own in a guest: one page of code, then two slots (leader; any one
 * other thread). Numbers shared by C and assembly.
 *
 *   slot := header | frame @0x1000 | calls @0x4fc0 (one hidden, then 512) | data @0xd000
 */
#pragma once

#define SLOT_FD     0
#define SLOT_CUR    8
#define SLOT_END    16
#define SLOT_MSG    24
#define SLOT_PAIR   32    /* both ends of the control socket until one is ours, else -1 */
#define SLOT_FRAME  0x1000
#define SLOT_HIDDEN 0x4fc0
#define SLOT_CALLS  0x5000
#define SLOT_DATA   0xd000
#define SLOT_SIZE   0x1d000

#define STUB_CODE_SIZE 0x1000
#define STUB_SIZE      (STUB_CODE_SIZE + 2 * SLOT_SIZE)
