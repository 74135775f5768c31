# SPDX-License-Identifier: Apache-2.0
# need_packages NAME...: installs those Debian packages that are missing. Sourced.

need_packages()
{
	local name missing=()

	for name; do
		dpkg-query -W -f '${db:Status-Status}\n' "$name" 2>/dev/null | grep -qx installed ||
			missing+=("$name")
	done
	[ ${#missing[@]} -eq 0 ] && return 0
	echo "installing ${missing[*]}"
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq </dev/null ||
		echo "apt-get update failed, trying with the lists that are here" >&2
	install_packages "${missing[@]}"
}

# With a policy-rc.d that says no: Debian would start the redis-server it installs.
install_packages()
(
	if [ ! -e /usr/sbin/policy-rc.d ]; then
		trap 'rm -f /usr/sbin/policy-rc.d' EXIT
		printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
		chmod 755 /usr/sbin/policy-rc.d
	fi
	said=$(apt-get install -y -qq --no-install-recommends "$@" </dev/null 2>&1) && exit
	printf '%s\n' "$said" >&2
	exit 1
)

# What every build needs.
BUILD_PACKAGES=(gcc libc6-dev meson ninja-build pkg-config protobuf-c-compiler libprotobuf-c-dev
	libzstd-dev libxxhash-dev libjansson-dev libinih-dev libmnl-dev libnet1-dev libbpf-dev
	libcmocka-dev)

# What the tests' hosts and the redis demo need.
HOST_PACKAGES=(python3 iproute2 nftables util-linux procps redis-server)

# What the virtual machine that is moved needs.
QEMU_PACKAGES=(qemu-system-x86 qemu-utils busybox-static)

# Other servers that are moved with their clients.
SERVER_PACKAGES=(nginx-light postgresql)
