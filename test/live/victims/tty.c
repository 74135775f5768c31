/* SPDX-License-Identifier: Apache-2.0 */
/* Stands on the terminal of its shell: --shell-job lets it keep that, with other session ids. */
#include "victim.h"

#include <termios.h>

static void note_terminal(void)
{
	struct termios t;
	char name[64];

	SYS(tcgetattr(0, &t));
	v_note("terminal %s flags %x %x %x %x", ttyname_r(0, name, sizeof(name)) ? "?" : name,
	       t.c_iflag, t.c_oflag, t.c_cflag, t.c_lflag);
}

int main(int argc, char **argv)
{
	v_init(argc, argv);
	if (!isatty(0) || !isatty(1))
		v_skip("not on a terminal");
	v_observe(note_terminal, V_NO_COMMON);
	v_ready();
	v_wait();
	v_recheck();
	CHECK(write(1, "said\n", 5) == 5, "write to the terminal: %s", strerror(errno));
	v_ok();
}
