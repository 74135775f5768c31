/* SPDX-License-Identifier: Apache-2.0 */
/* What an address space and a process have besides mappings: brk, auxv, exe, cwd, root. */
#include <errno.h>
#include <fcntl.h>
#include <linux/prctl.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "fs.pb-c.h"
#include "task_shape_priv.h"

#define AUXV_MAX 64

static int set_mm_map(struct task *t, const MmEntry *mm, struct err *e)
{
	_cleanup_batch_ struct batch b = BATCH(remote_leader(t->remote));
	struct prctl_mm_map map = {
		.start_code = mm->mm_start_code, .end_code = mm->mm_end_code,
		.start_data = mm->mm_start_data, .end_data = mm->mm_end_data,
		.start_brk = mm->mm_start_brk, .brk = mm->mm_brk,
		.start_stack = mm->mm_start_stack,
		.arg_start = mm->mm_arg_start, .arg_end = mm->mm_arg_end,
		.env_start = mm->mm_env_start, .env_end = mm->mm_env_end,
		.auxv_size = (uint32_t)(mm->n_mm_saved_auxv * 8),
		.exe_fd = 0,
	};

	if (mm->n_mm_saved_auxv > AUXV_MAX)
		return err_say(e, EBADMSG, "mm-%d.img: auxv of %zu words", t->pid,
			       mm->n_mm_saved_auxv);
	map.auxv = (__u64 *)batch_in(&b, mm->mm_saved_auxv, mm->n_mm_saved_auxv * 8);
	batch_call(&b, "prctl(PR_SET_MM_MAP)", SYS_prctl, PR_SET_MM, PR_SET_MM_MAP,
		   batch_in(&b, &map, sizeof(map)), sizeof(map), 0);
	batch_call(&b, "close", SYS_close, 0);
	if (mm->has_thp_disabled)
		batch_call(&b, "prctl(PR_SET_THP_DISABLE)", SYS_prctl, PR_SET_THP_DISABLE,
			   mm->thp_disabled, 0, 0, 0);
	return batch_run(&b, e);
}

int shape_mm_fields(struct task *t, struct kind_restore *c, const struct img_set *set,
		    struct err *e)
{
	_cleanup_msg_ MmEntry *mm = NULL;
	int ret = img_get(set, IMG_MM, (uint64_t)t->pid, 0, &mm, e);

	if (ret < 0)
		return ret;
	int exe = kind_fd(c, mm->exe_file_id, e);
	if (exe < 0)
		return err_in(e, "exe of pid %d", t->pid);
	struct remote_fd put = { exe, 0, 0 };
	if ((ret = remote_fd_put(t->remote, &put, 1, e)) < 0)
		return ret;
	return set_mm_map(t, mm, e);
}

int shape_fs(struct task *t, struct kind_restore *c, const struct img_set *set, struct err *e)
{
	_cleanup_msg_ FsEntry *fs = NULL;
	int ret = img_get(set, IMG_FS, (uint64_t)t->pid, 0, &fs, e);

	if (ret < 0)
		return ret;
	const FileEntry *root = kind_entry(c, fs->root_id);
	bool own_root = root && root->reg && strcmp(root->reg->name, "/");
	int root_fd = kind_fd(c, fs->root_id, e);
	int cwd_fd = root_fd < 0 ? -1 : kind_fd(c, fs->cwd_id, e);
	if (cwd_fd < 0)
		return err_in(e, "cwd or root of pid %d", t->pid);

	struct remote_fd put[2] = { { cwd_fd, 0, 0 }, { root_fd, 1, 0 } };
	if ((ret = remote_fd_put(t->remote, put, 2, e)) < 0)
		return ret;
	_cleanup_batch_ struct batch b = BATCH(remote_leader(t->remote));
	if (own_root) {
		batch_call(&b, "fchdir", SYS_fchdir, 1);
		batch_call(&b, "chroot", SYS_chroot, batch_in(&b, ".", 2));
	}
	batch_call(&b, "fchdir", SYS_fchdir, 0);
	batch_call(&b, "umask", SYS_umask, fs->has_umask ? fs->umask : 022);
	batch_call(&b, "close_range", SYS_close_range, 0, 1, 0);
	return batch_run(&b, e);
}
