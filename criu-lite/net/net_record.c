/* SPDX-License-Identifier: Apache-2.0 */
#include "net_record.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "cleanup.h"
#include "io.h"
#include "log.h"
#include "proc_task.h"

#define LOCKS   "/run/criu-lite/locks"
#define VERSION 1

int net_id_check(const char *id, struct err *e)
{
	size_t n = strlen(id);

	for (size_t i = 0; i < n; i++)
		if (!isalnum((unsigned char)id[i]) && id[i] != '-' && id[i] != '_')
			n = 0;
	if (n && n <= NET_ID_MAX)
		return 0;
	return err_say(e, EINVAL,
		       "network lock \"%.80s\": an id has 1 to %d letters, digits, '-' and '_'", id,
		       NET_ID_MAX);
}

static int stat_of(pid_t pid, struct proc_stat *st)
{
	_cleanup_(buf_free) struct buf b = { 0 };
	struct err ignored = ERR_INIT;
	int ret = io_slurp(&b, &ignored, "/proc/%d/stat", pid);

	return ret < 0 ? ret : proc_stat_parse((char *)b.at, b.n, st, &ignored);
}

static int inode_of(const char *path, uint64_t *inode, struct err *e)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return err_set(e, errno, "%s", path);
	*inode = st.st_ino;
	return 0;
}

int net_record_make(struct net_record *r, const char *id, int netns, struct err *e)
{
	struct proc_stat st;
	char path[48] = "/proc/thread-self/ns/net";
	int ret = net_id_check(id, e);

	if (ret < 0)
		return ret;
	*r = (struct net_record){ .owner = getpid() };
	strcpy(r->id, id);
	if ((ret = stat_of(r->owner, &st)) < 0)
		return err_set(e, -ret, "/proc/%d/stat", r->owner);
	r->start_time = st.start_time;
	if (netns >= 0)
		snprintf(path, sizeof(path), "/proc/thread-self/fd/%d", netns);
	if ((ret = inode_of("/proc/self/ns/pid", &r->pid_ns, e)) < 0)
		return ret;
	return inode_of(path, &r->net_ns, e);
}

static int make_dirs(struct err *e)
{
	if ((mkdir("/run/criu-lite", 0755) < 0 && errno != EEXIST) ||
	    (mkdir(LOCKS, 0700) < 0 && errno != EEXIST))
		return err_set(e, errno, "%s", LOCKS);
	return 0;
}

int net_record_write(const struct net_record *r, bool fresh, struct err *e)
{
	char path[128], tmp[160];
	int ret = make_dirs(e);

	if (ret < 0)
		return ret;
	snprintf(path, sizeof(path), LOCKS "/%s", r->id);
	snprintf(tmp, sizeof(tmp), LOCKS "/.%s.%d", r->id, getpid());
	_cleanup_free_ char *text = xasprintf("%d %d %" PRIu64 " %" PRIu64 " %" PRIu64 "\n%s",
					      VERSION, r->owner, r->start_time, r->pid_ns,
					      r->net_ns, r->undo ? r->undo : "");
	if ((ret = io_spill(tmp, text, strlen(text), e)) < 0)
		return ret;
	/* link() does not replace, rename() does; a half-written record is never seen */
	if ((fresh ? link(tmp, path) : rename(tmp, path)) < 0)
		ret = err_set(e, errno, "%s", path);
	if (fresh || ret < 0)
		unlink(tmp);
	return ret;
}

int net_record_read(struct net_record *r, const char *id, struct err *e)
{
	char path[128];
	_cleanup_(buf_free) struct buf b = { 0 };
	int version, ret = net_id_check(id, e);

	if (ret < 0)
		return ret;
	snprintf(path, sizeof(path), LOCKS "/%s", id);
	if ((ret = io_slurp_at(AT_FDCWD, path, &b, e)) < 0)
		return ret;
	*r = (struct net_record){ .owner = -1 };
	strcpy(r->id, id);
	if (sscanf((char *)b.at, "%d %d %" SCNu64 " %" SCNu64 " %" SCNu64, &version, &r->owner,
		   &r->start_time, &r->pid_ns, &r->net_ns) != 5 ||
	    version != VERSION || r->owner < 0)
		return err_say(e, EBADMSG, "%s: not a record of a network lock", path);
	const char *undo = strchr((char *)b.at, '\n');
	if (undo && undo[1])
		r->undo = xstrdup(undo + 1);
	return 0;
}

void net_record_free(struct net_record *r)
{
	free(r->undo);
	r->undo = NULL;
}

/* ---- addresses ---- */

static char *to_hex(const struct buf *b)
{
	char *hex = xmalloc(2 * b->n + 2);

	strcpy(hex, "-");
	for (size_t i = 0; i < b->n; i++)
		sprintf(hex + 2 * i, "%02x", b->at[i]);
	return hex;
}

static void from_hex(const char *hex, size_t n, struct buf *b)
{
	unsigned byte;

	for (size_t i = 0; i + 1 < n && sscanf(hex + i, "%2x", &byte) == 1; i += 2)
		buf_put(b, &(uint8_t){ (uint8_t)byte }, 1);
}

void net_record_set_undo(struct net_record *r, enum net_undo how, const struct net_addr *a,
			 size_t n)
{
	net_record_free(r);
	for (size_t i = 0; how != NET_UNDO_NOTHING && i < n; i++) {
		_cleanup_free_ char *before = r->undo, *packed = net_addr_pack(&a[i]);
		_cleanup_free_ char *routes = to_hex(&a[i].routes);

		r->undo = xasprintf("%s%s %s %s\n", before ? before : "",
				    how == NET_UNDO_PUT ? "put" : "take", routes, packed);
	}
}

static int undo_line(char *line, struct mnl_socket *rt, struct err *e)
{
	struct net_addr a = { 0 };
	char *routes = strchr(line, ' '), *packed = routes ? strchr(routes + 1, ' ') : NULL;
	bool is_put = !strncmp(line, "put ", 4);

	if (!packed || (!is_put && strncmp(line, "take ", 5)))
		return err_say(e, EBADMSG, "not something to undo: %.80s", line);
	int ret = net_addr_unpack(&a, packed + 1, e);
	if (ret < 0)
		return ret;
	from_hex(routes + 1, (size_t)(packed - routes - 1), &a.routes);
	if (is_put)
		ret = net_addr_put(rt, &a, true, e);
	else if ((ret = net_addr_look(rt, &a, e)) == 0)
		ret = net_addr_take(rt, &a, e);
	net_addr_free(&a);
	if (ret == -ENODEV)
		log_warn("%s", e->text); /* nothing will bring it back */
	/* EADDRNOTAVAIL: to be taken away, but it had not come yet */
	return ret == -ENODEV || (!is_put && ret == -EADDRNOTAVAIL) ? 0 : ret;
}

int net_record_undo(const struct net_record *r, struct mnl_socket *rt, struct err *e)
{
	_cleanup_free_ char *text = xstrdup(r->undo ? r->undo : "");
	char *save = NULL;
	int ret = 0;

	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		struct err wrong = ERR_INIT;

		if (undo_line(line, rt, &wrong) < 0 && ret == 0) {
			*e = wrong;
			ret = -wrong.code;
		}
	}
	return ret;
}

int net_record_list(net_record_vec *out, struct err *e)
{
	_cleanup_closedir_ DIR *d = opendir(LOCKS);
	struct dirent *de;

	if (!d)
		return errno == ENOENT ? 0 : err_set(e, errno, "%s", LOCKS);
	while ((de = readdir(d))) {
		struct net_record r;
		struct err wrong = ERR_INIT;

		if (de->d_name[0] == '.')
			continue;
		if (net_record_read(&r, de->d_name, &wrong) == 0)
			vec_push(out, r);
		else if (wrong.code != ENOENT)
			log_warn("%s", wrong.text);
	}
	return 0;
}

int net_record_drop(const char *id, struct err *e)
{
	char path[128];

	snprintf(path, sizeof(path), LOCKS "/%s", id);
	if (unlink(path) == 0 || errno == ENOENT)
		return 0;
	return err_set(e, errno, "%s", path);
}

bool net_record_is_orphan(const struct net_record *r)
{
	struct proc_stat st;
	uint64_t pid_ns = 0;
	struct err ignored = ERR_INIT;

	if (r->owner == 0 || inode_of("/proc/self/ns/pid", &pid_ns, &ignored) < 0 ||
	    pid_ns != r->pid_ns)
		return false;
	if (stat_of(r->owner, &st) < 0)
		return kill(r->owner, 0) < 0 && errno == ESRCH;
	return st.start_time != r->start_time || strchr("ZX", st.state);
}

/* ---- where its network is ---- */

static bool is_inode(int fd, uint64_t inode)
{
	struct stat st;

	return fd >= 0 && fstat(fd, &st) == 0 && st.st_ino == inode;
}

static int look_in(const char *dir, const char *suffix, uint64_t inode)
{
	_cleanup_closedir_ DIR *d = opendir(dir);
	struct dirent *de;

	while (d && (de = readdir(d))) {
		char path[NAME_MAX + 64];

		if (de->d_name[0] == '.' || (*suffix && !isdigit((unsigned char)de->d_name[0])))
			continue;
		snprintf(path, sizeof(path), "%s/%s%s", dir, de->d_name, suffix);
		int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
		if (is_inode(fd, inode))
			return fd;
		if (fd >= 0)
			close(fd);
	}
	return -1;
}

int net_ns_find(uint64_t inode, int *fd)
{
	_cleanup_close_ int own = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);

	*fd = -1;
	if (is_inode(own, inode))
		return 0;
	*fd = look_in("/proc", "/ns/net", inode);
	if (*fd < 0)
		*fd = look_in("/run/netns", "", inode);
	return *fd < 0 ? -ENOENT : 0;
}
