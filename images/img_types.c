/* SPDX-License-Identifier: Apache-2.0 */
#include "img_types.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "img.h"

#include "apparmor.pb-c.h"
#include "autofs.pb-c.h"
#include "binfmt-misc.pb-c.h"
#include "bpfmap-data.pb-c.h"
#include "bpfmap-file.pb-c.h"
#include "cgroup.pb-c.h"
#include "core.pb-c.h"
#include "cpuinfo.pb-c.h"
#include "creds.pb-c.h"
#include "eventfd.pb-c.h"
#include "eventpoll.pb-c.h"
#include "ext-file.pb-c.h"
#include "fdinfo.pb-c.h"
#include "fifo.pb-c.h"
#include "file-lock.pb-c.h"
#include "fs.pb-c.h"
#include "fsnotify.pb-c.h"
#include "ghost-file.pb-c.h"
#include "inventory.pb-c.h"
#include "ipc-msg.pb-c.h"
#include "ipc-sem.pb-c.h"
#include "ipc-shm.pb-c.h"
#include "ipc-var.pb-c.h"
#include "memfd.pb-c.h"
#include "mm.pb-c.h"
#include "mnt.pb-c.h"
#include "netdev.pb-c.h"
#include "ns.pb-c.h"
#include "packet-sock.pb-c.h"
#include "pagemap.pb-c.h"
#include "pidfd.pb-c.h"
#include "pidns.pb-c.h"
#include "pipe.pb-c.h"
#include "pipe-data.pb-c.h"
#include "pstree.pb-c.h"
#include "regfile.pb-c.h"
#include "remap-file-path.pb-c.h"
#include "rlimit.pb-c.h"
#include "sa.pb-c.h"
#include "seccomp.pb-c.h"
#include "siginfo.pb-c.h"
#include "signalfd.pb-c.h"
#include "sk-inet.pb-c.h"
#include "sk-netlink.pb-c.h"
#include "sk-packet.pb-c.h"
#include "sk-unix.pb-c.h"
#include "stats.pb-c.h"
#include "tcp-stream.pb-c.h"
#include "timens.pb-c.h"
#include "timer.pb-c.h"
#include "timerfd.pb-c.h"
#include "tty.pb-c.h"
#include "tun.pb-c.h"
#include "userns.pb-c.h"
#include "utsns.pb-c.h"
#include "vma.pb-c.h"

/* First and following records: of one message, or of two. */
#define SAME(name)        &name##__descriptor, &name##__descriptor
#define PAIR(first, rest) &first##__descriptor, &rest##__descriptor

static const struct img_type_info types[IMG_TYPE_COUNT] = {
	[IMG_INVENTORY] = {"inventory.img", 0x58313116, SAME(inventory_entry)},
	[IMG_FDINFO] = {"fdinfo-%u.img", 0x56213732, SAME(fdinfo_entry)},
	[IMG_PAGEMAP] = {"pagemap-%lu.img", 0x56084025, PAIR(pagemap_head, pagemap_entry)},
	[IMG_SHMEM_PAGEMAP] = {"pagemap-shmem-%lu.img", 0x56084025,
			       PAIR(pagemap_head, pagemap_entry)},
	[IMG_REG_FILES] = {"reg-files.img", 0x50363636, SAME(reg_file_entry)},
	[IMG_EXT_FILES] = {"ext-files.img", 0x59255641, SAME(ext_file_entry)},
	[IMG_NS_FILES] = {"ns-files.img", 0x61394011, SAME(ns_file_entry)},
	[IMG_EVENTFD_FILE] = {"eventfd.img", 0x44523722, SAME(eventfd_file_entry)},
	[IMG_EVENTPOLL_FILE] = {"eventpoll.img", 0x45023858, SAME(eventpoll_file_entry)},
	[IMG_EVENTPOLL_TFD] = {"eventpoll-tfd.img", 0x44433746, SAME(eventpoll_tfd_entry)},
	[IMG_SIGNALFD] = {"signalfd.img", 0x57323820, SAME(signalfd_entry)},
	[IMG_INOTIFY_FILE] = {"inotify.img", 0x48424431, SAME(inotify_file_entry)},
	[IMG_INOTIFY_WD] = {"inotify-wd.img", 0x54562009, SAME(inotify_wd_entry)},
	[IMG_FANOTIFY_FILE] = {"fanotify.img", 0x55096122, SAME(fanotify_file_entry)},
	[IMG_FANOTIFY_MARK] = {"fanotify-mark.img", 0x56506035, SAME(fanotify_mark_entry)},
	[IMG_CORE] = {"core-%u.img", 0x55053847, SAME(core_entry)},
	[IMG_IDS] = {"ids-%u.img", 0x54432030, SAME(task_kobj_ids_entry)},
	[IMG_MM] = {"mm-%u.img", 0x57492820, SAME(mm_entry)},
	[IMG_VMAS] = {"vmas-%u.img", 0x54123737, SAME(vma_entry)},
	[IMG_PIPES] = {"pipes.img", 0x56513555, SAME(pipe_entry)},
	[IMG_PIPES_DATA] = {"pipes-data.img", 0x56453709, SAME(pipe_data_entry), IMG_EXTRA_PIPE},
	[IMG_FIFO] = {"fifo.img", 0x58364939, SAME(fifo_entry)},
	[IMG_FIFO_DATA] = {"fifo-data.img", 0x59333054, SAME(pipe_data_entry), IMG_EXTRA_PIPE},
	[IMG_PSTREE] = {"pstree.img", 0x50273030, SAME(pstree_entry)},
	[IMG_SIGACT] = {"sigacts-%u.img", 0x55344201, SAME(sa_entry)},
	[IMG_UNIXSK] = {"unixsk.img", 0x54373943, SAME(unix_sk_entry)},
	[IMG_INETSK] = {"inetsk.img", 0x56443851, SAME(inet_sk_entry)},
	[IMG_PACKETSK] = {"packetsk.img", 0x60454618, SAME(packet_sock_entry)},
	[IMG_NETLINK_SK] = {"netlinksk.img", 0x58005614, SAME(netlink_sk_entry)},
	[IMG_SK_QUEUES] = {"sk-queues.img", 0x56264026, SAME(sk_packet_entry), IMG_EXTRA_SK_QUEUE},
	[IMG_ITIMERS] = {"itimers-%u.img", 0x57464056, SAME(itimer_entry)},
	[IMG_POSIX_TIMERS] = {"posix-timers-%u.img", 0x52603957, SAME(posix_timer_entry)},
	[IMG_CREDS] = {"creds-%u.img", 0x54023547, SAME(creds_entry)},
	[IMG_UTSNS] = {"utsns-%u.img", 0x54473203, SAME(utsns_entry)},
	[IMG_IPC_VAR] = {"ipcns-var-%u.img", 0x53115007, SAME(ipc_var_entry)},
	[IMG_IPCNS_SHM] = {"ipcns-shm-%u.img", 0x46283044, SAME(ipc_shm_entry), IMG_EXTRA_IPC_SHM},
	[IMG_IPCNS_MSG] = {"ipcns-msg-%u.img", 0x55453737, SAME(ipc_msg_entry), IMG_EXTRA_IPC_MSG},
	[IMG_IPCNS_SEM] = {"ipcns-sem-%u.img", 0x59573019, SAME(ipc_sem_entry), IMG_EXTRA_IPC_SEM},
	[IMG_FS] = {"fs-%u.img", 0x51403912, SAME(fs_entry)},
	[IMG_REMAP_FPATH] = {"remap-fpath.img", 0x59133954, SAME(remap_file_path_entry)},
	[IMG_GHOST_FILE] = {"ghost-file-%x.img", 0x52583605,
			    PAIR(ghost_file_entry, ghost_chunk_entry), IMG_EXTRA_GHOST},
	[IMG_MEMFD_INODE] = {"memfd.img", 0x48453499, SAME(memfd_inode_entry)},
	[IMG_TCP_STREAM] = {"tcp-stream-%x.img", 0x51465506, SAME(tcp_stream_entry), IMG_EXTRA_TCP},
	[IMG_MNTS] = {"mountpoints-%u.img", 0x55563928, SAME(mnt_entry)},
	[IMG_NETDEV] = {"netdev-%u.img", 0x57373951, SAME(net_device_entry)},
	[IMG_NETNS] = {"netns-%u.img", 0x55933752, SAME(netns_entry)},
	[IMG_IFADDR] = {"ifaddr-%u.img", 0},
	[IMG_ROUTE] = {"route-%u.img", 0},
	[IMG_ROUTE6] = {"route6-%u.img", 0},
	[IMG_RULE] = {"rule-%u.img", 0},
	[IMG_IPTABLES] = {"iptables-%u.img", 0},
	[IMG_IP6TABLES] = {"ip6tables-%u.img", 0},
	[IMG_NFTABLES] = {"nftables-%u.img", 0},
	[IMG_TMPFS_IMG] = {"tmpfs-%u.tar.gz.img", 0},
	[IMG_TMPFS_DEV] = {"tmpfs-dev-%u.tar.gz.img", 0},
	[IMG_AUTOFS] = {"autofs-%u.img", 0x49353943, SAME(autofs_entry)},
	[IMG_BINFMT_MISC_OLD] = {"binfmt-misc-%u.img", 0x67343323, SAME(binfmt_misc_entry)},
	[IMG_BINFMT_MISC] = {"binfmt-misc.img", 0x67343323, SAME(binfmt_misc_entry)},
	[IMG_TTY_FILES] = {"tty.img", 0x59433025, SAME(tty_file_entry)},
	[IMG_TTY_INFO] = {"tty-info.img", 0x59453036, SAME(tty_info_entry)},
	[IMG_TTY_DATA] = {"tty-data.img", 0x59413026, SAME(tty_data_entry)},
	[IMG_FILE_LOCKS] = {"filelocks.img", 0x54323616, SAME(file_lock_entry)},
	[IMG_RLIMIT] = {"rlimit-%u.img", 0x57113925, SAME(rlimit_entry)},
	[IMG_PAGES] = {"pages-%u.img", 0},
	[IMG_PAGES_OLD] = {"pages-%d.img", 0x56084025},
	[IMG_SHM_PAGES_OLD] = {"pages-shmem-%ld.img", 0x56084025},
	[IMG_SIGNAL] = {"signal-s-%u.img", 0x59255647, SAME(siginfo_entry)},
	[IMG_PSIGNAL] = {"signal-p-%u.img", 0x59255647, SAME(siginfo_entry)},
	[IMG_TUNFILE] = {"tunfile.img", 0x57143751, SAME(tunfile_entry)},
	[IMG_CGROUP] = {"cgroup.img", 0x59383330, SAME(cgroup_entry)},
	[IMG_TIMERFD] = {"timerfd.img", 0x50493712, SAME(timerfd_entry)},
	[IMG_CPUINFO] = {"cpuinfo.img", 0x61404013, SAME(cpuinfo_entry)},
	[IMG_SECCOMP] = {"seccomp.img", 0x64413049, SAME(seccomp_entry)},
	[IMG_USERNS] = {"userns-%u.img", 0x55474906, SAME(userns_entry)},
	[IMG_NETNF_CT] = {"netns-ct-%u.img", 0},
	[IMG_NETNF_EXP] = {"netns-exp-%u.img", 0},
	[IMG_FILES] = {"files.img", 0x56303138, SAME(file_entry)},
	[IMG_TIMENS] = {"timens-%u.img", 0x43114433, SAME(timens_entry)},
	[IMG_PIDNS] = {"pidns-%u.img", 0x61157326, SAME(pidns_entry)},
	[IMG_BPFMAP_FILE] = {"bpfmap-file.img", 0x57506142, SAME(bpfmap_file_entry)},
	[IMG_BPFMAP_DATA] = {"bpfmap-data.img", 0x64324033, SAME(bpfmap_data_entry),
			     IMG_EXTRA_BPFMAP},
	[IMG_APPARMOR] = {"apparmor.img", 0x59423047, SAME(apparmor_entry)},
	[IMG_PIDFD] = {"pidfd.img", 0x54435556, SAME(pidfd_entry)},
	[IMG_STATS_DUMP] = {"stats-dump", 0x57093306, SAME(stats_entry)},
	[IMG_STATS_RESTORE] = {"stats-restore", 0x57093306, SAME(stats_entry)},
};

const struct img_type_info *img_type_info(enum img_type type)
{
	assert(type < IMG_TYPE_COUNT);
	return &types[type];
}

const ProtobufCMessageDescriptor *img_descriptor(enum img_type type)
{
	return img_type_info(type)->first;
}

uint32_t img_magic(enum img_type type)
{
	return img_type_info(type)->magic;
}

bool img_type_in_set(enum img_type type)
{
	switch (type) {
	case IMG_PAGEMAP:
	case IMG_SHMEM_PAGEMAP:
	case IMG_PAGES:
	case IMG_PAGES_OLD:
	case IMG_SHM_PAGES_OLD:
		return false;
	default:
		return type < IMG_TYPE_COUNT;
	}
}

void img_file_name(enum img_type type, uint64_t id, char *out, size_t size)
{
	const char *pattern = img_type_info(type)->pattern;
	const char *percent = strchr(pattern, '%');

	if (!percent) {
		snprintf(out, size, "%s", pattern);
		return;
	}
	const char *conversion = percent + strcspn(percent, "uxd");
	char number[24];
	snprintf(number, sizeof(number), *conversion == 'x' ? "%" PRIx64 : "%" PRIu64, id);
	snprintf(out, size, "%.*s%s%s", (int)(percent - pattern), pattern, number, conversion + 1);
}

/* A name stands for a type only as img_file_name() spells it: "core-012.img" does not. */
static bool name_is(enum img_type type, const char *name, uint64_t *id)
{
	const char *pattern = img_type_info(type)->pattern;
	const char *percent = strchr(pattern, '%');
	char canonical[64];

	*id = 0;
	if (!percent)
		return strcmp(name, pattern) == 0;
	size_t prefix = (size_t)(percent - pattern);
	if (strncmp(name, pattern, prefix) != 0)
		return false;
	*id = strtoull(name + prefix, NULL, percent[strcspn(percent, "uxd")] == 'x' ? 16 : 10);
	img_file_name(type, *id, canonical, sizeof(canonical));
	return strcmp(name, canonical) == 0;
}

bool img_type_of_name(const char *name, enum img_type *type, uint64_t *id)
{
	for (int i = 0; i < IMG_TYPE_COUNT; i++) {
		if (i == IMG_PAGES_OLD || i == IMG_SHM_PAGES_OLD || !name_is(i, name, id))
			continue;
		*type = i;
		return true;
	}
	return false;
}
