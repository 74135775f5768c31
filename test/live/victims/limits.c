/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a process has besides memory and files: resource limits, oom_score_adj, personality,
 * dumpable, death signal, timer slack, subreaper, umask, working directory, nice, scheduler,
 * affinity, name, and flags of prctl(2).
 */
#include "victim.h"

#include <sys/personality.h>
#include <sys/resource.h>

static void note_rest(void)
{
	int value = -1;

	SYS(prctl(PR_GET_PDEATHSIG, &value));
	v_note("pdeathsig %d", value);
	SYS(prctl(PR_GET_CHILD_SUBREAPER, &value));
	v_note("subreaper %d", value);
	v_note("thp disabled %d", prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0));
	v_note("tsc %d", prctl(PR_GET_TSC, &value) < 0 ? -1 : value);
	v_note("nice %d", getpriority(PRIO_PROCESS, 0));
	v_note("timer slack %d", prctl(PR_GET_TIMERSLACK));
}

static void lower(int resource, rlim_t soft, rlim_t hard)
{
	struct rlimit rl = {soft, hard};

	SYS(setrlimit(resource, &rl));
}

static void write_proc(const char *path, const char *text)
{
	int fd = SYS(open(path, O_WRONLY));

	CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text), "%s: %s", path,
	      strerror(errno));
	close(fd);
}

static void set_all(void)
{
	struct sched_param sp = {0};
	cpu_set_t cpus;

	lower(RLIMIT_NOFILE, 200, 300);
	lower(RLIMIT_CORE, 0, 12345);
	lower(RLIMIT_STACK, 4 << 20, 16 << 20);
	lower(RLIMIT_AS, 1UL << 40, RLIM_INFINITY);
	lower(RLIMIT_FSIZE, 1UL << 33, 1UL << 34);
	lower(RLIMIT_NPROC, 5000, 5001);
	SYS(personality(ADDR_NO_RANDOMIZE | personality(0xffffffff)));
	SYS(prctl(PR_SET_PDEATHSIG, SIGWINCH));
	SYS(prctl(PR_SET_TIMERSLACK, 123456));
	SYS(prctl(PR_SET_CHILD_SUBREAPER, 1));
	SYS(prctl(PR_SET_NAME, "odd ) (name"));
	umask(0137);
	SYS(mkdir(v_path("cwd dir"), 0755));
	SYS(chdir(v_path("cwd dir")));
	SYS(sched_setscheduler(0, SCHED_BATCH, &sp));
	SYS(setpriority(PRIO_PROCESS, 0, 7));
	CPU_ZERO(&cpus);
	CPU_SET(0, &cpus);
	SYS(sched_setaffinity(0, sizeof(cpus), &cpus));
	write_proc("/proc/self/oom_score_adj", "345");
}

/* A child that is not dumpable, with the defaults otherwise. */
static pid_t undumpable_child(void)
{
	pid_t pid = SYS(fork());

	if (pid)
		return pid;
	SYS(prctl(PR_SET_DUMPABLE, 0));
	v_observe(note_rest, 0);
	v_remember();
	SYS(open(v_path("child-ready"), O_CREAT | O_WRONLY | O_CLOEXEC, 0666));
	v_remember();
	v_wait();
	v_recheck();
	_exit(0);
}

int main(int argc, char **argv)
{
	pid_t pid;
	struct stat st;

	v_init(argc, argv);
	pid = undumpable_child();
	while (access(v_path("child-ready"), F_OK) < 0)
		v_sleep_ms(1);
	set_all();
	v_observe(note_rest, 0);
	v_ready();
	v_wait();
	v_recheck();
	close(SYS(open("made", O_CREAT | O_WRONLY, 0777)));
	SYS(stat(v_path("cwd dir/made"), &st));
	CHECK((st.st_mode & 07777) == 0640, "umask is not in force: mode %o", st.st_mode);
	v_reap(pid, 0);
	v_ok();
}
