/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kinds of open files. One .c file per kind, one row in table.c. A row knows how to
 * recognise a descriptor, write its state into a FileEntry, and make it again.
 *
 * Open files are open file *descriptions*: two descriptors that share one (dup, fork, SCM)
 * have the same id and are created once. Nothing here depends on which process holds it,
 * except where the kernel makes it so (epoll, POSIX locks, owners): that is for `finish`.
 *
 * `create` depends on nothing but the set; `finish` runs when every fd of every task
 * stands in its place.
 */
#pragma once

#include <limits.h>
#include <sys/stat.h>

#include "err.h"
#include "fdinfo.pb-c.h"
#include "img.h"
#include "proc_fdinfo.h"
#include "remote.h"

/* Options of the command line that kinds obey (names as CRIU's). */
struct kind_opts {
	bool shell_job, ext_unix_sk, tcp_close, tcp_established, skip_in_flight, file_locks,
		link_remap;
	uint64_t ghost_limit;    /* bytes of a deleted file that may go into the images */
};

/* One open file as seen from outside, through our own duplicate of it. */
struct fd_view {
	pid_t pid;               /* a holder, and its number there */
	int fd;
	int local;               /* our duplicate: same description */
	struct stat st;
	char link[PATH_MAX];     /* readlink of /proc/PID/fd/N, e.g. "pipe:[4711]", "/etc/hosts" */
	bool deleted;            /* link ended in " (deleted)", which is cut off */
	int flags;               /* F_GETFL */
	int64_t pos;             /* file offset, 0 where there is none */
	uint32_t id;             /* of the description in the images, a kind_number() of
				  * KIND_SPACE_FILE with key1 below KIND_KEY_OWN */
	struct proc_fdinfo info; /* /proc/PID/fdinfo/N, parsed */
};
#define KIND_KEY_OWN (1ULL << 63)  /* key1 of the numbers that kinds give out themselves */

/* Fills a view (all but id) from our duplicate and /proc. `local` stays the caller's and must
 * outlive the view. Release with kind_view_free(). */
int kind_view(pid_t pid, int fd, int local, struct fd_view *v, struct err *e);
void kind_view_free(struct fd_view *v);

/* ---- source side ---- */

/* Lives as long as a migration, so that ids stay the same from round to round. */
struct kind;
struct kind_dump;
struct kind_dump *kind_dump_new(const struct kind_opts *opts);
void kind_dump_free(struct kind_dump *c);
const struct kind_opts *kind_dump_opts(const struct kind_dump *c);

/* The set that records go to; begins a new pass (round): what was put in the old one is to be
 * put again. */
void kind_dump_begin(struct kind_dump *c, struct img_set *set);
struct img_set *kind_dump_set(struct kind_dump *c);

/* A number for an object, the same each time for the same (space, key) pair, from 1 up.
 * Spaces keep apart what is numbered apart in the images. */
enum kind_space {
	KIND_SPACE_FILE, KIND_SPACE_PIPE, KIND_SPACE_INODE, KIND_SPACE_TTY, KIND_SPACE_SHM,
	KIND_SPACE_BUILD_ID
};
uint32_t kind_number(struct kind_dump *c, enum kind_space space, uint64_t key1, uint64_t key2,
		     uint64_t key3);
/* True the first time in this pass that (space, number) is asked for: "put its record once". */
bool kind_first(struct kind_dump *c, enum kind_space space, uint32_t number);

/* Preflight of one descriptor of a running guest: which kind, and can it be dumped?
 * The error says pid, fd, kind and remedy. Changes nothing; needs no set. */
int kind_check(struct kind_dump *c, const struct fd_view *v, struct err *e);

/* Puts the FileEntry (and what belongs to it) of a description into the set, once per pass.
 * Call it for every descriptor, also for the next ones of a description: POSIX locks belong
 * to the process. */
int kind_dump_fd(struct kind_dump *c, struct fd_view *v, struct err *e);
/* For the preflight of the target, while the guest runs: puts the entry if it is of a kind that the
 * target can look for (files, ports and names that are to be free), nothing otherwise. Not followed
 * by kind_dump_end(). */
int kind_preview_fd(struct kind_dump *c, struct fd_view *v, struct err *e);
/* The kind of a description: FdinfoEntry needs it. -ENOTSUP: none. */
int kind_type(const struct fd_view *v, FdTypes *type);

/* Descriptors in flight (sent, not received yet) become ours for the length of a pass and are
 * dumped as such. Who gives the ids tells theirs, too: `id` gets our pid and our number. Without
 * it they are refused. */
void kind_dump_identify(struct kind_dump *c, uint32_t (*id)(void *arg, pid_t pid, int fd),
			void *arg);

/* After the last descriptor of a preflight or a pass: what only the whole tells, such as a pipe
 * or socket whose peer is not among the guest's files. Runs `end` of every kind. */
int kind_dump_end(struct kind_dump *c, struct err *e);

/* What a kind keeps as long as `c` lives: NULL at first; `release` is called at the end. */
void **kind_dump_slot(struct kind_dump *c, const struct kind *k, void (*release)(void *));
/* Instead of that, a list of things that own nothing: its VEC, empty at first. */
void *kind_dump_list(struct kind_dump *c, const struct kind *k);

/* What is not a descriptor but needs a path: exe, cwd, root, mapped files. `local`: an fd for
 * the file (O_PATH will do), path as the guest sees it. Puts a REG entry; *id is its id. */
int kind_dump_path(struct kind_dump *c, int local, const char *path, int flags, uint32_t *id,
		   struct err *e);

/* The frozen guest is about to be killed here, and lives on elsewhere: nobody is to hear of it
 * (open TCP connections end without a word). May be called twice. */
int kind_dump_leave(struct kind_dump *c, struct err *e);
/* The guest stays here after all: takes back what dumping left in the file system (names made
 * for --link-remap), and kind_dump_leave(). */
void kind_dump_undo(struct kind_dump *c);

/* ---- target side ---- */

struct kind_restore;
struct kind_restore *kind_restore_new(const struct kind_opts *opts);
/* The guest is about to run: what was made aside takes its name in the file system, names for
 * --link-remap go. There is no way back from here. */
void kind_restore_done(struct kind_restore *c);
/* Without kind_restore_done() before it, nothing stays in the file system of what was made. */
void kind_restore_free(struct kind_restore *c);
const struct kind_opts *kind_restore_opts(const struct kind_restore *c);

/* (Re)reads the FileEntries of a set; regular files and shared memory that are already open and
 * unchanged stay open, the rest is made again at its next use. Holders are forgotten, processes
 * are not. The set must live on. */
int kind_restore_begin(struct kind_restore *c, const struct img_set *set, struct err *e);
const struct img_set *kind_restore_set(const struct kind_restore *c);

/* Is every file there, and the same (size, mtime, build-id), every port and socket name free?
 * Nothing stays created. Complaints are gathered, all of them: one call of `complain` each. Returns
 * their number. */
int kind_restore_check(struct kind_restore *c, void (*complain)(void *arg, const struct err *e),
		       void *arg);

/* The entry and our fd of a description. The fd is made at first use (create) and stays ours.
 * For REG entries used by mappings this is all there is to it. fd or -errno. */
const FileEntry *kind_entry(const struct kind_restore *c, uint32_t id);
int kind_fd(struct kind_restore *c, uint32_t id, struct err *e);

/* The entries of the set one by one; NULL past the end. */
const FileEntry *kind_entry_at(const struct kind_restore *c, size_t i);
/* For `create` that makes two descriptions at once (a socket pair): fd becomes that of `id`. */
void kind_give(struct kind_restore *c, uint32_t id, int fd);

/* What a kind keeps until the next kind_restore_begin(), which calls `release`: NULL at first. */
void **kind_restore_slot(struct kind_restore *c, const struct kind *k, void (*release)(void *));

/* Who holds a description, filled by the caller of kind_finish for every fd put. */
struct kind_holder {
	struct remote *in;       /* NULL: we ourselves */
	int fd;
};
void kind_hold(struct kind_restore *c, uint32_t id, struct kind_holder h);
const struct kind_holder *kind_holders(const struct kind_restore *c, uint32_t id, size_t *n);
/* The process of this set with that pid, for owners and locks; NULL: none. */
struct remote *kind_process(const struct kind_restore *c, pid_t pid);
void kind_set_process(struct kind_restore *c, pid_t pid, struct remote *r);

/* Runs `finish` of every description that was made, gives owners (F_SETOWN), checks files once
 * more, sets seals and takes file locks. -EAGAIN: a lock is still held by somebody else; may be
 * called again. */
int kind_finish(struct kind_restore *c, struct err *e);

/* ---- a kind ---- */

/* dump: fe and everything below it come from malloc, as it is released with
 * protobuf_c_message_free_unpacked(). The caller has set fe->id and fe->type; the kind hangs in
 * its message (id, flags and what it has). `fown` may be left NULL: the caller fills it, and gives
 * the owner back after finish. KIND_PUT_LATER: fe is the kind's now, `end` puts it. */
#define KIND_PUT_LATER 1
struct kind {
	const char *name;                            /* "eventfd", for errors */
	FdTypes type;                                /* in FileEntry */
	bool (*match)(const struct fd_view *v);
	int (*check)(struct kind_dump *c, const struct fd_view *v, struct err *e); /* or NULL */
	bool (*preview)(const struct fd_view *v);    /* kind_preview_fd() puts it; or NULL: never */
	int (*dump)(struct kind_dump *c, const struct fd_view *v, FileEntry *fe, struct err *e);
	int (*end)(struct kind_dump *c, struct err *e);                              /* or NULL */
	int (*leave)(struct kind_dump *c, struct err *e);                            /* or NULL */
	void (*undo)(struct kind_dump *c);                                           /* or NULL */
	/* Could it be created here? Nothing stays behind. Or NULL. */
	int (*verify)(struct kind_restore *c, const FileEntry *fe, struct err *e);
	/* *fd: a new descriptor, flags and offset as in the entry */
	int (*create)(struct kind_restore *c, const FileEntry *fe, int *fd, struct err *e);
	/* these two, or NULL */
	int (*finish)(struct kind_restore *c, const FileEntry *fe, int fd, struct err *e);
	void (*done)(struct kind_restore *c, const FileEntry *fe);
};

extern const struct kind *const kind_table[];   /* ends with NULL; first match wins */
