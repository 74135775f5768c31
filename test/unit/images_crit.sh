#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Debian's crit decodes an image file of every type that it knows. $1: unit_images.
command -v crit >/dev/null || exit 77

dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
"$1" write "$dir" || exit 1

failed=0 decoded=0
for file in "$dir"/*.img "$dir"/stats-*; do
	case ${file##*/} in
	# No records in them.
	pages-*|ifaddr-*|route*|rule-*|iptables-*|ip6tables-*|nftables-*|tmpfs-*|netns-ct-*|netns-exp-*)
		continue ;;
	# crit 3.17 has no handler for these.
	binfmt-misc*|signal-[sp]-*|pidfd.img)
		continue ;;
	esac
	if ! crit decode -i "$file" >"$dir/out" 2>"$dir/err"; then
		echo "${file##*/}: $(tail -n1 "$dir/err")"
		failed=1
	elif ! grep -q '"entries": \[{' "$dir/out"; then
		echo "${file##*/}: no entries"
		failed=1
	fi
	decoded=$((decoded + 1))
done
echo "$decoded files decoded"
[ $decoded -gt 80 ] || failed=1
exit $failed
