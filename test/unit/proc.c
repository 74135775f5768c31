/* SPDX-License-Identifier: Apache-2.0 */
/* Parsers of /proc: samples of Linux 6.1 and 6.18, odd names, damaged text. */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>

#include <cmocka.h>

#include "err.h"
#include "proc_fdinfo.h"
#include "proc_maps.h"
#include "proc_task.h"

/* Runs a parser on a copy without a terminating zero, so that a read past the end is seen by
 * sanitizers and valgrind. */
#define PARSE(f, text, out, e) ({ \
	size_t _n = strlen(text); \
	char *_copy = malloc(_n + !_n); \
	memcpy(_copy, text, _n); \
	int _r = f(_copy, _n, out, e); \
	free(_copy); \
	_r; \
})

static void maps(void **state)
{
	static const char text[] =
		"55d8c2a00000-55d8c2a02000 r--p 00000000 fe:00 332383     /usr/bin/my cat\n"
		"55d8c2a02000-55d8c2a07000 r-xp 00002000 fe:00 332383     /usr/bin/my cat\n"
		"55d8c2b00000-55d8c2b01000 rw-s 00000000 00:01 1025       "
		"/memfd:a\\012b (deleted)\n"
		"55d8c2b01000-55d8c2b02000 rw-s 00000000 00:01 7  /tmp/back\\134slash\n"
		"7fcdc0900000-7fcdc0921000 rw-p 00000000 00:00 0 \n"
		"7fcdc0921000-7fcdc0922000 ---p 00000000 00:00 0          [anon:my arena]\n"
		"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0  [vsyscall]\n";
	struct err e = ERR_INIT;
	struct proc_maps m;

	assert_int_equal(PARSE(proc_maps_parse, text, &m, &e), 0);
	assert_int_equal(m.vma.n, 7);
	assert_string_equal(m.vma.at[0].path, "/usr/bin/my cat");
	assert_ptr_equal(m.vma.at[0].path, m.vma.at[1].path);
	assert_int_equal(m.vma.at[1].start, 0x55d8c2a02000);
	assert_int_equal(m.vma.at[1].pgoff, 0x2000);
	assert_int_equal(m.vma.at[1].prot, PROT_READ | PROT_EXEC);
	assert_int_equal(m.vma.at[1].dev_major, 0xfe);
	assert_int_equal(m.vma.at[1].ino, 332383);
	assert_false(m.vma.at[1].shared);
	assert_true(m.vma.at[2].shared && m.vma.at[2].deleted);
	assert_string_equal(m.vma.at[2].path, "/memfd:a\nb");
	assert_string_equal(m.vma.at[3].path, "/tmp/back\\134slash");
	assert_string_equal(m.vma.at[4].path, "");
	assert_string_equal(m.vma.at[5].path, "[anon:my arena]");
	assert_int_equal(m.vma.at[5].prot, 0);
	assert_int_equal(m.vma.at[6].end, 0xffffffffff601000);
	proc_maps_free(&m);
}

static void maps_long_path(void **state)
{
	size_t n = 70000;
	char *text = malloc(n + 200);
	struct err e = ERR_INIT;
	struct proc_maps m;
	int at = sprintf(text, "1000-2000 rw-p 00000000 00:00 0 /");

	memset(text + at, 'x', n);
	memcpy(text + at + n, " (deleted)\n", 12);
	assert_int_equal(PARSE(proc_maps_parse, text, &m, &e), 0);
	assert_int_equal(strlen(m.vma.at[0].path), n + 1);
	assert_true(m.vma.at[0].deleted);
	proc_maps_free(&m);
	free(text);
}

static void maps_bad(void **state)
{
	static const char *const bad[] = {
		"1000-2000 rw-p 00000000 00:00\n",
		"1000-2000 rw-q 00000000 00:00 0\n",
		"2000-1000 rw-p 00000000 00:00 0\n",
		"1001-2000 rw-p 00000000 00:00 0\n",
		"1000-2000 rw-p 00000000 00:00 0\n1000-3000 rw-p 00000000 00:00 0\n",
		"1000-20000000000000000 rw-p 00000000 00:00 0\n",
		"1000-2000 rw-p 00000000 00:00 0x\n",
		"\n",
		"Size: 4 kB\n",
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		struct err e = ERR_INIT;
		struct proc_maps m;

		assert_int_equal(PARSE(proc_maps_parse, bad[i], &m, &e), -EBADMSG);
		assert_non_null(strstr(e.text, "maps"));
	}
}

static void smaps(void **state)
{
	static const char text[] =
		"7ffd097bc000-7ffd097dd000 rw-p 00000000 00:00 0                  [stack]\n"
		"Size:                132 kB\nKernelPageSize:        4 kB\n"
		"Rss:                  16 kB\nPss_Dirty:            16 kB\n"
		"Anonymous:            12 kB\nSwap:                  8 kB\n"
		"SwapPss:               1 kB\nLocked:                4 kB\n"
		"THPeligible:           0\nProtectionKey:        11\n"
		"VmFlags: rd wr mr mw me gd ac zz sd \n"
		"7ffd097dd000-7ffd097de000 rw-p 00000000 00:00 0\n"
		"VmFlags: rd wr nh dd uw\n"
		"7ffd097df000-7ffd097e0000 rw-p 00000000 00:00 0\nVmFlags: rd wr ?? \n"
		"7ffd097e0000-7ffd097e1000 rw-p 00000000 00:00 0\nVmFlags: rd wr lo ?? \n";
	struct err e = ERR_INIT;
	struct proc_maps m;

	assert_int_equal(PARSE(proc_smaps_parse, text, &m, &e), 0);
	assert_int_equal(m.vma.n, 4);
	assert_int_equal(m.vma.at[0].vmflags, PROC_VF_GD | PROC_VF_AC | PROC_VF_MW);
	assert_int_equal(m.vma.at[0].pkey, 11);
	assert_int_equal(m.vma.at[1].pkey, 0);
	assert_int_equal(m.vma.at[0].rss, 16384);
	assert_int_equal(m.vma.at[0].anonymous, 12288);
	assert_int_equal(m.vma.at[0].swap, 8192);
	assert_int_equal(m.vma.at[0].locked, 4096);
	assert_int_equal(m.vma.at[1].vmflags, PROC_VF_NH | PROC_VF_DD | PROC_VF_UW);
	assert_int_equal(m.vma.at[2].vmflags, 0);
	assert_int_equal(m.vma.at[3].vmflags, PROC_VF_LO | PROC_VF_LF);
	proc_maps_free(&m);
	assert_int_equal(PARSE(proc_smaps_parse, "Rss: 1 kB\n", &m, &e), -EBADMSG);
	assert_int_equal(PARSE(proc_smaps_parse, "1000-2000 rw-p 0 0:0 0\nRss: x kB\n", &m, &e),
			 -EBADMSG);
}

#define STAT_REST \
	" S 6590 6592 2606 34816 -1 4194304 102 0 0 0 0 0 0 0 20 -5 3 0 151973 3133440 360 " \
	"18446744073709551615 94810872496128 94810872516009 140722968888560 0 0 0 0 0 0 0 0 0 17 " \
	"0 0 0 0 0 0 94810872532016 94810872533632 94811085107200 140722968894092 " \
	"140722968894112 140722968894113 140722968895467 256\n"

static void stat(void **state)
{
	struct err e = ERR_INIT;
	struct proc_stat s;

	assert_int_equal(PARSE(proc_stat_parse, "6594 (a) b (c)\\n\\\\)" STAT_REST, &s, &e), 0);
	assert_string_equal(s.comm, "a) b (c)\n\\");
	assert_int_equal(s.pid, 6594);
	assert_int_equal(s.ppid, 6590);
	assert_int_equal(s.pgrp, 6592);
	assert_int_equal(s.session, 2606);
	assert_int_equal(s.tty_nr, 34816);
	assert_int_equal(s.tpgid, -1);
	assert_int_equal(s.state, 'S');
	assert_int_equal(s.nice, -5);
	assert_int_equal(s.num_threads, 3);
	assert_int_equal(s.start_time, 151973);
	assert_int_equal(s.vsize, 3133440);
	assert_int_equal(s.start_code, 94810872496128);
	assert_int_equal(s.end_code, 94810872516009);
	assert_int_equal(s.start_stack, 140722968888560);
	assert_int_equal(s.exit_signal, 17);
	assert_int_equal(s.start_data, 94810872532016);
	assert_int_equal(s.start_brk, 94811085107200);
	assert_int_equal(s.env_start, 140722968894113);
	assert_int_equal(s.env_end, 140722968895467);
	assert_int_equal(s.exit_code, 256);

	assert_int_equal(PARSE(proc_stat_parse, "", &s, &e), -EBADMSG);
	assert_int_equal(PARSE(proc_stat_parse, "1 (x", &s, &e), -EBADMSG);
	assert_int_equal(PARSE(proc_stat_parse, "1 (x) S 1 2 3\n", &s, &e), -EBADMSG);
	assert_int_equal(
		PARSE(proc_stat_parse,
		      "1 (0123456789012345678901234567890123456789012345678901234567890123)"
		      STAT_REST, &s, &e), -EBADMSG);
}

#define STATUS_HEAD \
	"Name:\tUid:\\n1\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t12\nNgid:\t0\nPid:\t13\n" \
	"PPid:\t1\nTracerPid:\t7\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t4294967294\nFDSize:\t256\n"
#define STATUS_TAIL \
	"VmSize:\t    3060 kB\nVmLck:\t       4 kB\nVmRSS:\t    1736 kB\nTHP_enabled:\t0\n" \
	"SigQ:\t0/96365\nSigPnd:\t0000000000000001\nShdPnd:\t0000000000000200\n" \
	"SigBlk:\t8000000000000000\nSigIgn:\t0000000000001000\nSigCgt:\t0000000180000000\n" \
	"CapInh:\t0000000000000000\nCapPrm:\t000001fffeffffff\nCapEff:\t000001fffeffffff\n" \
	"CapBnd:\t000001fffeffffff\nCapAmb:\t0000000000000400\nNoNewPrivs:\t1\nSeccomp:\t2\n" \
	"Seccomp_filters:\t1\nCpus_allowed:\t3\n"

static void status(void **state)
{
	struct proc_status s;
	struct err e = ERR_INIT;

	assert_int_equal(PARSE(proc_status_parse, STATUS_HEAD "Groups:\t4 20 27 \nNStgid:\t12\t2\n"
			       "NSpid:\t13\t3\nKthread:\t0\n" STATUS_TAIL, &s, &e), 0);
	assert_int_equal(s.state, 'S');
	assert_int_equal(s.umask, 022);
	assert_int_equal(s.tgid, 12);
	assert_int_equal(s.pid, 13);
	assert_int_equal(s.tracer, 7);
	assert_int_equal(s.uid[3], 4);
	assert_int_equal(s.gid[3], 4294967294u);
	assert_int_equal(s.groups.n, 3);
	assert_int_equal(s.groups.at[2], 27);
	assert_int_equal(s.ns_pids, 2);
	assert_int_equal(s.nspid, 3);
	assert_int_equal(s.vm_size, 3060 * 1024);
	assert_int_equal(s.vm_locked, 4096);
	assert_int_equal(s.vm_rss, 1736 * 1024);
	assert_true(s.thp_disabled);
	assert_int_equal(s.sig_pnd, 1);
	assert_int_equal(s.shd_pnd, 0x200);
	assert_int_equal(s.sig_blk, 1ull << 63);
	assert_int_equal(s.cap_prm, 0x1fffeffffff);
	assert_int_equal(s.cap_amb, 0x400);
	assert_int_equal(s.no_new_privs, 1);
	assert_int_equal(s.seccomp, 2);
	proc_status_free(&s);

	/* A zombie has no umask and no Vm lines; nobody needs groups. */
	assert_int_equal(PARSE(proc_status_parse, "Name:\tx\nState:\tZ (zombie)\nTgid:\t1\n"
			       "Pid:\t1\nPPid:\t1\nTracerPid:\t0\nUid:\t0\t0\t0\t0\n"
			       "Gid:\t0\t0\t0\t0\nGroups:\t \n" STATUS_TAIL, &s, &e), 0);
	assert_int_equal(s.groups.n, 0);
	proc_status_free(&s);
	assert_int_equal(PARSE(proc_status_parse, STATUS_HEAD, &s, &e), -EBADMSG);
	assert_non_null(strstr(e.text, "Groups"));
	assert_int_equal(PARSE(proc_status_parse, STATUS_HEAD "Groups:\t4 x\n" STATUS_TAIL, &s, &e),
			 -EBADMSG);
}

static void children(void **state)
{
	struct err e = ERR_INIT;
	pid_vec v;

	assert_int_equal(PARSE(proc_children_parse, "12 4194303 ", &v, &e), 0);
	assert_int_equal(v.n, 2);
	assert_int_equal(v.at[1], 4194303);
	vec_free(&v);
	assert_int_equal(PARSE(proc_children_parse, "", &v, &e), 0);
	assert_int_equal(v.n, 0);
	assert_int_equal(PARSE(proc_children_parse, "12 -1 ", &v, &e), -EBADMSG);
	assert_int_equal(PARSE(proc_children_parse, "99999999999", &v, &e), -EBADMSG);
}

static void timers(void **state)
{
	static const char text[] =
		"ID: 0\nsignal: 34/1234567812345678\nnotify: signal/tid.6596\n"
		"ClockID: 1\nID: 2\nsignal: 10/0\nnotify: none/pid.12\nClockID: -6\n";
	struct err e = ERR_INIT;
	proc_timer_vec v;

	assert_int_equal(PARSE(proc_timers_parse, text, &v, &e), 0);
	assert_int_equal(v.n, 2);
	assert_int_equal(v.at[0].signo, 34);
	assert_int_equal(v.at[0].sival_ptr, 0x1234567812345678);
	assert_int_equal(v.at[0].notify, 4);
	assert_int_equal(v.at[0].notify_pid, 6596);
	assert_int_equal(v.at[0].clock, 1);
	assert_int_equal(v.at[1].id, 2);
	assert_int_equal(v.at[1].notify, 1);
	assert_int_equal(v.at[1].clock, -6);
	vec_free(&v);
	assert_int_equal(PARSE(proc_timers_parse, "", &v, &e), 0);
	assert_int_equal(PARSE(proc_timers_parse, "signal: 1/0\n", &v, &e), -EBADMSG);
	assert_int_equal(PARSE(proc_timers_parse, "ID: 0\nnotify: what/pid.1\n", &v, &e), -EBADMSG);
}

static void mountinfo(void **state)
{
	static const char text[] =
		"22 27 0:21 / /proc rw,relatime - proc proc rw\n"
		"36 35 98:0 /mnt1 /a\\040b\\134 rw,noatime master:1 shared:2 "
		"- ext4 /dev/root rw,err\n"
		"37 35 0:50 / /empty rw - tmpfs  rw,size=1k\n";
	struct err e = ERR_INIT;
	proc_mount_vec v;

	assert_int_equal(PARSE(proc_mountinfo_parse, text, &v, &e), 0);
	assert_int_equal(v.n, 3);
	assert_int_equal(v.at[0].parent, 27);
	assert_string_equal(v.at[0].super_options, "rw");
	assert_int_equal(v.at[1].major, 98);
	assert_string_equal(v.at[1].root, "/mnt1");
	assert_string_equal(v.at[1].point, "/a b\\");
	assert_string_equal(v.at[1].fstype, "ext4");
	assert_string_equal(v.at[2].source, "");
	assert_string_equal(v.at[2].super_options, "rw,size=1k");
	proc_mountinfo_free(&v);
	assert_int_equal(PARSE(proc_mountinfo_parse, "1 2 0:21 / /p rw proc\n", &v, &e), -EBADMSG);
	assert_int_equal(PARSE(proc_mountinfo_parse, "1 2 3 / /p rw - a b c\n", &v, &e), -EBADMSG);
}

static void auxv(void **state)
{
	uint64_t v[] = {33, 0x7ffe0000, 6, 4096, 0, 0, 9, 1};
	const uint8_t *p = (const uint8_t *)v;

	assert_int_equal(proc_auxv_get(p, sizeof(v), 33), 0x7ffe0000);
	assert_int_equal(proc_auxv_get(p, sizeof(v), 9), 0);
	assert_int_equal(proc_auxv_get(p, 31, 6), 0);
}

static void fdinfo_epoll_locks(void **state)
{
	static const char text[] =
		"pos:\t42\nflags:\t02100002\nmnt_id:\t27\nino:\t10953025\n"
		"lock:\t1: FLOCK  ADVISORY  WRITE 6596 fe:00:10953025 0 EOF\n"
		"lock:\t2: POSIX  ADVISORY  READ 6596 fe:00:10953025 5 14\n"
		"lock:\t3: OFDLCK ADVISORY  WRITE -1 fe:10:10953025 100 EOF\n"
		"lock:\t4: LEASE  ACTIVE    READ 6596 fe:00:10953025 0 EOF\n"
		"tfd:        3 events:       19 data:        10000dead  pos:0 ino:40e sdev:10\n"
		"tfd:        5 events: 80000001 data: ffffffffffffffff\n"
		"inotify wd:1 ino:3c51a sdev:fe00000 mask:100 ignored_mask:0 fhandle-bytes:8\n"
		"something-new: 5\nline of no kind\n";
	struct proc_fdinfo i;
	struct err e = ERR_INIT;

	assert_int_equal(PARSE(proc_fdinfo_parse, text, &i, &e), 0);
	assert_int_equal(i.pos, 42);
	assert_int_equal(i.flags, 02100002);
	assert_int_equal(i.mnt_id, 27);
	assert_int_equal(i.ino, 10953025);
	assert_int_equal(i.locks.n, 4);
	assert_int_equal(i.locks.at[0].kind, PROC_LOCK_FLOCK);
	assert_true(i.locks.at[0].write);
	assert_int_equal(i.locks.at[0].len, 0);
	assert_int_equal(i.locks.at[1].start, 5);
	assert_int_equal(i.locks.at[1].len, 10);
	assert_false(i.locks.at[1].write);
	assert_int_equal(i.locks.at[2].kind, PROC_LOCK_OFD);
	assert_int_equal(i.locks.at[2].pid, -1);
	assert_int_equal(i.locks.at[2].dev, makedev(0xfe, 0x10));
	assert_int_equal(i.locks.at[3].kind, PROC_LOCK_LEASE);
	assert_int_equal(i.epoll.n, 2);
	assert_int_equal(i.epoll.at[0].tfd, 3);
	assert_int_equal(i.epoll.at[0].events, 0x19);
	assert_int_equal(i.epoll.at[0].data, 0x10000dead);
	assert_int_equal(i.epoll.at[0].ino, 0x40e);
	assert_int_equal(i.epoll.at[0].sdev, 0x10);
	assert_int_equal(i.epoll.at[1].events, 0x80000001);
	assert_true(i.has_inotify);
	assert_false(i.has_fanotify);
	proc_fdinfo_free(&i);
}

static void fdinfo_values(void **state)
{
	static const char text[] =
		"pos:\t0\nflags:\t02\nmnt_id:\t17\nino:\t1038\neventfd-count:               1f\n"
		"sigmask:\t0000000000000200\nclockid: 1\nticks: 3\nsettime flags: 01\n"
		"it_value: (7, 999999999)\nit_interval: (1, 5)\nPid:\t-1\nNSpid:\t6596\t4\n";
	struct proc_fdinfo i;
	struct err e = ERR_INIT;

	assert_int_equal(PARSE(proc_fdinfo_parse, text, &i, &e), 0);
	assert_int_equal(i.eventfd_count, 0x1f);
	assert_false(i.has_eventfd_semaphore);
	assert_int_equal(i.sigmask, 0x200);
	assert_int_equal(i.timerfd.clockid, 1);
	assert_int_equal(i.timerfd.ticks, 3);
	assert_int_equal(i.timerfd.settime_flags, 1);
	assert_int_equal(i.timerfd.value_sec, 7);
	assert_int_equal(i.timerfd.value_nsec, 999999999);
	assert_int_equal(i.timerfd.interval_nsec, 5);
	assert_int_equal(i.pidfd_pid, -1);
	assert_int_equal(i.pidfd_nspid, 4);
	proc_fdinfo_free(&i);
}

static void fdinfo_bad(void **state)
{
	static const char *const bad[] = {
		"pos:\tx\n", "flags:\t9\n", "it_value: (1, 1000000000)\n", "it_value: (1\n",
		"tfd: 3 events: 19\n", "tfd: 3 events: 19 data: 1 pos:0 ino:z\n",
		"lock:\t1: WHAT ADVISORY WRITE 1 0:0:0 0 EOF\n",
		"lock:\t1: POSIX ADVISORY WRITE 1 0:0:0 5 4\n", "lock:\t1: POSIX\n",
		"lock:\t1: POSIX ADVISORY WRITE 1 0:0:0 0 9223372036854775807\n",
	};

	for (size_t k = 0; k < sizeof(bad) / sizeof(*bad); k++) {
		struct proc_fdinfo i;
		struct err e = ERR_INIT;

		assert_int_equal(PARSE(proc_fdinfo_parse, bad[k], &i, &e), -EBADMSG);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(maps), cmocka_unit_test(maps_long_path),
		cmocka_unit_test(maps_bad), cmocka_unit_test(smaps),
		cmocka_unit_test(stat), cmocka_unit_test(status),
		cmocka_unit_test(children), cmocka_unit_test(timers),
		cmocka_unit_test(mountinfo), cmocka_unit_test(auxv),
		cmocka_unit_test(fdinfo_epoll_locks), cmocka_unit_test(fdinfo_values),
		cmocka_unit_test(fdinfo_bad),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
