/* SPDX-License-Identifier: Apache-2.0 */
#include "flow_stream.h"

#include <errno.h>

#include "cleanup.h"
#include "wire_conn.h"

static const struct {
	const char *name;
	const ProtobufCMessageDescriptor *message;
} types[] = {
	[STREAM_PREFLIGHT] = { "preflight", &stream_preflight__descriptor },
	[STREAM_VERDICT] = { "verdict", &stream_answer__descriptor },
	[STREAM_ROUND] = { "round", &stream_round__descriptor },
	[STREAM_READY] = { "ready", &stream_answer__descriptor },
	[STREAM_LAST] = { "last round", &stream_round__descriptor },
	[STREAM_PREPARED] = { "prepared", &stream_answer__descriptor },
	[STREAM_SEAL] = { "seal", &stream_sign__descriptor },
	[STREAM_RUNNING] = { "running", &stream_answer__descriptor },
	[STREAM_GO] = { "go", &stream_sign__descriptor },
	[STREAM_HURRY] = { "hurry", &stream_sign__descriptor },
	[STREAM_EASE] = { "ease", &stream_sign__descriptor },
	[STREAM_CAUGHT] = { "packets", &stream_caught__descriptor },
	[STREAM_MORE] = { "more connections", &stream_more__descriptor },
};
#define TYPES (sizeof(types) / sizeof(types[0]))

int stream_send(int fd, enum stream_type type, const void *msg, struct err *e)
{
	size_t n = protobuf_c_message_get_packed_size(msg);
	_cleanup_free_ uint8_t *p = xmalloc(n);

	protobuf_c_message_pack(msg, p);
	int ret = wire_send(fd, type, p, n, e);
	return ret < 0 ? err_in(e, "%s", types[type].name) : 0;
}

static int peer_says_no(uint32_t type, void *msg, struct err *e)
{
	const StreamAnswer *a = msg;

	if (types[type].message != &stream_answer__descriptor || !a->complaint[0])
		return 0;
	err_say(e, EREMOTEIO, "the target says: %s", a->complaint);
	if (a->remedy && a->remedy[0])
		err_remedy(e, "%s", a->remedy);
	return -EREMOTEIO;
}

int stream_recv_any(int fd, enum stream_type *type, void *out, int timeout_ms, struct err *e)
{
	_cleanup_(buf_free) struct buf b = { 0 };
	uint32_t t;
	int ret = wire_recv(fd, &t, &b, timeout_ms, e);

	if (ret == -ENODATA) {
		err_say(e, ECONNRESET, "the other side closed the connection");
		return err_remedy(e, "look at its log");
	}
	if (ret < 0)
		return ret;
	if (t >= TYPES || !types[t].message)
		return err_say(e, EPROTO, "message of unknown type %u", t);
	void *msg = protobuf_c_message_unpack(types[t].message, NULL, b.n, b.at);
	if (!msg)
		return err_say(e, EBADMSG, "damaged message: %s", types[t].name);
	if ((ret = peer_says_no(t, msg, e)) < 0) {
		protobuf_c_message_free_unpacked(msg, NULL);
		return ret;
	}
	*type = t;
	*(void **)out = msg;
	return 0;
}

int stream_recv(int fd, enum stream_type type, void *out, int timeout_ms, struct err *e)
{
	enum stream_type got;
	int ret = stream_recv_any(fd, &got, out, timeout_ms, e);

	if (ret < 0)
		return ret;
	if (got == type)
		return 0;
	protobuf_c_message_free_unpacked(*(ProtobufCMessage **)out, NULL);
	*(void **)out = NULL;
	return err_say(e, EPROTO, "%s came where %s was due", types[got].name, types[type].name);
}

int stream_answer(int fd, enum stream_type type, const struct err *wrong, uint64_t ns,
		  struct err *e)
{
	StreamAnswer a = STREAM_ANSWER__INIT;

	a.complaint = wrong ? (char *)wrong->text : (char *)"";
	a.remedy = wrong && wrong->remedy[0] ? (char *)wrong->remedy : NULL;
	a.has_ns = true;
	a.ns = ns;
	return stream_send(fd, type, &a, e);
}
