/* SPDX-License-Identifier: Apache-2.0 */
/* What cannot be moved, in the user's words, each with what to do about it. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>

#include "kind_util.h"

struct refusal {
	const char *link;        /* begins so */
	const char *why, *remedy;
};

static const struct refusal by_link[] = {
	{ "anon_inode:[io_uring]", "the rings of io_uring cannot be read or made again",
	  "let the program run without io_uring" },
	{ "anon_inode:[perf_event]", "performance counters belong to this machine",
	  "stop the profiler" },
	{ "anon_inode:inotify", "inotify watches are not supported yet",
	  "let the program run without inotify" },
	{ "inotify", "inotify watches are not supported yet",
	  "let the program run without inotify" },
	{ "anon_inode:[fanotify]", "fanotify marks are not supported yet",
	  "let the program run without fanotify" },
	{ "anon_inode:[userfaultfd]", "a memory handler of its own (userfaultfd) cannot be moved",
	  "let the program run without userfaultfd" },
	{ "anon_inode:[pidfd]", "pidfds are not supported yet",
	  "let the program close the pidfd first" },
	{ "pidfd:", "pidfds are not supported yet", "let the program close the pidfd first" },
	{ "anon_inode:bpf", "BPF objects live in this machine's kernel",
	  "let the program run without BPF" },
	{ "anon_inode:[bpf", "BPF objects live in this machine's kernel",
	  "let the program run without BPF" },
	{ "anon_inode:kvm", "the state of a virtual machine's hardware is not part of a process",
	  "move the virtual machine by QEMU's own migrate command, or run it with "
	  "-accel tcg" },
	{ "anon_inode:[kvm", "the state of a virtual machine's hardware is not part of a process",
	  "move the virtual machine by QEMU's own migrate command, or run it with "
	  "-accel tcg" },
	{ "anon_inode:seccomp notify", "a seccomp listener cannot be moved",
	  "let the program run without seccomp notifications" },
	{ "anon_inode:landlock", "landlock rule sets cannot be read",
	  "let the program close the rule set after use" },
	{ "anon_inode:[fscontext]", "a half-made mount cannot be moved",
	  "wait until the program has mounted" },
	{ "anon_inode:dmabuf", "memory of a device cannot be moved",
	  "let the program run without the device" },
	{ "anon_inode:sync_file", "state of a device cannot be moved",
	  "let the program run without the device" },
	{ "mnt:[", "namespace files are not supported yet", "let the program close the file" },
	{ "net:[", "namespace files are not supported yet", "let the program close the file" },
	{ "pid:[", "namespace files are not supported yet", "let the program close the file" },
	{ "user:[", "namespace files are not supported yet", "let the program close the file" },
	{ "uts:[", "namespace files are not supported yet", "let the program close the file" },
	{ "ipc:[", "namespace files are not supported yet", "let the program close the file" },
	{ "time:[", "namespace files are not supported yet", "let the program close the file" },
	{ "cgroup:[", "namespace files are not supported yet", "let the program close the file" },
	{ "/dev/kvm", "device has no state that can be read",
	  "move the virtual machine by QEMU's own migrate command, or run it with "
	  "-accel tcg" },
	{ "/dev/net/tun", "network tunnels are not supported yet",
	  "let the program close the tunnel" },
	{ "/dev/fuse", "the server of a mounted file system cannot be moved",
	  "unmount the file system first" },
	{ "/dev/nvidia", "the state of a GPU cannot be read from outside",
	  "let the program release the GPU" },
	{ "/dev/dri/", "the state of a GPU cannot be read from outside",
	  "let the program release the GPU" },
	{ "/secretmem", "secret memory cannot be read from outside",
	  "let the program run without memfd_secret" },
};

struct family {
	int domain;
	const char *name;
};

static const struct family families[] = {
	{ AF_UNIX, "unix" }, { AF_INET, "inet" }, { AF_INET6, "inet6" }, { AF_NETLINK, "netlink" },
	{ AF_PACKET, "packet" }, { AF_VSOCK, "vsock" }, { AF_ALG, "crypto (AF_ALG)" },
	{ AF_BLUETOOTH, "bluetooth" }, { AF_CAN, "CAN" }, { AF_XDP, "XDP" }, { AF_KEY, "key" },
};

static int refuse_socket(const struct fd_view *v, struct err *e)
{
	int domain = -1, type = -1;
	socklen_t len = sizeof(int);
	const char *name = "unknown";

	getsockopt(v->local, SOL_SOCKET, SO_DOMAIN, &domain, &len);
	len = sizeof(int);
	getsockopt(v->local, SOL_SOCKET, SO_TYPE, &type, &len);
	for (size_t i = 0; i < sizeof(families) / sizeof(*families); i++)
		if (families[i].domain == domain)
			name = families[i].name;
	err_say(e, ENOTSUP, "%s: %s socket (family %d, type %d): not supported", v->link, name,
		domain, type);
	return err_remedy(e, "let the program run without this socket, or close it first");
}

int kind_refuse(const struct fd_view *v, struct err *e)
{
	if (S_ISSOCK(v->st.st_mode))
		return refuse_socket(v, e);
	for (size_t i = 0; i < sizeof(by_link) / sizeof(*by_link); i++) {
		const struct refusal *r = &by_link[i];

		if (strncmp(v->link, r->link, strlen(r->link)) != 0)
			continue;
		err_say(e, ENOTSUP, "%s: %s", v->link, r->why);
		return err_remedy(e, "%s", r->remedy);
	}
	if (S_ISCHR(v->st.st_mode) || S_ISBLK(v->st.st_mode)) {
		err_say(e, ENOTSUP, "%s: %s device %u:%u: its state cannot be read", v->link,
			S_ISCHR(v->st.st_mode) ? "character" : "block", major(v->st.st_rdev),
			minor(v->st.st_rdev));
		return err_remedy(e, "let the program close %s before it is moved", v->link);
	}
	err_say(e, ENOTSUP, "%s: this kind of file is not supported", v->link);
	return err_remedy(e, "let the program close it, or run without it");
}
