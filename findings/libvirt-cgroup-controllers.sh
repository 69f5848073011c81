#!/usr/bin/env bash
# libvirt 9.0.0 (Debian 12: 9.0.0-4+deb12u2): a shorter list of cgroup_controllers in qemu.conf, as its
# comments describe it, lets no domain start on a host with cgroups of version 1 and the tree of
# version 2 beside them. The error speaks of version 2 and of a controller "(null)".
#
# qemu.conf says that cgroup_controllers is the list of controllers to use for resource management. The
# list with all that are used here, or an empty one, works; [ "cpu", "memory" ] does not, though both
# controllers are mounted.
#
# Seen on Linux 6.18 with QEMU 7.2.22:
#   [ "cpu", "memory" ]: error: internal error: v2 controller '(null)' is not available
#   [ "cpu", "devices", "memory", "blkio", "cpuacct" ]: Domain 'probe' started
#   []: Domain 'probe' started
#
# Needs root, Debian 12 with its archive among apt's sources, overlayfs, and cgroups of version 1 at
# /sys/fs/cgroup with version 2 in /sys/fs/cgroup/unified. The packages are unpacked into a temporary
# folder, which is laid over /usr in a mount namespace of its own; of the host only /machine in the
# cgroups is used, and removed. Ends with 0 while this holds, with 1 when it has changed.
set -euo pipefail
version=9.0.0-4+deb12u2 qemu=1:7.2+dfsg-7+deb12u18
lab="$(mktemp -d)"
trap 'rm -rf "$lab"' EXIT
mkdir -p "$lab/debs/partial" "$lab/root" "$lab/files"
: >"$lab/status"
# As on a host that has none of them: what else is installed here may be in the way.
apt-get install -qq --yes --no-install-recommends --download-only \
  -o "Dir::Cache::archives=$lab/debs" -o "Dir::State::status=$lab/status" -o APT::Sandbox::User=root \
  "libvirt-daemon=$version" "libvirt-daemon-driver-qemu=$version" "libvirt-clients=$version" \
  "libvirt0=$version" "qemu-system-x86=$qemu*" >"$lab/apt.log" 2>&1
for package in "$lab"/debs/*.deb; do dpkg-deb --extract "$package" "$lab/root"; done
cat >"$lab/libvirtd.conf" <<'CONF'
unix_sock_group = "root"
auth_unix_rw = "none"
host_uuid = "b1f0c7a4-3c8b-4d57-9a8e-0b1c2d3e4f50"
log_outputs = "3:stderr"
CONF
cat >"$lab/probe.xml" <<'XML'
<domain type='qemu'>
  <name>probe</name>
  <memory unit='MiB'>64</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices><emulator>/usr/bin/qemu-system-x86_64</emulator></devices>
</domain>
XML
cat >"$lab/inside.sh" <<'INSIDE'
set -eu
mount -t proc proc /proc
mount -t tmpfs tmpfs "$1/files"
mkdir -p "$1/files/etc" "$1/files/var" "$1/files/work1" "$1/files/work2" "$1/root/etc" "$1/root/var"
mount -t overlay -o "lowerdir=$1/root/usr:/usr" overlay /usr
mount -t overlay -o "lowerdir=/etc:$1/root/etc,upperdir=$1/files/etc,workdir=$1/files/work1" overlay /etc
mount -t overlay -o "lowerdir=/var:$1/root/var,upperdir=$1/files/var,workdir=$1/files/work2" overlay /var
mount -t tmpfs tmpfs /run
mkdir -p /run/lock /etc/libvirt
cp "$1/libvirtd.conf" /etc/libvirt
printf 'security_driver = "none"\nstdio_handler = "file"\ncgroup_controllers = %s\n' "$2" >/etc/libvirt/qemu.conf
sed -i '/^libvirt-qemu:/d' /etc/passwd /etc/group
echo 'libvirt-qemu:x:64055:64055::/nonexistent:/usr/sbin/nologin' >>/etc/passwd
echo 'libvirt-qemu:x:64055:' >>/etc/group
libvirtd --config /etc/libvirt/libvirtd.conf --timeout 60 2>"$1/log" &
virsh() { LC_ALL=C command virsh -c qemu:///system "$@"; }
for _ in $(seq 60); do
  if virsh version >/dev/null 2>&1; then break; fi
  sleep 0.5
done
virsh define "$1/probe.xml" >/dev/null
virsh start probe 2>&1 | grep -E "started|internal error" >"$1/answer" || true
virsh destroy probe >/dev/null 2>&1 || true
INSIDE
had="$(ls -d /sys/fs/cgroup/*/machine 2>/dev/null || true)"
for controllers in '[ "cpu", "memory" ]' '[ "cpu", "devices", "memory", "blkio", "cpuacct" ]' '[]'; do
  : >"$lab/answer"
  unshare --mount --propagation private --pid --fork --kill-child sh "$lab/inside.sh" "$lab" "$controllers" </dev/null || true
  echo "$controllers: $(cat "$lab/answer")"
done | tee "$lab/output"
if [ -z "$had" ]; then find /sys/fs/cgroup -depth -path '/sys/fs/cgroup/*/machine*' -type d -exec rmdir {} +; fi
if grep -qF "[ \"cpu\", \"memory\" ]: error: internal error: v2 controller '(null)' is not available" "$lab/output" &&
  [ "$(grep -c "Domain 'probe' started" "$lab/output")" = 2 ]; then
  echo "as found: a list of two controllers that are both there lets no domain start"
else
  echo "this has changed" >&2
  exit 1
fi
