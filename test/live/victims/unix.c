/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unix sockets: pairs of the three types with data under way in both directions, one shut down, one
 * shared with a child, listeners by name and in the abstract space, a bound datagram socket.
 */
#include "victim.h"

#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>

static int stream[2], dgram[2], seq[2], half[2], lone[2], with_child[2], listener, abstract, bound;
static struct sockaddr_un named = {AF_UNIX}, hidden = {AF_UNIX}, inbox = {AF_UNIX};
static socklen_t hidden_len;

static void note_sockets(void)
{
	static const int names[] = {SO_TYPE,     SO_SNDBUF,     SO_RCVBUF,
				    SO_PASSCRED, SO_ACCEPTCONN, SO_RCVLOWAT};
	int fds[] = {stream[0], stream[1], dgram[0], dgram[1], seq[0],   seq[1],
		     half[0],   half[1],   lone[0],  listener, abstract, bound};
	struct sockaddr_un sa;
	struct stat st;
	socklen_t len;
	size_t i, j;
	int value;

	for (i = 0; i < V_COUNT(fds); i++) {
		for (j = 0; j < V_COUNT(names); j++) {
			len = sizeof(value);
			SYS(getsockopt(fds[i], SOL_SOCKET, names[j], &value, &len));
			v_note("socket %zu option %d: %d", i, names[j], value);
		}
		len = sizeof(sa);
		memset(&sa, 0, sizeof(sa));
		SYS(getsockname(fds[i], (void *)&sa, &len));
		v_note("socket %zu name %u %s%s", i, len, sa.sun_path, sa.sun_path + 1);
	}
	SYS(stat(named.sun_path, &st));
	v_note("%s mode %o", named.sun_path, st.st_mode);
}

static void send_text(int fd, const char *text)
{
	CHECK(send(fd, text, strlen(text), MSG_NOSIGNAL) == (ssize_t)strlen(text), "send %s: %s",
	      text, strerror(errno));
}

static void expect(int fd, const char *text)
{
	char buf[256];
	ssize_t n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);

	CHECK(n == (ssize_t)strlen(text) && !memcmp(buf, text, n), "%s: got %zd bytes, errno %d",
	      text, n, n < 0 ? errno : 0);
}

static void expect_nothing(int fd, const char *name)
{
	char c;

	CHECK(recv(fd, &c, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN, "%s: something is there", name);
}

static void make_pairs(void)
{
	int size = 30000;

	SYS(socketpair(AF_UNIX, SOCK_STREAM, 0, stream));
	send_text(stream[0], "one way");
	send_text(stream[1], "and ");
	send_text(stream[1], "back");
	SYS(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, dgram));
	SYS(setsockopt(dgram[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)));
	send_text(dgram[0], "first");
	send_text(dgram[0], "");
	send_text(dgram[0], "third");
	SYS(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, seq));
	send_text(seq[1], "record one");
	send_text(seq[1], "record two");
	SYS(socketpair(AF_UNIX, SOCK_STREAM, 0, half));
	send_text(half[0], "last words");
	SYS(shutdown(half[0], SHUT_WR));
	SYS(socketpair(AF_UNIX, SOCK_STREAM, 0, lone));
	send_text(lone[1], "from the dead");
	close(lone[1]);
}

static void make_named(void)
{
	int one = 1;

	/* Short and relative: a name is at most 107 bytes long. */
	SYS(chdir(v_path("own")));
	strcpy(named.sun_path, "listener");
	strcpy(inbox.sun_path, "inbox");
	hidden_len = offsetof(struct sockaddr_un, sun_path) + 1 +
		     sprintf(hidden.sun_path + 1, "criu-lite victim %d", (int)getpid());
	listener = SYS(socket(AF_UNIX, SOCK_STREAM, 0));
	SYS(bind(listener, (void *)&named, sizeof(named)));
	SYS(listen(listener, 7));
	abstract = SYS(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
	SYS(bind(abstract, (void *)&hidden, hidden_len));
	SYS(listen(abstract, 3));
	bound = SYS(socket(AF_UNIX, SOCK_DGRAM, 0));
	SYS(setsockopt(bound, SOL_SOCKET, SO_PASSCRED, &one, sizeof(one)));
	SYS(bind(bound, (void *)&inbox, sizeof(inbox)));
}

static void check_pairs(void)
{
	char c;

	expect(stream[1], "one way");
	expect(stream[0], "and back");
	expect(dgram[1], "first");
	expect(dgram[1], "");
	expect(dgram[1], "third");
	expect_nothing(dgram[1], "dgram");
	expect(seq[0], "record one");
	expect(seq[0], "record two");
	expect_nothing(seq[0], "seqpacket");
	expect(half[1], "last words");
	CHECK(recv(half[1], &c, 1, 0) == 0, "half closed: no end");
	send_text(half[1], "reply");
	expect(half[0], "reply");
	CHECK(send(half[0], "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE, "half closed can send");
	expect(lone[0], "from the dead");
	CHECK(recv(lone[0], &c, 1, 0) == 0, "lone end: no end");
	send_text(stream[0], "still");
	expect(stream[1], "still");
	send_text(dgram[1], "still");
	expect(dgram[0], "still");
	send_text(seq[0], "still");
	expect(seq[1], "still");
}

static void check_listener(int fd, int type, struct sockaddr_un *sa, socklen_t len)
{
	int c = SYS(socket(AF_UNIX, type, 0)), s;

	SYS(connect(c, (void *)sa, len));
	s = SYS(accept(fd, NULL, NULL));
	send_text(c, "hello");
	expect(s, "hello");
	close(c);
	close(s);
}

int main(int argc, char **argv)
{
	uint64_t n, back;
	pid_t pid;
	int out;

	v_init(argc, argv);
	make_pairs();
	make_named();
	SYS(socketpair(AF_UNIX, SOCK_STREAM, 0, with_child));
	pid = SYS(fork());
	if (!pid) {
		close(with_child[0]);
		while (SYS(read(with_child[1], &n, sizeof(n))) == sizeof(n))
			CHECK(write(with_child[1], &n, sizeof(n)) == sizeof(n), "child: write");
		_exit(4);
	}
	close(with_child[1]);
	v_observe(note_sockets, 0);
	v_ready();
	for (n = 0; !v_stopping(); n++) {
		CHECK(write(with_child[0], &n, sizeof(n)) == sizeof(n), "write");
		CHECK(read(with_child[0], &back, sizeof(back)) == sizeof(back) && back == n,
		      "the child sent %lu back for %lu", back, n);
		v_sleep_ms(2);
	}
	v_recheck();
	check_pairs();
	check_listener(listener, SOCK_STREAM, &named, sizeof(named));
	check_listener(abstract, SOCK_SEQPACKET, &hidden, hidden_len);
	out = SYS(socket(AF_UNIX, SOCK_DGRAM, 0));
	SYS(connect(out, (void *)&inbox, sizeof(inbox)));
	send_text(out, "to the inbox");
	expect(bound, "to the inbox");
	close(with_child[0]);
	v_reap(pid, 4 << 8);
	v_ok();
}
