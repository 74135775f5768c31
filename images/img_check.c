/* SPDX-License-Identifier: Apache-2.0 */
#include "img_check.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "bpfmap-data.pb-c.h"
#include "ghost-file.pb-c.h"
#include "img.h"
#include "ipc-msg.pb-c.h"
#include "ipc-sem.pb-c.h"
#include "ipc-shm.pb-c.h"
#include "pipe-data.pb-c.h"
#include "sk-packet.pb-c.h"
#include "tcp-stream.pb-c.h"

/* Deeper than any real image (cgroup directories nest), shallow enough for any stack. */
#define DEPTH_MAX 64

struct wire {
	const uint8_t *at, *end;
};

static bool wire_varint(struct wire *w, uint64_t *v)
{
	*v = 0;
	for (unsigned shift = 0; shift < 70 && w->at < w->end; shift += 7) {
		uint8_t byte = *w->at++;
		if (shift < 64)
			*v |= (uint64_t)(byte & 0x7f) << shift;
		if (!(byte & 0x80))
			return true;
	}
	return false;
}

static bool wire_skip(struct wire *w, uint64_t n)
{
	if (n > (uint64_t)(w->end - w->at))
		return false;
	w->at += n;
	return true;
}

static int malformed(const ProtobufCMessageDescriptor *d, struct err *e)
{
	return err_say(e, EBADMSG, "malformed %s", d->name);
}

static int check_enum(const ProtobufCMessageDescriptor *d, const ProtobufCFieldDescriptor *f,
		      uint64_t v, struct err *e)
{
	if (v <= INT32_MAX && protobuf_c_enum_descriptor_get_value(f->descriptor, (int)v))
		return 0;
	return err_say(e, EBADMSG, "%s.%s: unknown value %" PRId64, d->name, f->name, (int64_t)v);
}

static int check_message(const ProtobufCMessageDescriptor *d, struct wire w, int depth,
			 struct err *e);

/* A length-delimited field; `w` holds just its contents. */
static int check_bytes(const ProtobufCMessageDescriptor *d, const ProtobufCFieldDescriptor *f,
		       struct wire w, int depth, struct err *e)
{
	switch (f->type) {
	case PROTOBUF_C_TYPE_MESSAGE:
		return check_message(f->descriptor, w, depth + 1, e);
	case PROTOBUF_C_TYPE_STRING:
		if (memchr(w.at, '\0', (size_t)(w.end - w.at)))
			return err_say(e, EBADMSG, "%s.%s: zero byte in a string", d->name,
				       f->name);
		return 0;
	case PROTOBUF_C_TYPE_ENUM:
		while (w.at < w.end) {
			uint64_t v;
			if (!wire_varint(&w, &v))
				return malformed(d, e);
			int ret = check_enum(d, f, v, e);
			if (ret < 0)
				return ret;
		}
		return 0;
	default:
		return 0;
	}
}

/* One field after its tag; `f` is NULL if this program does not know it. */
static int check_field(const ProtobufCMessageDescriptor *d, const ProtobufCFieldDescriptor *f,
		       unsigned wire_type, struct wire *w, int depth, struct err *e)
{
	uint64_t v;

	switch (wire_type) {
	case PROTOBUF_C_WIRE_TYPE_VARINT:
		if (!wire_varint(w, &v))
			break;
		return f && f->type == PROTOBUF_C_TYPE_ENUM ? check_enum(d, f, v, e) : 0;
	case PROTOBUF_C_WIRE_TYPE_64BIT:
		if (!wire_skip(w, 8))
			break;
		return 0;
	case PROTOBUF_C_WIRE_TYPE_32BIT:
		if (!wire_skip(w, 4))
			break;
		return 0;
	case PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED:
		if (!wire_varint(w, &v) || !wire_skip(w, v))
			break;
		return f ? check_bytes(d, f, (struct wire){ w->at - v, w->at }, depth, e) : 0;
	}
	return malformed(d, e);
}

static int check_message(const ProtobufCMessageDescriptor *d, struct wire w, int depth,
			 struct err *e)
{
	if (depth > DEPTH_MAX)
		return err_say(e, EBADMSG, "%s: nested more than %d deep", d->name, DEPTH_MAX);
	while (w.at < w.end) {
		uint64_t tag;

		if (!wire_varint(&w, &tag) || tag > UINT32_MAX)
			return malformed(d, e);
		int ret = check_field(d,
				      protobuf_c_message_descriptor_get_field(
					      d, (unsigned)(tag >> 3)),
				      tag & 7, &w, depth, e);
		if (ret < 0)
			return ret;
	}
	return 0;
}

int img_unpack(const ProtobufCMessageDescriptor *d, const uint8_t *p, size_t len,
	       ProtobufCMessage **out, struct err *e)
{
	static const uint8_t nothing;
	const uint8_t *from = len ? p : &nothing; /* an empty message may have no address */
	int ret = check_message(d, (struct wire){ from, from + len }, 0, e);

	if (ret < 0)
		return ret;
	*out = protobuf_c_message_unpack(d, NULL, len, from);
	if (!*out)
		return err_say(e, EBADMSG, "damaged %s (a required field is missing or malformed)",
			       d->name);
	return 0;
}

static uint64_t in_whole(uint64_t size, uint64_t unit)
{
	return (size + unit - 1) / unit * unit;
}

static int need(uint64_t wanted, size_t avail, uint64_t *size, struct err *e)
{
	*size = wanted;
	if (wanted > avail)
		return err_say(e, EBADMSG,
			       "payload truncated (needs %" PRIu64 " bytes, %zu left)", wanted,
			       avail);
	return 0;
}

/* Messages in a System V queue: u32 length, ipc_msg, its text in whole u64. */
static int ipc_messages_size(uint32_t count, const uint8_t *p, size_t avail, uint64_t *size,
			     struct err *e)
{
	size_t at = 0;

	for (uint32_t i = 0; i < count; i++) {
		_cleanup_msg_ ProtobufCMessage *m = NULL;
		uint32_t len;
		uint64_t text;

		int ret = need(sizeof(len), avail - at, size, e);
		if (ret < 0)
			return err_in(e, "message %u", i);
		memcpy(&len, p + at, sizeof(len));
		at += sizeof(len);
		if ((ret = need(len, avail - at, size, e)) < 0 ||
		    (ret = img_unpack(&ipc_msg__descriptor, p + at, len, &m, e)) < 0)
			return err_in(e, "message %u", i);
		at += len;
		ret = need(in_whole(((IpcMsg *)m)->msize, 8), avail - at, &text, e);
		if (ret < 0)
			return err_in(e, "message %u", i);
		at += text;
	}
	*size = at;
	return 0;
}

static int ghost_size(size_t index, const ProtobufCMessage *m, size_t avail, uint64_t *size,
		      struct err *e)
{
	if (index > 0)
		return need(((const GhostChunkEntry *)m)->len, avail, size, e);
	const GhostFileEntry *ghost = (const GhostFileEntry *)m;
	*size = ghost->has_chunks && ghost->chunks ? 0 : avail;
	return 0;
}

static int shm_size(const IpcShmEntry *shm, size_t avail, uint64_t *size, struct err *e)
{
	if (shm->has_in_pagemaps && shm->in_pagemaps)
		return need(0, avail, size, e);
	return need(shm->size > avail ? shm->size : in_whole(shm->size, 4), avail, size, e);
}

int img_extra_size(enum img_extra rule, size_t index, const ProtobufCMessage *m,
		   const uint8_t *p, size_t avail, uint64_t *size, struct err *e)
{
	switch (rule) {
	case IMG_EXTRA_NONE:
		return need(0, avail, size, e);
	case IMG_EXTRA_PIPE:
		return need(((const PipeDataEntry *)m)->bytes, avail, size, e);
	case IMG_EXTRA_SK_QUEUE:
		return need(((const SkPacketEntry *)m)->length, avail, size, e);
	case IMG_EXTRA_TCP:;
		const TcpStreamEntry *tcp = (const TcpStreamEntry *)m;
		return need((uint64_t)tcp->inq_len + tcp->outq_len, avail, size, e);
	case IMG_EXTRA_BPFMAP:;
		const BpfmapDataEntry *map = (const BpfmapDataEntry *)m;
		return need((uint64_t)map->keys_bytes + map->values_bytes, avail, size, e);
	case IMG_EXTRA_IPC_SHM:
		return shm_size((const IpcShmEntry *)m, avail, size, e);
	case IMG_EXTRA_IPC_SEM:
		return need(in_whole((uint64_t)((const IpcSemEntry *)m)->nsems * 2, 8), avail, size,
			    e);
	case IMG_EXTRA_IPC_MSG:
		return ipc_messages_size(((const IpcMsgEntry *)m)->qnum, p, avail, size, e);
	case IMG_EXTRA_GHOST:
		return ghost_size(index, m, avail, size, e);
	}
	return err_say(e, EBADMSG, "unknown payload");
}
