/* SPDX-License-Identifier: Apache-2.0 */
#include "proc_maps.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "io.h"
#include "proc_text.h"

static const struct {
	char name[3];
	uint32_t bit;
} vmflags[] = {
	{"ac", PROC_VF_AC}, {"dc", PROC_VF_DC}, {"dd", PROC_VF_DD}, {"de", PROC_VF_DE},
	{"gd", PROC_VF_GD}, {"hg", PROC_VF_HG}, {"nh", PROC_VF_NH}, {"ht", PROC_VF_HT},
	{"io", PROC_VF_IO}, {"pf", PROC_VF_PF}, {"lo", PROC_VF_LO}, {"lf", PROC_VF_LF},
	{"mg", PROC_VF_MG}, {"wf", PROC_VF_WF}, {"sr", PROC_VF_SR}, {"rr", PROC_VF_RR},
	{"sh", PROC_VF_SH}, {"uw", PROC_VF_UW}, {"um", PROC_VF_UM}, {"ui", PROC_VF_UI},
	{"nr", PROC_VF_NR}, {"ss", PROC_VF_SS}, {"sl", PROC_VF_SL}, {"sf", PROC_VF_SF},
	{"dp", PROC_VF_DP}, {"gu", PROC_VF_GU}, {"mw", PROC_VF_MW},
};

static bool take_perms(struct ptext *t, struct proc_vma *v)
{
	static const struct {
		char c;
		uint32_t prot;
	} want[] = {{'r', PROT_READ}, {'w', PROT_WRITE}, {'x', PROT_EXEC}};

	for (size_t i = 0; i < 3; i++) {
		if (ptext_char(t, want[i].c))
			v->prot |= want[i].prot;
		else if (!ptext_char(t, '-'))
			return false;
	}
	v->shared = ptext_char(t, 's');
	return v->shared || ptext_char(t, 'p');
}

/* Mappings of one file mostly stand next to each other: they share one string. */
static const char *keep_path(struct proc_maps *m, const struct ptext *path)
{
	/* Only the newline is escaped in maps; a backslash stands for itself. */
	char *s = ptext_string(path, "\n");

	if (m->paths.n && !strcmp(m->paths.at[m->paths.n - 1], s)) {
		free(s);
		return m->paths.at[m->paths.n - 1];
	}
	vec_push(&m->paths, s);
	return s;
}

static void take_path(struct ptext *t, struct proc_maps *m, struct proc_vma *v)
{
	static const char gone[] = " (deleted)";
	const size_t n = sizeof(gone) - 1;

	ptext_blanks(t);
	if ((size_t)(t->end - t->p) > n && !memcmp(t->end - n, gone, n)) {
		v->deleted = true;
		t->end -= n;
	}
	v->path = ptext_empty(t) ? "" : keep_path(m, t);
}

/* "55d8-55d9 r-xp 00002000 fe:00 332383   /usr/bin/cat (deleted)" */
static bool take_vma(struct ptext t, struct proc_maps *m)
{
	struct proc_vma v = {0};

	if (!ptext_u64(&t, 16, &v.start) || !ptext_char(&t, '-') ||
	    !ptext_u64(&t, 16, &v.end) || !ptext_char(&t, ' ') || !take_perms(&t, &v) ||
	    !ptext_u64(&t, 16, &v.pgoff) || !ptext_u32(&t, 16, &v.dev_major) ||
	    !ptext_char(&t, ':') || !ptext_u32(&t, 16, &v.dev_minor) ||
	    !ptext_u64(&t, 10, &v.ino))
		return false;
	if (v.start >= v.end || (v.start | v.end | v.pgoff) % PAGE_SIZE)
		return false;
	if (m->vma.n && v.start < m->vma.at[m->vma.n - 1].end)
		return false;
	if (!ptext_empty(&t) && *t.p != ' ')
		return false;
	take_path(&t, m, &v);
	vec_push(&m->vma, v);
	return true;
}

static void take_vmflags(struct ptext t, struct proc_vma *v)
{
	struct ptext name;
	bool nameless = false;

	while (ptext_field(&t, ' ', &name)) {
		nameless |= ptext_is(&name, "??");
		for (size_t i = 0; i < sizeof(vmflags) / sizeof(*vmflags); i++)
			if (ptext_is(&name, vmflags[i].name))
				v->vmflags |= vmflags[i].bit;
	}
	/* Older kernels (6.1) have a name for each flag of a locked mapping but VM_LOCKONFAULT. */
	if (nameless && v->vmflags & PROC_VF_LO)
		v->vmflags |= PROC_VF_LF;
}

static bool take_kb(struct ptext *t, uint64_t *bytes)
{
	uint64_t kb;

	if (!ptext_u64(t, 10, &kb) || !ptext_word(t, " kB") || kb > UINT64_MAX / 1024)
		return false;
	*bytes = kb * 1024;
	return true;
}

/* "Rss:    132 kB" */
static bool take_detail(struct ptext t, struct proc_vma *v)
{
	if (!memchr(t.p, ':', (size_t)(t.end - t.p)))
		return false;
	if (ptext_key(&t, "Rss"))
		return take_kb(&t, &v->rss);
	if (ptext_key(&t, "Swap"))
		return take_kb(&t, &v->swap);
	if (ptext_key(&t, "Anonymous"))
		return take_kb(&t, &v->anonymous);
	if (ptext_key(&t, "Locked"))
		return take_kb(&t, &v->locked);
	if (ptext_key(&t, "ProtectionKey"))
		return ptext_u64(&t, 10, &v->pkey);
	if (ptext_key(&t, "VmFlags"))
		take_vmflags(t, v);
	return true;
}

static int parse(const char *text, size_t n, bool smaps, struct proc_maps *out, struct err *e)
{
	struct ptext all = {text, text + n}, line;
	const char *what = smaps ? "smaps" : "maps";

	*out = (struct proc_maps){0};
	while (ptext_line(&all, &line)) {
		/* Keys of smaps begin with a capital letter, addresses never do. */
		bool detail = smaps && !ptext_empty(&line) && *line.p >= 'A' && *line.p <= 'Z';
		bool ok;

		if (detail)
			ok = out->vma.n && take_detail(line, &out->vma.at[out->vma.n - 1]);
		else
			ok = take_vma(line, out);
		if (!ok) {
			proc_maps_free(out);
			return ptext_bad(&line, what, e);
		}
	}
	return 0;
}

int proc_maps_parse(const char *text, size_t n, struct proc_maps *out, struct err *e)
{
	return parse(text, n, false, out, e);
}

int proc_smaps_parse(const char *text, size_t n, struct proc_maps *out, struct err *e)
{
	return parse(text, n, true, out, e);
}

void proc_maps_free(struct proc_maps *m)
{
	vec_each(&m->paths, path)
		free(*path);
	vec_free(&m->paths);
	vec_free(&m->vma);
}
