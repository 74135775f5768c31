/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A family: children and grandchildren, zombies of several deaths, process groups whose leaders are
 * gone, sessions, a session whose leader is dead, an orphan that the subreaper took. Each process
 * notes its ids, and at the end each must still be the child of the same parent.
 */
#include "victim.h"

#define MEMBERS 9

struct member {
	_Atomic pid_t pid;
	pid_t ppid, pgid, sid;
};

static struct member *family;

/* A process of the family: says who it is, waits, and checks that it is still the same. */
static void live(int who, int status)
{
	struct member *m = &family[who];

	m->ppid = getppid();
	m->pgid = getpgid(0);
	m->sid = getsid(0);
	v_remember();
	m->pid = getpid();
	v_wait();
	v_recheck();
	CHECK(getpid() == m->pid, "member %d: pid %d, was %d", who, getpid(), m->pid);
	CHECK(getppid() == m->ppid, "member %d: parent %d, was %d", who, getppid(), m->ppid);
	CHECK(getpgid(0) == m->pgid, "member %d: group %d, was %d", who, getpgid(0), m->pgid);
	CHECK(getsid(0) == m->sid, "member %d: session %d, was %d", who, getsid(0), m->sid);
	if (status >= 0)
		_exit(status);
}

static void wait_for(int who)
{
	while (!family[who].pid)
		v_sleep_ms(1);
}

/* A child with a child of its own, in a group that the elder leads. */
static pid_t branch(void)
{
	pid_t pid = SYS(fork()), grandchild;

	if (pid)
		return pid;
	SYS(setpgid(0, 0));
	grandchild = SYS(fork());
	if (!grandchild)
		live(1, 11);
	live(2, -1);
	v_reap(grandchild, 11 << 8);
	_exit(12);
}

/* A new session; in it a second group; both leaders stay. */
static pid_t session(void)
{
	pid_t pid = SYS(fork()), grandchild;

	if (pid)
		return pid;
	SYS(setsid());
	grandchild = SYS(fork());
	if (!grandchild) {
		SYS(setpgid(0, 0));
		live(3, 13);
	}
	live(4, -1);
	v_reap(grandchild, 13 << 8);
	_exit(14);
}

/* The session's leader dies; its child is an orphan and comes to the subreaper. */
static void orphan_session(void)
{
	pid_t pid = SYS(fork());

	if (pid) {
		v_reap(pid, 0);
		return;
	}
	SYS(setsid());
	if (!fork()) {
		while (getppid() != family[0].pid)
			v_sleep_ms(1);
		live(5, 15);
	}
	_exit(0);
}

/* The leader of a group in this session dies and is not reaped: a zombie that leads. */
static pid_t leaderless_group(pid_t *zombie)
{
	pid_t pid;

	*zombie = SYS(fork());
	if (!*zombie) {
		SYS(setpgid(0, 0));
		wait_for(6);
		_exit(77);
	}
	/* The leader's own call may come later than this one. */
	SYS(setpgid(*zombie, *zombie));
	pid = SYS(fork());
	if (!pid) {
		SYS(setpgid(0, *zombie));
		live(6, 16);
	}
	return pid;
}

static pid_t zombie(int sig)
{
	pid_t pid = SYS(fork());

	if (!pid) {
		if (sig)
			raise(sig);
		_exit(66);
	}
	return pid;
}

static void wait_dead(pid_t pid)
{
	siginfo_t si;

	SYS(waitid(P_PID, pid, &si, WEXITED | WNOWAIT));
}

int main(int argc, char **argv)
{
	pid_t elder, leader, zombies[3], member, stopped;
	siginfo_t si = {0};

	v_init(argc, argv);
	signal(SIGTERM, SIG_DFL);
	family = v_map(MEMBERS * sizeof(*family), PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	family[0].pid = getpid();
	SYS(prctl(PR_SET_CHILD_SUBREAPER, 1));
	elder = branch();
	leader = session();
	orphan_session();
	member = leaderless_group(&zombies[0]);
	zombies[1] = zombie(0);
	zombies[2] = zombie(SIGTERM);
	stopped = SYS(fork());
	if (!stopped)
		live(7, 17);
	for (int i = 1; i <= 7; i++)
		wait_for(i);
	for (int i = 0; i < 3; i++)
		wait_dead(zombies[i]);
	SYS(kill(stopped, SIGSTOP));
	SYS(waitid(P_PID, stopped, &si, WSTOPPED));
	v_ready();
	v_wait();
	v_recheck();
	SYS(waitid(P_PID, stopped, &si, WEXITED | WNOHANG));
	CHECK(waitpid(stopped, NULL, WNOHANG) == 0, "the stopped child ended");
	SYS(kill(stopped, SIGCONT));
	v_reap(stopped, 17 << 8);
	v_reap(zombies[0], 77 << 8);
	v_reap(zombies[1], 66 << 8);
	v_reap(zombies[2], SIGTERM);
	v_reap(member, 16 << 8);
	v_reap(elder, 12 << 8);
	v_reap(leader, 14 << 8);
	v_reap(family[5].pid, 15 << 8);
	CHECK(wait(NULL) < 0 && errno == ECHILD, "there is a child too many");
	v_ok();
}
