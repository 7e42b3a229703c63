#!/usr/bin/env bash
# Installs what the tests and benchmarks drive: FRR, BIRD, gobgp, etcd, containerd, Docker, dnsperf and promtool from Debian, CNI's own tools from their modules.
# Usage: deps.sh DIRECTORY-FOR-GO-TOOLS. Does nothing where all is there already.
set -euo pipefail
tools=$(mkdir -p "$1" && cd "$1" && pwd)

declare -A package=(
  [/usr/lib/frr/bgpd]=frr [/usr/sbin/bird]=bird2 [/usr/bin/gobgp]=gobgpd
  [/usr/bin/systemd-analyze]=systemd [/usr/sbin/iptables]=iptables [/usr/sbin/nft]=nftables [/usr/bin/setpriv]=util-linux [/usr/bin/gcc]=gcc
  [/usr/bin/dnsperf]=dnsperf [/usr/bin/taskset]=util-linux [/usr/bin/etcd]=etcd-server [/usr/bin/etcdctl]=etcd-client
  [/usr/bin/promtool]=prometheus
  [/usr/sbin/dockerd]=docker.io [/usr/bin/containerd]=containerd [/usr/sbin/runc]=runc [/bin/busybox]=busybox-static
)
missing=()
for file in "${!package[@]}"; do
  [ -e "$file" ] || missing+=("${package[$file]}")
done
command -v ip >/dev/null || missing+=(iproute2)
if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "deps.sh: install these first (as root): ${missing[*]}" >&2
    exit 1
  fi
  # No service of theirs may start: the tests run instances of their own.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy
    trap 'rm -f $policy' EXIT
  fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

plugins=github.com/containernetworking/plugins/plugins
for module in github.com/containernetworking/cni/cnitool@v1.3.1 \
  $plugins/main/ptp@v1.7.1 $plugins/main/loopback@v1.7.1 $plugins/ipam/host-local@v1.7.1 $plugins/meta/portmap@v1.7.1 $plugins/meta/bandwidth@v1.7.1; do
  name=${module%@*}
  [ -x "$tools/${name##*/}" ] || GOBIN=$tools GOFLAGS=-mod=mod go install "$module"
done
