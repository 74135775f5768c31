/* SPDX-License-Identifier: Apache-2.0 */
#include "img.h"

#include <inttypes.h>
#include <string.h>

#define HEX_BYTES_MAX 256

static void newline(FILE *f, int indent) { fprintf(f, "\n%*s", indent, ""); }

/* Fields whose values are read in hex: addresses, bit sets. All fields of register messages
 * that have 32 or 64 bits are. */
static bool is_hex(const ProtobufCMessageDescriptor *d, const char *name)
{
	static const char *const names[] = {
		"start", "end", "vaddr", "madv", "rip", "sp", "ss_sp", "prot", "dev", "rdev",
		"s_dev", "root_dev", "sb_flags", "map_extra", "clear_tid_addr", "futex_rla",
		"rseq_abi_pointer", "rseq_cs_pointer", "blk_sigset", "blk_sigset_extended",
		"sigmask", "sigaction", "restorer", "mask", "mask_extended", "ignored_mask",
		"cap_inh", "cap_prm", "cap_eff", "cap_bnd", "cap_amb", "sival_ptr", "events",
		"mm_saved_auxv", "hwcap", "capability",
	};
	static const char *const registers[] = {
		"user_x86_regs_entry", "user_x86_fpregs_entry", "user_x86_xsave_entry",
		"user_x86_cet_entry",
	};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strcmp(name, names[i]) == 0)
			return true;
	for (size_t i = 0; i < sizeof(registers) / sizeof(registers[0]); i++)
		if (strcmp(d->name, registers[i]) == 0)
			return true;
	if (strcmp(d->name, "mm_entry") == 0 && strncmp(name, "mm_", 3) == 0)
		return true;
	size_t len = strlen(name);
	return len >= 5 && strcmp(name + len - 5, "flags") == 0;
}

/* Length of the UTF-8 sequence at `s` that can be shown as it is; 0: none. */
static int shown_as_is(const unsigned char *s)
{
	int n = s[0] < 0x80 ? 1 : s[0] >= 0xc2 && s[0] < 0xe0 ? 2 : (s[0] & 0xf0) == 0xe0 ? 3 :
		(s[0] & 0xf8) == 0xf0 ? 4 : 0;

	if (n == 1)
		return s[0] >= 0x20 && s[0] != 0x7f;
	for (int i = 1; i < n; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	return n == 2 && s[0] == 0xc2 && s[1] < 0xa0 ? 0 : n; /* C1 controls */
}

static void print_string(FILE *f, const char *text)
{
	fputc('"', f);
	for (const unsigned char *s = (const unsigned char *)text; *s;) {
		int n = shown_as_is(s);

		if (*s == '"' || *s == '\\')
			fputc('\\', f);
		if (n)
			fwrite(s, 1, (size_t)n, f);
		else
			fprintf(f, "\\u%04x", *s);
		s += n ? n : 1;
	}
	fputc('"', f);
}

static void print_bytes(FILE *f, const ProtobufCBinaryData *b)
{
	size_t n = b->len < HEX_BYTES_MAX ? b->len : HEX_BYTES_MAX;

	fputc('"', f);
	for (size_t i = 0; i < n; i++)
		fprintf(f, "%02x", b->data[i]);
	if (n < b->len)
		fprintf(f, "... %zu bytes", b->len);
	fputc('"', f);
}

static void print_enum(FILE *f, const ProtobufCEnumDescriptor *d, int value)
{
	const ProtobufCEnumValue *v = protobuf_c_enum_descriptor_get_value(d, value);

	if (v)
		fprintf(f, "\"%s\"", v->name);
	else
		fprintf(f, "%d", value);
}

static void print_unsigned(FILE *f, uint64_t v, bool hex)
{
	fprintf(f, hex ? "\"0x%" PRIx64 "\"" : "%" PRIu64, v);
}

static void print_value(FILE *f, const ProtobufCFieldDescriptor *field, const void *p, bool hex,
			int indent)
{
	switch (field->type) {
	case PROTOBUF_C_TYPE_INT32:
	case PROTOBUF_C_TYPE_SINT32:
	case PROTOBUF_C_TYPE_SFIXED32:
		fprintf(f, "%" PRId32, *(const int32_t *)p);
		break;
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_SFIXED64:
		fprintf(f, "%" PRId64, *(const int64_t *)p);
		break;
	case PROTOBUF_C_TYPE_UINT32:
	case PROTOBUF_C_TYPE_FIXED32:
		print_unsigned(f, *(const uint32_t *)p, hex);
		break;
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_FIXED64:
		print_unsigned(f, *(const uint64_t *)p, hex);
		break;
	case PROTOBUF_C_TYPE_FLOAT:
		fprintf(f, "%.9g", (double)*(const float *)p);
		break;
	case PROTOBUF_C_TYPE_DOUBLE:
		fprintf(f, "%.17g", *(const double *)p);
		break;
	case PROTOBUF_C_TYPE_BOOL:
		fputs(*(const protobuf_c_boolean *)p ? "true" : "false", f);
		break;
	case PROTOBUF_C_TYPE_ENUM:
		print_enum(f, field->descriptor, *(const int *)p);
		break;
	case PROTOBUF_C_TYPE_STRING:
		print_string(f, *(char *const *)p);
		break;
	case PROTOBUF_C_TYPE_BYTES:
		print_bytes(f, p);
		break;
	case PROTOBUF_C_TYPE_MESSAGE:
		img_print(f, *(ProtobufCMessage *const *)p, indent);
		break;
	}
}

static size_t size_of(ProtobufCType type)
{
	switch (type) {
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_SFIXED64:
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_FIXED64:
	case PROTOBUF_C_TYPE_DOUBLE:
		return 8;
	case PROTOBUF_C_TYPE_BOOL:
		return sizeof(protobuf_c_boolean);
	case PROTOBUF_C_TYPE_STRING:
	case PROTOBUF_C_TYPE_MESSAGE:
		return sizeof(void *);
	case PROTOBUF_C_TYPE_BYTES:
		return sizeof(ProtobufCBinaryData);
	default:
		return 4;
	}
}

/* Numbers stand in one line, messages and strings in one each. */
static void print_list(FILE *f, const ProtobufCFieldDescriptor *field, const uint8_t *at, size_t n,
		       bool hex, int indent)
{
	bool lines = field->type == PROTOBUF_C_TYPE_MESSAGE ||
		     field->type == PROTOBUF_C_TYPE_STRING;

	fputc('[', f);
	for (size_t i = 0; i < n; i++) {
		if (i > 0)
			fputs(lines ? "," : ", ", f);
		if (lines)
			newline(f, indent + 4);
		print_value(f, field, at + i * size_of(field->type), hex, indent + 4);
	}
	if (lines)
		newline(f, indent);
	fputc(']', f);
}

/* Whether an optional field is there, or how many a repeated one has. */
static size_t count_of(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *field)
{
	const uint8_t *base = (const uint8_t *)m;

	switch (field->label) {
	case PROTOBUF_C_LABEL_REPEATED:
		return *(const size_t *)(base + field->quantifier_offset);
	case PROTOBUF_C_LABEL_OPTIONAL:
		if (field->type == PROTOBUF_C_TYPE_STRING || field->type == PROTOBUF_C_TYPE_MESSAGE)
			return *(void *const *)(base + field->offset) != NULL;
		return (size_t)*(const protobuf_c_boolean *)(base + field->quantifier_offset);
	default:
		return 1;
	}
}

void img_print(FILE *f, const ProtobufCMessage *m, int indent)
{
	const ProtobufCMessageDescriptor *d = m->descriptor;
	const char *before = "";

	fputc('{', f);
	for (unsigned i = 0; i < d->n_fields; i++) {
		const ProtobufCFieldDescriptor *field = &d->fields[i];
		const uint8_t *p = (const uint8_t *)m + field->offset;
		size_t n = count_of(m, field);
		bool hex = is_hex(d, field->name);

		if (n == 0)
			continue;
		fputs(before, f);
		before = ",";
		newline(f, indent + 4);
		fprintf(f, "\"%s\": ", field->name);
		if (field->label == PROTOBUF_C_LABEL_REPEATED)
			print_list(f, field, *(const uint8_t *const *)p, n, hex, indent + 4);
		else
			print_value(f, field, p, hex, indent + 4);
	}
	for (unsigned i = 0; i < m->n_unknown_fields; i++) {
		fputs(before, f);
		before = ",";
		newline(f, indent + 4);
		fprintf(f, "\"unknown field %u\": \"%zu bytes\"", m->unknown_fields[i].tag,
			m->unknown_fields[i].len);
	}
	if (*before)
		newline(f, indent);
	fputc('}', f);
}
