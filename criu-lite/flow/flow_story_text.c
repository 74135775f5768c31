/* SPDX-License-Identifier: Apache-2.0 */
/* Words, numbers and looks of the page. */
#include "flow_story_int.h"

#include <string.h>

static const char *entity(unsigned char c)
{
	switch (c) {
	case '&': return "&amp;";
	case '<': return "&lt;";
	case '>': return "&gt;";
	case '"': return "&quot;";
	case '\'': return "&#39;";
	}
	return (c < ' ' && c != '\n' && c != '\t') || c == 0x7f ? "&#65533;" : NULL;
}

void story_text(FILE *out, const char *s)
{
	for (; *s; s++) {
		const char *as = entity((unsigned char)*s);

		if (as)
			fputs(as, out);
		else
			fputc(*s, out);
	}
}

/* Three digits that count: 1.23, 12.3, 123, 1234. */
static int decimals(double d) { return d < 9.995 ? 2 : d < 99.95 ? 1 : 0; }

static struct story_num with_unit(double d, const char *unit)
{
	struct story_num n;

	snprintf(n.at, sizeof(n.at), "%.*f %s", decimals(d), d, unit);
	return n;
}

struct story_num story_bytes(double bytes)
{
	static const char *const units[] = { "KiB", "MiB", "GiB", "TiB", "PiB" };
	unsigned u = 0;
	double d = bytes / 1024;

	if (bytes < 1024) {
		struct story_num n;

		snprintf(n.at, sizeof(n.at), "%.0f bytes", bytes);
		return n;
	}
	for (; d >= 1024 && u < 4; u++)
		d /= 1024;
	return with_unit(d, units[u]);
}

struct story_num story_rate(double bytes_per_s)
{
	struct story_num n = story_bytes(bytes_per_s);

	strncat(n.at, "/s", sizeof(n.at) - strlen(n.at) - 1);
	return n;
}

struct story_num story_ms(double ms)
{
	if (ms >= 600e3)
		return with_unit(ms / 60e3, "min");
	return ms >= 1e3 ? with_unit(ms / 1e3, "s") : with_unit(ms, "ms");
}

struct story_num story_count(double n)
{
	char digits[24];
	struct story_num to;
	size_t len, at = 0;

	snprintf(digits, sizeof(digits), "%.0f", n);
	len = strlen(digits);
	for (size_t i = 0; i < len; i++) {
		if (i && (len - i) % 3 == 0)
			to.at[at++] = ',';
		to.at[at++] = digits[i];
	}
	to.at[at] = 0;
	return to;
}

/* Colours that are told apart with colour-blind eyes, too; the same hues on white and on black. */
const char story_style[] =
	":root{color-scheme:light dark;--bg:#fff;--fg:#1c2126;--dim:#5b6672;--line:#d5dbe1;"
	"--c1:#1f6fc4;--c2:#c45a00;--c3:#0b8068;--c4:#8b4fb3;--c5:#b83227;--c6:#76680d;"
	"--c7:#5b6672;--c8:#c2478b;--good:#0b8068;--bad:#b83227}\n"
	"@media(prefers-color-scheme:dark){:root{--bg:#14181c;--fg:#e4e8ec;--dim:#98a4b0;"
	"--line:#333b44;--c1:#5aa2ee;--c2:#f0943f;--c3:#3fbf9f;--c4:#bd8ae0;--c5:#ef7468;"
	"--c6:#c9b84a;--c7:#98a4b0;--c8:#ee86bd;--good:#3fbf9f;--bad:#ef7468}}\n"
	"*{box-sizing:border-box}\n"
	"body{margin:0 auto;max-width:60rem;padding:1.5rem;background:var(--bg);color:var(--fg);"
	"font:15px/1.45 system-ui,sans-serif;overflow-wrap:anywhere}\n"
	"h1{font-size:1.45rem;margin:0 0 .4rem}h2{font-size:1.1rem;margin:2rem 0 .6rem}\n"
	".outcome{border-left:.35rem solid var(--dim);padding:.3rem .8rem;margin:.6rem 0 1rem;"
	"font-size:1.05rem}.outcome.completed{border-color:var(--good)}"
	".outcome.failed,.outcome.aborted{border-color:var(--bad)}.outcome p{margin:.2rem 0}\n"
	".dim,figcaption small{color:var(--dim)}\n"
	"table{border-collapse:collapse;width:100%}th,td{text-align:left;vertical-align:top;"
	"padding:.25rem .9rem .25rem 0;border-bottom:1px solid var(--line);font-weight:normal}\n"
	"th{color:var(--dim)}table.facts th{width:13rem}td.n,th.n{text-align:right;"
	"font-variant-numeric:tabular-nums;white-space:nowrap}\n"
	"figure{margin:0 0 1.3rem;break-inside:avoid}figcaption{margin-bottom:.2rem}"
	"figcaption b{margin-right:.8rem}.key{margin-right:1rem;white-space:nowrap}\n"
	".key i{display:inline-block;width:1.1rem;height:.32rem;margin-right:.35rem;"
	"vertical-align:middle;print-color-adjust:exact;-webkit-print-color-adjust:exact}\n"
	"svg{display:block;width:100%;height:auto}svg text{fill:var(--dim);"
	"font:11px system-ui,sans-serif}svg .grid{stroke:var(--line);stroke-width:1}"
	"svg .round{stroke:var(--dim);stroke-width:1;stroke-dasharray:2 3;opacity:.55}"
	"svg .switch{stroke:var(--c5);stroke-width:1.5;stroke-dasharray:5 3}"
	"svg .line{fill:none;stroke-width:1.8;stroke-linejoin:round}"
	"svg .area{stroke:none;opacity:.14}svg .hit{fill:transparent}"
	"svg .hit:hover{fill:var(--dim);opacity:.15}\n"
	".s1{stroke:var(--c1)}.s2{stroke:var(--c2)}.s3{stroke:var(--c3)}.s4{stroke:var(--c4)}"
	".s5{stroke:var(--c5)}\n"
	".f1{fill:var(--c1);background:var(--c1)}.f2{fill:var(--c2);background:var(--c2)}"
	".f3{fill:var(--c3);background:var(--c3)}.f4{fill:var(--c4);background:var(--c4)}"
	".f5{fill:var(--c5);background:var(--c5)}.f6{fill:var(--c6);background:var(--c6)}"
	".f7{fill:var(--c7);background:var(--c7)}.f8{fill:var(--c8);background:var(--c8)}\n"
	"summary{cursor:pointer}"
	"@media print{body{max-width:none;padding:0}:root{color-scheme:light}}\n";
