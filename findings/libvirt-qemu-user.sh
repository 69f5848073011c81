#!/usr/bin/env bash
# libvirt 9.0.0 (Debian 12: 9.0.0-4+deb12u2): libvirtd ends at its start on a host without the user
# libvirt-qemu, also where its configuration names another user.
#
# qemu.conf says that emulators run as `user` and `group`, here root, which exists. The defaults of the
# build (libvirt-qemu on Debian) are looked up before that file is read, and where they are not found
# the QEMU driver does not start, and with it the daemon. Debian's package of the daemon does not make
# that user: libvirt-daemon-system does, which is not needed to run a libvirtd.
#
# Seen on Linux 6.18:
#   without libvirt-qemu: error : virStateInitialize:... : Initialization of QEMU state driver failed:
#     invalid argument: Failed to parse user 'libvirt-qemu'
#   with libvirt-qemu: Using library: libvirt 9.0.0
#
# Needs root, Debian 12 with its archive among apt's sources, and overlayfs. The packages are unpacked
# into a temporary folder, which is laid over /usr in a mount namespace of its own: nothing of the host
# changes. Ends with 0 while this holds, with 1 when it has changed.
set -euo pipefail
version=9.0.0-4+deb12u2
lab="$(mktemp -d)"
trap 'rm -rf "$lab"' EXIT
mkdir -p "$lab/debs/partial" "$lab/root" "$lab/files"
apt-get install -qq --yes --no-install-recommends --reinstall --download-only \
  -o "Dir::Cache::archives=$lab/debs" -o APT::Sandbox::User=root \
  "libvirt-daemon=$version" "libvirt-daemon-driver-qemu=$version" "libvirt-clients=$version" \
  "libvirt0=$version" >"$lab/apt.log" 2>&1
for package in "$lab"/debs/*.deb; do dpkg-deb --extract "$package" "$lab/root"; done
cat >"$lab/libvirtd.conf" <<'CONF'
unix_sock_group = "root"
auth_unix_rw = "none"
host_uuid = "b1f0c7a4-3c8b-4d57-9a8e-0b1c2d3e4f50"
log_outputs = "3:stderr"
CONF
cat >"$lab/qemu.conf" <<'CONF'
user = "root"
group = "root"
security_driver = "none"
stdio_handler = "file"
CONF
cat >"$lab/inside.sh" <<'INSIDE'
set -eu
mount -t proc proc /proc
mount -t tmpfs tmpfs "$1/files"
mkdir -p "$1/files/etc" "$1/files/var" "$1/files/work1" "$1/files/work2" "$1/root/etc" "$1/root/var"
mount -t overlay -o "lowerdir=$1/root/usr:/usr" overlay /usr
mount -t overlay -o "lowerdir=$1/root/etc:/etc,upperdir=$1/files/etc,workdir=$1/files/work1" overlay /etc
mount -t overlay -o "lowerdir=$1/root/var:/var,upperdir=$1/files/var,workdir=$1/files/work2" overlay /var
mount -t tmpfs tmpfs /run
mkdir -p /run/lock /etc/libvirt
cp "$1/libvirtd.conf" "$1/qemu.conf" /etc/libvirt
sed -i '/^libvirt-qemu:/d' /etc/passwd /etc/group
if [ "$2" = with ]; then
  echo 'libvirt-qemu:x:64055:64055::/nonexistent:/usr/sbin/nologin' >>/etc/passwd
  echo 'libvirt-qemu:x:64055:' >>/etc/group
fi
libvirtd --config /etc/libvirt/libvirtd.conf --timeout 30 2>"$1/$2.log" &
daemon=$!
for _ in $(seq 60); do
  if virsh -c qemu:///system version >"$1/$2.answer" 2>/dev/null; then break; fi
  kill -0 "$daemon" 2>/dev/null || break
  sleep 0.5
done
INSIDE
for how in without with; do
  unshare --mount --propagation private --pid --fork --kill-child sh "$lab/inside.sh" "$lab" "$how" </dev/null || true
  said="$(grep -o 'error : virStateInitialize.*' "$lab/$how.log" || grep 'Using library' "$lab/$how.answer" || true)"
  echo "$how libvirt-qemu: $said"
done | tee "$lab/output"
if grep -q "^without libvirt-qemu: error : virStateInitialize.*Failed to parse user 'libvirt-qemu'" "$lab/output" &&
  grep -q '^with libvirt-qemu: Using library: libvirt 9.0.0' "$lab/output"; then
  echo "as found: the user of the build has to exist though the configuration names another"
else
  echo "this has changed" >&2
  exit 1
fi
