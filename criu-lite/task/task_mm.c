/* SPDX-License-Identifier: Apache-2.0 */
/* The address space of a task as the source sees it. */
#include "task_mm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "fs.pb-c.h"
#include "io.h"
#include "kind_shm.h"

void task_mm_free(struct task_mm *m)
{
	if (!m)
		return;
	proc_maps_free(&m->maps);
	buf_free(&m->text);
	vec_free(&m->guard);
	free(m);
}

static int slurp(const struct task *t, const char *file, struct buf *b, struct err *e)
{
	return io_slurp(b, e, "/proc/%d/%s", t->pid, file);
}

static void leave_out_stub(const struct task *t, struct proc_maps *m)
{
	if (!t->remote)
		return;
	struct grange stub = remote_stub(t->remote);
	size_t keep = 0;

	for (size_t i = 0; i < m->vma.n; i++)
		if (m->vma.at[i].start >= stub.end || m->vma.at[i].end <= stub.start)
			m->vma.at[keep++] = m->vma.at[i];
	m->vma.n = keep;
}

static int look_at_stat(const struct task *t, struct proc_stat *st, struct err *e)
{
	_cleanup_(buf_free) struct buf b = { 0 };
	int ret = slurp(t, "stat", &b, e);

	return ret < 0 ? ret : proc_stat_parse((char *)b.at, b.n, st, e);
}

/* Both lists are of the same moment. */
static int read_both(const struct task *t, struct task_mm *m, struct err *e)
{
	_cleanup_(buf_free) struct buf smaps = { 0 }, again = { 0 };
	int ret;

	if ((ret = slurp(t, "maps", &m->text, e)) < 0 || (ret = slurp(t, "smaps", &smaps, e)) < 0 ||
	    (ret = proc_smaps_parse((char *)smaps.at, smaps.n, &m->maps, e)) < 0)
		return ret;
	if (t->remote)
		return 0;
	if ((ret = slurp(t, "maps", &again, e)) < 0)
		return ret;
	/* for task_mm_refresh(): these are not the mappings that the text tells of */
	if (again.n != m->text.n || memcmp(again.at, m->text.at, again.n))
		m->text.n = 0;
	return 0;
}

/* The kernel shows the list in pieces: if the task runs, they may not fit together, and after
 * an exec the rest is missing. A task in the middle of an exec has few mappings and no code yet. */
static int look_running(const struct task *t, struct task_mm *m, struct err *e)
{
	struct proc_stat before, after;
	int ret;

	if ((ret = look_at_stat(t, &before, e)) < 0)
		return ret;
	if ((ret = read_both(t, m, e)) == -EBADMSG)
		return err_say(e, EAGAIN, "pid %d changes its mappings", t->pid);
	if (ret < 0 || (ret = look_at_stat(t, &after, e)) < 0)
		return ret;
	if (!before.end_code || before.end_code != after.end_code ||
	    before.start_stack != after.start_stack)
		return err_say(e, EAGAIN, "pid %d calls exec", t->pid);
	return 0;
}

int task_mm_look(struct task *t, struct err *e)
{
	struct task_mm *m = xcalloc(1, sizeof(*m));
	uint64_t since = io_now_ns();
	int ret = t->remote ? read_both(t, m, e) : look_running(t, m, e);

	if (ret < 0) {
		task_mm_free(m);
		return ret;
	}
	leave_out_stub(t, &m->maps);
	m->looked_ns = io_now_ns();
	m->cost_ns = m->looked_ns - since;
	task_mm_free(t->mm);
	t->mm = m;
	return 0;
}

int task_mm_now(const struct task *t, struct proc_maps *out, struct err *e)
{
	_cleanup_(buf_free) struct buf text = { 0 };
	int ret = slurp(t, "maps", &text, e);

	if (ret == 0)
		ret = proc_maps_parse((char *)text.at, text.n, out, e);
	if (ret == 0)
		leave_out_stub(t, out);
	return ret;
}

/* Whether /proc/PID/maps is what it was at the last look. */
static int is_same(const struct task *t, bool *same, struct err *e)
{
	_cleanup_(buf_free) struct buf text = { 0 };
	int ret = slurp(t, "maps", &text, e);

	*same = ret == 0 && t->mm && text.n == t->mm->text.n &&
		!memcmp(text.at, t->mm->text.at, text.n);
	return ret;
}

int task_mm_refresh(struct task *t, struct err *e)
{
	bool same;
	int ret = is_same(t, &same, e);

	return ret < 0 || same ? ret : task_mm_look(t, e);
}

#define LOOK_SHARE 20   /* smaps for a twentieth of the time at most */

int task_mm_look_again(struct task *t, struct err *e)
{
	if (t->mm && io_now_ns() - t->mm->looked_ns < LOOK_SHARE * t->mm->cost_ns)
		return task_mm_refresh(t, e);
	return task_mm_look(t, e);
}

/* ---- what kind of mapping is it ---- */

bool task_vma_special(const struct proc_vma *v)
{
	return !strcmp(v->path, "[vdso]") || !strncmp(v->path, "[vvar", 5) ||
	       !strcmp(v->path, "[vsyscall]");
}

static bool is_memfd(const struct proc_vma *v)
{
	return v->ino && !strncmp(v->path, "/memfd:", 7);
}

static bool is_anon_shared(const struct proc_vma *v)
{
	return v->shared && v->ino && v->deleted && !strcmp(v->path, "/dev/zero");
}

bool task_vma_sysv(const struct proc_vma *v)
{
	return v->shared && !strncmp(v->path, "/SYSV", 5);
}

bool task_vma_private(const struct proc_vma *v)
{
	return !v->shared && !task_vma_special(v);
}

bool task_vma_object(const struct proc_vma *v)
{
	return is_anon_shared(v) || task_vma_sysv(v) || (v->shared && is_memfd(v));
}

static const struct {
	uint32_t flag;
	const char *what, *remedy;
} refused_flags[] = {
	{ PROC_VF_HT, "huge pages of hugetlbfs", "use transparent huge pages (madvise) instead" },
	{ PROC_VF_IO | PROC_VF_PF, "memory of a device",
	  "stop the use of the device (e.g. start QEMU with -accel tcg)" },
	{ PROC_VF_UM | PROC_VF_UI, "a userfaultfd of the guest's own",
	  "stop what handles its page faults (post-copy, snapshotting, a garbage collector)" },
	{ PROC_VF_SS, "a shadow stack", "start the program without it (GLIBC_TUNABLES="
					"glibc.cpu.x86_shstk=off)" },
	{ PROC_VF_SL, "a sealed mapping (mseal)", "start the program without memory sealing" },
};

static const struct {
	const char *prefix, *what, *remedy;
} refused_paths[] = { /* the last that fits */
	{ "/[aio]", "an AIO ring (libaio)", "start the program without native AIO" },
	{ "anon_inode:", "an anonymous inode (io_uring, perf, ...)",
	  "start the program without it (QEMU: -drive aio=threads)" },
	{ "anon_inode:kvm", "a CPU of KVM, whose state is not part of a process",
	  "move the virtual machine by QEMU's own migrate command, or run it with -accel tcg" },
	{ "socket:", "a packet socket's ring", "stop the capture" },
	{ "[uprobes]", "uprobes", "end the tracing of this program" },
	{ "/dev/dri", "a graphics device", "stop the use of the device" },
};

static int check_vma(const struct proc_vma *v, struct err *e)
{
	const char *what = NULL, *remedy = NULL;

	if (task_vma_special(v))
		return 0;
	for (size_t i = 0; i < sizeof(refused_flags) / sizeof(refused_flags[0]); i++)
		if (v->vmflags & refused_flags[i].flag) {
			what = refused_flags[i].what;
			remedy = refused_flags[i].remedy;
		}
	for (size_t i = 0; i < sizeof(refused_paths) / sizeof(refused_paths[0]); i++)
		if (!strncmp(v->path, refused_paths[i].prefix, strlen(refused_paths[i].prefix))) {
			what = refused_paths[i].what;
			remedy = refused_paths[i].remedy;
		}
	/* the kernel itself has one for what may only be executed */
	if (v->pkey && v->prot != PROT_EXEC) {
		what = "a protection key (pkey_mprotect)";
		remedy = "start the program without memory protection keys";
	}
	if (!what)
		return 0;
	err_say(e, ENOTSUP, "mapping %lx-%lx (%s): %s", v->start, v->end,
		*v->path ? v->path : "anonymous", what);
	return err_remedy(e, "%s", remedy);
}

int task_mm_check(const struct task *t, struct err *e)
{
	vec_each(&t->mm->maps.vma, v)
		if (check_vma(v, e) < 0)
			return err_in(e, "pid %d (%s)", t->pid, t->comm);
	return 0;
}

/* ---- into mm-PID.img ---- */

int task_vma_open(const struct task *t, const struct proc_vma *v, int flags, struct err *e)
{
	char path[96];

	snprintf(path, sizeof(path), "/proc/%d/map_files/%lx-%lx", t->pid, v->start, v->end);
	_cleanup_close_ int fd = open(path, flags | O_CLOEXEC);
	if (fd < 0)
		return err_set(e, errno, "%s (%s)", path, v->path);
	/* The guest may run, and have another object there by now. */
	struct stat st;
	if ((is_memfd(v) || task_vma_object(v)) && fstat(fd, &st) == 0 && st.st_ino != v->ino)
		return err_say(e, EAGAIN, "%s changed while it was looked at", path);
	return steal_fd(fd);
}

/* Flags to open the file with, so that the mapping can be made again. */
static int open_flags(const struct proc_vma *v)
{
	return v->shared && v->vmflags & PROC_VF_MW ? O_RDWR : O_RDONLY;
}

static int put_memfd(struct task *t, struct kind_dump *c, const struct proc_vma *v, uint32_t *id,
		     struct err *e)
{
	_cleanup_close_ int fd = task_vma_open(t, v, open_flags(v), e);
	struct fd_view view;

	if (fd < 0)
		return fd;
	int ret = kind_view(getpid(), fd, fd, &view, e);
	if (ret < 0)
		return ret;
	view.id = *id = kind_number(c, KIND_SPACE_FILE, KIND_KEY_OWN | view.st.st_dev,
				    view.st.st_ino, (uint64_t)open_flags(v));
	ret = kind_dump_fd(c, &view, e);
	kind_view_free(&view);
	return ret;
}

/* The guest may run, and have mapped another file there by now. Numbers of inodes would say so, but
 * for overlayfs, where a mapping shows the one below. Names with a newline are escaped in the
 * list. */
static bool is_named(const struct proc_vma *v, const char *name)
{
	size_t n = strlen(v->path);

	return strchr(v->path, '\\') ||
	       (!strncmp(name, v->path, n) && (!name[n] || !strcmp(name + n, " (deleted)")));
}

static int put_file(struct task *t, struct kind_dump *c, const struct proc_vma *v, uint32_t *id,
		    struct err *e)
{
	char path[96];
	char name[PATH_MAX];
	_cleanup_close_ int fd = task_vma_open(t, v, O_PATH, e);

	if (fd < 0)
		return fd;
	snprintf(path, sizeof(path), "/proc/%d/map_files/%lx-%lx", t->pid, v->start, v->end);
	ssize_t n = readlink(path, name, sizeof(name) - 1);
	if (n < 0)
		return err_set(e, errno, "%s", path);
	name[n] = '\0';
	if (!is_named(v, name))
		return err_say(e, EAGAIN, "%s changed while it was looked at", path);
	return kind_dump_path(c, fd, name, open_flags(v), id, e);
}

static uint64_t madv_bits(uint32_t f)
{
	static const struct {
		uint32_t flag;
		int advice;
	} map[] = {
		{ PROC_VF_RR, MADV_RANDOM }, { PROC_VF_SR, MADV_SEQUENTIAL },
		{ PROC_VF_DC, MADV_DONTFORK }, { PROC_VF_MG, MADV_MERGEABLE },
		{ PROC_VF_HG, MADV_HUGEPAGE }, { PROC_VF_NH, MADV_NOHUGEPAGE },
		{ PROC_VF_DD, MADV_DONTDUMP }, { PROC_VF_WF, MADV_WIPEONFORK },
	};
	uint64_t bits = 0;

	for (size_t i = 0; i < sizeof(map) / sizeof(map[0]); i++)
		if (f & map[i].flag)
			bits |= 1ull << map[i].advice;
	if (f & PROC_VF_AC)
		bits |= VMA_MADV_ACCOUNTED;
	if (f & PROC_VF_LF)
		bits |= VMA_MADV_ONFAULT;
	if (f & PROC_VF_GU)
		bits |= VMA_MADV_GUARDS;
	return bits;
}

#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08
#endif

static uint32_t map_flags(const struct proc_vma *v)
{
	uint32_t f = v->shared ? MAP_SHARED : v->vmflags & PROC_VF_DP ? MAP_DROPPABLE : MAP_PRIVATE;

	if (is_anon_shared(v) || (!v->ino && !task_vma_sysv(v)))
		f |= MAP_ANONYMOUS;
	if (v->vmflags & PROC_VF_GD)
		f |= MAP_GROWSDOWN;
	if (v->vmflags & PROC_VF_NR)
		f |= MAP_NORESERVE;
	if (v->vmflags & PROC_VF_LO)
		f |= MAP_LOCKED;
	return f;
}

static int put_backing(struct task *t, struct kind_dump *c, const struct proc_vma *v, VmaEntry *ve,
		       struct err *e)
{
	uint32_t id;
	int ret = 0;

	if (is_anon_shared(v) || task_vma_sysv(v)) {
		_cleanup_close_ int fd = task_vma_open(t, v, O_RDWR, e);
		struct shm_object *o;

		if (fd < 0)
			return fd;
		if (task_vma_sysv(v))
			o = shm_seen_sysv(c, fd, (int)v->ino, e);
		else
			o = shm_seen(c, fd, false, e);
		if (!o)
			return -e->code;
		ve->status |= VMA_ANON_SHARED | (task_vma_sysv(v) ? VMA_SYSVIPC : 0);
		ve->shmid = o->id;
		if (task_vma_sysv(v) && !(v->vmflags & PROC_VF_MW))
			ve->madv |= VMA_MADV_RDONLY;
		return 0;
	}
	if (!v->ino) {
		ve->status |= VMA_ANON_PRIVATE;
		return 0;
	}
	if (is_memfd(v)) {
		ve->status |= VMA_MEMFD;
		ret = put_memfd(t, c, v, &id, e);
	} else {
		ret = put_file(t, c, v, &id, e);
	}
	if (ret < 0)
		return ret;
	ve->status |= v->shared ? VMA_FILE_SHARED : VMA_FILE_PRIVATE;
	ve->shmid = id;
	ve->has_fdflags = true;
	ve->fdflags = (uint32_t)open_flags(v);
	return 0;
}

static int put_vma(struct task *t, struct kind_dump *c, const struct proc_vma *v, VmaEntry *ve,
		   struct err *e)
{
	vma_entry__init(ve);
	ve->start = v->start;
	ve->end = v->end;
	ve->pgoff = v->ino || task_vma_sysv(v) ? v->pgoff : 0;
	ve->prot = v->prot;
	ve->flags = map_flags(v);
	ve->status = VMA_REGULAR;
	ve->fd = -1;
	ve->has_madv = true;
	ve->madv = madv_bits(v->vmflags);
	if (task_vma_special(v)) {
		ve->status |= !strcmp(v->path, "[vdso]") ? VMA_VDSO | VMA_ANON_PRIVATE :
			      !strcmp(v->path, "[vsyscall]") ? VMA_VSYSCALL | VMA_ANON_PRIVATE :
			      VMA_VVAR | VMA_ANON_PRIVATE;
		return 0;
	}
	if (!strcmp(v->path, "[heap]"))
		ve->status |= VMA_HEAP;
	else if (!strcmp(v->path, "[stack]"))
		ve->status |= VMA_STACK;
	return put_backing(t, c, v, ve, e);
}

static int put_addresses(struct task *t, MmEntry *mm, struct buf *auxv, struct err *e)
{
	struct proc_stat st;
	int ret;

	if ((ret = look_at_stat(t, &st, e)) < 0 || (ret = slurp(t, "auxv", auxv, e)) < 0)
		return ret;
	mm->mm_start_code = st.start_code;
	mm->mm_end_code = st.end_code;
	mm->mm_start_data = st.start_data;
	mm->mm_end_data = st.end_data;
	mm->mm_start_stack = st.start_stack;
	mm->mm_start_brk = mm->mm_brk = st.start_brk;
	mm->mm_arg_start = st.arg_start;
	mm->mm_arg_end = st.arg_end;
	mm->mm_env_start = st.env_start;
	mm->mm_env_end = st.env_end;
	mm->mm_saved_auxv = (uint64_t *)(void *)auxv->at;
	mm->n_mm_saved_auxv = auxv->n / 8;
	return 0;
}

static int put_exe(struct task *t, struct kind_dump *c, MmEntry *mm, struct err *e)
{
	char path[64], name[PATH_MAX];

	snprintf(path, sizeof(path), "/proc/%d/exe", t->pid);
	_cleanup_close_ int fd = open(path, O_PATH | O_CLOEXEC);
	if (fd < 0)
		return err_set(e, errno, "%s", path);
	ssize_t n = readlink(path, name, sizeof(name) - 1);
	if (n < 0)
		return err_set(e, errno, "%s", path);
	name[n] = '\0';
	return kind_dump_path(c, fd, name, O_RDONLY, &mm->exe_file_id, e);
}

static int ask_guest(struct task *t, MmEntry *mm, struct err *e)
{
	_cleanup_batch_ struct batch b = BATCH(remote_leader(t->remote));
	size_t brk = batch_call(&b, "brk", SYS_brk, 0);
	size_t dumpable = batch_call(&b, "prctl(PR_GET_DUMPABLE)", SYS_prctl, PR_GET_DUMPABLE);
	size_t thp = batch_call(&b, "?prctl(PR_GET_THP_DISABLE)", SYS_prctl, PR_GET_THP_DISABLE);
	int ret = batch_run(&b, e);

	if (ret < 0)
		return ret;
	mm->mm_brk = (uint64_t)b.call.at[brk].ret;
	mm->has_dumpable = true;
	mm->dumpable = (int32_t)b.call.at[dumpable].ret;
	mm->has_thp_disabled = b.call.at[thp].ret > 0;
	mm->thp_disabled = b.call.at[thp].ret > 0;
	return 0;
}

int task_mm_capture(struct task *t, struct kind_dump *c, bool frozen, struct img_set *set,
		    struct err *e)
{
	MmEntry mm = MM_ENTRY__INIT;
	_cleanup_(buf_free) struct buf auxv = { 0 };
	size_t n = t->mm->maps.vma.n;
	_cleanup_free_ VmaEntry *ve = xcalloc(n, sizeof(*ve));
	_cleanup_free_ VmaEntry **list = xcalloc(n, sizeof(*list));
	int ret;

	for (size_t i = 0; i < n; i++) {
		list[i] = &ve[i];
		if ((ret = put_vma(t, c, &t->mm->maps.vma.at[i], &ve[i], e)) < 0)
			return err_in(e, "pid %d (%s)", t->pid, t->comm);
	}
	mm.vmas = list;
	mm.n_vmas = n;
	mm.cl_guard = (uint64_t *)t->mm->guard.at;
	mm.n_cl_guard = 2 * t->mm->guard.n;
	if ((ret = put_addresses(t, &mm, &auxv, e)) < 0 || (ret = put_exe(t, c, &mm, e)) < 0 ||
	    (frozen && (ret = ask_guest(t, &mm, e)) < 0))
		return err_in(e, "pid %d (%s)", t->pid, t->comm);
	mm.cl_vdso = task_vdso_look(t, &mm);
	img_put(set, IMG_MM, (uint64_t)t->pid, &mm.base);
	if (mm.cl_vdso)
		vdso_image_entry__free_unpacked(mm.cl_vdso, NULL);
	return 0;
}

/* ---- cwd, root, umask ---- */

static int put_link(struct task *t, struct kind_dump *c, const char *which, uint32_t *id,
		    struct err *e)
{
	char path[64], name[PATH_MAX];

	snprintf(path, sizeof(path), "/proc/%d/%s", t->pid, which);
	_cleanup_close_ int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return err_set(e, errno, "%s", path);
	ssize_t n = readlink(path, name, sizeof(name) - 1);
	if (n < 0)
		return err_set(e, errno, "%s", path);
	name[n] = '\0';
	return kind_dump_path(c, fd, name, O_RDONLY | O_DIRECTORY, id, e);
}

int task_fs_capture(struct task *t, struct kind_dump *c, struct img_set *set, struct err *e)
{
	FsEntry fs = FS_ENTRY__INIT;
	_cleanup_(buf_free) struct buf b = { 0 };
	struct proc_status st = { 0 };
	int ret;

	if ((ret = put_link(t, c, "cwd", &fs.cwd_id, e)) < 0 ||
	    (ret = put_link(t, c, "root", &fs.root_id, e)) < 0 ||
	    (ret = slurp(t, "status", &b, e)) < 0 ||
	    (ret = proc_status_parse((char *)b.at, b.n, &st, e)) < 0)
		return err_in(e, "pid %d (%s)", t->pid, t->comm);
	fs.has_umask = true;
	fs.umask = st.umask;
	proc_status_free(&st);
	img_put(set, IMG_FS, (uint64_t)t->pid, &fs.base);
	return 0;
}
