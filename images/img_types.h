/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file types of a CRIU 4.2 image directory. An image file, little endian:
 *
 *   file      := common record* | inventory record* | service record* | raw
 *   common    := u32 0x54564319, u32 magic of the type
 *   service   := u32 0x55105940, u32 magic of the type      (stats-dump, stats-restore)
 *   inventory := u32 magic of the type
 *   record    := u32 length, message of that length, extra
 *   extra     := raw bytes whose length the message tells, see enum img_extra
 */
#pragma once

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stdint.h>

#define IMG_MAGIC_COMMON  0x54564319u
#define IMG_MAGIC_SERVICE 0x55105940u

enum img_type {
	IMG_INVENTORY,
	IMG_FDINFO,
	IMG_PAGEMAP,         /* img_pages.h */
	IMG_SHMEM_PAGEMAP,   /* img_pages.h */
	IMG_REG_FILES,
	IMG_EXT_FILES,
	IMG_NS_FILES,
	IMG_EVENTFD_FILE,
	IMG_EVENTPOLL_FILE,
	IMG_EVENTPOLL_TFD,
	IMG_SIGNALFD,
	IMG_INOTIFY_FILE,
	IMG_INOTIFY_WD,
	IMG_FANOTIFY_FILE,
	IMG_FANOTIFY_MARK,
	IMG_CORE,
	IMG_IDS,
	IMG_MM,
	IMG_VMAS,
	IMG_PIPES,
	IMG_PIPES_DATA,
	IMG_FIFO,
	IMG_FIFO_DATA,
	IMG_PSTREE,
	IMG_SIGACT,
	IMG_UNIXSK,
	IMG_INETSK,
	IMG_PACKETSK,
	IMG_NETLINK_SK,
	IMG_SK_QUEUES,
	IMG_ITIMERS,
	IMG_POSIX_TIMERS,
	IMG_CREDS,
	IMG_UTSNS,
	IMG_IPC_VAR,
	IMG_IPCNS_SHM,
	IMG_IPCNS_MSG,
	IMG_IPCNS_SEM,
	IMG_FS,
	IMG_REMAP_FPATH,
	IMG_GHOST_FILE,
	IMG_MEMFD_INODE,
	IMG_TCP_STREAM,
	IMG_MNTS,
	IMG_NETDEV,
	IMG_NETNS,
	IMG_IFADDR,
	IMG_ROUTE,
	IMG_ROUTE6,
	IMG_RULE,
	IMG_IPTABLES,
	IMG_IP6TABLES,
	IMG_NFTABLES,
	IMG_TMPFS_IMG,
	IMG_TMPFS_DEV,
	IMG_AUTOFS,
	IMG_BINFMT_MISC_OLD,
	IMG_BINFMT_MISC,
	IMG_TTY_FILES,
	IMG_TTY_INFO,
	IMG_TTY_DATA,
	IMG_FILE_LOCKS,
	IMG_RLIMIT,
	IMG_PAGES,           /* img_pages.h */
	IMG_PAGES_OLD,       /* as old CRIU wrote it; neither written nor read */
	IMG_SHM_PAGES_OLD,   /* likewise */
	IMG_SIGNAL,
	IMG_PSIGNAL,
	IMG_TUNFILE,
	IMG_CGROUP,
	IMG_TIMERFD,
	IMG_CPUINFO,
	IMG_SECCOMP,
	IMG_USERNS,
	IMG_NETNF_CT,
	IMG_NETNF_EXP,
	IMG_FILES,
	IMG_TIMENS,
	IMG_PIDNS,
	IMG_BPFMAP_FILE,
	IMG_BPFMAP_DATA,
	IMG_APPARMOR,
	IMG_PIDFD,
	IMG_STATS_DUMP,
	IMG_STATS_RESTORE,
	IMG_TYPE_COUNT
};

/* How the bytes after a record are counted. */
enum img_extra {
	IMG_EXTRA_NONE,
	IMG_EXTRA_PIPE,      /* pipe_data_entry.bytes */
	IMG_EXTRA_SK_QUEUE,  /* sk_packet_entry.length */
	IMG_EXTRA_TCP,       /* tcp_stream_entry.inq_len + outq_len */
	IMG_EXTRA_BPFMAP,    /* bpfmap_data_entry.keys_bytes + values_bytes */
	IMG_EXTRA_IPC_SHM,   /* ipc_shm_entry.size in whole u32, none if in_pagemaps */
	IMG_EXTRA_IPC_SEM,   /* nsems u16, in whole u64 */
	IMG_EXTRA_IPC_MSG,   /* qnum times: u32 length, ipc_msg, msize bytes in whole u64 */
	IMG_EXTRA_GHOST,     /* entry: the rest of the file, or none if in chunks; chunk: len */
};

/* Facts about a type. `rest` describes the records after the first where they differ:
 * a pagemap is a head and then entries, a ghost file an entry and then chunks. */
struct img_type_info {
	const char *pattern;      /* file name: one conversion (%u, %lu, %x, %d, %ld) or none */
	uint32_t magic;           /* 0: raw file, a group of one record without a message */
	const ProtobufCMessageDescriptor *first, *rest;
	enum img_extra extra;
};

const struct img_type_info *img_type_info(enum img_type type);

/* Which type and id a file name ("core-12.img") stands for; false: none. */
bool img_type_of_name(const char *name, enum img_type *type, uint64_t *id);

/* False for pagemaps and pages: these are not part of a set (img_pages.h). */
bool img_type_in_set(enum img_type type);
